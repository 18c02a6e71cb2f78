"""How does a report become a DICOM object of the right patient, that claims no more than it is?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from slicesight import __version__
from slicesight.errors import InputError
from slicesight.files import checked_place, replacing
from slicesight.inference.answers import Answer, SliceEvidence, printable
from slicesight.io.dicom.source import SourceImage, SourceSeries
from slicesight.io.dicom.values import quiet_pydicom
from slicesight.io.files import DAMAGED
from slicesight.models.card import RESEARCH_NOTICE, ModelCard
from slicesight.reports.evidence import (
    ABSTAINED,
    EVIDENCE_CAVEAT,
    Piece,
    caveats_of,
    describe_answer,
    doubts_about,
    named_place,
    summarise,
)
from slicesight.volumes.grid import GridVolume

if TYPE_CHECKING:
    from highdicom.sr import ContentItem

MAKER = "slicesight"
SCHEME = "99SLICESIGHT"
LONG_STRING = 64  # characters that a DICOM LO may have; kept to as many bytes, which is what some programs count

TITLE = Code("ANSWERS", SCHEME, "Answers of a research model")
NOTICE = Code("RESEARCH_ONLY", SCHEME, "Research use only")
WARNING = Code("WARNING", SCHEME, "Warning")
SCAN = Code("SCAN", SCHEME, "Scan")
READING = Code("READING", SCHEME, "How the scan was read")
ENTRY = Code("ENTRY", SCHEME, "Question and answer")
QUESTION = Code("QUESTION", SCHEME, "Question")
ANSWER = Code("ANSWER", SCHEME, "Answer of the model")
DOUBT = Code("DOUBT", SCHEME, "What must be read with the answer")
CONFIDENCE = Code("CONFIDENCE", SCHEME, "Calibrated probability that the answer is right")
ABSTAINED_FOR = Code("ABSTAINED", SCHEME, "Why the model should not answer")
WOULD_SAY = Code("WOULD_SAY", SCHEME, "Held back and not to be believed: what would be answered")
EVIDENCE = Code("EVIDENCE", SCHEME, "Which slices weigh most")
CAVEAT = Code("CAVEAT", SCHEME, "What a slice score does not say")
EVEN_SHARE = Code("EVEN_SHARE", SCHEME, "Score of each slice if all weighed alike")
SCORE = Code("SLICE_SCORE", SCHEME, "Slice score")
OCCLUSION_SHARE = Code("OCCLUSION_SHARE", SCHEME, "Share of the answer's loss when the slice is blanked")
"""In the place of SCORE where the evidence was measured by occlusion."""
GRID_SLICE = Code("GRID_SLICE", SCHEME, "Number of the slice in the model's grid, from 0")
PLACE = Code("PLACE", SCHEME, "Place in the scan")
SOURCE_IMAGE = Code("121322", "DCM", "Source Image for Image Processing Operation")
NO_UNITS = Code("1", "UCUM", "no units")
SERIES_NUMBER = 1001
PURPOSE = "Answers of a research model to single questions; not a report of the examination."


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
        opening = [
            *_observer(card),
            _text(NOTICE, RESEARCH_NOTICE),
            *(_text(WARNING, warning) for warning in warnings),
            _text(SCAN, title),
            _text(READING, "\n".join([reading, *notes])),
            *(_text(CAVEAT, caveat) for caveat in caveats_of(answers) or [EVIDENCE_CAVEAT]),
        ]
        root = _container(TITLE, None)
        root.ContentSequence = highdicom.sr.ContentSequence(opening)
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
            # added afterwards, because the constructor copies and walks what it is given several times
            document.ContentSequence = highdicom.sr.ContentSequence(
                [*opening, *_entries(answers, grid=grid, source=source)]
            )
            document.CompletionFlagDescription = _label(PURPOSE)
            document.AuthorObserverSequence = [_author(card)]
            with replacing(path) as temporary:
                document.save_as(temporary, enforce_file_format=True)
        except DAMAGED as error:
            if isinstance(error, InputError | OSError):
                raise
            raise InputError(
                f"{path.name}: the images' headers do not fit a DICOM report ({one_line_of(error)}); mend the headers "
                "or write --json"
            ) from error
    return str(document.SOPInstanceUID)


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


def _observer(card: ModelCard) -> list[ContentItem]:
    """Which model answered (TID 4019) and that a device observed (TID 1002)."""
    from highdicom.sr import AlgorithmIdentification, DeviceObserverIdentifyingAttributes, ObserverContext
    from pydicom.sr.codedict import codes

    maker, model = f"{MAKER} {__version__}", _line(card.name)
    device = DeviceObserverIdentifyingAttributes(
        uid=_device_uid(card), name=maker, manufacturer_name=MAKER, model_name=model
    )
    context = ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    parameters = [_line(f"trained on {card.trained_on}; run by {maker}")]
    return [*AlgorithmIdentification(name=model, version=_line(_version(card)), parameters=parameters), *context]


def _entries(answers: Sequence[Answer], *, grid: GridVolume, source: SourceSeries) -> Iterator[ContentItem]:
    """One container per question; slices share the items that refer to their images."""
    from highdicom.sr import ContentSequence

    pieces = grid.scored_slices
    images: dict[int, list[ContentItem]] = {}
    for answer in answers:
        entry = _container(ENTRY, "CONTAINS")
        items = [_text(QUESTION, answer.question), _text(ANSWER, answer.text)]
        if answer.confidence is not None:
            items.append(_number(CONFIDENCE, answer.confidence))
        if answer.abstained is not None:
            items.append(_text(ABSTAINED_FOR, ABSTAINED[answer.abstained]))
        if answer.would_say is not None:
            items.append(_text(WOULD_SAY, answer.would_say))
        items += [_text(DOUBT, doubt) for doubt in doubts_about(answer)]
        items.append(_text(EVIDENCE, describe_answer(answer)))
        if answer.slices:
            items.append(_number(EVEN_SHARE, summarise(answer).even_share))
        for found in answer.slices:
            if found.grid_slice not in images:
                images[found.grid_slice] = [_image(image, frames) for image, frames in _images_of(found, source.images)]
            name = OCCLUSION_SHARE if answer.evidence == "occlusion" else SCORE
            items.append(_slice_score(found, name=name, pieces=pieces, images=images[found.grid_slice]))
        entry.ContentSequence = ContentSequence(items)
        yield entry


def _slice_score(
    found: SliceEvidence, *, name: Code, pieces: Sequence[Piece], images: Sequence[ContentItem]
) -> ContentItem:
    from highdicom.sr import ContentSequence

    number = _number(GRID_SLICE, found.grid_slice, "HAS PROPERTIES")
    place = _text(PLACE, named_place(pieces, found.grid_slice), "HAS PROPERTIES")
    score = _number(name, found.score)
    score.ContentSequence = ContentSequence([number, place, *images])
    return score


def _image(image: SourceImage, frames: list[int] | None) -> ContentItem:
    from highdicom.sr import ImageContentItem

    return ImageContentItem(
        name=SOURCE_IMAGE,
        referenced_sop_class_uid=image.sop_class_uid,
        referenced_sop_instance_uid=image.sop_instance_uid,
        referenced_frame_numbers=frames,
        relationship_type="INFERRED FROM",
    )


def _images_of(found: SliceEvidence, images: Sequence[SourceImage]) -> Iterator[tuple[SourceImage, list[int] | None]]:
    """The images a grid slice was made of, each once with its frames; none for a cut through all of them."""
    if len(found.source_slices) == len(images):
        return
    by_uid: dict[str, list[SourceImage]] = {}
    for number in found.source_slices:
        by_uid.setdefault(images[number].sop_instance_uid, []).append(images[number])
    for same in by_uid.values():
        yield same[0], [image.frame for image in same if image.frame is not None] or None


def _version(card: ModelCard) -> str:
    return str(card.facts.get("version") or "not stated")


def _device_uid(card: ModelCard) -> str:
    """The same for the same model and version, wherever it runs."""
    return str(generate_uid(entropy_srcs=[MAKER, card.name, _version(card), __version__]))


def _container(name: Code, relationship: str | None) -> ContentItem:
    """An empty one; the root has no relationship."""
    from highdicom.sr import ContainerContentItem

    return ContainerContentItem(name=name, is_content_continuous=False, relationship_type=relationship)


def _text(name: Code, content: str, relationship: str = "CONTAINS") -> ContentItem:
    """Line breaks as DICOM writes them; never empty, which it forbids."""
    from highdicom.sr import TextContentItem

    value = printable(content).replace("\n", "\r\n") or "-"
    return TextContentItem(name=name, value=value, relationship_type=relationship)


def _number(name: Code, value: float, relationship: str = "CONTAINS") -> ContentItem:
    from highdicom.sr import NumContentItem

    assert math.isfinite(value)
    return NumContentItem(name=name, value=value, unit=NO_UNITS, relationship_type=relationship)


def _line(content: str) -> str:
    return " ".join(printable(content).split()) or "-"


def _label(content: str) -> str:
    """For a DICOM LO: one line, no backslash (which would split it), not too long."""
    return _line(content).replace("\\", "/").encode()[:LONG_STRING].decode(errors="ignore").strip()


def one_line_of(error: Exception) -> str:
    """What a library said, short enough for a message."""
    return " ".join(str(error).split())[:120] or type(error).__name__
