"""Which volumes, slices and vectors does each training step see? A pure function of seed and step.

C scans, D x H x W cube voxels, S slices of each volume, O components of a frozen vector.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor

from slicesight.errors import InputError
from slicesight.models.med3dinsight.descriptions import SlicePlace
from slicesight.models.med3dinsight.pretraining import TARGETS
from slicesight.models.med3dinsight.psat import slice_bins
from slicesight.models.med3dinsight.volume_contrast import draw_view
from slicesight.training.fitting import Samples
from slicesight.training.pretraining_recipe import PretrainRecipe
from slicesight.training.triplets.dense_tokens import patch_points
from slicesight.volumes.volume import PLANES


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan's or crop's slices, row by row: planes, index, count (T,); vectors by target (T, O).

    The cube stays on disk, and so do patch tokens (T, G, G, C); shapes: of the planes' pictures without padding.
    """

    name: str
    patient: str
    split: str
    cube_file: Path
    planes: NDArray[np.int64]
    index: NDArray[np.int64]
    count: NDArray[np.int64]
    vectors: dict[str, NDArray[np.float32]]
    texts: list[str | None]
    tokens_file: Path | None = None
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def load_cube(self) -> NDArray[np.float32]:
        """(D, H, W) in [0, 1]."""
        grey: NDArray[np.uint8] = np.load(self.cube_file, mmap_mode="r", allow_pickle=False)
        return np.asarray(grey, dtype=np.float32) / np.float32(255)

    def load_tokens(self, rows: NDArray[np.int64], picture_size: int) -> dict[str, Tensor]:
        """Of these slices the patch tokens (S, P, C), where they lie (S, P, 3), and a patch's sides (S, 2)."""
        assert self.tokens_file is not None
        stored = np.load(self.tokens_file, mmap_mode="r", allow_pickle=False)
        grid = stored.shape[1]
        tokens = np.stack([stored[row] for row in rows]).astype(np.float32).reshape(len(rows), grid * grid, -1)
        planes = [PLANES[number] for number in self.planes[rows]]
        points = [
            patch_points(
                SlicePlace(plane, int(index), int(count)), shape=self.shapes[plane], side=picture_size, grid=grid
            )
            for plane, index, count in zip(planes, self.index[rows], self.count[rows], strict=True)
        ]
        spread = [[2 * picture_size / grid / length for length in self.shapes[plane]] for plane in planes]
        found = (tokens, np.stack(points), np.array(spread, np.float32))
        return {name: torch.from_numpy(part) for name, part in zip(("tokens", "points", "spread"), found, strict=True)}


@dataclass(frozen=True, eq=False)
class Triplets:
    """A folder of triplets. text_source: where its texts come from, "annotation-derived" where a label map was read."""

    folder: Path
    settings: dict[str, Any]
    scans: tuple[Scan, ...]
    text_source: str

    @property
    def size(self) -> tuple[int, int, int]:
        """(D, H, W) of the cubes."""
        depth, height, width = self.settings["size"]
        return int(depth), int(height), int(width)

    @property
    def sizes(self) -> dict[str, int]:
        """Components of each target's vectors."""
        return {name: vectors.shape[1] for name, vectors in self.scans[0].vectors.items()}

    @property
    def token_size(self) -> int:
        """Components of the patch tokens, 0 where none are kept."""
        return int(self.settings.get("dense_components", 0))

    @property
    def shares_space(self) -> bool:
        """Image and text vectors come from one CLIP-like model."""
        return "text" in self.sizes and self.settings["text_encoder"] is None

    def of_split(self, split: str) -> tuple[Scan, ...]:
        """The scans of one split.

        Raises:
            InputError: there is none.
        """
        chosen = tuple(scan for scan in self.scans if scan.split == split)
        if not chosen:
            found = ", ".join(sorted({scan.split for scan in self.scans}))
            raise InputError(f"{self.folder}: no scan has the split {split!r} (found: {found}); change split")
        return chosen


def open_triplets(folder: str | Path) -> Triplets:
    """Open what `make_triplets` wrote.

    Raises:
        InputError: no such folder, or one that is not finished.
    """
    folder = Path(folder)
    settings_file, scans_file = folder / "settings.json", folder / "scans.jsonl"
    if not settings_file.is_file():
        raise InputError(
            f"{folder}: holds no triplets; make them with: slicesight insight triplets SCANS --out {folder}"
        )
    if not scans_file.is_file():
        raise InputError(f"{folder}: its triplets are not finished; run slicesight insight triplets again, it goes on")
    settings = json.loads(settings_file.read_text(encoding="utf-8"))["settings"]
    lines = _lines(folder / "triplets.jsonl")
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        rows.setdefault(line["scan"], []).append(line)
    scans, has_tokens = [], bool(settings.get("dense_components"))
    for facts in _lines(scans_file):
        own = rows[facts["name"]]
        scans.append(
            Scan(
                name=facts["name"],
                patient=facts["patient"],
                split=facts["split"],
                cube_file=folder / "cubes" / f"{facts['name']}.npy",
                planes=np.array([PLANES.index(row["plane"]) for row in own]),
                index=np.array([row["index"] for row in own]),
                count=np.array([row["count"] for row in own]),
                vectors=load_file(folder / "vectors" / f"{facts['name']}.safetensors"),
                texts=[row["text"] for row in own],
                tokens_file=folder / "tokens" / f"{facts['name']}.npy" if has_tokens else None,
                shapes=read_shapes(folder, facts["name"]) if has_tokens else {},
            )
        )
    return Triplets(folder, settings, tuple(scans), text_source=lines[0]["text_source"])


