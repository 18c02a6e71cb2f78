"""Which vectors stand for a scan, its slices and its depth bins? For probes, for search, for anyone's own network.

    depth bins   (K, P, C)  the 3D encoder's tokens, as they are
    slices       (N, L)     each slice's 2D tokens, their mean, of length 1
    volume       (V,)       the means of all 3D and of all 2D tokens, each of length 1, joined, of length 1

so that the dot product of two volumes is the mean of the two encoders' cosines. That is the space "encoder". In the
space "language" the tokens are those that the language model is shown, both of one width D: a slice is the mean of its
own 2D tokens and its depth bin's 3D tokens (docs/method.md, eq. 4), the volume the mean of its slices. What a model
does not have is None, and `missing` says why. K depth bins of P tokens, N slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from slicesight.errors import InputError, ModelError, check_installed
from slicesight.models.shipped import DEFAULT_MODEL, find_folder
from slicesight.volumes.grid import GridSlice, GridSpec

if TYPE_CHECKING:
    from torch import Tensor

    from slicesight.inference.encoded_scan import Scan
    from slicesight.inference.predictor import Predictor
    from slicesight.volumes.grid import GridVolume

EmbeddingSpace = Literal["encoder", "language"]
SPACES: tuple[EmbeddingSpace, ...] = ("encoder", "language")
Vectors = NDArray[np.float32]
NO_2D = "this model has no 2D encoder; its depth bins say what lies where"
NO_3D = "this model has no 3D encoder"


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """A scan's vectors, float32, and where they come from.

    volume: (V,) of length 1. slices: (N, L), each of length 1, beside `slice_places`. depth_bins: (K, P, C).
    receipt: what was read and how it was brought to the model. model: its name. missing: what is None, and why.
    warnings: what must stand beside anything made of these vectors.
    """

    volume: Vectors
    slices: Vectors | None
    depth_bins: Vectors | None
    slice_places: tuple[GridSlice, ...]
    receipt: Mapping[str, Any]
    model: str
    space: EmbeddingSpace
    missing: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Embedder(Protocol):
    """What embeds scans: a model with its name, and the grid it wants (None: it makes its own of a Volume)."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def grid_spec(self) -> GridSpec | None:
        """The grid on which scans may be handed over."""

    def embed(self, scan: Scan, *, space: EmbeddingSpace = "encoder") -> Embedding:
        """The vectors of a scan."""

    def digest(self) -> str:
        """Changes with whatever changes a vector: weights and settings."""


@dataclass(frozen=True)
class ModelEmbedder:
    """A Med-2E3 (or the 3D half of one, as M3D-LaMed) as an embedder."""

    predictor: Predictor

    @property
    def name(self) -> str:
        return self.predictor.card.name

    @property
    def grid_spec(self) -> GridSpec | None:
        return self.predictor.grid_spec

    def embed(self, scan: Scan, *, space: EmbeddingSpace = "encoder") -> Embedding:
        return self.predictor.embed(scan, space=space)

    def digest(self) -> str:
        from slicesight.models.fingerprint import digest_encoders

        return digest_encoders(self.predictor.model)


def load_embedder(name_or_dir: str | Path = DEFAULT_MODEL, *, device: str | None = None) -> Embedder:
    """Any of our models with an encoder: a Med-2E3, a folder of Med3DInsight (pre-trained or fine-tuned), M3D-CLIP.

    Raises:
        ModelError: there is no such model, or none that has an encoder of ours.
    """
    config = _config_of(find_folder(name_or_dir))
    check_installed("torch", "transformers")
    if config.get("model_type") == "slicesight-insight":
        from slicesight.inference.backbone_embedding import BackboneEmbedder

        return BackboneEmbedder.load(find_folder(name_or_dir), device=device)
    if config.get("model_type") == "m3d_clip_vectors":
        from slicesight.inference.backbone_embedding import ClipEmbedder

        return ClipEmbedder.load(find_folder(name_or_dir), device=device)
    from slicesight.inference.loading import GUEST_PREFIXES, load

    if str(name_or_dir).startswith(GUEST_PREFIXES):
        raise ModelError(
            f"{name_or_dir}: a guest answers questions but has no encoder whose vectors can be had; name a Med-2E3, a "
            "folder of slicesight insight, or M3D-CLIP"
        )
    return ModelEmbedder(load(name_or_dir, device=device))


