"""How does Med-2E3's conversation JSON become cases? Every human turn with its answer is one sample.

[{"id", "conversations": [{"from": "human|gpt", "value"}], "vision3d": [...], "question", "question_type"}], where the
keys image3d or image may stand for vision3d. <image3d> and <image> mark where the scan goes and are not part of the
question. Evaluation files hold questions only; their answers, [{"id", "answer", "answer_choice"}], lie beside.
question_type: 0 report, 1-5 M3D's topics, 6-10 the same topics asked closed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slicesight.data.choices import LIST_MARK
from slicesight.data.manifest import LETTERS, Case, Conversation, Split
from slicesight.data.sources.intake import Intake, SourceLocation, SourceRequest, UnusableError
from slicesight.data.sources.places import Places, m3d_name, m3d_patient
from slicesight.data.sources.tables import json_items
from slicesight.data.sources.wording import M3D_TOPICS, closed_conversation, is_missing, letter_of, split_of
from slicesight.errors import InputError

SOURCE = "med2e3-json"
_SCAN_KEYS = ("vision3d", "image3d", "vision2d", "image")
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_TOKEN = re.compile(r"\s*<image(?:3d)?>\s*")
_REPORT_WORDS = re.compile(r"\b(?:caption|report|findings|observations|diagnos\w+)\b", flags=re.IGNORECASE)


@dataclass
class _ListedScan:
    id: str
    path: Path
    split: Split | None
    patient: str | None
    conversations: list[Conversation] = field(default_factory=list)


def read_med2e3_json(request: SourceRequest, intake: Intake) -> list[Case]:
    """One case per volume and split, with every turn of every conversation about it."""
    base = request.source if request.source.is_dir() else request.source.parent
    files = sorted(base.glob("*.json")) if request.source.is_dir() else [request.source]
    if not files:
        raise InputError(f"{request.source}: no .json file in it; point at the folder with the conversations")
    places = Places([*([request.volumes] if request.volumes else []), base, base.parent])
    reader = _ItemReader(places, intake)
    for file in files:
        reader.answers = _answers_to(file, base)
        for line, item in json_items(file):
            if isinstance(item, dict) and "conversations" not in item and "answer" in item:
                continue
            reader.read(item, file=file, line=line)
    return reader.cases()


def _answers_to(file: Path, base: Path) -> dict[str, dict[str, Any]]:
    """Answers by id from "<name>_answers.json", else from every "*answers*.json" beside the questions."""
    own = file.with_name(f"{file.stem}_answers.json")
    found: dict[str, dict[str, Any]] = {}
    for place in [own] if own.is_file() else sorted(base.glob("*answers*.json")):
        for _, item in json_items(place):
            if isinstance(item, dict) and "conversations" not in item and "answer" in item:
                found[str(item.get("id"))] = item
    return found


class _ItemReader:
    def __init__(self, places: Places, intake: Intake) -> None:
        self.places, self.intake = places, intake
        self.answers: dict[str, dict[str, Any]] = {}
        self.scans: dict[tuple[Path, Split | None], _ListedScan] = {}
        self.names: set[str] = set()
        self.num_named: dict[str, int] = {}

    def read(self, item: object, *, file: Path, line: int) -> None:
        where = SourceLocation(file.name, line)
        if not isinstance(item, dict) or not isinstance(item.get("conversations"), list):
            self.intake.refuse("bad item", 'expected {"id", "conversations", "vision3d"}; correct the item', where)
            return
        name = str(item.get("id", f"{file.stem}:{line}"))
        reference = self._reference(item, name, where)
        if reference is None:
            return
        try:
            conversations = list(self._conversations(item, name))
        except UnusableError as error:
            self.intake.refuse("bad item", f"{error}; correct the item", where, case_id=name)
            return
        path = self.places.find(reference)
        if path is None:
            reason = f"{reference}: not found; name its folder with --volumes"
            self.intake.refuse("missing volume", reason, where, case_id=name)
            return
        split = split_of(file.stem)
        if (path, split) not in self.scans:
            name = m3d_name(reference)
            case_id = f"{name}@{split}" if name in self.names else name
            self.names.add(name)
            self.scans[path, split] = _ListedScan(id=case_id, path=path, split=split, patient=m3d_patient(name))
        self.scans[path, split].conversations += conversations

    def _reference(self, item: dict[str, Any], name: str, where: SourceLocation) -> str | None:
        named: list[str] = []
        for key in _SCAN_KEYS:
            value = item.get(key) or []
            listed = [value] if isinstance(value, str) else value
            named += [str(entry) for entry in listed if not str(entry).lower().endswith(_PICTURES)]
        named = list(dict.fromkeys(named))
        if not named:
            self.intake.leave_out("no scan", "the item names no 3D scan, only text or 2D pictures", where, case_id=name)
            return None
        if len(named) > 1:
            reason = f"the item asks about {len(named)} scans at once; a case holds one"
            self.intake.leave_out("several scans", reason, where, case_id=name)
            return None
        return named[0]

    def _conversations(self, item: dict[str, Any], name: str) -> Iterator[Conversation]:
        turns = _turns(item["conversations"], self.answers.get(name))
        repeated = self.num_named.get(name, 0)
        self.num_named[name] = repeated + 1
        stem = name if not repeated else f"{name}~{repeated}"
        for number, (question, answer, letter) in enumerate(turns):
            turn_id = stem if len(turns) == 1 else f"{stem}/{number}"
            yield _conversation(turn_id, question, answer, letter, item.get("question_type"))

    def cases(self) -> list[Case]:
        return [
            Case(
                id=scan.id,
                volume=str(scan.path),
                split=scan.split,
                patient=scan.patient,
                source=SOURCE,
                conversations=tuple(scan.conversations),
            )
            for scan in self.scans.values()
        ]


def _turns(messages: list[Any], answer: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """(question, answer, letter) of each turn; a last question without answer takes the one from the answers file."""
    turns: list[tuple[str, str, str]] = []
    waiting: str | None = None
    for message in messages:
        speaker, value = (message.get("from"), message.get("value")) if isinstance(message, dict) else (None, None)
        if not isinstance(value, str) or speaker not in ("human", "gpt"):
            raise UnusableError(f'turn {str(message)[:50]!r} is not {{"from": "human|gpt", "value": ...}}')
        if (speaker == "human") == (waiting is not None):
            raise UnusableError(f"{speaker!r} speaks out of turn; human and gpt must alternate, human first")
        if speaker == "human":
            waiting = value
        else:
            assert waiting is not None
            turns.append((waiting, value.strip(), letter_of(value)))
            waiting = None
    if waiting is not None:
        if answer is None:
            raise UnusableError("a question without an answer, and no answers file beside it names this id")
        turns.append((waiting, str(answer["answer"]).strip(), str(answer.get("answer_choice") or "")))
    if not turns:
        raise UnusableError("no turns")
    return turns


def _conversation(name: str, text: str, answer: str, letter: str, kind: object) -> Conversation:
    question = _TOKEN.sub(" ", text).strip()
    if not question or not answer:
        raise UnusableError(f"question {question[:40]!r} with answer {answer[:40]!r}")
    topic = _topic(kind, question)
    if LIST_MARK not in question:
        return Conversation(
            id=name, task="report" if topic == "report" else "open", topic=topic, question=question, answer=answer
        )
    bare, _, listed = question.rpartition(LIST_MARK)
    choices = _choices(listed)
    return closed_conversation(
        name, topic=topic, question=bare.strip(), choices=choices, answer=answer, letter=letter or letter_of(answer)
    )


def _choices(listed: str) -> list[str]:
    """The texts after A., B., C., D., each letter looked for behind the one before."""
    choices: list[str] = []
    rest = listed
    for letter, following in zip(LETTERS, (*LETTERS[1:], None), strict=True):
        found = re.match(rf"\s*{letter}\.(?:\s+|$)", rest)
        if not found:
            break
        rest = rest[found.end() :]
        ends = re.search(rf"\s{following}\.(?:\s|$)", rest) if following else None
        choices.append(rest[: ends.start()] if ends else rest)
        rest = rest[ends.start() :] if ends else ""
    if len(choices) < 2 or all(is_missing(choice) for choice in choices):
        raise UnusableError(f"no choices A. ... B. ... after {LIST_MARK!r}, found {listed.strip()[:40]!r}")
    return choices


def _topic(kind: object, question: str) -> str:
    """The topic of a question_type; without one, a question that asks for findings is a report, any other "other"."""
    if isinstance(kind, str) and kind.strip() and not kind.strip().isdigit():
        return kind.strip().lower()
    if kind is None or kind == "":
        return "report" if _REPORT_WORDS.search(question) and LIST_MARK not in question else "other"
    number = int(str(kind)) if str(kind).strip().isdigit() else -1
    if number == 0:
        return "report"
    if number - 5 in M3D_TOPICS:
        return M3D_TOPICS[number - 5]
    return M3D_TOPICS.get(number, f"type {kind}")
