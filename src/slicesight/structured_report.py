"""How do answers reach a hospital's archive? As a DICOM Structured Report beside the images they rest on.

One document tells of one scan. It is a private one, of no template: a diagnostic report (TID 2000) would claim a
diagnosis, a measurement report (TID 1500) would file a model's weights among the patient's measurements.

    Answers of a research model
      observer: a device; algorithm: the model and its version
      notice, warnings, the scan, how it was read
      Question and answer (one each)
        question, answer, even share
        Slice score (all, heaviest first)
          has properties: number in the grid, place; inferred from: the images it was made of

A cut of a reformatted plane runs through every image, so it names its place alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from slicesight import __version__
from slicesight.atomic import checked_place, replacing
from slicesight.errors import InputError
from slicesight.evidence import Piece, place_name, slice_name, summarise
from slicesight.model_card import RESEARCH_NOTICE, ModelCard
from slicesight.reader import Answer, SliceEvidence
from slicesight.reader.answers import printable
from slicesight.volumes.dicom_source import SourceImage, SourceSeries
from slicesight.volumes.grid import GridVolume
from slicesight.volumes.readers.dicom_values import DAMAGED, quiet_pydicom

if TYPE_CHECKING:
    from highdicom.sr import ContentItem

MAKER = "slicesight"
SCHEME = "99SLICESIGHT"
SERIES_NUMBER = 1001
LONG_STRING = 64  # characters that a DICOM LO may have; kept to as many bytes, which is what some programs count
VERSION_UNKNOWN = "not stated"
PURPOSE = "Answers of a research model to single questions; not a report of the examination."

TITLE = Code("ANSWERS", SCHEME, "Answers of a research model")
NOTICE = Code("RESEARCH_ONLY", SCHEME, "Research use only")
WARNING = Code("WARNING", SCHEME, "Warning")
SCAN = Code("SCAN", SCHEME, "Scan")
READING = Code("READING", SCHEME, "How the scan was read")
ENTRY = Code("ENTRY", SCHEME, "Question and answer")
QUESTION = Code("QUESTION", SCHEME, "Question")
ANSWER = Code("ANSWER", SCHEME, "Answer of the model")
EVEN_SHARE = Code("EVEN_SHARE", SCHEME, "Score of each slice if all weighed alike")
SCORE = Code("SLICE_SCORE", SCHEME, "Slice score")
GRID_SLICE = Code("GRID_SLICE", SCHEME, "Number of the slice in the model's grid, from 0")
PLACE = Code("PLACE", SCHEME, "Place in the scan")
SOURCE_IMAGE = Code("121322", "DCM", "Source Image for Image Processing Operation")
NO_UNITS = Code("1", "UCUM", "no units")


@dataclass(frozen=True, kw_only=True)
class ReportedSlice:
    """A slice score of a report. images: (SOP instance UID, frame from 1 or None); empty for a reformatted cut."""

    grid_slice: int
    score: float
    place: str
    images: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, kw_only=True)
class ReportedAnswer:
    """One question of a report. even_share: None for a model that does not weigh slices; slices: heaviest first."""

    question: str
    text: str
    even_share: float | None
    slices: tuple[ReportedSlice, ...]

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


def write_report(
    path: Path,
    answers: Sequence[Answer],
    *,
    grid: GridVolume,
    source: SourceSeries,
    card: ModelCard,
    title: str,
    reading: str,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> str:
    """Write the answers about one scan as DICOM Enhanced SR, in a series of its own of the scan's study.

    Args:
        source: of the images the scan was read from (`read_source`).
        title, reading, notes, warnings: as for the report page.

    Returns:
        The new SOP instance UID.

    Raises:
        InputError: the images' headers lack what a report must repeat, or the file cannot be written.
    """
    highdicom = import_highdicom()
    assert answers
    checked_place(path)
    with quiet_pydicom():
        root = _container(TITLE, None)
        root.ContentSequence = highdicom.sr.ContentSequence(
            [
                *_observer(card),
                _text(NOTICE, RESEARCH_NOTICE),
                *(_text(WARNING, warning) for warning in warnings),
                _text(SCAN, title),
                _text(READING, "\n".join([reading, *notes])),
                *(_entry(answer, grid=grid, source=source) for answer in answers),
            ]
        )
        try:
            document = highdicom.sr.EnhancedSR(
                evidence=_evidence(source),
                content=root,
                series_instance_uid=highdicom.UID(),
                series_number=SERIES_NUMBER,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer=MAKER,
                manufacturer_model_name=_label(card.name),
                software_versions=__version__,
                device_serial_number="0",
                series_description=_label(f"For research only: {card.name}"),
                specific_character_set="ISO_IR 192",
                coding_schemes=[
                    highdicom.coding_schemes.CodingSchemeIdentificationItem(
                        SCHEME, name=MAKER, responsible_organization=MAKER
                    )
                ],
            )
            document.CompletionFlagDescription = _label(PURPOSE)
            document.AuthorObserverSequence = [_author(card)]
            with replacing(path) as temporary:
                document.save_as(temporary, enforce_file_format=True)
        except DAMAGED as error:
            if isinstance(error, InputError | OSError):
                raise
            raise InputError(
                f"{path.name}: the images' headers do not fit a DICOM report ({_one_line(error)}); mend the headers "
                "or write --json"
            ) from error
    return str(document.SOPInstanceUID)


def read_report(path: str | Path) -> Report:
    """What a report of `write_report` says.

    Raises:
        InputError: the file is no such report.
    """
    place = Path(path)
    with quiet_pydicom():
        try:
            document = pydicom.dcmread(place)
            if _name(document) != TITLE.value:
                raise InputError(f"{place.name}: expected a DICOM report written by slicesight; this is another object")
            items = list(document.ContentSequence)
            return Report(
                sop_instance_uid=str(document.SOPInstanceUID),
                study_uid=str(document.StudyInstanceUID),
                model=_words(items, "111001"),
                version=_words(items, "111003"),
                notice=_words(items, NOTICE.value),
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
        except InputError:
            raise
        except FileNotFoundError:
            raise InputError(f"{place}: no such file; check the path") from None
        except (*DAMAGED, InvalidDicomError) as error:
            raise InputError(
                f"{place.name}: cannot be read as a DICOM report ({_one_line(error)}); write it again"
            ) from None


# --- writing ---------------------------------------------------------------------------------------------------------


def import_highdicom() -> Any:
    """The library that writes the report.

    Raises:
        InputError: it is not installed.
    """
    try:
        import highdicom
        import highdicom.sr
    except ImportError as error:
        raise InputError(f"a DICOM report needs highdicom ({error}); run: pip install 'slicesight[dicom]'") from error
    return highdicom


def _observer(card: ModelCard) -> list[ContentItem]:
    from highdicom.sr import (
        AlgorithmIdentification,
        DeviceObserverIdentifyingAttributes,
        ObserverContext,
    )
    from pydicom.sr.codedict import codes

    version = _version(card)
    device = DeviceObserverIdentifyingAttributes(
        uid=_device_uid(card),
        name=_line(f"{MAKER} {__version__}"),
        manufacturer_name=MAKER,
        model_name=_line(card.name),
    )
    context = ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    algorithm = AlgorithmIdentification(
        name=_line(card.name),
        version=_line(version),
        parameters=[_line(f"trained on {card.trained_on}; run by {MAKER} {__version__}")],
    )
    return [*algorithm, *context]


def _entry(answer: Answer, *, grid: GridVolume, source: SourceSeries) -> ContentItem:
    from highdicom.sr import ContentSequence

    entry = _container(ENTRY, "CONTAINS")
    items = [_text(QUESTION, answer.question), _text(ANSWER, answer.text)]
    if answer.slices:
        items.append(_number(EVEN_SHARE, summarise(answer).even_share, "CONTAINS"))
        pieces = grid.scored_slices
        items += [_slice_score(found, pieces=pieces, source=source) for found in answer.slices]
    entry.ContentSequence = ContentSequence(items)
    return entry


def _slice_score(found: SliceEvidence, *, pieces: Sequence[Piece], source: SourceSeries) -> ContentItem:
    from highdicom.sr import ContentSequence, ImageContentItem

    score = _number(SCORE, found.score, "CONTAINS")
    place = " · ".join(filter(None, (slice_name(pieces, found.grid_slice), place_name(pieces, found.grid_slice))))
    score.ContentSequence = ContentSequence(
        [
            _number(GRID_SLICE, found.grid_slice, "HAS PROPERTIES"),
            _text(PLACE, place, "HAS PROPERTIES"),
            *(
                ImageContentItem(
                    name=SOURCE_IMAGE,
                    referenced_sop_class_uid=image.sop_class_uid,
                    referenced_sop_instance_uid=image.sop_instance_uid,
                    referenced_frame_numbers=frames,
                    relationship_type="INFERRED FROM",
                )
                for image, frames in _images_of(found, source.images)
            ),
        ]
    )
    return score


def _images_of(found: SliceEvidence, images: Sequence[SourceImage]) -> Iterator[tuple[SourceImage, list[int] | None]]:
    """The images a grid slice was made of, each once with its frames; none for a cut through all of them."""
    if len(found.source_slices) == len(images):
        return
    by_uid: dict[str, list[SourceImage]] = {}
    for number in found.source_slices:
        by_uid.setdefault(images[number].sop_instance_uid, []).append(images[number])
    for same in by_uid.values():
        yield same[0], [image.frame for image in same if image.frame is not None] or None


def _evidence(source: SourceSeries) -> list[Dataset]:
    """Every image of the scan; the first carries patient and study, from which highdicom copies them."""
    references: list[Dataset] = []
    for image in {image.sop_instance_uid: image for image in source.images}.values():
        reference = _subject(source) if not references else Dataset()
        reference.SOPClassUID, reference.SOPInstanceUID = image.sop_class_uid, image.sop_instance_uid
        reference.StudyInstanceUID, reference.SeriesInstanceUID = image.study_uid, image.series_uid
        references.append(reference)
    return references


def _subject(source: SourceSeries) -> Dataset:
    """Patient and study as the images name them; blank, as DICOM allows, what they lack or write in no DICOM form."""
    subject = Dataset()
    for element in source.header:
        subject.add(element)
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
                    "StudyDate", "StudyTime", "ReferringPhysicianName"):  # fmt: skip
        if keyword not in subject or not _has_form(keyword, subject[keyword].value):
            setattr(subject, keyword, None)
    return subject


def _has_form(keyword: str, value: Any) -> bool:
    from pydicom.valuerep import DA, TM

    if value is None or value == "":
        return True
    if keyword == "PatientSex":
        return value in ("M", "F", "O")
    kind = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}.get(keyword)
    try:
        return kind is None or kind(value) is not None
    except (ValueError, TypeError):
        return False


def _author(card: ModelCard) -> Dataset:
    author = Dataset()
    author.ObserverType = "DEV"
    author.StationName = MAKER
    author.DeviceUID = _device_uid(card)
    author.Manufacturer = MAKER
    author.ManufacturerModelName = _label(card.name)
    author.InstitutionName = None
    author.InstitutionCodeSequence = []
    return author


def _version(card: ModelCard) -> str:
    return str(card.facts.get("version") or VERSION_UNKNOWN)


def _device_uid(card: ModelCard) -> str:
    """The same for the same model and version, wherever it runs."""
    return str(generate_uid(entropy_srcs=[MAKER, card.name, _version(card), __version__]))


def _container(name: Code, relationship: str | None) -> ContentItem:
    from highdicom.sr import ContainerContentItem

    return ContainerContentItem(name=name, is_content_continuous=False, relationship_type=relationship)


def _text(name: Code, words: str, relationship: str = "CONTAINS") -> ContentItem:
    """Line breaks as DICOM writes them; never empty, which it forbids."""
    from highdicom.sr import TextContentItem

    value = printable(words).replace("\n", "\r\n") or "-"
    return TextContentItem(name=name, value=value, relationship_type=relationship)


def _number(name: Code, value: float, relationship: str) -> ContentItem:
    from highdicom.sr import NumContentItem

    assert math.isfinite(value)
    return NumContentItem(name=name, value=value, unit=NO_UNITS, relationship_type=relationship)


def _line(words: str) -> str:
    return " ".join(printable(words).split()) or "-"


def _label(words: str) -> str:
    """For a DICOM LO: one line, no backslash (which would split it), not too long."""
    return _line(words).replace("\\", "/").encode()[:LONG_STRING].decode(errors="ignore").strip()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


# --- reading ---------------------------------------------------------------------------------------------------------


def _answer(entry: Dataset) -> ReportedAnswer:
    items = list(entry.ContentSequence)
    shares = [_value(item) for item in items if _name(item) == EVEN_SHARE.value]
    return ReportedAnswer(
        question=_words(items, QUESTION.value),
        text=_words(items, ANSWER.value),
        even_share=shares[0] if shares else None,
        slices=tuple(_reported_slice(item) for item in items if _name(item) == SCORE.value),
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
    return ReportedSlice(grid_slice=number, score=_value(item), place=_words(parts, PLACE.value), images=tuple(images))


def _name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)


def _plain(item: Dataset) -> str:
    return str(item.TextValue).replace("\r\n", "\n")


def _words(items: Sequence[Dataset], code: str) -> str:
    return next((_plain(item) for item in items if _name(item) == code), "")


def _value(item: Dataset) -> float:
    measured = item.MeasuredValueSequence[0]
    return float(measured.get("FloatingPointValue", measured.NumericValue))
