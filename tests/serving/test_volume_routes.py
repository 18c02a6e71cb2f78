"""A scan is brought, described as the command line would, shown, reported on and taken away."""

from __future__ import annotations

import gzip
import io
import json
import os
import time
import zipfile

import nibabel as nib
import numpy as np
import pytest

from http_questions import question
from slicesight.io.loading import read_volume


def ask(client, volume_id, text="Which phase is this?"):
    return client.post("/v1/chat/completions", json=question(volume_id, text)).json()


@pytest.fixture(scope="session")
def dicom_zip(phantom, tmp_path_factory):
    from slicesight.io.writers import write_dicom

    folder = tmp_path_factory.mktemp("dicom")
    write_dicom(phantom.volume, folder / "series")
    file = folder / "series.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for slice_file in (folder / "series").iterdir():
            archive.write(slice_file, f"a/{slice_file.name}")
    return file


def test_the_receipt_and_the_slices_are_those_of_the_command_line(client, volume, tiny_reader, phantom_file):
    grid = tiny_reader.grid(read_volume(phantom_file))
    assert volume["receipt"] == json.loads(json.dumps(grid.receipt))
    assert [one["source_slices"] for one in volume["grid_slices"]] == [list(one.source_slices) for one in grid.slices]
    assert volume["grid_slices"][3]["position_mm"] == pytest.approx(grid.slices[3].position_mm)
    assert volume["grid"] == {
        "num_slices": 8,
        "height": 32,
        "width": 32,
        "plane": grid.plane,
        "window": grid.spec.window,
    }
    assert volume["bytes"] == phantom_file.stat().st_size
    assert client.get(f"/v1/volumes/{volume['id']}").json() | {"expires_at": 0} == volume | {"expires_at": 0}


def test_an_answer_from_the_kept_grid_is_the_readers_own(client, volume, tiny_reader, phantom_file):
    own = tiny_reader.ask(read_volume(phantom_file), "Which phase is this?", max_new_tokens=24)[0]
    message = ask(client, volume["id"])["choices"][0]["message"]
    assert message["content"] == own.text
    assert message["scores"] == pytest.approx(own.scores, abs=1e-6)


def test_window_and_plane_of_the_form_are_used(client, upload):
    found = upload(client, window="bone", plane="coronal")
    assert (found["grid"]["window"], found["grid"]["plane"]) == ("bone", "coronal")


def test_the_image_is_the_scan_at_its_own_place(client, volume, phantom):
    image = nib.Nifti1Image.from_bytes(gzip.decompress(client.get(f"/v1/volumes/{volume['id']}/image").content))
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    voxels = np.asarray(image.dataobj).transpose(2, 1, 0)
    assert np.array_equal(voxels[:, ::-1, ::-1], phantom.volume.voxels)
    first_lps = phantom.volume.affine_lps @ (0, phantom.volume.shape[1] - 1, phantom.volume.shape[2] - 1, 1)
    assert image.affine[:3, 3] == pytest.approx(first_lps[:3] * (-1, -1, 1), abs=1e-3)


def test_an_array_without_geometry_has_a_picture_and_no_positions(client):
    file = io.BytesIO()
    np.save(file, np.random.default_rng(0).normal(size=(20, 30, 40)).astype(np.float32))
    found = client.post("/v1/volumes", files={"file": ("a.npy", file.getvalue())})
    assert found.status_code == 201, found.text
    assert found.json()["grid_slices"][0]["position_mm"] is None
    assert client.get(f"/v1/volumes/{found.json()['id']}/image").status_code == 200


def test_a_deleted_volume_is_gone_from_disk_and_memory(client, own_volume):
    ask(client, own_volume["id"])
    server = client.app.state.server
    assert own_volume["id"] in server.thread.encoded.memory
    assert client.delete(f"/v1/volumes/{own_volume['id']}").status_code == 204
    assert own_volume["id"] not in {folder.name for folder in server.scan_store.volumes.iterdir()}
    assert own_volume["id"] not in server.thread.encoded.memory


def test_gone_and_never_there_look_the_same(client, own_volume):
    client.delete(f"/v1/volumes/{own_volume['id']}")
    gone = client.get(f"/v1/volumes/{own_volume['id']}")
    for never in ("vol_" + "0" * 32, "vol_x", "..", "%2e%2e%2f%2e%2e", "vol_" + "0" * 31 + "/"):
        found = client.get(f"/v1/volumes/{never}")
        assert found.status_code == 404
    assert client.get("/v1/volumes/vol_" + "0" * 32).text == gone.text
    assert gone.status_code == 404
    body = client.post("/v1/chat/completions", json=question(own_volume["id"]))
    assert (body.status_code, body.text) == (404, gone.text)


def test_a_volume_expires_when_nobody_uses_it(make_client, lend):
    client = make_client(keep_minutes=1)
    server = client.app.state.server
    found = {"id": lend(server)}
    file = server.scan_store.volumes / found["id"] / "scan.json"
    os.utime(file, (time.time() - 40, time.time() - 40))
    assert client.get(f"/v1/volumes/{found['id']}").json()["expires_at"] >= time.time() + 55  # looking was use
    ask(client, found["id"])
    os.utime(file, (time.time() - 61, time.time() - 61))
    assert client.get(f"/v1/volumes/{found['id']}").status_code == 404
    server.tidy()
    assert list(server.scan_store.volumes.iterdir()) == []
    assert server.thread.encoded.memory.num_bytes == 0


