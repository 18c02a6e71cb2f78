"""What does a network see of the training scans? Crops and whole cubes, randomly changed by MONAI's transforms.

Sample i takes case i of an order that is shuffled anew for every pass; its crop and changes follow from (seed, i).
Axes 0, 1, 2 are canonical: superior, posterior, patient-left.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slicesight.errors import InputError
from slicesight.models.encoders3d.monai import import_monai
from slicesight.models.med3dinsight.preparation import grey
from slicesight.training.fitting import Samples
from slicesight.training.scan_list import ScanCase, ScanDataset

IMAGE, MASK, CLASS, DRAWN = "image", "mask", "class", "drawn"
INSIDE_SHARE = 0.5
"""Of the crops of a scan with a mask, how many are centred in it."""


STRUCTURE_SHARE, MIRRORED_SHARE = 0.75, 0.5
"""Of balanced crops, how many are centred near a structure; of crops with sides, how many are mirrored."""


@dataclass(frozen=True, kw_only=True)
class SpatialAugmentation:
    """Random changes of a training sample; 0 or an empty list leaves one out.

    flip_axes: mirrored with probability 1/2 each; 2 exchanges left and right. rotate_degrees, scale: largest turn
        about each axis and largest change of size. shift_voxels: largest displacement. contrast, brightness: largest
        factor and offset of the grey values, which lie in [0, 1]; noise: largest standard deviation added.
    """

    flip_axes: tuple[int, ...] = ()
    rotate_degrees: float = 0.0
    scale: float = 0.0
    shift_voxels: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    noise: float = 0.0
    share: float = 0.8
    """Of the samples that are turned and scaled, and that change in grey."""

    def __post_init__(self) -> None:
        if any(axis not in (0, 1, 2) for axis in self.flip_axes):
            raise InputError(f"augmentation.flip_axes is {list(self.flip_axes)}; expected some of 0, 1, 2")
        for name in ("rotate_degrees", "scale", "shift_voxels", "contrast", "brightness", "noise"):
            if getattr(self, name) < 0:
                raise InputError(f"augmentation.{name} is {getattr(self, name)}; expected 0 or more")
        if not 0 <= self.share <= 1:
            raise InputError(f"augmentation.share is {self.share}; expected 0 to 1")

    @property
    def moves(self) -> bool:
        """Whether voxels change their place, mirroring apart."""
        return any((self.rotate_degrees, self.scale, self.shift_voxels))


class ScanSamples(Samples):
    """Sample i of the scans, in an order shuffled anew for every pass, changed at random; in [0, 1]."""

    def __init__(
        self,
        scans: ScanDataset,
        cases: Sequence[ScanCase],
        size: Sequence[int],
        augmentation: SpatialAugmentation,
        *,
        seed: int,
        length: int,
        classes: Sequence[int] = (),
    ) -> None:
        self.scans, self.cases, self.classes = scans, list(cases), list(classes)
        self.seed, self.length, self.size = seed, length, tuple(size)
        monai = import_monai("monai.transforms")
        self.transform = monai.Compose([*self.frame(monai, tuple(size)), *self.changes(monai, augmentation)])

    def frame(self, monai: Any, size: tuple[int, ...]) -> list[Any]:
        """The transforms that bring a scan to the network's size."""
        raise NotImplementedError

    def changes(self, monai: Any, augmentation: SpatialAugmentation) -> list[Any]:
        """The random transforms behind them."""
        return _changes(monai, augmentation, with_mask=False)

    def __len__(self) -> int:
        return self.length


