"""How do kept answers become a report page, JSON or a DICOM Structured Report?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from slicesight.errors import InputError
from slicesight.inference.answers import make_answer
from slicesight.inference.predictor import Predictor
from slicesight.io.dicomweb.client import store
from slicesight.reports.ask import AnswerReport
from slicesight.serving.isolated_reading import name_form_fields
from slicesight.serving.refusals import Refusal
from slicesight.serving.scan_store import ScanStore
from slicesight.serving.stored_scan import read_stored_source

ReportFormat = Literal["html", "json", "sr"]
MEDIA_TYPES: dict[str, str] = {"html": "text/html", "json": "application/json", "sr": "application/dicom"}
FILE_NAMES: dict[str, str] = {"html": "report.html", "json": "report.json", "sr": "report.dcm"}


def collect_answers(
    scan_store: ScanStore, predictor: Predictor, volume_id: str, answer_ids: Sequence[str] | None
) -> AnswerReport:
    """The volume with its kept answers.

    Raises:
        Refusal: 404 there is no such volume or answer, 409 it has not been asked yet.
    """
    stored, _ = scan_store.read(volume_id)
    records = scan_store.answers(volume_id, None if answer_ids is None else list(answer_ids))
    if not records:
        raise Refusal(409, "no answer about this volume is kept; ask it something first.", param="answers")
    grid = predictor.as_scored(stored.grid)
    answers = [make_answer(grid=grid, **one) for one in records]
    return AnswerReport(volume=stored.volume, grid=grid, card=predictor.card, answers=answers)


def write_report_file(report: AnswerReport, kind: ReportFormat, *, folder: Path, volume_folder: Path) -> bytes:
    """The report's content.

    Args:
        folder: for the file while it is made; volume_folder: of the kept volume.

    Raises:
        Refusal: 409 no DICOM report can be made of this scan.
    """
    if kind == "json":
        return report.json_text().encode()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        file = Path(place) / FILE_NAMES[kind]
        if kind == "html":
            report.write_html(file)
        else:
            with _as_refusal(409, "no_dicom_report"):
                report.write_sr(file, source=read_stored_source(volume_folder))
        return file.read_bytes()


def store_report(report: AnswerReport, *, archive: str, folder: Path, volume_folder: Path) -> str:
    """Store the DICOM report in the archive the scan came from; returns its SOP instance UID.

    Raises:
        Refusal: 409 there can be no report of this scan, 502 the archive does not take it.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        file = Path(place) / FILE_NAMES["sr"]
        with _as_refusal(409, "no_dicom_report"):
            report.write_sr(file, source=read_stored_source(volume_folder))
        with _as_refusal(502, "archive_failed"):
            return store(file, archive=archive)


@contextmanager
def _as_refusal(status: int, code: str) -> Iterator[None]:
    """What cannot be made of this scan, or is not taken elsewhere, is no mistake of the request."""
    try:
        yield
    except InputError as error:
        raise Refusal(status, name_form_fields(str(error)), code=code) from None
