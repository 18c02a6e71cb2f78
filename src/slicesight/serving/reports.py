"""How do kept answers become a report page, JSON or a DICOM Structured Report?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from slicesight.errors import InputError
from slicesight.inference.answers import Answer, make_answer
from slicesight.inference.predictor import Predictor
from slicesight.io.dicomweb.client import store
from slicesight.reports.ask import AnswerReport
from slicesight.serving.isolated_reading import by_field_names
from slicesight.serving.refusals import Refusal
from slicesight.serving.scan_store import ScanStore
from slicesight.serving.stored_source import read_stored_source
from slicesight.volumes.grid import GridVolume

ReportFormat = Literal["html", "json", "sr"]
MEDIA_TYPES: dict[str, str] = {"html": "text/html", "json": "application/json", "sr": "application/dicom"}
FILE_NAMES: dict[str, str] = {"html": "report.html", "json": "report.json", "sr": "report.dcm"}


def answer_to_keep(answer: Answer) -> dict[str, Any]:
    """What `kept_answer` makes an answer of again."""
    return {"question": answer.question, "text": answer.text, "scores": list(answer.scores)}


def kept_answer(said: dict[str, Any], *, grid: GridVolume) -> Answer:
    """The answer, its slices ranked again."""
    return make_answer(said["question"], said["text"], said["scores"], grid=grid)


def consult(shelf: ScanStore, reader: Predictor, volume_id: str, answer_ids: Sequence[str] | None) -> AnswerReport:
    """The volume with its kept answers.

    Raises:
        Refusal: 404 there is no such volume or answer, 409 it has not been asked yet.
    """
    kept, _ = shelf.read(volume_id)
    said = shelf.answers(volume_id, None if answer_ids is None else list(answer_ids))
    if not said:
        raise Refusal(409, "no answer about this volume is kept; ask it something first.", param="answers")
    grid = reader.as_scored(kept.grid)
    return AnswerReport(
        volume=kept.volume, grid=grid, card=reader.card, answers=[kept_answer(one, grid=grid) for one in said]
    )


def write_report_file(consultation: AnswerReport, kind: ReportFormat, *, folder: Path, volume_folder: Path) -> bytes:
    """The report's content.

    Args:
        folder: for the file while it is made; volume_folder: of the kept volume.

    Raises:
        Refusal: 409 no DICOM report can be made of this scan.
    """
    if kind == "json":
        return consultation.json_text().encode()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        file = Path(place) / FILE_NAMES[kind]
        if kind == "html":
            consultation.write_html(file)
        else:
            with _as_refusal(409, "no_dicom_report"):
                consultation.write_sr(file, source=read_stored_source(volume_folder))
        return file.read_bytes()


def store_report(consultation: AnswerReport, *, archive: str, folder: Path, volume_folder: Path) -> str:
    """Store the DICOM report in the archive the scan came from; returns its SOP instance UID.

    Raises:
        Refusal: 409 there can be no report of this scan, 502 the archive does not take it.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        file = Path(place) / FILE_NAMES["sr"]
        with _as_refusal(409, "no_dicom_report"):
            consultation.write_sr(file, source=read_stored_source(volume_folder))
        with _as_refusal(502, "archive_failed"):
            return store(file, archive=archive)


@contextmanager
def _as_refusal(status: int, code: str) -> Iterator[None]:
    """What cannot be made of this scan, or is not taken elsewhere, is no mistake of the request."""
    try:
        yield
    except InputError as error:
        raise Refusal(status, by_field_names(str(error)), code=code) from None
