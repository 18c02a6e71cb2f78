"""Does a real archive give a series and take the report about it? `pytest -m orthanc`"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from archives import orthanc, put
from dicom_checks import complaints
from slicesight.errors import InputError
from slicesight.io.dicomweb.client import TOKEN_VARIABLE, fetched
from slicesight.io.loading import read_volume
from slicesight.io.writers import write_dicom
from slicesight.reports.dicom_sr.reading import read_report

pytestmark = pytest.mark.orthanc


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Iterator[str]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as url:
        yield url


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """No token and no password of whoever runs the tests."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def ask_for(url: str) -> list[dict]:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": "application/dicom+json"})) as answer:
        return json.load(answer)


def run(monkeypatch, *words: object) -> int:
    from slicesight import cli

    monkeypatch.setattr(sys, "argv", ["slicesight", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_phantom_is_asked_and_its_report_stored_found_and_read(
    archive, phantom, tiny_model_folder, tmp_path, monkeypatch, capsys, modality
):
    volume = phantom.volume if modality == "CT" else replace(phantom.volume, unit="arbitrary", modality="MR")
    volume = replace(volume, voxels=volume.voxels + (modality == "MR"))  # other voxels, other UIDs
    write_dicom(volume, tmp_path / "series")
    image = put(archive, sorted((tmp_path / "series").iterdir()))
    study, series = image.StudyInstanceUID, image.SeriesInstanceUID
    address = f"dicomweb+{archive}/studies/{study}/series/{series}"

    questions = ["Which phase is this?", "Wo liegt die Zyste?"]
    asked = run(monkeypatch, "ask", address, *questions, "--store", "--model", tiny_model_folder, "--json", "-")
    printed = capsys.readouterr()
    assert asked == 0, printed.err
    assert "stored the report" in printed.err

    found = ask_for(f"{archive}/studies/{study}/series?Modality=SR")
    assert len(found) == 1
    report_series = found[0]["0020000E"]["Value"][0]
    (instance,) = ask_for(f"{archive}/studies/{study}/series/{report_series}/instances")
    uid = instance["00080018"]["Value"][0]
    assert uid in printed.err.replace("\n", "")
    url = f"{archive}/studies/{study}/series/{report_series}/instances/{uid}"
    (tmp_path / "back").mkdir()
    _retrieve(url, tmp_path / "back" / "sr.dcm")

    report = read_report(tmp_path / "back" / "sr.dcm")
    said = json.loads(printed.out)["answers"]
    assert [one.question for one in report.answers] == questions
    assert [list(one.scores) for one in report.answers] == [one["scores"] for one in said]
    assert len(report.evidence) == volume.num_source_slices
    for one, answer in zip(report.answers, said, strict=True):
        named = [[uid for uid, _ in found.images] for found in one.slices]
        assert named == [found["sop_instance_uids"] for found in answer["slices"]]
    errors, warnings = complaints(tmp_path / "back" / "sr.dcm")
    assert (errors, warnings) == ([], [])


def _retrieve(url: str, out: Path) -> None:
    """One instance by WADO-RS, as another program would fetch it."""
    request = urllib.request.Request(url, headers={"Accept": 'multipart/related; type="application/dicom"'})
    with urllib.request.urlopen(request) as answer:
        body = answer.read()
    boundary = body[: body.index(b"\r\n")]
    part = body.split(boundary)[1]
    out.write_bytes(part[part.index(b"\r\n\r\n") + 4 :].removesuffix(b"\r\n"))


def test_the_voxels_are_those_that_were_stored_and_inspect_says_so(archive, phantom, tmp_path, monkeypatch, capsys):
    write_dicom(replace(phantom.volume, voxels=phantom.volume.voxels + 2), tmp_path / "series")
    image = put(archive, sorted((tmp_path / "series").iterdir()))
    address = f"dicomweb+{archive}/series/{image.SeriesInstanceUID}"
    np.testing.assert_array_equal(read_volume(address).voxels, read_volume(tmp_path / "series").voxels)
    assert run(monkeypatch, "inspect", address) == 0
    assert f"{phantom.volume.num_source_slices} slices" in capsys.readouterr().out


def test_a_series_that_is_not_there_is_said(archive):
    for address in (f"{archive}/series/1.2.3", f"{archive}/studies/1.2/series/1.2.3"):
        with (
            pytest.raises(InputError, match=r"has no series|nothing at this address \(404\)"),
            fetched(f"dicomweb+{address}"),
        ):
            pass


def test_a_closed_archive_opens_to_the_name_in_netrc(tmp_path, phantom):
    (tmp_path / "orthanc").mkdir()
    with orthanc(tmp_path / "orthanc", users={"reader": "word"}) as url:
        with pytest.raises(InputError, match=r"refuses \(401\)"), fetched(f"dicomweb+{url}/studies/1.2/series/1.2.3"):
            pass
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login reader password word\n")
        with pytest.raises(InputError, match=r"\(404\)"), fetched(f"dicomweb+{url}/studies/1.2/series/1.2.3"):
            pass


@pytest.mark.shared_data
def test_a_real_series_packed_as_jpeg_2000_comes_as_it_is_stored(archive, shared_folder, tmp_path):
    """Orthanc without a codec cannot unpack it, so it has to be asked for as it is."""
    from slicesight.io.dicom.source import read_source

    (tmp_path / "series").mkdir()
    for number, file in enumerate(sorted((shared_folder / "data/totalsegmentator/example_ct_dicom").iterdir())):
        image = pydicom.dcmread(file)  # its UIDs were stripped
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID, image.PatientID = "1.2.77", "1.2.77.1", "none"
        image.save_as(tmp_path / "series" / f"{number}.dcm")
    put(archive, sorted((tmp_path / "series").iterdir()))
    with fetched(f"dicomweb+{archive}/studies/1.2.77/series/1.2.77.1") as folder:
        volume = read_volume(folder)
        source = read_source(folder, volume)
    from_disk = read_volume(tmp_path / "series")
    assert volume.source["transfer_syntax"].startswith("JPEG 2000")
    np.testing.assert_array_equal(volume.voxels, from_disk.voxels)
    assert [image.sop_instance_uid for image in source.images] == list(from_disk.sop_instance_uids)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["CT", "MR_T1"])
def test_a_real_patients_series_is_asked_and_the_report_stored(
    archive, shared_folder, tmp_path, tiny_model_folder, monkeypatch, capsys, name
):
    image = put(archive, sorted((shared_folder / "data/sts_dicom/STS_002" / name / "image").iterdir()))
    address = f"dicomweb+{archive}/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}"
    out = tmp_path / "sr.dcm"
    code = run(monkeypatch, "ask", address, "Where is it?", "--sr", out, "--store", "--model", tiny_model_folder)
    assert code == 0, capsys.readouterr().err
    series = pydicom.dcmread(out).SeriesInstanceUID
    found = ask_for(f"{archive}/studies/{image.StudyInstanceUID}/series?Modality=SR")
    assert series in {one["0020000E"]["Value"][0] for one in found}
    assert read_report(out).answers[0].question == "Where is it?"
