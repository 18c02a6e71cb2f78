import json

import numpy as np
import pytest

from slicesight.errors import ManifestError, VolumeError
from slicesight.models.med3dinsight.preparation import Preparation
from slicesight.training.scan_list import ScanDataset, of_split, part_of_patients, read_cases


@pytest.fixture
def write(tmp_path):
    """A .jsonl of these objects, beside an image and a mask that exist."""
    (tmp_path / "a.nii.gz").write_bytes(b"")
    (tmp_path / "m.nii.gz").write_bytes(b"")

    def writer(*lines):
        path = tmp_path / "list.jsonl"
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
        return path

    return writer


def line(**changes):
    return {"image": "a.nii.gz", "mask": "m.nii.gz", "label": "x", "patient": "p1", "split": "train", **changes}


def test_a_case_has_paths_beside_the_file_and_its_line_number(write):
    first, second = read_cases(write(line(), "", line(patient=2, label=1, mask=None, split="test")))
    assert first.image.is_file()
    assert first.mask.is_file()
    assert (first.line, second.line) == (1, 3)
    assert (second.patient, second.label, second.mask, second.split) == ("2", "1", None, "test")
    assert first.name != second.name


@pytest.mark.parametrize(
    ("lines", "needs", "words"),
    [
        (["{"], None, "line 1: Invalid JSON"),
        ([line(), line(splitt="test")], None, "line 2: splitt: Extra inputs"),
        ([line(), line(split="tset")], None, "line 2: split: Input should be 'train', 'val' or 'test'"),
        ([{"image": "a.nii.gz"}], None, "line 1: patient: Field required"),
        ([line(), line(mask=None)], "mask", "line 2: mask is missing"),
        ([line(label=None)], "label", "line 1: label is missing"),
        ([line(image="b.nii.gz")], None, "line 1: image: no such file"),
        ([line(mask="b.nii.gz")], None, "line 1: mask: no such file"),
        ([line(), line(split="test")], None, "line 2: this patient is in test here and in train on line 1"),
        ([""], None, "no scans found"),
    ],
)
def test_a_bad_line_is_named_by_its_number_in_one_line(write, lines, needs, words):
    with pytest.raises(ManifestError, match=words) as caught:
        read_cases(write(*lines), needs=needs)
    assert "\n" not in str(caught.value)


def test_a_patients_name_is_not_in_the_message(write):
    with pytest.raises(ManifestError) as caught:
        read_cases(write(line(patient="Smith"), line(patient="Smith", split="test")))
    assert "Smith" not in str(caught.value)


def test_an_empty_split_says_which_there_are(write):
    path = write(line())
    with pytest.raises(ManifestError, match=r"no scan has the split 'test' \(found: train\)"):
        of_split(read_cases(path), "test", path=path)


def test_a_share_of_the_patients_is_part_of_every_larger_share_and_keeps_their_scans_together(write):
    cases = read_cases(write(*(line(patient=f"p{n // 2}") for n in range(40))))
    quarter, half = part_of_patients(cases, 0.25), part_of_patients(cases, 0.5)
    assert len({case.patient for case in quarter}) == 5
    assert len(quarter) == 10
    assert {case.line for case in quarter} < {case.line for case in half}
    assert part_of_patients(cases, 1.0) == cases
    assert len({tuple(case.line for case in part_of_patients(cases, 0.25, seed=seed)) for seed in range(4)}) > 1
    assert len({case.patient for case in part_of_patients(cases, 0.001)}) == 1


def test_a_line_says_what_takes_the_place_of_nan(write, tmp_path):
    voxels = np.random.default_rng(0).random((12, 14, 16), dtype=np.float32)
    voxels[:3] = np.nan
    np.save(tmp_path / "nan.npy", voxels)
    how = Preparation(window="0,1", spacing_mm=None)
    prepared = []
    for fill in (None, "LOWEST", 9):
        (case,) = read_cases(write(line(image="nan.npy", mask=None, fill=fill)))
        dataset = ScanDataset(tmp_path / "kept", how, image_size=(8, 8, 8))
        if fill is None:
            with pytest.raises(VolumeError, match="NaN"):
                dataset.prepare(case)
            continue
        dataset.prepare(case)
        prepared.append(dataset.load(case)[0])
    lowest, nine = prepared
    assert not np.array_equal(lowest, nine)
    with pytest.raises(ManifestError, match=r"line 1: fill: .*expected LOWEST or a number"):
        read_cases(write(line(fill="highest")))
