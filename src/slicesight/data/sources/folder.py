"""How does any tree of scans with texts beside them become cases?

A scan is a NIfTI, NRRD, MetaImage, .npy or zip file, or a folder of DICOM, PNG or JPEG slices. Its text is the first
that is there:

1. a text of its own name: scan.nii.gz and scan.txt or scan.json; for slices in series/, series.txt or the only text
   in it;
2. report.txt or report.json in the folder the scan lies in, which then speaks for every scan there without its own;
3. the only text of a folder that holds only one scan.

.txt is a report. .json holds {"report", "questions": [{"question", "answer", "choices", "topic"}], "split", "patient"}
and, where the scan's file leaves it open, "series", "time_point", "unit", "spacing_mm" [z, y, x] and "fill", as
for `ask`. questions.csv or questions.jsonl on top of the tree adds questions by the scan's path. A first folder called
train, val or test is the split; the next folder is the patient, and a scan that lies in none is a patient of its own.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from slicesight.data.manifest import Case, Conversation, Reading, Split
from slicesight.data.sources.intake import Intake, SourceLocation, SourceRequest, UnusableError, report_conversation
from slicesight.data.sources.side_texts import SideText, read_question_lists, read_side_text
from slicesight.errors import InputError
from slicesight.io.scan_tree import SCAN_ENDINGS, FolderFiles, walk_folders

SOURCE = "folder"
REPORT_NAMES = ("report.txt", "report.json")
QUESTION_LISTS = ("questions.csv", "questions.jsonl")
_SPLITS: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}
_SPLITS |= {"training": "train", "valid": "val", "validation": "val"}


def read_folder(request: SourceRequest, intake: Intake) -> list[Case]:
    """One case per scan that has a text or a question."""
    base = request.source
    if not base.is_dir():
        raise InputError(f"{base}: expected a folder of scans with texts beside them")
    folders = _walk(base, request.out, intake)
    questions = read_question_lists([base / name for name in QUESTION_LISTS], intake)
    texts = _texts_by_scan(base, folders)
    scans = sorted(texts, key=lambda scan: scan.relative_to(base).parts)
    if not scans:
        expected = "expected NIfTI, NRRD, MetaImage, .npy or folders of DICOM or PNG slices"
        raise InputError(f"{base}: no scan in it; {expected}")
    splits, patients = _splits_and_patients(base, scans)
    cases = []
    for scan in scans:
        name = scan.relative_to(base).as_posix()
        beside = {request.name_of(text): text for text in texts[scan]}
        if case := _case(name, scan, beside, questions.pop(name, []), splits[scan], patients[scan], intake):
            cases.append(case)
    for name, unclaimed in questions.items():
        for side_text in unclaimed:
            reason = f"names {name!r}, which is no scan of {base.name}; write its path from there"
            intake.refuse("missing volume", reason, side_text.place, case_id=name)
    used = {text for found in texts.values() for text in found}
    for text in (text for folder in folders.values() for text in folder.texts if text not in used):
        where = SourceLocation(text.relative_to(base).as_posix())
        intake.leave_out("text alone", "no scan belongs to this text", where)
    return cases


def _walk(base: Path, out: Path, intake: Intake) -> dict[Path, FolderFiles]:
    """What every folder holds; a folder of slices is one scan, whatever else lies in it."""
    folders = walk_folders(base, leave_out=[out])
    for here, found in folders.items():
        if found.is_slices:
            found.scans = [here]
        for file, reason in found.unreadable.items():
            intake.refuse("unreadable", reason, case_id=file.relative_to(base).as_posix())
    return folders


def _texts_by_scan(base: Path, folders: dict[Path, FolderFiles]) -> dict[Path, list[Path]]:
    """Every scan with the texts that speak of it, by the three rules."""
    num_scans = Counter(scan.parent for folder in folders.values() for scan in folder.scans)
    found: dict[Path, list[Path]] = {}
    for folder in folders.values():
        for scan in folder.scans:
            around = folders.get(scan.parent, FolderFiles()) if folder.is_slices and scan != base else folder
            named = [text for text in around.texts if text.stem == _scan_stem(scan)]
            if not named and folder.is_slices and len(folder.texts) == 1:
                named = folder.texts
            if not named:
                named = [text for text in around.texts if text.name.lower() in REPORT_NAMES]
            if not named and len(around.texts) == 1 and num_scans[scan.parent] == 1:
                named = around.texts
            found[scan] = list(named)
    return found


def _scan_stem(scan: Path) -> str:
    ending = next((ending for ending in SCAN_ENDINGS if scan.name.lower().endswith(ending)), "")
    return scan.name[: len(scan.name) - len(ending)]


def _splits_and_patients(base: Path, scans: list[Path]) -> tuple[dict[Path, Split | None], dict[Path, str]]:
    """Split by the first folder's name; patient by the first folder (after it) that does not hold every scan."""
    splits: dict[Path, Split | None] = {}
    inner: dict[Path, tuple[str, ...]] = {}
    for scan in scans:
        parts = scan.relative_to(base).parts
        splits[scan] = _SPLITS.get(parts[0].lower()) if len(parts) > 1 else None
        inner[scan] = parts[1:] if splits[scan] else parts
    while len(scans) > 1 and all(len(parts) > 1 for parts in inner.values()):
        if len({parts[0] for parts in inner.values()}) > 1:
            break
        inner = {scan: parts[1:] for scan, parts in inner.items()}
    return splits, {scan: parts[0] if len(parts) > 1 else _scan_stem(scan) for scan, parts in inner.items()}


def _case(
    name: str,
    scan: Path,
    texts: dict[str, Path],
    questions: list[SideText],
    split: Split | None,
    patient: str,
    intake: Intake,
) -> Case | None:
    side_texts: list[SideText] = list(questions)
    try:
        side_texts += [read_side_text(text, file) for file, text in texts.items()]
        report = _only([(said.record.report.strip(), said.place) for said in side_texts], "reports")
        split = _only([(said.record.split, said.place) for said in side_texts], "splits") or split
        patient = _only([(said.record.patient, said.place) for said in side_texts], "patients") or patient
        named = {
            field: [(getattr(said.record, field), said.place) for said in side_texts] for field in Reading.model_fields
        }
        reading = Reading(**{field: _only(found, field) for field, found in named.items()})
        conversations: list[Conversation] = [report_conversation(name, report)] if report else []
        for said in side_texts:
            conversations += said.conversations(name, first=len(conversations))
    except UnusableError as error:
        intake.refuse("bad text", f"{error}; correct it", error.place or SourceLocation(name), case_id=name)
        return None
    except InputError as error:
        intake.refuse("unreadable text", str(error), case_id=name)
        return None
    if not conversations:
        wanted = f"no text beside this scan; write its report into {_scan_stem(scan)}.txt or report.txt there"
        intake.leave_out("no text", wanted, SourceLocation(name), case_id=name)
        return None
    return Case(
        id=name,
        volume=str(scan),
        split=split,
        patient=patient,
        source=SOURCE,
        reading=reading if reading.options() else None,
        conversations=tuple(conversations),
    )


def _only(found: list[tuple[Any, SourceLocation]], what: str) -> Any:
    """The one value that all texts which name one agree on; None where none does."""
    places: dict[Any, SourceLocation] = {}
    for value, place in found:
        if value not in (None, ""):
            places.setdefault(value, place)
    if len(places) > 1:
        first, second, *_ = places.values()
        raise UnusableError(f"{len(places)} different {what} for one scan, the first in {first}", second)
    return next(iter(places), None)
