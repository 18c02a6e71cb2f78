"""Which vectors do the 3D encoders give that answer no questions: Med3DInsight's backbones, and M3D-CLIP?

A pre-trained backbone reads the whole scan as one axial cube, as its triplets were cut; what it learnt to say of every
slice (PSAT) are its slices' vectors. A segmenter or classifier brings the scan to its own spacing first, and a scan
larger than its cube is read in neighbouring cubes, whose cells lie side by side as if it were one. The volume is the
mean of the cells that hold the scan. B = 1 scan, C memory channels, d x h x w cells, K = d depth bins of P = h w
tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from slicesight.errors import InputError
from slicesight.inference.embedding import NO_2D, Embedding, EmbeddingSpace, as_array, unit
from slicesight.inference.encoded_scan import EncodedScan, Scan
from slicesight.io.loading import read_scan
from slicesight.models.encoders3d.backbone import Backbone
from slicesight.models.encoders3d.backbones import load_backbone
from slicesight.models.fingerprint import digest_weights
from slicesight.models.folder import read_model_folder
from slicesight.models.med3dinsight import Classifier, PretrainingModel, Segmenter
from slicesight.models.med3dinsight.preparation import Preparation, prepare_scan
from slicesight.models.med3dinsight.psat import slice_bins
from slicesight.models.med3dinsight.trained_on import other_kind, unusual
from slicesight.volumes.grid import GridSlice, GridSpec, GridVolume, to_grid
from slicesight.volumes.receipt import scan_receipt
from slicesight.volumes.volume import PLANES, Volume

KINDS: dict[str, Any] = {"pretraining": PretrainingModel, "segmenter": Segmenter, "classifier": Classifier}
SLICES_AT_ONCE = 16
NO_LANGUAGE = "this model has no language model, so only its encoder's space; leave --space out"
OWN_GRID = "this network brings scans to its own voxel size; name the scans' files"
Cells = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class BackboneEmbedder:
    """A folder that an insight verb wrote. pretraining: reads slices as well, where it learnt them."""

    name: str
    backbone: Backbone
    preparation: Preparation | None
    grid_spec: GridSpec | None
    pretraining: PretrainingModel | None = None
    trained_on: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, *, device: str | None = None) -> BackboneEmbedder:
        """The embedder of a folder; ModelError where it is damaged or another family's."""
        config, _ = read_model_folder(folder)
        kind = config["kind"]
        model = KINDS[kind].from_pretrained(folder) if kind in KINDS else None
        backbone = load_backbone(folder) if model is None else model.backbone
        (backbone if model is None else model).to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        own = model.preparation if isinstance(model, (Segmenter, Classifier)) else None
        cut = ((config.get("pretraining") or {}).get("recipe") or {}).get("triplets") or {}
        num_slices, height, width = backbone.spec.image_size
        spec = GridSpec(
            num_slices=num_slices,
            height=height,
            width=width,
            plane="axial",
            window=cut.get("window", "auto"),
            crop_foreground=cut.get("crop_foreground", True),
        )
        return cls(
            name=folder.resolve().name,
            backbone=backbone,
            preparation=own,
            grid_spec=spec if own is None else None,
            pretraining=model if isinstance(model, PretrainingModel) and model.psat is not None else None,
            trained_on=config.get("trained_on"),
            settings={"kind": kind, "backbone": config["backbone"], "preparation": config.get("preparation")},
        )

    def digest(self) -> str:
        network = self.backbone if self.pretraining is None else self.pretraining
        grid = None if self.grid_spec is None else self.grid_spec.to_dict()
        return digest_weights(network.state_dict(), settings={**self.settings, "grid": grid})

    def embed(self, scan: Scan, *, space: EmbeddingSpace = "encoder") -> Embedding:
        """The vectors of a scan; InputError for a grid that is not this network's, or the space "language"."""
        if space != "encoder":
            raise InputError(f"{self.name}: {NO_LANGUAGE}")
        if self.grid_spec is not None:
            return self._embed_cube(on_grid(scan, self.grid_spec, name=self.name))
        volume = as_volume(scan, name=self.name)
        assert self.preparation is not None
        size = self.backbone.spec.image_size
        name = str(volume.source.get("name", "the scan"))
        prepared = prepare_scan(volume, self.preparation, image_size=size, name=name)
        memory_dhwC = self._read_cubes(torch.from_numpy(prepared.voxels))
        how = {**self.preparation.to_dict(), "size": list(prepared.voxels.shape)}
        receipt = {**scan_receipt(volume), "preparation": how, "crop_zyx": [list(extent) for extent in prepared.box]}
        return self._embedding(memory_dhwC, None, (), receipt, self._doubts(volume))

    def _embed_cube(self, grid: GridVolume) -> Embedding:
        cube = torch.from_numpy(grid.voxels)[None, None].to(self._device)
        with torch.inference_mode():
            memory = self.backbone.encode(cube).memory
            slices = None if self.pretraining is None else self._read_slices(self.pretraining, memory)
        return self._embedding(memory[0].permute(1, 2, 3, 0), slices, grid.slices, grid.receipt, ())

    def _read_slices(self, model: PretrainingModel, memory_1Cdhw: Tensor) -> Tensor:
        """What PSAT reads of every axial slice of the cube, (N, O): towards the picture's vector, else the text's."""
        count = self.backbone.spec.image_size[0]
        index_1N = torch.arange(count, device=memory_1Cdhw.device)[None]
        bins_1N = slice_bins(index_1N, torch.full_like(index_1N, count), variant=model.variant)
        planes_1N = torch.full_like(index_1N, PLANES.index("axial"))
        target = "image" if "image" in model.sizes else "text"
        read = [
            model.read_memory(memory_1Cdhw, planes, bins)[target][0]
            for planes, bins in zip(
                torch.split(planes_1N, SLICES_AT_ONCE, dim=1), torch.split(bins_1N, SLICES_AT_ONCE, dim=1), strict=True
            )
        ]
        return torch.cat(read)

    def _read_cubes(self, voxels_DHW: Tensor) -> Tensor:
        """Memory cells (d, h, w, C) of a scan of any size, without those that hold nothing of it."""
        size = self.backbone.spec.image_size
        counts = [math.ceil(extent / side) for extent, side in zip(voxels_DHW.shape, size, strict=True)]
        pads = [count * side - extent for count, side, extent in zip(counts, size, voxels_DHW.shape, strict=True)]
        padded = functional.pad(voxels_DHW, (0, pads[2], 0, pads[1], 0, pads[0]))
        d, h, w = self.backbone.memory_grid
        whole = torch.empty(counts[0] * d, counts[1] * h, counts[2] * w, self.backbone.memory_width)
        for z, y, x in itertools.product(*map(range, counts)):
            cube = padded[
                z * size[0] : (z + 1) * size[0], y * size[1] : (y + 1) * size[1], x * size[2] : (x + 1) * size[2]
            ]
            with torch.inference_mode():
                memory = self.backbone.encode(cube[None, None].to(self._device)).memory[0].permute(1, 2, 3, 0)
            whole[z * d : (z + 1) * d, y * h : (y + 1) * h, x * w : (x + 1) * w] = memory.float().cpu()
        kept = [
            math.ceil(extent * cells / side)
            for extent, cells, side in zip(voxels_DHW.shape, (d, h, w), size, strict=True)
        ]
        return whole[: kept[0], : kept[1], : kept[2]]

    def _embedding(
        self,
        memory_dhwC: Tensor,
        slices_NO: Tensor | None,
        places: Sequence[GridSlice],
        receipt: dict[str, Any],
        warnings: tuple[str, ...],
    ) -> Embedding:
        missing = {} if slices_NO is not None else {"slices": NO_2D}
        return Embedding(
            volume=as_array(unit(memory_dhwC.float().mean(dim=(0, 1, 2)))),
            slices=None if slices_NO is None else as_array(unit(slices_NO)),
            depth_bins=as_array(memory_dhwC.flatten(1, 2)),
            slice_places=tuple(places) if slices_NO is not None else (),
            receipt=receipt,
            model=self.name,
            space="encoder",
            missing=missing,
            warnings=warnings,
        )

    def _doubts(self, volume: Volume) -> tuple[str, ...]:
        """In what the scan differs from those the network learnt from."""
        if self.trained_on is None:
            return ()
        other = other_kind(volume, self.trained_on)
        return (*([other] if other else []), *unusual(volume, self.trained_on))

    @property
    def _device(self) -> torch.device:
        return next(self.backbone.parameters()).device


