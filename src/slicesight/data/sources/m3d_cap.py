"""How does M3D-Cap, raw pictures or processed arrays, become cases with one report each?

Raw: M3D_Cap/{ct_case,ct_quizze}/<id>/<Series>/<n>.{png,jpeg} and <id>/text.txt. Processed: <Series>.npy in the same
places below M3D_Cap_npy, (1, 32, 256, 256) float32 in [0, 1]. M3D_Cap.json, if there, says which are in which split.
The text is cut as M3D's own preparation cuts it, so that raw and processed give the same report.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from slicesight.data.manifest import Case, Split
from slicesight.data.sources.intake import Intake, SourceLocation, SourceRequest
from slicesight.data.sources.places import M3D_FOLDERS, M3D_PARTS, Places, m3d_name, m3d_patient, only_text, scan_stem
from slicesight.data.sources.tables import json_lists, read_text
from slicesight.data.sources.wording import report_conversation, split_of
from slicesight.errors import InputError
from slicesight.io.files import head_of
from slicesight.io.images import is_picture

SOURCE = "m3d-cap"
LIST_NAME = "M3D_Cap.json"
_MIN_LETTERS = 5


def read_m3d_cap(request: SourceRequest, intake: Intake) -> list[Case]:
    """Cases by M3D_Cap.json where there is one, else of the whole tree, without splits."""
    base = request.base
    listed = request.source if request.source.is_file() else None
    for folder in (base, *(base / name for name in M3D_FOLDERS)):
        if listed is None and (folder / LIST_NAME).is_file():
            listed = folder / LIST_NAME
    if listed is not None:
        return _listed_cases(listed, Places(request, listed.parent, listed.parent.parent), intake)
    return _tree_cases(request.volumes or base, intake)


def findings_of(text: str) -> str:
    """What follows "study_findings:" (all, without it); if that is under five letters, what follows "discussion:"."""
    found = _after("study_findings:", text)
    if _num_letters(found) < _MIN_LETTERS:
        found = _after("discussion:", text)
    return (found if _num_letters(found) >= _MIN_LETTERS else text).replace("\n", " ").strip()


def _listed_cases(listed: Path, places: Places, intake: Intake) -> list[Case]:
    cases: dict[str, Case] = {}
    repeats: Counter[str] = Counter()
    for key, line, item in json_lists(listed):
        split = split_of(key)
        where = SourceLocation(listed.name, line)
        if split is None:
            raise InputError(f"{where}: split {key!r}; expected a name that begins train, val or test")
        reference, text_reference = (item.get("image"), item.get("text")) if isinstance(item, dict) else (None, None)
        if not (isinstance(reference, str) and isinstance(text_reference, str) and reference and text_reference):
            intake.refuse("bad entry", f'found {str(item)[:60]!r}; write {{"image": ..., "text": ...}}', where)
            continue
        name = m3d_name(reference)
        if name in cases and cases[name].split == split:
            repeats[key] += 1
            continue
        scan = places.find(reference)
        if scan is None:
            reason = f"{reference}: not found; name its folder with --volumes"
            intake.refuse("missing volume", reason, where, case_id=name)
            continue
        text = places.find(text_reference) or places.text_beside(reference)
        if text is None:
            intake.refuse("missing text", f"{text_reference}: not found; put it there", where, case_id=name)
            continue
        if case := _case(name if name not in cases else f"{name}@{split}", scan, text, split, intake):
            cases[case.id] = case
    for key, count in repeats.items():
        intake.notes.append(f"{listed.name}: {count} entries of {key!r} repeat its split (a subset); taken once")
    return list(cases.values())


def _tree_cases(base: Path, intake: Intake) -> list[Case]:
    places = [folder / part for folder in (*(base / name for name in M3D_FOLDERS), base) for part in M3D_PARTS]
    below = next((place.parent for place in places if place.is_dir()), None)
    if below is None:
        found = f"{base}: neither {LIST_NAME} nor folders {' or '.join(M3D_PARTS)} in it"
        raise InputError(f"{found}; point at the folder of M3D-Cap")
    cases = []
    for part in M3D_PARTS:
        for folder in sorted(path for path in (below / part).glob("*") if path.is_dir()):
            cases += _folder_cases(folder, f"{part}/{folder.name}", intake)
    return cases


def _folder_cases(folder: Path, name: str, intake: Intake) -> list[Case]:
    series = [path for path in sorted(folder.iterdir()) if path.is_dir() or path.suffix == ".npy"]
    text = only_text(folder)
    if not series:
        intake.leave_out("no pictures", "no series in the folder", SourceLocation(name))
        return []
    if text is None:
        intake.refuse("missing text", "expected one .txt with the report; put it there", SourceLocation(name))
        return []
    cases = []
    for scan in series:
        case_id = f"{name}/{scan_stem(scan.name)}"
        if scan.is_dir() and not any(path.is_file() and is_picture(head_of(path)) for path in sorted(scan.iterdir())):
            intake.leave_out("no pictures", "the series holds no PNG or JPEG", SourceLocation(case_id), case_id=case_id)
        elif case := _case(case_id, scan, text, None, intake):
            cases.append(case)
    return cases


def _case(case_id: str, scan: Path, text: Path, split: Split | None, intake: Intake) -> Case | None:
    where = SourceLocation(f"{text.parent.name}/{text.name}")
    try:
        report = findings_of(read_text(text))
    except InputError as error:
        intake.refuse("unreadable text", str(error), where, case_id=case_id)
        return None
    if not report:
        intake.refuse("empty text", "the report is empty; write it, or remove the case", where, case_id=case_id)
        return None
    asked, patient = (report_conversation(case_id, report),), m3d_patient(case_id)
    return Case(id=case_id, volume=str(scan), split=split, patient=patient, source=SOURCE, conversations=asked)


def _after(mark: str, text: str) -> str:
    _, found, after = text.partition(mark)
    return after if found else text


def _num_letters(text: str) -> int:
    return len("".join(text.split()))
