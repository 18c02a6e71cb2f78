"""How do M3D-VQA's tables become cases? Every row asks one fact twice: closed, with its choices, and open, without.

Columns: Image Path, Text, Question Type, Question, Choice A ... D, Answer, Answer Choice. Types: 1 plane, 2 phase,
3 organ, 4 abnormality, 5 location. A missing choice is NA. The yes-or-no table has no choices and gives open questions
only. The file's name says the split; M3D_VQA_test5k.csv is a part of M3D_VQA_test.csv.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from slicesight.data.manifest import LETTERS, Case, Conversation, Split
from slicesight.data.sources.intake import Intake, SourceLocation, SourceRequest, UnusableError
from slicesight.data.sources.places import Places, m3d_name, m3d_patient
from slicesight.data.sources.tables import csv_columns, csv_rows
from slicesight.data.sources.wording import M3D_TOPICS, closed_conversation, is_missing, split_of, without_letter
from slicesight.errors import InputError

SOURCE = "m3d-vqa"
_NEEDED = ("Image Path", "Question", "Answer")
_CHOICES = tuple(f"Choice {letter}" for letter in LETTERS)


@dataclass
class _TableScan:
    id: str
    path: Path
    split: Split | None
    conversations: list[Conversation] = field(default_factory=list)


def read_m3d_vqa(request: SourceRequest, intake: Intake) -> list[Case]:
    """One case per image and split, with the questions of all its rows."""
    base = request.source if request.source.is_dir() else request.source.parent
    tables = sorted(base.glob("*.csv"), key=_longest_first) if request.source.is_dir() else [request.source]
    tables = [table for table in tables if "Image Path" in csv_columns(table)]
    if not tables:
        raise InputError(f"{request.source}: no CSV with a column 'Image Path' in it; point at M3D_VQA_*.csv")
    places = Places([*([request.volumes] if request.volumes else []), base, base.parent])
    reader = _TableReader(places, intake)
    for table in tables:
        reader.read(table)
    return reader.cases()


def _longest_first(table: Path) -> tuple[int, str]:
    """M3D_VQA_test.csv before M3D_VQA_test5k.csv, so that the whole table names the questions."""
    return len(table.name), table.name


class _TableReader:
    def __init__(self, places: Places, intake: Intake) -> None:
        self.places, self.intake = places, intake
        self.scans: dict[tuple[str, Split | None], _TableScan] = {}
        self.names: set[str] = set()
        self.seen: set[tuple[object, ...]] = set()

    def read(self, table: Path) -> None:
        split = split_of(table.stem)
        if split is None:
            self.intake.notes.append(f"{table.name}: its name says neither train, val nor test; taken without a split")
        repeats = 0
        unknown: Counter[str] = Counter()
        for line, row in csv_rows(table, needed=_NEEDED):
            if row is None:
                self.intake.refuse(
                    "bad row", "more or fewer cells than the header; quote the text", SourceLocation(table.name, line)
                )
                continue
            name = m3d_name(row["Image Path"])
            key = (name, split, *(cell for column, cell in row.items() if column not in ("Image Path", "Text")))
            if key in self.seen:
                repeats += 1
                continue
            self.seen.add(key)
            try:
                topic = _topic(row)
                conversations = _conversations(row, f"{table.stem}:{line}", topic)
            except UnusableError as reason:
                self.intake.refuse(
                    "bad row", f"{reason}; correct the row", SourceLocation(table.name, line), case_id=name
                )
                continue
            scan = self._scan(name, row["Image Path"], split, SourceLocation(table.name, line))
            if scan is not None:
                scan.conversations += conversations
                unknown[topic] += topic not in M3D_TOPICS.values()
        if repeats:
            self.intake.notes.append(f"{table.name}: {repeats} rows repeat rows of the same split; taken once")
        for topic in +unknown:
            self.intake.notes.append(f"{table.name}: {unknown[topic]} questions of {topic!r}, which M3D does not name")

    def _scan(self, name: str, reference: str, split: Split | None, where: SourceLocation) -> _TableScan | None:
        if (name, split) not in self.scans:
            path = self.places.find(reference)
            if path is None:
                reason = f"{reference}: not found; name the folder of M3D_Cap_npy with --volumes"
                self.intake.refuse("missing volume", reason, where, case_id=name)
                return None
            case_id = f"{name}@{split}" if name in self.names else name
            self.names.add(name)
            self.scans[name, split] = _TableScan(id=case_id, path=path, split=split)
        return self.scans[name, split]

    def cases(self) -> list[Case]:
        return [
            Case(
                id=scan.id,
                volume=str(scan.path),
                split=scan.split,
                patient=m3d_patient(scan.id),
                source=SOURCE,
                conversations=tuple(scan.conversations),
            )
            for scan in self.scans.values()
        ]


def _topic(row: dict[str, str]) -> str:
    word = row.get("Question Type", "").strip()
    try:
        number = int(float(word))
    except (ValueError, OverflowError):
        raise UnusableError(f"Question Type is {word!r}, expected 1 to 5") from None
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
    opened = Conversation(
        id=f"{name}/open", task="open", topic=topic, question=question, answer=without_letter(answer).strip()
    )
    return [opened, closed]