class CropSamples(ScanSamples):
    """Random crops of scans with their masks, half of them centred in a labelled voxel.

    is_balanced: three quarters are centred in a structure instead, each structure of the scan as often. sides: the
    class that every class (0 the background) becomes in a mirror image; half of the crops are mirrored, left and right
    exchanged. Empty: axis 2 is mirrored as `augmentation` says, and every class stays.
    """

    def __init__(self, *args: Any, is_balanced: bool = False, sides: Sequence[int] = (), **options: Any) -> None:
        self.is_balanced, self.sides = is_balanced, np.array(sides, dtype=np.uint8)
        super().__init__(*args, **options)

    def frame(self, monai: Any, size: tuple[int, ...]) -> list[Any]:
        """Pad, then crop."""
        if self.is_balanced:
            return [monai.SpatialPadd((IMAGE, MASK), size)]
        crop = monai.RandCropByPosNegLabeld(
            (IMAGE, MASK), label_key=MASK, spatial_size=size, pos=INSIDE_SHARE, neg=1 - INSIDE_SHARE
        )
        return [monai.SpatialPadd((IMAGE, MASK), size), crop]

    def changes(self, monai: Any, augmentation: SpatialAugmentation) -> list[Any]:
        """The random transforms, the masks moved alike."""
        return _changes(monai, augmentation, with_mask=True)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        case = self.cases[case_at(index, len(self.cases), self.seed)]
        voxels, mask = self.scans.load(case)
        assert mask is not None
        drawn = np.array([value is not None for value in case.values(self.scans.labels)])
        rng = np.random.default_rng([self.seed, 3, index])
        if self.is_balanced:
            inside = balanced_crop(mask, self.size, rng)
            voxels, mask = voxels[inside], mask[inside]
        if len(self.sides) and rng.random() < MIRRORED_SHARE:
            voxels, mask = voxels[:, :, ::-1], self.sides[mask[:, :, ::-1]]
            drawn = drawn[self.sides[1:].astype(int) - 1]
        self.transform.set_random_state(seed=_seed(self.seed, index))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Num foregrounds 0")  # a scan that shows nothing is a fair sample
            found = self.transform({IMAGE: grey(voxels), MASK: torch.from_numpy(np.array(mask)[None])})
        found = found if isinstance(found, dict) else found[0]
        return {
            IMAGE: found[IMAGE].as_tensor().clamp(0, 1),
            MASK: found[MASK].as_tensor().long(),
            DRAWN: torch.from_numpy(drawn),
        }


class CubeSamples(ScanSamples):
    """Whole scans with their class, brought to the network's size by padding or cutting around their middle."""

    def frame(self, monai: Any, size: tuple[int, ...]) -> list[Any]:
        """Pad or cut."""
        return [monai.ResizeWithPadOrCropd((IMAGE,), size)]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place = case_at(index, len(self.cases), self.seed)
        voxels, _ = self.scans.load(self.cases[place])
        self.transform.set_random_state(seed=_seed(self.seed, index))
        found = self.transform({IMAGE: grey(voxels)})
        return {IMAGE: found[IMAGE].as_tensor().clamp(0, 1), CLASS: torch.tensor(self.classes[place])}


def balanced_crop(mask_DHW: NDArray[np.uint8], size: Sequence[int], rng: np.random.Generator) -> tuple[slice, ...]:
    """Where a crop lies: centred near a random voxel of a random structure, or anywhere; inside the scan if it fits."""
    centre = [int(rng.integers(side)) for side in mask_DHW.shape]
    present = np.flatnonzero(np.bincount(mask_DHW.ravel())[1:]) + 1
    if present.size and rng.random() < STRUCTURE_SHARE:
        held = np.argwhere(mask_DHW == present[rng.integers(present.size)])
        centre = held[rng.integers(len(held))].tolist()
        centre = [
            place + int(rng.integers(-side // 4, side // 4 + 1)) for place, side in zip(centre, size, strict=True)
        ]
    starts = [
        min(max(0, place - side // 2), max(0, whole - side))
        for place, side, whole in zip(centre, size, mask_DHW.shape, strict=True)
    ]
    return tuple(slice(start, start + side) for start, side in zip(starts, size, strict=True))


def case_at(index: int, count: int, seed: int) -> int:
    """Which of `count` cases sample `index` shows: every pass a new order, every case once a pass."""
    turn, place = divmod(index, count)
    return int(np.random.default_rng([seed, 1, turn]).permutation(count)[place])


def _seed(seed: int, index: int) -> int:
    return int(np.random.default_rng([seed, 2, index]).integers(2**31))


def _changes(monai: Any, chosen: SpatialAugmentation, *, with_mask: bool) -> list[Any]:
    """MONAI's transforms for what is chosen."""
    keys = (IMAGE, MASK) if with_mask else (IMAGE,)
    changes: list[Any] = [monai.RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in chosen.flip_axes]
    if chosen.moves:
        changes.append(
            monai.RandAffined(
                keys,
                prob=chosen.share,
                rotate_range=(math.radians(chosen.rotate_degrees),) * 3,
                scale_range=(chosen.scale,) * 3,
                translate_range=(chosen.shift_voxels,) * 3,
                mode=("bilinear", "nearest")[: len(keys)],
                padding_mode="zeros",
            )
        )
    if chosen.contrast:
        changes.append(monai.RandScaleIntensityd(IMAGE, factors=chosen.contrast, prob=chosen.share))
    if chosen.brightness:
        changes.append(monai.RandShiftIntensityd(IMAGE, offsets=chosen.brightness, prob=chosen.share))
    if chosen.noise:
        changes.append(monai.RandGaussianNoised(IMAGE, std=chosen.noise, prob=chosen.share))
    return changes
