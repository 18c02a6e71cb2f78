"""Of which items does a report consist, and in which words of DICOM?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from slicesight import __version__
from slicesight.inference.answers import Answer, SliceEvidence, printable
from slicesight.io.dicom.source import SourceImage, SourceSeries
from slicesight.models.card import ModelCard
from slicesight.reports.evidence import Piece, place_name, slice_name, summarise
from slicesight.volumes.grid import GridVolume

if TYPE_CHECKING:
    from highdicom.sr import ContentItem

MAKER = "slicesight"
SCHEME = "99SLICESIGHT"
LONG_STRING = 64  # characters that a DICOM LO may have; kept to as many bytes, which is what some programs count
VERSION_UNKNOWN = "not stated"

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


def observer(card: ModelCard) -> list[ContentItem]:
    """Which model answered (TID 4019) and that a device observed (TID 1002)."""
    from highdicom.sr import AlgorithmIdentification, DeviceObserverIdentifyingAttributes, ObserverContext
    from pydicom.sr.codedict import codes

    version = _version(card)
    device = DeviceObserverIdentifyingAttributes(
        uid=device_uid(card),
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


def entries(answers: Sequence[Answer], *, grid: GridVolume, source: SourceSeries) -> Iterator[ContentItem]:
    """One container per question; slices share the items that refer to their images."""
    from highdicom.sr import ContentSequence

    pieces = grid.scored_slices
    images: dict[int, list[ContentItem]] = {}
    for answer in answers:
        entry = container(ENTRY, "CONTAINS")
        items = [text(QUESTION, answer.question), text(ANSWER, answer.text)]
        if answer.slices:
            items.append(_number(EVEN_SHARE, summarise(answer).even_share, "CONTAINS"))
        for found in answer.slices:
            if found.grid_slice not in images:
                images[found.grid_slice] = [_image(image, frames) for image, frames in _images_of(found, source.images)]
            items.append(_slice_score(found, pieces=pieces, images=images[found.grid_slice]))
        entry.ContentSequence = ContentSequence(items)
        yield entry


def _slice_score(found: SliceEvidence, *, pieces: Sequence[Piece], images: Sequence[ContentItem]) -> ContentItem:
    from highdicom.sr import ContentSequence

    score = _number(SCORE, found.score, "CONTAINS")
    place = " · ".join(filter(None, (slice_name(pieces, found.grid_slice), place_name(pieces, found.grid_slice))))
    score.ContentSequence = ContentSequence(
        [_number(GRID_SLICE, found.grid_slice, "HAS PROPERTIES"), text(PLACE, place, "HAS PROPERTIES"), *images]
    )
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
    return str(card.facts.get("version") or VERSION_UNKNOWN)


def device_uid(card: ModelCard) -> str:
    """The same for the same model and version, wherever it runs."""
    return str(generate_uid(entropy_srcs=[MAKER, card.name, _version(card), __version__]))


def container(name: Code, relationship: str | None) -> ContentItem:
    """An empty one; the root has no relationship."""
    from highdicom.sr import ContainerContentItem

    return ContainerContentItem(name=name, is_content_continuous=False, relationship_type=relationship)


def text(name: Code, words: str, relationship: str = "CONTAINS") -> ContentItem:
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


def label(words: str) -> str:
    """For a DICOM LO: one line, no backslash (which would split it), not too long."""
    return _line(words).replace("\\", "/").encode()[:LONG_STRING].decode(errors="ignore").strip()