def test_no_more_volumes_are_kept_than_may(make_client, lend, phantom_file):
    client = make_client(max_kept_volumes=1)
    lend(client.app.state.server)
    full = client.post("/v1/volumes", files={"file": ("b.nii.gz", phantom_file.read_bytes())})
    assert full.status_code == 429
    assert full.headers["Retry-After"]


def test_reports_hold_the_answers_in_the_order_asked_for(client, own_volume):
    ids = [ask(client, own_volume["id"], text)["id"] for text in ("Which phase is this?", "Which plane is this?")]
    every = client.get(f"/v1/volumes/{own_volume['id']}/report", params={"format": "json"}).json()
    assert [one["question"] for one in every["answers"]] == ["Which phase is this?", "Which plane is this?"]
    assert every["scan"] == own_volume["receipt"]
    turned = client.get(
        f"/v1/volumes/{own_volume['id']}/report", params={"format": "json", "answers": f"{ids[1]},{ids[0]}"}
    ).json()
    assert [one["question"] for one in turned["answers"]] == ["Which plane is this?", "Which phase is this?"]
    page = client.get(f"/v1/volumes/{own_volume['id']}/report", params={"answers": ids[0]})
    assert page.headers["content-type"].startswith("text/html")
    assert "Which phase is this?" in page.text
    assert "Which plane is this?" not in page.text
    assert "sandbox" in page.headers["content-security-policy"]
    lost = client.get(f"/v1/volumes/{own_volume['id']}/report", params={"answers": "chatcmpl-" + "0" * 32})
    assert lost.status_code == 404


def test_a_report_before_any_question_is_a_conflict(client, own_volume):
    assert client.get(f"/v1/volumes/{own_volume['id']}/report").status_code == 409


def test_a_dicom_report_of_a_nifti_is_a_conflict_with_the_reason(client, volume):
    ask(client, volume["id"])
    found = client.get(f"/v1/volumes/{volume['id']}/report", params={"format": "sr"})
    assert found.status_code == 409
    assert "NIfTI" in found.json()["error"]["message"]
    assert client.post(f"/v1/volumes/{volume['id']}/report/store").status_code == 409


def test_a_dicom_report_names_the_images_of_an_uploaded_series(client, upload, dicom_zip):
    import pydicom

    found = upload(client, dicom_zip, "x.zip")
    said = ask(client, found["id"])
    report = client.get(f"/v1/volumes/{found['id']}/report", params={"format": "sr", "answers": said["id"]})
    assert report.status_code == 200, report.text
    assert report.headers["content-type"] == "application/dicom"
    document = pydicom.dcmread(io.BytesIO(report.content))
    images = document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert len(images) == found["receipt"]["num_source_slices"]
    assert found["receipt"]["source"]["format"] == "DICOM"


def test_of_an_upload_only_what_questions_need_is_kept(client, upload, dicom_zip):
    found = upload(client, dicom_zip, "x.zip")
    folder = client.app.state.server.scan_store.volumes / found["id"]
    assert {file.name for file in folder.iterdir()} == {
        *("scan.json", "grid.f32", "image.nii.gz", "source.json", "upload.json", "answers"),
    }


def test_answers_kept_with_a_volume_are_bounded(make_client, lend):
    client = make_client(max_answers=2)
    found = {"id": lend(client.app.state.server)}
    ids = [ask(client, found["id"])["id"] for _ in range(3)]
    kept = client.get(f"/v1/volumes/{found['id']}/report", params={"format": "json"}).json()["answers"]
    assert len(kept) == 2
    assert (
        client.get(f"/v1/volumes/{found['id']}/report", params={"format": "json", "answers": ids[0]}).status_code == 404
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"spacing_mm": "1,2"}, None),
        ({"spacing_mm": "a,b,c"}, "spacing_mm"),
        ({"unit": "stone"}, None),
        ({"time_point": "-1"}, None),
        ({"fill": "highest"}, "fill"),
        ({"plane": "oblique"}, None),
        ({"window": "moon"}, None),
        ({"color": "red"}, None),
    ],
)
def test_a_wrong_field_is_one_line(client, phantom_file, fields, param):
    found = client.post("/v1/volumes", files={"file": ("s.nii.gz", phantom_file.read_bytes())}, data=fields)
    assert found.status_code in (400, 422), found.text
    error = found.json()["error"]
    assert "\n" not in error["message"]
    assert param is None or error["param"] == param
    assert next(iter(fields)) in error["message"] or next(iter(fields.values())) in error["message"]


def test_a_scan_with_nan_is_taken_where_the_form_says_what_takes_its_place(client):
    voxels = np.random.default_rng(0).random((12, 20, 20), dtype=np.float32)
    voxels[:2] = np.nan
    file = io.BytesIO()
    np.save(file, voxels)

    def send(**fields):
        return client.post("/v1/volumes", files={"file": ("s.npy", file.getvalue())}, data=fields)

    assert send().status_code == 422
    for fill in ("LOWEST", "-7.5"):
        found = send(fill=fill)
        assert found.status_code in (200, 201), found.text
        assert "NaN or infinite" in found.text
    described = client.get("/openapi.json").json()["paths"]["/v1/volumes"]["post"]["requestBody"]["content"]
    for kind in ("multipart/form-data", "application/json"):
        assert "LOWEST" in described[kind]["schema"]["properties"]["fill"]["description"]
