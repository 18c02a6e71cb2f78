"""How do kept answers become a report page, JSON or a DICOM Structured Report?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from slicesight.asking import Consultation
from slicesight.errors import InputError
from slicesight.reader import Answer, Reader
from slicesight.reader.answers import make_answer
from slicesight.serving.kept_source import read_kept_source
from slicesight.serving.refusals import Refusal
from slicesight.serving.shelf import Shelf
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


def consult(shelf: Shelf, reader: Reader, volume_id: str, answer_ids: Sequence[str] | None) -> Consultation:
    """The volume with its kept answers.

    Raises:
        Refusal: 404 there is no such volume or answer, 409 it has not been asked yet.
    """
    kept, _ = shelf.read(volume_id)
    said = shelf.answers(volume_id, None if answer_ids is None else list(answer_ids))
    if not said:
        raise Refusal(409, "no answer about this volume is kept; ask it something first.", param="answers")
    grid = reader.as_scored(kept.grid)
    return Consultation(
        volume=kept.volume, grid=grid, card=reader.card, answers=[kept_answer(one, grid=grid) for one in said]
    )


def write_report_file(consultation: Consultation, kind: ReportFormat, *, folder: Path, volume_folder: Path) -> bytes:
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
            with as_conflict():
                write_structured_report(consultation, file, volume_folder=volume_folder)
        return file.read_bytes()


def write_structured_report(consultation: Consultation, file: Path, *, volume_folder: Path) -> str:
    """Write the DICOM report; returns its SOP instance UID.

    Raises:
        InputError: the scan was no DICOM, or its headers lack what a report must repeat.
    """
    from slicesight.structured_report import write_report

    return write_report(
        file,
        consultation.answers,
        grid=consultation.grid,
        source=read_kept_source(volume_folder),
        card=consultation.card,
        title=consultation.title,
        reading=consultation.reading,
        notes=consultation.volume.warnings,
        warnings=consultation.warnings,
    )


@contextmanager
def as_conflict() -> Iterator[None]:
    """What cannot be made of this scan is a conflict with it, not a mistake of the request."""
    try:
        yield
    except InputError as error:
        raise Refusal(409, str(error), param="format", code="no_dicom_report") from None
