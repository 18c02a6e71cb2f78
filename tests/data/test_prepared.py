"""Prepared volumes are read by id, by many processes at once, and by the `datasets` library."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="pip install 'slicesight[prepare]'")

from slicesight.data.fingerprints import content_digest, scan_files, stat_fingerprint
from slicesight.data.preprocess import prepare_volumes
from slicesight.data.store import open_prepared
from slicesight.errors import InputError
from slicesight.io.loading import read_volume
from slicesight.volumes.grid import GridSpec

SPEC = GridSpec(num_slices=4, height=16, width=12)
NUMBERS = range(30)


@pytest.fixture
def folder(tmp_path, write_scans) -> Path:
    prepare_volumes(write_scans(tmp_path, NUMBERS), tmp_path, spec=SPEC)
    return tmp_path


def test_an_unknown_case_is_named(folder):
    with pytest.raises(InputError, match="case 'case 99' is not among the prepared volumes"):
        open_prepared(folder).voxels("case 99")


def test_an_empty_folder_says_which_command_fills_it(tmp_path):
    with pytest.raises(InputError, match=r"no complete preparation found .*run `slicesight prepare`"):
        open_prepared(tmp_path)


def test_a_row_keeps_the_digest_that_sha256sum_prints(folder):
    wanted = hashlib.sha256((folder / "scans" / "8.nii").read_bytes()).hexdigest()
    assert open_prepared(folder).content("case 8") == wanted


def test_changing_what_was_read_does_not_change_what_is_stored(folder):
    prepared = open_prepared(folder)
    first = prepared.voxels("case 1")
    first += 1
    assert (prepared.voxels("case 1") != first).all()


def sums(prepared, order) -> list[int]:
    return [int(prepared.voxels(f"case {number}").sum()) for number in order]


def test_several_processes_read_any_case_at_the_same_time(folder):
    prepared = open_prepared(folder)
    wanted = sums(prepared, NUMBERS)
    orders = [np.random.default_rng(seed).permutation(30).tolist() for seed in range(4)]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.starmap(sums, [(prepared, order) for order in orders])
    for order, values in zip(orders, found, strict=True):
        assert values == [wanted[number] for number in order]


def test_an_open_folder_may_be_sent_to_another_process(folder):
    prepared = open_prepared(folder)
    copied = pickle.loads(pickle.dumps(prepared))
    assert sums(copied, [3]) == sums(prepared, [3])
    assert copied.cases == prepared.cases


def test_the_datasets_library_reads_and_streams_the_shards(folder, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    prepared = open_prepared(folder)
    files = sorted(str(path) for path in (folder / "volumes").glob("*.parquet"))
    streamed = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    found = {}
    for row in streamed:
        assert isinstance(row["voxels"], bytes)
        voxels = np.frombuffer(row["voxels"], row["dtype"]).reshape(row["shape"])
        np.testing.assert_array_equal(voxels, prepared.voxels(row["id"]))
        found[row["id"]] = json.loads(row["receipt"])["grid"]["num_slices"]
    assert found == {f"case {number}": 4 for number in NUMBERS}
    loaded = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"), keep_in_memory=True
    )
    assert len(loaded) == 30
    assert str(loaded.features["voxels"].dtype) == "binary"


# --- which files a scan is made of -----------------------------------------------------------------------------------


def test_the_data_file_a_header_names_belongs_to_the_scan(tmp_path):
    voxels = np.arange(4 * 5 * 6, dtype="<i2")
    (tmp_path / "voxels.raw").write_bytes(voxels.tobytes())
    header = "ObjectType = Image\nNDims = 3\nDimSize = 6 5 4\nElementType = MET_SHORT\nElementSpacing = 1 1 2\n"
    path = tmp_path / "scan.mhd"
    path.write_text(header + "ElementByteOrderMSB = False\nElementDataFile = voxels.raw\n")
    assert read_volume(path).shape == (4, 5, 6)
    assert scan_files(path) == [path, tmp_path / "voxels.raw"]
    content, fingerprint = content_digest(path), stat_fingerprint(path)
    (tmp_path / "voxels.raw").write_bytes((voxels + 1).tobytes())
    assert content_digest(path) != content
    assert stat_fingerprint(path) != fingerprint


def test_a_detached_nrrd_header_brings_its_data(tmp_path):
    (tmp_path / "d.raw").write_bytes(bytes(120))
    path = tmp_path / "scan.nhdr"
    path.write_text("NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 5 6\nencoding: raw\ndata file: d.raw\n\n")
    assert scan_files(path) == [path, tmp_path / "d.raw"]


def test_both_halves_of_a_nifti_pair_belong_to_the_scan(tmp_path):
    for name in ("scan.hdr", "scan.img", "other.img"):
        (tmp_path / name).write_bytes(bytes(400))
    assert [path.name for path in scan_files(tmp_path / "scan.img")] == ["scan.hdr", "scan.img"]
    assert [path.name for path in scan_files(tmp_path / "scan.hdr")] == ["scan.hdr", "scan.img"]


def test_a_folder_is_all_its_files_by_name_and_may_move(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        (place / "sub").mkdir(parents=True)
        (place / "a.dcm").write_bytes(b"1")
        (place / "sub" / "b.dcm").write_bytes(b"2")
    assert content_digest(here) == content_digest(there)
    (there / "a.dcm").rename(there / "c.dcm")
    assert content_digest(here) != content_digest(there)
    assert stat_fingerprint(here) != stat_fingerprint(there)
