"""What does a report say? The way back, by which the tests know that nothing was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from slicesight.errors import InputError
from slicesight.io.dicom.header import BoundedFile
from slicesight.io.dicom.values import quiet_pydicom
from slicesight.io.files import DAMAGED
from slicesight.reports.dicom_sr.document import (
    ANSWER,
    DOUBT,
    ENTRY,
    EVEN_SHARE,
    EVIDENCE,
    GRID_SLICE,
    NOTICE,
    OCCLUSION_SHARE,
    PLACE,
    QUESTION,
    SCORE,
    TITLE,
    WARNING,
    one_line_of,
)


@dataclass(frozen=True, kw_only=True)
class ReportedSlice:
    """A slice score of a report. images: (SOP instance UID, frame from 1 or None); empty for a reformatted cut."""

    grid_slice: int
    score: float
    place: str
    images: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, kw_only=True)
class ReportedAnswer:
    """One question of a report. even_share: None for a model that does not weigh slices; slices: heaviest first.

    doubts: that the answer's end is missing, or that it is none of the question's choices. summary: which slices weigh
    most, in words.
    """

    question: str
    text: str
    doubts: tuple[str, ...]
    summary: str
    even_share: float | None
    slices: tuple[ReportedSlice, ...]
    measured_by: str = "scores"
    """Or "occlusion", where the slices' numbers are no scores of the model."""

    @property
    def scores(self) -> tuple[float, ...]:
        """In grid order, as `Answer.scores`."""
        return tuple(found.score for found in sorted(self.slices, key=lambda found: found.grid_slice))


@dataclass(frozen=True, kw_only=True)
class Report:
    """What stands in a report; nothing of it names the patient."""

    sop_instance_uid: str
    study_uid: str
    model: str
    version: str
    notice: str
    warnings: tuple[str, ...]
    answers: tuple[ReportedAnswer, ...]
    evidence: tuple[str, ...]
    """SOP instance UIDs of all images the scan consists of."""
    is_verified: bool
    is_complete: bool


def read_report(path: str | Path) -> Report:
    """What a report of `write_report` says.

    Raises:
        InputError: the file is no such report.
    """
    place = Path(path)
    with quiet_pydicom():
        try:
            with BoundedFile(place) as stream:
                document = pydicom.dcmread(stream)
            if _name(document) != TITLE.value:
                raise InputError(f"{place.name}: expected a DICOM report written by slicesight; this is another object")
            items = list(document.ContentSequence)
            return Report(
                sop_instance_uid=str(document.SOPInstanceUID),
                study_uid=str(document.StudyInstanceUID),
                model=_text(items, "111001"),
                version=_text(items, "111003"),
                notice=_text(items, NOTICE.value),
                warnings=tuple(_plain(item) for item in items if _name(item) == WARNING.value),
                answers=tuple(_answer(item) for item in items if _name(item) == ENTRY.value),
                evidence=tuple(
                    str(image.ReferencedSOPInstanceUID)
                    for study in document.CurrentRequestedProcedureEvidenceSequence
                    for series in study.ReferencedSeriesSequence
                    for image in series.ReferencedSOPSequence
                ),
                is_verified=document.VerificationFlag == "VERIFIED",
                is_complete=document.CompletionFlag == "COMPLETE",
            )
        except FileNotFoundError:
            raise InputError(f"{place}: no such file; check the path") from None
        except (*DAMAGED, InvalidDicomError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{place.name}: cannot be read as a DICOM report ({one_line_of(error)}); write it again"
            ) from None


def _answer(entry: Dataset) -> ReportedAnswer:
    items = list(entry.ContentSequence)
    shares = [_value(item) for item in items if _name(item) == EVEN_SHARE.value]
    return ReportedAnswer(
        question=_text(items, QUESTION.value),
        text=_text(items, ANSWER.value),
        doubts=tuple(_plain(item) for item in items if _name(item) == DOUBT.value),
        summary=_text(items, EVIDENCE.value),
        even_share=shares[0] if shares else None,
        slices=tuple(_reported_slice(item) for item in items if _name(item) in (SCORE.value, OCCLUSION_SHARE.value)),
        measured_by="occlusion" if any(_name(item) == OCCLUSION_SHARE.value for item in items) else "scores",
    )


def _reported_slice(item: Dataset) -> ReportedSlice:
    parts = list(item.ContentSequence)
    (number,) = (round(_value(part)) for part in parts if _name(part) == GRID_SLICE.value)
    images: list[tuple[str, int | None]] = []
    for part in parts:
        if part.ValueType == "IMAGE":
            reference = part.ReferencedSOPSequence[0]
            frames = reference.get("ReferencedFrameNumber")
            each = [None] if frames is None else [frames] if isinstance(frames, int) else list(frames)
            images += [
                (str(reference.ReferencedSOPInstanceUID), frame if frame is None else int(frame)) for frame in each
            ]
    return ReportedSlice(grid_slice=number, score=_value(item), place=_text(parts, PLACE.value), images=tuple(images))


def _name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)


def _plain(item: Dataset) -> str:
    return str(item.TextValue).replace("\r\n", "\n")


def _text(items: Sequence[Dataset], code: str) -> str:
    return next((_plain(item) for item in items if _name(item) == code), "")


def _value(item: Dataset) -> float:
    measured = item.MeasuredValueSequence[0]
    return float(measured.get("FloatingPointValue", measured.NumericValue))