def embed_scan(predictor: Predictor, scan: Scan, *, space: EmbeddingSpace) -> Embedding:
    """The vectors of one scan; the arguments of `Predictor.embed`."""
    check_space(space)
    if space == "language":
        encoded = predictor.encode(scan)
        grid = encoded.grid
        volume, slices, bins = _language_vectors(predictor, encoded.features)
    else:
        grid = predictor.as_grid(scan)
        volume, slices, bins = _encoder_vectors(predictor, grid)
    absent = (("slices", NO_2D, slices), ("depth_bins", NO_3D, bins))
    return Embedding(
        volume=volume,
        slices=slices,
        depth_bins=bins,
        slice_places=grid.scored_slices,
        receipt=grid.receipt,
        model=predictor.card.name,
        space=space,
        missing={name: why for name, why, found in absent if found is None},
        warnings=() if grid.receipt.get("is_synthetic") else predictor.card.warnings,
    )


def check_space(space: str) -> None:
    """Raises InputError for a space that there is not."""
    if space not in SPACES:
        raise InputError(f"space is {space!r}; expected {' or '.join(SPACES)}")


def unit(vectors: Tensor) -> Tensor:
    """The same of length 1, over the last axis, in float32."""
    from torch.nn import functional

    return functional.normalize(vectors.float(), dim=-1)


def as_array(tensor: Tensor) -> Vectors:
    """float32 in numpy."""
    found: Vectors = np.ascontiguousarray(tensor.detach().float().cpu().numpy())
    return found


def _encoder_vectors(predictor: Predictor, grid: GridVolume) -> tuple[Vectors, Vectors | None, Vectors | None]:
    import torch

    model = predictor.model
    slices = bins = None
    means = []
    with torch.inference_mode():
        volumes = predictor.model_input(grid)
        if model.vision3d is not None:
            tokens_KPC = model.encode_3d(volumes)[0]
            bins = as_array(tokens_KPC)
            means.append(unit(tokens_KPC.float().mean(dim=(0, 1))))
        if model.vision2d is not None:
            tokens_NLC = model.encode_2d(volumes)[0]
            slices = as_array(unit(tokens_NLC.float().mean(dim=1)))
            means.append(unit(tokens_NLC.float().mean(dim=(0, 1))))
        volume = unit(torch.cat(means))
    return as_array(volume), slices, bins


def _language_vectors(predictor: Predictor, features: Any) -> tuple[Vectors, Vectors | None, Vectors | None]:
    import torch

    from slicesight.models.med2e3.planes import describe_planes
    from slicesight.models.med2e3.slice_scoring import describe_slices

    bins_VKPD, slices_VNLD, config = features.tokens_3d_VKPD, features.tokens_2d_VNLD, predictor.model.config
    with torch.inference_mode():
        slices = None
        if slices_VNLD is None:
            volume = unit(bins_VKPD[0].float().mean(dim=(0, 1)))
        else:
            if predictor.planes:
                grid = None if bins_VKPD is None else config.vision3d_config.pooled_grid
                options: dict[str, Any] = {"planes": predictor.planes, "grid": grid, "num_slices": config.num_slices}
                described_ND = describe_planes(bins_VKPD, slices_VNLD, **options)[0]
            else:
                described_ND = describe_slices(bins_VKPD, slices_VNLD, num_slices=slices_VNLD.shape[1])[0]
            slices, volume = as_array(unit(described_ND)), unit(described_ND.mean(dim=0))
    return as_array(volume), slices, None if bins_VKPD is None else as_array(bins_VKPD[0])


def _config_of(folder: Path) -> dict[str, Any]:
    """The folder's config.json; nothing where there is none, which `load` then says."""
    from slicesight.files import read_json_object

    path = folder / "config.json"
    return read_json_object(path, error=ModelError) if path.is_file() else {}