class PretrainSteps(Samples):
    """Item k is slot k % batch_size of step k // batch_size: a volume, a mask, some slices and their frozen vectors.

    Every scan comes up once a pass; its slices come up in turn, in an order drawn anew when all were seen. Each item's
    randomness follows from (seed, k) alone, so that a resumed run sees what the unbroken one would have seen.
    """

    def __init__(self, scans: tuple[Scan, ...], recipe: PretrainRecipe, *, picture_size: int = 0) -> None:
        """picture_size: side of the padded pictures, where patch tokens are read."""
        self.scans, self.recipe, self.picture_size = scans, recipe, picture_size
        self.partner = shuffled_partners(len(scans), recipe.seed) if recipe.pairing == "shuffled" else None
        if recipe.pairing == "shuffled" and len(scans) < 2:
            raise InputError("pairing: shuffled needs at least two scans; there is one")

    def __len__(self) -> int:
        training = self.recipe.training_for(len(self.scans))
        return training.steps * training.batch_size

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        recipe = self.recipe
        passes, place = divmod(item, len(self.scans))
        number = int(np.random.default_rng([recipe.seed, 1, passes]).permutation(len(self.scans))[place])
        scan = self.scans[number]
        shown = scan if self.partner is None else self.scans[self.partner[number]]
        rng = np.random.default_rng([recipe.seed, 2, item])
        cube = scan.load_cube()
        if recipe.intensity_jitter:
            contrast, brightness = rng.uniform(-recipe.intensity_jitter, recipe.intensity_jitter, 2)
            cube = np.clip((cube - 0.5) * np.float32(1 + contrast) + np.float32(0.5 + brightness / 2), 0, 1)
        near = np.random.default_rng([recipe.seed, 5, item])
        is_near, wanted = recipe.near_slices, recipe.slices_per_volume
        rows = near_rows(shown, wanted, near) if is_near else self._slices(shown, number, passes)
        index, count = torch.from_numpy(shown.index[rows]), torch.from_numpy(shown.count[rows])
        found = {
            "volumes": torch.from_numpy(cube)[None],
            "planes": torch.from_numpy(shown.planes[rows]),
            "bins": slice_bins(index, count, variant=recipe.variant),
        }
        if recipe.masked_share:
            masked = draw_mask(cube.shape, share=recipe.masked_share, cell=recipe.mask_cell, rng=rng)
            found["masked"] = torch.from_numpy(masked)[None]
        for name in TARGETS:
            if name in shown.vectors:
                found[name] = torch.from_numpy(shown.vectors[name][rows])
        if recipe.dense_weight:
            found |= shown.load_tokens(rows, self.picture_size)
        if recipe.contrast_weight:
            views = np.random.default_rng([recipe.seed, 6, item])
            found["views"] = torch.stack([draw_view(cube, views) for _ in range(2)])
        return found

    def _slices(self, scan: Scan, number: int, passes: int) -> NDArray[np.int64]:
        """The rows of this pass: the next S of an endless row of shuffles."""
        wanted, length = self.recipe.slices_per_volume, len(scan.index)
        rows = []
        for position in range(passes * wanted, (passes + 1) * wanted):
            cycle, place = divmod(position, length)
            rows.append(np.random.default_rng([self.recipe.seed, 3, number, cycle]).permutation(length)[place])
        return np.array(rows)


def shuffled_partners(num_scans: int, seed: int) -> NDArray[np.int64]:
    """For every scan another one, each taken once: the volumes of the control "volumes shuffled"."""
    order = np.random.default_rng([seed, 4]).permutation(num_scans)
    partner = np.empty(num_scans, np.int64)
    partner[order] = np.roll(order, 1)
    return partner


def draw_mask(shape: tuple[int, ...], *, share: float, cell: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """True where the input is hidden: whole cells of `cell` voxels, exactly round(share · cells) of them."""
    cells = [-(-size // cell) for size in shape]
    num_cells = int(np.prod(cells))
    hidden = np.zeros(num_cells, bool)
    hidden[rng.permutation(num_cells)[: round(share * num_cells)]] = True
    grown = hidden.reshape(cells)
    for axis in range(3):
        grown = grown.repeat(cell, axis=axis)
    return np.ascontiguousarray(grown[tuple(slice(size) for size in shape)])


def near_rows(scan: Scan, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` slices of a scan that lie side by side in one plane: the hardest to tell from one another."""
    planes = [plane for plane in range(len(PLANES)) if (scan.planes == plane).sum() >= count]
    chosen = np.flatnonzero(scan.planes == planes[rng.integers(len(planes))]) if planes else np.arange(len(scan.index))
    first = int(rng.integers(max(1, len(chosen) - count + 1)))
    return chosen[np.argsort(scan.index[chosen], kind="stable")][first : first + count]


def read_shapes(folder: Path, name: str) -> dict[str, tuple[int, int]]:
    """Rows and columns of each plane's pictures without their padding."""
    facts = json.loads((folder / "slices" / f"{name}.json").read_text(encoding="utf-8"))
    return {plane: (int(rows), int(columns)) for plane, (rows, columns) in facts["shapes"].items()}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
