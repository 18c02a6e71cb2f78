"""The demo: two scans, eleven questions each, the truth beside every answer, files that can be opened."""

from __future__ import annotations

import json

import pytest

from slicesight.cli.demo import run_demo
from slicesight.errors import InputError


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model_folder):
    from contextlib import redirect_stdout
    from io import StringIO

    folder = tmp_path_factory.mktemp("demo") / "demo"
    said = StringIO()
    with redirect_stdout(said):
        run_demo(folder, model=str(tiny_model_folder), seed=3, real_model=str(tiny_model_folder))
    return folder, said.getvalue()


def test_demo_asks_eleven_questions_of_a_nifti_and_of_a_dicom_scan(finished):
    folder, said = finished
    for scan_format in ("nifti", "dicom"):
        document = json.loads((folder / f"{scan_format}.json").read_text())
        assert len(document["answers"]) == 11
        assert document["scan"]["is_synthetic"]
    assert len(list((folder / "volumes").glob("*/*.dcm"))) > 10
    uids = [found["sop_instance_uids"] for found in document["answers"][0]["slices"]]
    assert all(uids)
    assert said.count("✓") + said.count("✗") == 22
    assert f"{said.count('✓')} of 22 answers are right." in said


def test_demo_ends_by_naming_files_that_exist(finished):
    folder, said = finished
    ending = "".join(said[said.index("Open:") :].split())
    for name in (
        "nifti.html",
        "dicom.html",
        "nifti.png",
        "dicom.png",
        "nifti.json",
        "dicom.json",
        "real.html",
        "real.png",
    ):
        assert str(folder / name) in ending
        assert (folder / name).stat().st_size > 1000


def test_demo_marks_the_truth_in_its_page(finished):
    page = (finished[0] / "nifti.html").read_text()
    assert page.count("<article ") == 11
    assert 'class="t"' in page
    assert "right" in page or "wrong" in page


def test_demo_runs_again_into_its_own_folder_but_spares_a_strangers(finished, tmp_path, tiny_model_folder):
    (tmp_path / "letters.txt").write_text("dear diary")
    with pytest.raises(InputError, match="no demo made"):
        run_demo(tmp_path, model=str(tiny_model_folder), seed=3)
    assert (tmp_path / "letters.txt").exists()
