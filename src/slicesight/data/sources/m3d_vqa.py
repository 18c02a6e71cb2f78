"""How do M3D-VQA's tables become cases? Every row asks one fact twice: closed, with its choices, and open, without.

Columns: Image Path, Text, Question Type, Question, Choice A ... D, Answer, Answer Choice. Types: 1 plane, 2 phase,
3 organ, 4 abnormality, 5 location. A missing choice is NA. The yes-or-no table has no choices and gives open questions
only. The file's name says the split; M3D_VQA_test5k.csv is a part of M3D_VQA_test.csv.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from slicesight.data.manifest import LETTERS, Case, Conversation
from slicesight.data.sources.intake import Intake, SourceLocation, SourceRequest, UnusableError
from slicesight.data.sources.places import ListedScans, m3d_name
from slicesight.data.sources.tables import csv_columns, csv_rows
from slicesight.data.sources.wording import M3D_TOPICS, closed_conversation, is_missing, split_of, without_letter
from slicesight.errors import InputError

SOURCE = "m3d-vqa"
_NEEDED = ("Image Path", "Question", "Answer")
_CHOICES = tuple(f"Choice {letter}" for letter in LETTERS)


def read_m3d_vqa(request: SourceRequest, intake: Intake) -> list[Case]:
    """One case per image and split, with the questions of all its rows."""
    tables = sorted(request.base.glob("*.csv"), key=_shortest_first) if request.source.is_dir() else [request.source]
    tables = [table for table in tables if "Image Path" in csv_columns(table)]
    if not tables:
        raise InputError(f"{request.source}: no CSV with a column 'Image Path' in it; point at M3D_VQA_*.csv")
    scans = ListedScans(SOURCE, request, intake)
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
    words = without_letter(answer).strip()
    return [Conversation(id=f"{name}/open", task="open", topic=topic, question=question, answer=words), closed]
