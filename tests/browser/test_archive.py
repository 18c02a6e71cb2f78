"""From a real archive into the page, and the report back: `pytest -m 'browser and orthanc'`."""

from __future__ import annotations

import json
import urllib.request

import pytest

from archives import orthanc, put
from browser.served import Served
from browser.steps import ask
from slicesight.io.writers import write_dicom

pytestmark = [pytest.mark.browser, pytest.mark.orthanc]


def test_a_series_is_opened_asked_and_its_report_stored_from_the_page(open_page, phantom_of, tmp_path):
    write_dicom(phantom_of("axial").volume, tmp_path / "series")
    (tmp_path / "orthanc").mkdir()
    with orthanc(tmp_path / "orthanc") as url:
        image = put(url, sorted((tmp_path / "series").iterdir()))
        study = f"{url}/studies/{image.StudyInstanceUID}"
        server = Served(tmp_path / "scans", "--archive", url)
        try:
            page = open_page(server.address)
            page.fill("#archive-series", f"dicomweb+{study}/series/{image.SeriesInstanceUID}")
            page.press("#archive-series", "Enter")
            page.locator(".readout[data-mm]").wait_for()
            ask(page, "Which contrast phase is this?")
            page.locator("summary", has_text="Export").click()
            page.get_by_text("Store in the archive").click()
            page.get_by_text("Stored in the archive.").or_(
                page.get_by_text("The DICOM SR is stored in the archive.")
            ).first.wait_for()
        finally:
            server.stop()
        with urllib.request.urlopen(f"{study}/instances?Modality=SR") as found:
            assert len(json.load(found)) == 1
