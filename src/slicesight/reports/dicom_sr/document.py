"""How does a report become a DICOM object of the right patient, that claims no more than it is?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from slicesight import __version__
from slicesight.errors import InputError
from slicesight.files import checked_place, replacing
from slicesight.inference.answers import Answer
from slicesight.io.dicom.source import SourceSeries
from slicesight.io.dicom.values import quiet_pydicom
from slicesight.io.files import DAMAGED
from slicesight.models.card import RESEARCH_NOTICE, ModelCard
from slicesight.reports.dicom_sr.content import (
    MAKER,
    NOTICE,
    READING,
    SCAN,
    SCHEME,
    TITLE,
    WARNING,
    container,
    device_uid,
    entries,
    label,
    observer,
    text,
)
from slicesight.reports.dicom_sr.reading import one_line_of
from slicesight.volumes.grid import GridVolume

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
            *observer(card),
            text(NOTICE, RESEARCH_NOTICE),
            *(text(WARNING, warning) for warning in warnings),
            text(SCAN, title),
            text(READING, "\n".join([reading, *notes])),
        ]
        root = container(TITLE, None)
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
                manufacturer_model_name=label(card.name),
                software_versions=__version__,
                device_serial_number="0",
                series_description=label(f"For research only: {card.name}"),
                specific_character_set="ISO_IR 192",
                coding_schemes=[
                    highdicom.coding_schemes.CodingSchemeIdentificationItem(
                        SCHEME, name=MAKER, responsible_organization=MAKER
                    )
                ],
            )
            # added afterwards, because the constructor copies and walks what it is given several times
            document.ContentSequence = highdicom.sr.ContentSequence(
                [*opening, *entries(answers, grid=grid, source=source)]
            )
            document.CompletionFlagDescription = label(PURPOSE)
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
    author.DeviceUID = device_uid(card)
    author.Manufacturer = MAKER
    author.ManufacturerModelName = label(card.name)
    author.InstitutionName = None
    author.InstitutionCodeSequence = []
    return author
