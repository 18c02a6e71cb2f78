"""Does the server take a series from a real archive and give its report back? `pytest -m orthanc`"""

from __future__ import annotations

import json
import urllib.request

import pytest

from archives import orthanc, put
from dicom_checks import complaints
from slicesight.io.writers import write_dicom
from slicesight.reports.dicom_sr.reading import read_report

pytestmark = pytest.mark.orthanc


def test_a_series_is_opened_by_its_address_asked_and_its_report_stored_and_found(make_client, phantom, tmp_path):
    write_dicom(phantom.volume, tmp_path / "series")
    (tmp_path / "orthanc").mkdir()
    with orthanc(tmp_path / "orthanc") as url:
        image = put(url, sorted((tmp_path / "series").iterdir()))
        study = f"{url}/studies/{image.StudyInstanceUID}"
        client = make_client(archives=(url,))
        opened = client.post(
            "/v1/volumes", json={"source": f"dicomweb+{study}/series/{image.SeriesInstanceUID}", "window": "bone"}
        )
        assert opened.status_code == 201, opened.text
        volume = opened.json()
        assert volume["grid"]["window"] == "bone"
        content = [
            {"type": "text", "text": "Which phase is this?"},
            {"type": "file", "file": {"file_id": volume["id"]}},
        ]
        asked = client.post(
            "/v1/chat/completions", json={"model": "tiny-random", "messages": [{"role": "user", "content": content}]}
        )
        assert asked.status_code == 200, asked.text
        message = asked.json()["choices"][0]["message"]

        report = client.get(f"/v1/volumes/{volume['id']}/report", params={"format": "sr"})
        (tmp_path / "report.dcm").write_bytes(report.content)
        (answer,) = read_report(tmp_path / "report.dcm").answers
        assert list(answer.scores) == message["scores"]
        assert complaints(tmp_path / "report.dcm") == ([], [])

        stored = client.post(f"/v1/volumes/{volume['id']}/report/store")
        assert stored.status_code == 200, stored.text
        with urllib.request.urlopen(f"{study}/instances?Modality=SR") as found:
            (instance,) = json.load(found)
        assert instance["00080018"]["Value"] == [stored.json()["sop_instance_uid"]]

        elsewhere = client.post("/v1/volumes", json={"source": "dicomweb+http://127.0.0.1:9/dicom-web/series/1.2.3"})
        assert elsewhere.status_code == 403
