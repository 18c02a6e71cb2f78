"""One dataset: its sources by name, its splits, what it says of a case, and a source from another package."""

from __future__ import annotations

import numpy as np
import pytest

from slicesight.data.dataset import SOURCES, open_dataset, select
from slicesight.data.manifest import Case, Conversation, write_manifest
from slicesight.errors import InputError
from slicesight.io.writers import write_nifti
from slicesight.volumes.grid import GridSpec

SPEC = GridSpec(num_slices=6, height=12, width=16)
STRANGER = '''
import numpy as np
from slicesight.data.dataset import Dataset
from slicesight.data.manifest import Case
from slicesight.volumes.grid import to_grid
from slicesight.volumes.volume import Volume


class Cubes(Dataset):
    """Three noise cubes."""

    def __init__(self, side, grid):
        self.side, self.spec = side, grid
        self.cases = [
            Case(id=f"cube{n}", volume=str(n), conversations=(), split="train" if n else "test") for n in range(3)
        ]

    def grid(self, case, spec):
        voxels = np.random.default_rng(int(case.volume)).random((self.side,) * 3, dtype=np.float32)
        return to_grid(Volume(voxels=voxels), spec)

    def stamp(self, case):
        return case.volume

    def content(self, case):
        return case.volume


def open_cubes(rest, *, grid=None, low=0):
    return Cubes(int(rest) + low, grid)
'''


@pytest.fixture
def folder(tmp_path, scan):
    """Two scans with a manifest: one to train on, one of the test split."""
    asked = (
        Conversation(task="open", topic="organ", question="Where?", answer="liver", source_slices=(0,)),
        Conversation(task="report", topic="report", question="Describe it.", answer="Nothing."),
    )
    for name in "ab":
        write_nifti(scan, tmp_path / f"{name}.nii.gz")
    cases = [
        Case(id=name, volume=f"{name}.nii.gz", conversations=asked, split=split, patient=name)
        for name, split in (("a", "train"), ("b", "test"))
    ]
    write_manifest(cases, tmp_path / "manifest.jsonl")
    return tmp_path


def test_scans_are_trained_on_without_being_prepared(folder) -> None:
    dataset = open_dataset(folder, split="train", grid=SPEC)
    (case,) = dataset.cases
    voxels = dataset.voxels(case)
    assert voxels.shape == (6, 12, 16)
    assert voxels.dtype == np.float32
    where, report = dataset.conversations(case, 0)
    assert dataset.true_slices(case, where).tolist() == [True] + 5 * [False]
    assert not dataset.true_slices(case, report).any()
    assert dataset.plane(case) == "axial"
    assert list(dataset.texts(count=9, seed=0)) == ["Where? Answer: liver", "Describe it. Answer: Nothing."]
    other = open_dataset(folder, split="train", grid=GridSpec(num_slices=6, height=12, width=15))
    assert other.fingerprint(case) != dataset.fingerprint(case)


def test_a_split_is_taken_where_it_is_named_or_preferred(folder) -> None:
    assert [case.id for case in open_dataset(folder).cases] == ["a", "b"]
    assert [case.id for case in open_dataset(folder / "manifest.jsonl", prefer="test").cases] == ["b"]
    assert [case.id for case in open_dataset(folder, prefer="val").cases] == ["a", "b"]
    assert [case.id for case in open_dataset(folder, split="train", prefer="test").cases] == ["a"]
    assert len(select(open_dataset(folder), count=1)) == 1


def test_the_same_phantoms_are_painted_or_kept_in_a_folder(tmp_path) -> None:
    painted = open_dataset("phantoms:7:2", grid=SPEC)
    stored = open_dataset("phantoms:7:2", grid=SPEC, folder=tmp_path / "set", workers=1)
    assert painted.cases == stored.cases
    for case in painted.cases:
        np.testing.assert_allclose(stored.voxels(case), painted.voxels(case), atol=0.5 / 255 + 1e-6)
        assert stored.plane(case) == painted.plane(case)
    case = stored.cases[0]
    first, second = stored.conversations(case, 0), stored.conversations(case, 1)
    assert first != second
    assert [one.task for one in first] == [one.task for one in second] == [one.task for one in case.conversations]
    assert stored.with_seed(1).conversations(case, 0) != first
    assert stored.subset([case]).cases == [case]
    assert stored.spec == SPEC
    assert len(list(stored.texts(count=10, seed=0))) == 12


@pytest.mark.parametrize("how", ["entry point", "line"])
def test_another_package_adds_a_source_of_cases(how, tmp_path, monkeypatch) -> None:
    facts = tmp_path / "cubes-1.0.dist-info"
    facts.mkdir()
    (tmp_path / "cubes_of_noise.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(tmp_path)
    if how == "line":
        monkeypatch.setitem(SOURCES, "cubes", "cubes_of_noise:open_cubes")
    else:
        (facts / "METADATA").write_text("Name: cubes\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text("[slicesight.case_sources]\ncubes = cubes_of_noise:open_cubes\n")
    dataset = open_dataset("cubes:9", split="train", grid=SPEC, low=1)
    assert [case.id for case in dataset.cases] == ["cube1", "cube2"]
    assert dataset.side == 10
    assert dataset.voxels(dataset.cases[0]).shape == (6, 12, 16)
    assert dataset.plane(dataset.cases[0]) is None


def test_what_cannot_be_opened_is_one_line(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(SOURCES, "gone", "slicesight_gone:open_gone")
    (tmp_path / "empty").mkdir()
    for data, options, expected in (
        (tmp_path / "empty", {}, "no manifest there; expected manifest.jsonl, its folder"),
        ("phantoms:1", {}, "expected phantoms:SEED:COUNT"),
        ("phantoms:1:0", {}, "at least one phantom"),
        ("phantoms:1:1", {"folder": tmp_path / "set"}, "need a grid"),
        ("phantoms:1:1", {"fodler": "set"}, "'fodler' is no option of phantoms"),
        ("gone:1", {}, "slicesight_gone:open_gone cannot be imported"),
        (folder, {"split": "val"}, "no case is in the split 'val'; the splits there are test, train"),
        (folder, {"count": 0}, "count is 0; expected at least one case"),
        (folder, {"folder": "x"}, "folder cannot be set for scans on disk"),
        (folder, {"grid": (6, 12, 16)}, "grid is a tuple; expected a GridSpec"),
        (7, {}, "data is 7; expected a path or NAME:REST"),
    ):
        with pytest.raises(InputError, match=expected) as caught:
            open_dataset(data, **options)
        assert "\n" not in str(caught.value)
    dataset = open_dataset(folder)
    with pytest.raises(InputError, match="lie on no grid yet"):
        dataset.voxels(dataset.cases[0])


def test_fill_is_for_scan_files_and_leaves_what_a_case_says(folder) -> None:
    plain, filled = open_dataset(folder), open_dataset(folder, fill="lowest")
    assert [case.read_options for case in filled.cases] == [{"fill": "LOWEST"}] * 2
    before, after = plain.cases[0], filled.cases[0]
    assert after.with_fill(-5.0) == after
    assert filled.stamp(after) != plain.stamp(before)
    assert filled.content(after) != plain.content(before)
    assert filled.scan_content(after) == plain.scan_content(before), "a copy is a copy, however it is read"
    with pytest.raises(InputError, match="fill is for scan files that a manifest names"):
        open_dataset("phantoms:7:2", fill="LOWEST")
    with pytest.raises(InputError, match="expected LOWEST or a number"):
        open_dataset(folder, fill="highest")
