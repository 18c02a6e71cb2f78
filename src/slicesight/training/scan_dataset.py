"""How are the scans of an insight run kept on disk, so that several runs prepare them once?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.files import replacing
from slicesight.io.loading import read_volume
from slicesight.io.masks import read_labels
from slicesight.models.med3dinsight.preparation import Preparation, prepare_mask, prepare_scan
from slicesight.training.fitting import Progress
from slicesight.training.scan_list import ScanCase


class ScanDataset:
    """Prepared scans and masks as files that are mapped, not loaded: made once, found again by later runs.

    Names of files are digests of the preparation, the label values and the source files' place, size and time.
    """

    def __init__(
        self, folder: Path, how: Preparation, *, image_size: Sequence[int], values: Sequence[int] = ()
    ) -> None:
        self.folder, self.how, self.image_size, self.values = folder, how, tuple(image_size), tuple(values)

    def prepare(self, case: ScanCase) -> None:
        """Write a case's files unless they are there."""
        voxels_file, mask_file = self._files(case)
        if voxels_file.exists() and (mask_file is None or mask_file.exists()):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        volume = read_volume(case.image)
        scan = prepare_scan(volume, self.how, image_size=self.image_size, name=case.image.name)
        if mask_file is not None:
            assert case.mask is not None
            labels = read_labels(case.mask, volume)
            classes = prepare_mask(labels, box=scan.box, size=scan.voxels.shape, values=self.values)
            _save(mask_file, classes)
        _save(voxels_file, np.rint(scan.voxels * 255).astype(np.uint8))

    def load(self, case: ScanCase) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Grey values 0 to 255 and class numbers, mapped from disk."""
        voxels_file, mask_file = self._files(case)
        mask = None if mask_file is None else np.load(mask_file, mmap_mode="r", allow_pickle=False)
        return np.load(voxels_file, mmap_mode="r", allow_pickle=False), mask

    def prepare_all(self, cases: Sequence[ScanCase], progress: Progress | None = None) -> None:
        """Write every case's files."""
        for number, case in enumerate(cases, start=1):
            self.prepare(case)
            if progress is not None:
                progress("preparing scans", number, len(cases))

    def _files(self, case: ScanCase) -> tuple[Path, Path | None]:
        size = [] if self.how.spacing_mm is not None else list(self.image_size)
        scan = _digest([self.how.to_dict(), size, _facts(case.image)])
        if case.mask is None or not self.values:
            return self.folder / f"{scan}.npy", None
        return self.folder / f"{scan}.npy", self.folder / f"{_digest([scan, self.values, _facts(case.mask)])}.npy"


def _save(path: Path, values: NDArray[np.uint8]) -> None:
    with replacing(path) as temporary:
        np.save(temporary, values, allow_pickle=False)


def _facts(path: Path) -> list[Any]:
    found = path.stat()
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]


def _digest(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
