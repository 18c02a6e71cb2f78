"""A wrong argument of a public function is one line that says what was found and what was expected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slicesight.data.manifest import read_manifest, write_manifest
from slicesight.data.preprocess import prepare_volumes
from slicesight.data.store import open_prepared
from slicesight.errors import InputError
from slicesight.io.loading import read_volume
from slicesight.io.writers import write_dicom, write_nifti
from slicesight.volumes.grid import GridSpec, to_grid
from slicesight.volumes.volume import Volume

VOLUME = Volume(voxels=np.random.default_rng(0).random((5, 6, 7), dtype=np.float32))
SPEC = GridSpec(num_slices=2, height=2, width=2)
FLAT = replace(VOLUME, voxels=VOLUME.voxels[..., 0])

WRONG = {
    "volume is a ndarray; expected what": lambda: to_grid(VOLUME.voxels, SPEC),
    "volume is 'scan.nii.gz'; expected what": lambda: to_grid("scan.nii.gz", SPEC),
    "spec is a tuple; expected a GridSpec": lambda: to_grid(VOLUME, (2, 2, 2)),
    r"the volume has the shape \(5, 6\); expected": lambda: to_grid(
        replace(VOLUME, voxels=VOLUME.voxels[..., 0]), SPEC
    ),
    r"the volume has the shape \(0, 6, 7\); expected": lambda: to_grid(replace(VOLUME, voxels=VOLUME.voxels[:0]), SPEC),
    "plane 3 is unknown": lambda: GridSpec(plane=3),
    "window is 40; expected its name": lambda: GridSpec(window=40),
    "window is a tuple; expected its name": lambda: GridSpec(window=(1, 2)),
    "grid num_slices is True": lambda: GridSpec(num_slices=True),
    "grid num_slices is 8.0": lambda: GridSpec(num_slices=8.0),
    "grid crop_foreground is 'no'": lambda: GridSpec(crop_foreground="no"),
    "grid is a list; expected settings": lambda: GridSpec.from_dict([1]),
    "path is None; expected a file": lambda: read_volume(None),
    "path is 3; expected a file": lambda: read_volume(3),
    "unit is 'hu'; expected 'HU'": lambda: read_volume("a.nii", unit="hu"),
    "spacing_mm is 1; expected three sizes": lambda: read_volume("a.nii", spacing_mm=1),
    r"spacing_mm is \('a', 'b', 'c'\); expected": lambda: read_volume("a.nii", spacing_mm=("a", "b", "c")),
    r"spacing_mm is \(1, 1, nan\); expected": lambda: read_volume("a.nii", spacing_mm=(1, 1, np.nan)),
    "time point is 'a'; expected 0 or more": lambda: read_volume("a.nii", time_point="a"),
    "time point is -1; expected 0 or more": lambda: read_volume("a.nii", time_point=-1),
    "a ndarray; expected what slicesight.read_volume": lambda: write_nifti(VOLUME.voxels, "a.nii.gz"),
    "has no geometry": lambda: write_dicom(VOLUME, "a"),
    "manifest is None; expected the path": lambda: read_manifest(None),
    "a line of the manifest is 1; expected a Case": lambda: write_manifest([1], "manifest.jsonl"),
    "folder is None; expected the path": lambda: open_prepared(None),
    "spec is a tuple; expected": lambda: prepare_volumes("a.jsonl", "out", spec=(2, 2, 2)),
    "workers is '2'; expected 1 or more": lambda: prepare_volumes("a.jsonl", "out", spec=SPEC, workers="2"),
    "dtype is 'float32'; expected": lambda: prepare_volumes("a.jsonl", "out", spec=SPEC, dtype="float32"),
}


@pytest.mark.parametrize("expected", WRONG)
def test_a_wrong_argument_is_one_line(expected: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=expected) as caught:
        WRONG[expected]()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
