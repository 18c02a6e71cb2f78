"""Scans become prepared volumes: the right voxels, each prepared once, the same bytes whatever the way there."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="pip install 'slicesight[prepare]'")

import pyarrow.parquet as pq

from slicesight.data.manifest import read_manifest
from slicesight.data.preprocess import prepare_volumes
from slicesight.data.store import open_prepared
from slicesight.errors import InputError
from slicesight.io.loading import read_volume
from slicesight.volumes.grid import GridSpec, to_grid

SPEC = GridSpec(num_slices=4, height=16, width=12)
NUMBERS = range(40)


@pytest.fixture
def manifest(tmp_path, write_scans) -> Path:
    return write_scans(tmp_path, NUMBERS, mr=(1, 5, 9))


def files_of(folder: Path) -> dict[str, bytes]:
    """What readers see: the shards and the index."""
    return {path.name: path.read_bytes() for path in (folder / "volumes").iterdir() if path.suffix != ".jsonl"}


def times_of(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "volumes").iterdir() if path.name != ".lock"}


def test_a_prepared_volume_is_the_grid_of_its_scan_in_255_steps(manifest):
    report = prepare_volumes(manifest, manifest.parent, spec=SPEC)
    assert (report.num_ready, report.num_prepared, report.failed) == (40, 40, ())
    assert report.num_shards > 1
    prepared = open_prepared(manifest.parent)
    assert [case.id for case in prepared.cases] == [f"case {number}" for number in NUMBERS]
    assert (len(prepared), prepared.spec, prepared.dtype) == (40, SPEC, "uint8")
    for case in prepared.cases[::7]:
        grid = to_grid(read_volume(manifest.parent / case.volume), SPEC)
        found = prepared.voxels(case.id)
        assert found.dtype == np.uint8
        assert found.flags.writeable
        np.testing.assert_array_equal(found, np.rint(grid.voxels * 255))
        assert prepared.receipt(case.id) == grid.receipt
        assert [tuple(slices) for slices in prepared.source_slices(case.id)] == [p.source_slices for p in grid.slices]
        np.testing.assert_allclose(prepared.positions_mm(case.id), [p.position_mm for p in grid.slices], atol=1e-3)


def test_float16_keeps_finer_steps_at_twice_the_size(manifest):
    prepare_volumes(manifest, manifest.parent, spec=SPEC, dtype="float16")
    found = open_prepared(manifest.parent).voxels("case 3")
    grid = to_grid(read_volume(manifest.parent / "scans/3.nii"), SPEC)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, grid.voxels, atol=2**-11)


def test_three_windows_are_kept_as_three_channels(manifest, write_scans, tmp_path):
    ct_only = write_scans(tmp_path / "ct", [100, 101])
    spec = replace(SPEC, window="lung+soft_tissue+bone")
    prepare_volumes(ct_only, ct_only.parent, spec=spec)
    grid = to_grid(read_volume(ct_only.parent / "scans/100.nii"), spec)
    np.testing.assert_array_equal(open_prepared(ct_only.parent).voxels("case 100"), np.rint(grid.channels * 255))


def test_a_scan_without_geometry_has_no_positions(tmp_path, write_scans):
    manifest = write_scans(tmp_path, [0])
    np.save(tmp_path / "scans" / "0.npy", np.random.default_rng(0).random((12, 24, 20), np.float32))
    manifest.write_text(manifest.read_text().replace("0.nii", "0.npy"))
    prepare_volumes(manifest, tmp_path, spec=SPEC)
    assert open_prepared(tmp_path).positions_mm("case 0") is None


def test_a_full_size_row_takes_at_most_two_point_one_megabytes(tmp_path, write_scans):
    manifest = write_scans(tmp_path, [0], shape=(300, 40, 40))
    prepare_volumes(manifest, tmp_path, spec=GridSpec())
    (shard,) = (tmp_path / "volumes").glob("*.parquet")
    row = pq.ParquetFile(shard).metadata.row_group(0)
    assert 32 * 256 * 256 < row.total_byte_size <= 2.1e6


# --- what is done again ----------------------------------------------------------------------------------------------


def test_an_unchanged_run_opens_no_scan_and_writes_nothing(manifest, monkeypatch):
    first = prepare_volumes(manifest, manifest.parent, spec=SPEC)
    before = times_of(manifest.parent)
    monkeypatch.setattr("slicesight.data.rows.read_volume", None)
    monkeypatch.setattr("slicesight.data.rows.content_digest", None)
    calls = []
    again = prepare_volumes(manifest, manifest.parent, spec=SPEC, progress=lambda *made: calls.append(made))
    assert (again.num_prepared, again.digest, again.num_ready) == (0, first.digest, 40)
    assert times_of(manifest.parent) == before
    assert calls == []


def test_only_a_scan_with_other_content_is_prepared_again(manifest):
    first = prepare_volumes(manifest, manifest.parent, spec=SPEC)
    before = times_of(manifest.parent)
    scans = manifest.parent / "scans"
    os.utime(scans / "4.nii")
    touched = prepare_volumes(manifest, manifest.parent, spec=SPEC)
    assert (touched.num_prepared, touched.digest) == (0, first.digest)
    assert {name: time for name, time in times_of(manifest.parent).items() if name != "journal.jsonl"} == {
        name: time for name, time in before.items() if name != "journal.jsonl"
    }
    shutil.copy(scans / "7.nii", scans / "4.nii")
    changed = prepare_volumes(manifest, manifest.parent, spec=SPEC)
    assert changed.num_prepared == 1
    assert changed.digest != first.digest
    prepared = open_prepared(manifest.parent)
    np.testing.assert_array_equal(prepared.voxels("case 4"), prepared.voxels("case 7"))
    untouched = set(before) & set(times_of(manifest.parent)) - {"index.json", "journal.jsonl"}
    assert len(untouched) == changed.num_shards - 1


def test_another_dtype_is_prepared_again(manifest, tmp_path):
    prepare_volumes(manifest, tmp_path, spec=SPEC)
    assert prepare_volumes(manifest, tmp_path, spec=SPEC, dtype="float16").num_prepared == 40
    assert open_prepared(tmp_path).voxels("case 0").dtype == np.float16


def test_another_window_is_prepared_again_only_where_it_means_something_else(manifest):
    prepare_volumes(manifest, manifest.parent, spec=SPEC)
    percentile = prepare_volumes(manifest, manifest.parent, spec=replace(SPEC, window="percentile"))
    assert percentile.num_prepared == 37  # the three MR scans had percentiles already
    assert prepare_volumes(manifest, manifest.parent, spec=replace(SPEC, height=14)).num_prepared == 40


def test_naming_what_auto_and_acquired_came_to_prepares_nothing(tmp_path, write_scans):
    manifest = write_scans(tmp_path, range(5))
    auto = prepare_volumes(manifest, tmp_path, spec=SPEC)
    named = prepare_volumes(manifest, tmp_path, spec=replace(SPEC, window="soft_tissue", plane="axial"))
    assert (named.num_prepared, named.digest) == (0, auto.digest)
    assert open_prepared(tmp_path).spec.window == "soft_tissue"
    assert prepare_volumes(manifest, tmp_path, spec=replace(SPEC, plane="coronal")).num_prepared == 5


def test_the_same_manifest_gives_the_same_bytes_whatever_was_there_before(manifest, tmp_path, write_scans):
    straight = tmp_path / "straight"
    report = prepare_volumes(manifest, straight, spec=SPEC)
    detour = tmp_path / "detour"
    prepare_volumes(manifest, detour, spec=replace(SPEC, window="percentile"))
    whole = manifest.read_bytes()
    write_scans(tmp_path, [*range(12, 40), 50, 51], mr=(1, 5, 9))
    fewer = prepare_volumes(manifest, detour, spec=SPEC)
    assert fewer.num_ready == 30
    manifest.write_bytes(whole)
    more = prepare_volumes(manifest, detour, spec=SPEC)
    assert more.num_prepared == 12
    assert more.digest == report.digest
    assert files_of(detour) == files_of(straight)


def test_an_added_case_touches_only_its_own_shard(manifest, tmp_path, write_scans):
    first = prepare_volumes(manifest, tmp_path, spec=SPEC)
    before = set((tmp_path / "volumes").glob("*.parquet"))
    write_scans(tmp_path, [60, *NUMBERS], mr=(1, 5, 9))
    added = prepare_volumes(manifest, tmp_path, spec=SPEC)
    assert added.num_prepared == 1
    assert len(before) == first.num_shards > 1
    assert len(before & set((tmp_path / "volumes").glob("*.parquet"))) == first.num_shards - 1


def test_two_workers_give_the_bytes_of_one(manifest, tmp_path):
    one = prepare_volumes(manifest, tmp_path / "one", spec=SPEC)
    steps = []
    two = prepare_volumes(
        manifest, tmp_path / "two", spec=SPEC, workers=2, progress=lambda done, total: steps.append((done, total))
    )
    assert (two.num_prepared, two.digest) == (40, one.digest)
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
    assert steps == [(done, 40) for done in range(41)]


# --- bad scans -------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_bad_scans(manifest):
    (manifest.parent / "scans" / "11.nii").write_bytes(b"not a scan at all")
    (manifest.parent / "scans" / "30.nii").unlink()
    return manifest


def test_skipped_scans_are_reported_and_the_rest_is_there(with_bad_scans):
    report = prepare_volumes(with_bad_scans, with_bad_scans.parent, spec=SPEC, on_bad_case="skip")
    assert report.num_ready == 38
    assert [case.id for case in report.failed] == ["case 11", "case 30"]
    assert "this is a text file" in report.failed[0].reason
    assert "no such file" in report.failed[1].reason
    assert all("\n" not in case.reason for case in report.failed)
    assert "2 failed" in str(report)
    prepared = open_prepared(with_bad_scans.parent)
    assert (len(prepared.cases), len(prepared), prepared.failed) == (38, 38, report.failed)
    with pytest.raises(InputError, match=r"case 11.*could not be prepared.*text file"):
        prepared.voxels("case 11")
    shutil.copy(with_bad_scans.parent / "scans/2.nii", with_bad_scans.parent / "scans/11.nii")
    assert prepare_volumes(with_bad_scans, with_bad_scans.parent, spec=SPEC, on_bad_case="skip").num_prepared == 1


def test_a_bad_scan_stops_the_run_and_what_was_done_before_it_is_kept(with_bad_scans, write_scans):
    folder = with_bad_scans.parent
    with pytest.raises(InputError, match=r"case 11.*text file.*11 scans prepared before it are kept.*--on-bad-case"):
        prepare_volumes(with_bad_scans, folder, spec=SPEC)
    with pytest.raises(InputError, match="no complete preparation"):
        open_prepared(folder)
    for number in (11, 30):
        (folder / "scans" / f"{number}.nii").unlink(missing_ok=True)
    write_scans(folder, NUMBERS, mr=(1, 5, 9))
    assert prepare_volumes(with_bad_scans, folder, spec=SPEC).num_prepared == 29
    fresh = prepare_volumes(with_bad_scans, folder / "fresh", spec=SPEC)
    assert files_of(folder) == files_of(folder / "fresh")
    assert fresh.num_prepared == 40


def test_a_folder_where_nothing_can_be_prepared_is_an_error_even_when_skipping(tmp_path, write_scans):
    manifest = write_scans(tmp_path, [0, 1], mr=(0, 1))
    with pytest.raises(InputError, match=r"none of the 2 scans could be prepared; 'case 0': .*in HU"):
        prepare_volumes(manifest, tmp_path, spec=replace(SPEC, window="lung"), on_bad_case="skip")


# --- options and folders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "found"),
    [({"dtype": "float64"}, "float64"), ({"workers": 0}, "workers is 0"), ({"on_bad_case": "ignore"}, "ignore")],
)
def test_an_option_that_does_not_exist_is_refused(manifest, options, found):
    with pytest.raises(InputError, match=found):
        prepare_volumes(manifest, manifest.parent, spec=SPEC, **options)
    assert not (manifest.parent / "volumes").exists()


def test_a_manifest_from_elsewhere_is_copied_so_that_its_paths_still_lead_to_the_scans(manifest, tmp_path):
    out = tmp_path / "deep" / "out"
    prepare_volumes(manifest, out, spec=SPEC)
    copied = read_manifest(out / "manifest.jsonl")
    assert copied[3].conversations == read_manifest(manifest)[3].conversations
    assert (out / copied[3].volume).resolve() == (tmp_path / "scans" / "3.nii").resolve()
    assert prepare_volumes(out / "manifest.jsonl", out, spec=SPEC).num_prepared == 0
    assert len(open_prepared(out).cases) == 40


def test_a_manifest_that_was_there_before_is_not_overwritten(manifest, tmp_path, write_scans):
    theirs = write_scans(tmp_path / "theirs", [1])
    with pytest.raises(InputError, match="exists already and is another manifest"):
        prepare_volumes(manifest, theirs.parent, spec=SPEC)
    assert len(read_manifest(theirs)) == 1


def test_a_run_of_which_a_store_had_the_manifest_but_not_yet_the_journal_goes_on(manifest, tmp_path):
    out = tmp_path / "out"
    prepare_volumes(manifest, out, spec=SPEC)
    for name in ("journal.jsonl", "index.json"):
        (out / "volumes" / name).unlink()
    assert prepare_volumes(manifest, out, spec=SPEC).num_ready == 40
    assert len(open_prepared(out).cases) == 40


def test_a_manifest_that_grew_since_asks_for_another_run(manifest, tmp_path, write_scans):
    prepare_volumes(manifest, tmp_path, spec=SPEC)
    write_scans(tmp_path, [*NUMBERS, 70], mr=(1, 5, 9))
    prepared = open_prepared(tmp_path)
    assert prepared.voxels("case 0").shape == (4, 16, 12)
    with pytest.raises(InputError, match=r"1 cases have no prepared volume, the first is 'case 70'"):
        _ = prepared.cases


def test_the_grid_of_a_phantom_is_what_this_numerics_number_stands_for(phantom):
    from slicesight.data.rows import NUMERICS, stored_voxels

    voxels = stored_voxels(to_grid(phantom.volume, GridSpec(num_slices=8, height=32, width=32)), "uint8")
    found = [NUMERICS, *(round(float(value), 1) for value in voxels.mean(axis=(1, 2)))]
    stated = json.loads((Path(__file__).parent / "golden_numerics.json").read_text())
    assert found[0] == stated[0]
    assert found == pytest.approx(stated, abs=0.11), "the grid's values changed: raise rows.NUMERICS, renew the golden"
