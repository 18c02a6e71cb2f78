"""`slicesight embed` and `nearest` as a user meets them: whole files, one-line refusals, nothing half written."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from json_checks import documented
from slicesight.inference.embedding_table import read_table


@pytest.fixture
def scans(phantom_file, tmp_path):
    """Two files of one scan."""
    for name in ("a", "b"):
        shutil.copy(phantom_file, tmp_path / f"{name}.nii.gz")
    return tmp_path


@pytest.fixture
def embed(run, scans, tiny_model_folder):
    return lambda *more: run("embed", *more, "--out", "t.parquet", "--model", tiny_model_folder)


def refused(result) -> str:
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("slicesight: ")
    assert err.count("\n") == 1
    return err


def test_files_become_rows_and_the_vectors_are_the_predictors(embed, scans, tiny_reader):
    code, out, err = embed("a.nii.gz", "b.nii.gz")
    assert (code, out) == (0, "")
    assert "wrote t.parquet: 2 scans" in err
    table = read_table(scans / "t.parquet")
    assert table.scans == ["a.nii.gz", "b.nii.gz"]
    np.testing.assert_array_equal(table.volumes[0], tiny_reader.embed(scans / "a.nii.gz").volume)
    assert table.facts["model"] == "tiny-random"


def test_without_depth_bins_they_are_missing_and_said_so(embed, scans):
    _, _, err = embed("a.nii.gz", "--no-depth-bins")
    assert "no depth bins: left out with --no-depth-bins" in err
    assert read_table(scans / "t.parquet").facts["missing"]["depth_bins"]


def test_a_bad_scan_stops_the_run_and_the_next_goes_on_with_what_is_kept(embed, scans, monkeypatch):
    (scans / "bad.nii.gz").write_bytes(b"no scan")
    line = refused(embed("a.nii.gz", "bad.nii.gz"))
    assert line.startswith("slicesight: bad.nii.gz: ")
    assert not (scans / "t.parquet").exists()
    from slicesight.inference.predictor import Predictor

    seen, embed_one = [], Predictor.embed
    monkeypatch.setattr(Predictor, "embed", lambda self, *a, **k: seen.append(1) or embed_one(self, *a, **k))
    code, _, err = embed("a.nii.gz", "bad.nii.gz", "b.nii.gz", "--skip-bad-cases")
    assert code == 0
    assert len(seen) == 1, "a.nii.gz is kept from the run before"
    assert "1 of 3 scans are kept from an earlier run" in err
    assert "skipped bad.nii.gz: " in err
    assert read_table(scans / "t.parquet").scans == ["a.nii.gz", "b.nii.gz"]


def test_if_no_scan_can_be_read_there_is_no_table(embed, scans):
    (scans / "bad.nii.gz").write_bytes(b"no scan")
    assert "none of the 1 scans could be read" in refused(embed("bad.nii.gz", "--skip-bad-cases"))
    assert not list(scans.glob("t.parquet*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.nii.gz"], "nowhere.nii.gz: no such file or folder"),
        (["a.nii.gz", "a.nii.gz"], "2 scans are called a.nii.gz"),
        (["a.nii.gz", "--count", "1"], "--split and --count are for DATA"),
        (["phantoms:x"], "expected phantoms:SEED:COUNT"),
    ],
)
def test_what_cannot_be_embedded_is_one_line_and_nothing_is_written(embed, scans, arguments, said):
    assert said in refused(embed(*arguments))
    assert not list(scans.glob("t.parquet*"))


def test_the_folder_of_out_must_be_there(run, scans):
    assert "does not exist" in refused(run("embed", "a.nii.gz", "--out", "no/t.parquet"))


def test_neighbours_as_a_table_and_as_json(embed, run, scans):
    embed("a.nii.gz", "b.nii.gz")
    code, out, err = run("nearest", "t.parquet", "a.nii.gz")
    assert code == 0
    assert "1.0000" in out
    assert "b.nii.gz" in out
    assert "not alike for a reader" in err
    code, out, _ = run("nearest", "t.parquet", "a.nii.gz", "--slice", 3, "--top", 2, "--json", "-")
    found = documented("nearest", out)
    assert (found["query"], found["grid_slice"], len(found["neighbours"])) == ("a.nii.gz", 3, 2)
    assert found["neighbours"][0] == {**found["neighbours"][0], "scan": "b.nii.gz", "grid_slice": 3, "rank": 1}
    assert found["neighbours"][0]["cosine"] == pytest.approx(1, abs=1e-6)


def test_what_nearest_cannot_do_is_one_line(embed, run, scans):
    embed("a.nii.gz")
    assert "no other scan is left" in refused(run("nearest", "t.parquet", "a.nii.gz"))
    assert "neither a scan of t.parquet nor a file; did you mean" in refused(run("nearest", "t.parquet", "a.nii.g"))
    assert "the grid has 8 slices, 0 to 7" in refused(run("nearest", "t.parquet", "a.nii.gz", "--slice", 8))
    assert "does not say whose scan" in refused(run("nearest", "t.parquet", "a.nii.gz", "--other-patients"))
    shutil.copy(scans / "a.nii.gz", scans / "c.nii.gz")
    assert "leave the option out" in refused(run("nearest", "t.parquet", "c.nii.gz", "--other-patients"))
    assert "with other weights or settings" in refused(
        run("nearest", "t.parquet", "c.nii.gz", "--model", "phantom-tiny")
    )
    assert "no such file" in refused(run("nearest", "u.parquet", "a.nii.gz"))
