"""How do M3D's two data sets become cases?

M3D-Cap, one report each. Raw: M3D_Cap/{ct_case,ct_quizze}/<id>/<Series>/<n>.{png,jpeg} and <id>/text.txt. Processed:
<Series>.npy in the same places below M3D_Cap_npy, (1, 32, 256, 256) float32 in [0, 1]. M3D_Cap.json, if there, says
which are in which split. The text is cut as M3D's own preparation cuts it, so that raw and processed give one report.

M3D-VQA, tables whose every row asks one fact twice: closed, with its choices, and open, without. Columns: Image Path,
Text, Question Type, Question, Choice A ... D, Answer, Answer Choice. Types: 1 plane, 2 phase, 3 organ, 4 abnormality,
5 location. A missing choice is NA. The yes-or-no table has no choices and gives open questions only. The file's name
says the split; M3D_VQA_test5k.csv is a part of M3D_VQA_test.csv.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from slicesight.data.choices import plain
from slicesight.data.manifest import FOUR_LETTERS, Case, Conversation, Split
from slicesight.data.sources.intake import (
    M3D_TOPICS,
    Intake,
    SourceLocation,
    SourceRequest,
    UnusableError,
    closed_conversation,
    is_missing,
    report_conversation,
    split_of,
    without_letter,
)
from slicesight.data.sources.places import (
    M3D_FOLDERS,
    M3D_PARTS,
    ListedScans,
    Places,
    m3d_name,
    m3d_patient,
    only_text,
    scan_stem,
)
from slicesight.data.sources.tables import csv_columns, csv_rows, json_lists, read_text
from slicesight.errors import InputError
from slicesight.io.arrays import is_picture
from slicesight.io.files import head_of

LIST_NAME = "M3D_Cap.json"
_MIN_LETTERS = 5
_NEEDED = ("Image Path", "Question", "Answer")
_CHOICES = tuple(f"Choice {letter}" for letter in FOUR_LETTERS)


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
    return Case(id=case_id, volume=str(scan), split=split, patient=patient, source="m3d-cap", conversations=asked)


def _after(mark: str, text: str) -> str:
    _, found, after = text.partition(mark)
    return after if found else text


def _num_letters(text: str) -> int:
    return len("".join(text.split()))


def read_m3d_vqa(request: SourceRequest, intake: Intake) -> list[Case]:
    """One case per image and split, with the questions of all its rows."""
    tables = sorted(request.base.glob("*.csv"), key=_shortest_first) if request.source.is_dir() else [request.source]
    tables = [table for table in tables if "Image Path" in csv_columns(table)]
    if not tables:
        raise InputError(f"{request.source}: no CSV with a column 'Image Path' in it; point at M3D_VQA_*.csv")
    scans = ListedScans("m3d-vqa", request, intake)
    seen: set[tuple[object, ...]] = set()
    for table in tables:
        _read_table(table, scans, seen, intake)
    return scans.cases


def _shortest_first(table: Path) -> tuple[int, str]:
    """M3D_VQA_test.csv before M3D_VQA_test5k.csv, so that the whole table names the questions."""
    return len(table.name), table.name


def _read_table(table: Path, scans: ListedScans, seen: set[tuple[object, ...]], intake: Intake) -> None:
    split = split_of(table.stem)
    if split is None:
        intake.notes.append(f"{table.name}: its name says neither train, val nor test; taken without a split")
    repeats, unknown = 0, Counter[str]()
    for line, row in csv_rows(table, needed=_NEEDED):
        where = SourceLocation(table.name, line)
        if row is None:
            intake.refuse("bad row", "more or fewer cells than the header; quote the text", where)
            continue
        name = m3d_name(row["Image Path"])
        key = (name, split, *(cell for column, cell in row.items() if column not in ("Image Path", "Text")))
        if key in seen:
            repeats += 1
            continue
        seen.add(key)
        try:
            topic = _topic(row)
            conversations = _conversations(row, f"{table.stem}:{line}", topic)
        except UnusableError as reason:
            intake.refuse("bad row", f"{reason}; correct the row", where, case_id=name)
            continue
        if scans.add(row["Image Path"], split, conversations, where):
            unknown[topic] += topic not in M3D_TOPICS.values()
    if repeats:
        intake.notes.append(f"{table.name}: {repeats} rows repeat rows of the same split; taken once")
    for topic in +unknown:
        intake.notes.append(f"{table.name}: {unknown[topic]} questions of {topic!r}, which M3D does not name")


def _topic(row: dict[str, str]) -> str:
    cell = row.get("Question Type", "").strip()
    try:
        number = int(float(cell))
    except (ValueError, OverflowError):
        raise UnusableError(f"Question Type is {cell!r}, expected 1 to 5") from None
    return M3D_TOPICS.get(number, f"type {number}")


def _conversations(row: dict[str, str], name: str, topic: str) -> list[Conversation]:
    question, answer = row["Question"].strip(), row["Answer"].strip()
    if not question or is_missing(answer):
        raise UnusableError(f"question {question[:40]!r} with answer {answer[:40]!r}")
    choices = [row[choice] for choice in _CHOICES if choice in row]
    if all(is_missing(choice) for choice in choices):
        return [Conversation(id=f"{name}/open", task="open", topic=topic, question=question, answer=answer)]
    closed = closed_conversation(
        f"{name}/closed",
        topic=topic,
        question=question,
        choices=choices,
        answer=answer,
        letter=row.get("Answer Choice", ""),
    )
    words = (answer if plain(answer) == plain(closed.answer) else without_letter(answer)).strip()
    return [Conversation(id=f"{name}/open", task="open", topic=topic, question=question, answer=words), closed]
