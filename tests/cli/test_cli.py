"""The command line as a user meets it: exit codes, one-line errors, pure JSON, whole files."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slicesight import cli


@pytest.fixture
def ask(run, tiny_model_folder):
    return lambda *arguments: run("ask", *arguments, "--model", tiny_model_folder)


def test_help_loads_neither_torch_nor_any_heavy_library():
    code = (
        "import sys, contextlib, io; sys.argv = ['slicesight', '--help']; from slicesight.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main()\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = ("torch", "transformers", "numpy", "scipy", "SimpleITK", "nibabel", "pydicom", "matplotlib", "jinja2")
    assert not [name for name in heavy if f"'{name}'" in loaded]


def test_import_of_the_package_is_light():
    code = "import sys, slicesight; print(slicesight.__version__, 'torch' in sys.modules, 'numpy' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split()[1:] == ["False", "False"]


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "slicesight", "ask", "no-such-scan.nii.gz", "Which phase is this?"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("slicesight: ")
    assert refused.stderr.count("\n") == 1


def test_help_lists_every_verb(run):
    code, out, _ = run("--help")
    assert code == 0
    for verb in ("ask", "phantom", "demo"):
        assert verb in out


def test_ask_prints_question_and_evidence_and_exits_0(ask, phantom_file):
    code, out, _ = ask(phantom_file, "Which phase is this?", "Where is the cyst?")
    assert code == 0
    assert out.startswith("CT ")
    assert "read as 8×32×32, axial" in out
    assert out.index("Which phase is this?") < out.index("weighs most") < out.index("Where is the cyst?")
    assert "slices " in out
    assert "z " in out


def test_json_on_stdout_is_nothing_but_the_documented_shape(ask, phantom_file):
    code, out, _ = ask(phantom_file, "Which phase is this?", "Where is the cyst?", "--json", "-")
    assert code == 0
    document = json.loads(out)
    assert set(document) == {"schema", "scan", "model", "answers"}
    assert document["scan"]["modality"] == "CT"
    assert document["model"]["name"] == "tiny-random"
    assert document["model"]["warnings"] == []
    assert [answer["question"] for answer in document["answers"]] == ["Which phase is this?", "Where is the cyst?"]
    for answer in document["answers"]:
        said = {"question", "system", "prefix", "answer", "finish_reason", "cut_at", "choice", "within_choices"}
        said |= {"confidence", "confidence_note", "abstained", "would_say"}
        assert set(answer) == {*said, "evidence", "scores", "slices"}
        assert answer["answer"]
        assert len(answer["scores"]) == 8
        assert abs(sum(answer["scores"]) - 1) < 1e-5
        assert [found["rank"] for found in answer["slices"]] == list(range(1, 9))
        for found in answer["slices"]:
            assert set(found) == {"rank", "grid_slice", "score", "source_slices", "position_mm", "sop_instance_uids"}
            assert found["score"] == answer["scores"][found["grid_slice"]]
            assert all(isinstance(number, int) for number in found["source_slices"])
            assert len(found["position_mm"]) == 3


def test_an_answer_outside_its_choices_is_said_with_the_choice_the_model_is_held_to(ask, phantom_file):
    closed = "Which phase is this? Choices: A. arterial phase B. venous phase"
    code, out, _ = ask(phantom_file, closed, "--choices", "both")
    assert code == 0
    assert "The answer names none of the question's choices, or several. Held to them, the model says " in out
    _, free, _ = ask(phantom_file, closed)
    assert "Held to them" not in free


def test_json_of_a_separate_process_is_pure_too(tiny_model_folder, phantom_file):
    command = [sys.executable, "-m", "slicesight.cli", "ask", phantom_file, "--model", tiny_model_folder, "--json", "-"]
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    assert set(json.loads(finished.stdout)) == {"schema", "scan", "model", "answers"}


def test_positions_are_null_for_an_array_without_geometry(ask, tmp_path):
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).random((12, 40, 40), dtype=np.float32))
    code, out, _ = ask(tmp_path / "scan.npy", "Which phase?", "--json", "-")
    assert code == 0
    assert {found["position_mm"] for found in json.loads(out)["answers"][0]["slices"]} == {None}


def test_dicom_answers_name_the_images_they_rest_on(ask, phantom, tmp_path):
    from slicesight.io.writers import write_dicom

    write_dicom(phantom.volume, tmp_path / "series")
    code, out, _ = ask(tmp_path / "series", "Which phase?", "--json", "-")
    assert code == 0
    for found in json.loads(out)["answers"][0]["slices"]:
        assert len(found["sop_instance_uids"]) == len(found["source_slices"]) > 0


def test_every_report_file_is_written_and_named(ask, phantom_file, tmp_path):
    code, out, err = ask(phantom_file, "Which phase?", "--json", "a.json", "--html", "a.html", "--png", "a.png")
    assert code == 0
    assert "Which phase?" in out
    assert [line for line in err.splitlines() if line.startswith("wrote ")] == [
        "wrote a.json",
        "wrote a.html",
        "wrote a.png",
    ]
    assert set(json.loads((tmp_path / "a.json").read_text())) == {"schema", "scan", "model", "answers"}
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.json", "a.png"]


def test_a_synthetic_model_warns_on_every_channel_about_a_real_scan(ask, phantom, tmp_path):
    from dataclasses import replace

    from slicesight.io.writers import write_nifti

    write_nifti(replace(phantom.volume, is_synthetic=False), tmp_path / "real.nii")
    warning = "tiny-random was trained on synthetic CT only: its answer about a real scan means nothing."
    code, out, _ = ask("real.nii", "Which phase?", "--json", "a.json", "--html", "a.html")
    assert code == 0
    assert warning in out
    assert json.loads((tmp_path / "a.json").read_text())["model"]["warnings"] == [warning]
    assert warning in (tmp_path / "a.html").read_text()
    _, out, err = ask("real.nii", "Which phase?", "--json", "-")
    assert json.loads(out)["model"]["warnings"] == [warning]
    assert warning in err


def _bad_scans(folder: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    import nibabel as nib

    def nifti(name: str, voxels: np.ndarray) -> Path:
        nib.Nifti1Image(voxels, np.eye(4)).to_filename(folder / name)
        return folder / name

    whole = nifti("whole.nii.gz", rng.random((24, 24, 12), dtype=np.float32))
    truncated = folder / "truncated.nii.gz"
    truncated.write_bytes(whole.read_bytes()[:2000])
    text = folder / "text.nii"
    text.write_text("this is not a scan\n" * 40)
    (folder / "empty").mkdir()
    holes = rng.random((24, 24, 12), dtype=np.float32)
    holes[3, 3, 3] = np.nan
    np.save(folder / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    garbage = folder / "garbage.nii.gz"
    garbage.write_bytes(gzip.compress(b"nothing to see"))
    return {
        "missing": folder / "missing.nii.gz",
        "truncated gzip": truncated,
        "text named .nii": text,
        "empty folder": folder / "empty",
        "one 2D slice": nifti("flat.nii.gz", rng.random((24, 24, 1), dtype=np.float32)),
        "NaN": nifti("holes.nii.gz", holes),
        "4D": nifti("moving.nii.gz", rng.random((12, 12, 12, 3), dtype=np.float32)),
        "pickled .npy": folder / "pickled.npy",
        "gzip of something else": garbage,
    }


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "truncated gzip",
        "text named .nii",
        "empty folder",
        "one 2D slice",
        "NaN",
        "4D",
        "pickled .npy",
        "gzip of something else",
    ],
)
def test_a_scan_that_cannot_be_used_is_one_line_exit_2_and_nothing_written(ask, tmp_path, kind):
    scans = tmp_path / "scans"
    scans.mkdir()
    code, out, err = ask(_bad_scans(scans)[kind], "Which phase?", "--html", "a.html", "--json", "a.json")
    assert code == 2
    assert out == ""
    assert err.startswith("slicesight: ")
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--window", "sofft_tissue"], "soft_tissue"),
        (["--window", "240,-160"], "240"),
        (["--html", "nowhere/a.html"], "nowhere"),
        (["--json", "."], "folder"),
        (["--spacing-mm", "1,2"], "Z,Y,X"),
        (["--series", "1.2.3"], "series"),
    ],
)
def test_a_wrong_option_value_is_one_line_and_exit_2(ask, phantom_file, arguments, said, tmp_path):
    code, out, err = ask(phantom_file, "Which phase?", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("slicesight: ")
    assert err.count("\n") == 1
    assert said in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["ask"], ["ask", "x", "--colour", "red"], ["sing"], ["ask", "x", "--plane", "tilted"]]
)
def test_a_command_line_that_does_not_parse_exits_2(run, arguments):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err


def test_an_unknown_model_is_one_line_and_exit_2(run, phantom_file):
    code, out, err = run("ask", phantom_file, "--model", "phantom-huge")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "phantom-huge" in err


def test_our_own_fault_keeps_its_traceback(run, phantom_file, monkeypatch):
    monkeypatch.setattr("slicesight.cli.ask.run_ask", lambda request: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["slicesight", "ask", str(phantom_file)])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize("scan_format", ["nifti", "dicom"])
def test_phantom_writes_scans_labels_and_a_manifest_that_reads_back(run, tmp_path, scan_format):
    from slicesight import read_volume
    from slicesight.data.manifest import read_manifest

    code, _, err = run("phantom", "--count", 2, "--seed", 5, "--out", "made", "--format", scan_format)
    assert code == 0
    assert "manifest.jsonl" in err
    cases = read_manifest(tmp_path / "made" / "manifest.jsonl")
    assert len(cases) == 2
    for case in cases:
        assert len(case.conversations) == 11
        volume = read_volume(tmp_path / "made" / case.volume)
        labels = read_volume(tmp_path / "made" / case.labels)
        assert volume.is_synthetic
        assert volume.shape == labels.shape
        np.testing.assert_allclose(volume.affine_lps, labels.affine_lps, atol=1e-3)
        assert {100 + number for number in range(1, len(case.truth["findings"]) + 1)} <= set(np.unique(labels.voxels))


def test_a_phantom_asked_with_its_manifest_is_compared_with_the_truth(run, ask, tmp_path):
    run("phantom", "--count", 1, "--seed", 5, "--out", "made")
    scan, manifest = "made/volumes/phantom_00000.nii.gz", "made/manifest.jsonl"
    code, out, _ = ask(scan, "--truth", manifest, "--html", "a.html", "--json", "a.json")
    assert code == 0
    assert len(json.loads((tmp_path / "a.json").read_text())["answers"]) == 11
    assert out.count("✓ right") + out.count("✗ wrong; the truth: ") == 11
    assert 'class="t"' in (tmp_path / "a.html").read_text()
    code, _, err = ask(scan, "--truth", "nowhere.jsonl")
    assert code == 2
    assert err.count("\n") == 1


def test_phantom_refuses_to_overwrite_an_earlier_manifest(run, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "manifest.jsonl").write_text("precious\n")
    code, _, err = run("phantom", "--count", 1, "--out", "made")
    assert code == 2
    assert err.count("\n") == 1
    assert (tmp_path / "made" / "manifest.jsonl").read_text() == "precious\n"