@dataclass(frozen=True, kw_only=True)
class ClipEmbedder:
    """M3D-CLIP: the volume is its projected class token, whose cosine with its texts' vectors means something."""

    name: str
    model: Any
    grid_spec: GridSpec

    @classmethod
    def load(cls, folder: Path, *, device: str | None = None) -> ClipEmbedder:
        """The embedder of a converted folder."""
        from slicesight.models.folder import one_line_for_damage
        from slicesight.models.importers.m3d import M3DClip

        with one_line_for_damage(folder):
            model: Any = M3DClip.from_pretrained(folder)
        num_slices, height, width = model.config.vision3d_config.image_size
        return cls(
            name=folder.resolve().name,
            model=model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval(),
            grid_spec=GridSpec(num_slices=num_slices, height=height, width=width, window="m3d"),
        )

    def digest(self) -> str:
        return digest_weights(self.model.volume_encoder.state_dict(), settings=self.grid_spec.to_dict())

    def embed(self, scan: Scan, *, space: EmbeddingSpace = "encoder") -> Embedding:
        """The vectors of a scan; InputError for another grid, or the space "language"."""
        if space != "encoder":
            raise InputError(f"{self.name}: {NO_LANGUAGE}")
        grid = on_grid(scan, self.grid_spec, name=self.name)
        volumes = torch.from_numpy(grid.voxels)[None, None].to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            tokens_1MC = self.model.volume_encoder.encode_tokens(volumes)
            volume = functional.normalize(self.model.volume_projection(tokens_1MC[:, 0]), dim=-1)[0]
        cells: Cells = self.model.config.vision3d_config.token_grid
        return Embedding(
            volume=as_array(volume),
            slices=None,
            depth_bins=as_array(tokens_1MC[0, 1:].unflatten(0, (cells[0], cells[1] * cells[2]))),
            slice_places=(),
            receipt=grid.receipt,
            model=self.name,
            space="encoder",
            missing={"slices": NO_2D},
        )


def on_grid(scan: Scan, spec: GridSpec, *, name: str) -> GridVolume:
    """The scan on the network's grid; one that lies on a grid already must lie on this."""
    grid = scan.grid if isinstance(scan, EncodedScan) else scan
    if isinstance(grid, GridVolume):
        shape = (spec.num_slices, spec.height, spec.width)
        if grid.voxels.shape != shape or spec.plane not in ("acquired", grid.plane):
            found = f"{'×'.join(map(str, grid.voxels.shape))}, {grid.plane}"
            raise InputError(
                f"{name}: reads a grid of {'×'.join(map(str, shape))}, {spec.plane}; this scan lies on {found}, hand "
                "over the scan itself"
            )
        return grid
    return to_grid(as_volume(grid, name=name), spec)


def as_volume(scan: Scan, *, name: str) -> Volume:
    """The scan itself, read where it is a path; InputError for one that lies on a grid already."""
    if isinstance(scan, (str, Path, np.ndarray)):
        return read_scan(scan)
    if not isinstance(scan, Volume):
        raise InputError(f"{name}: {OWN_GRID}")
    return scan
