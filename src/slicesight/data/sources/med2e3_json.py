"""How does Med-2E3's conversation JSON become cases? Every human turn with its answer is one sample.

[{"id", "conversations": [{"from": "human|gpt", "value"}], "vision3d": [...], "question", "question_type"}], where the
keys image3d or image may stand for vision3d. <image3d> and <image> mark where the scan goes and are not part of the
question. Evaluation files hold questions only; their answers, [{"id", "answer", "answer_choice"}], lie beside.
question_type: 0 report, 1-5 M3D's topics, 6-10 the same topics asked closed.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from slicesight.data.choices import LIST_MARK
from slicesight.data.manifest import LETTERS, Case, Conversation
from slicesight.data.sources.intake import (
    M3D_TOPICS,
    Intake,
    SourceLocation,
    SourceRequest,
    UnusableError,
    closed_conversation,
    is_missing,
    letter_of,
    split_of,
)
from slicesight.data.sources.places import ListedScans
from slicesight.data.sources.tables import json_items
from slicesight.errors import InputError

SOURCE = "med2e3-json"
_SCAN_KEYS = ("vision3d", "image3d", "vision2d", "image")
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_TOKEN = re.compile(r"\s*<image(?:3d)?>\s*")
_REPORT_WORDS = re.compile(r"\b(?:caption|report|findings|observations|diagnos\w+)\b", flags=re.IGNORECASE)


def read_med2e3_json(request: SourceRequest, intake: Intake) -> list[Case]:
    """One case per volume and split, with every turn of every conversation about it."""
    files = sorted(request.base.glob("*.json")) if request.source.is_dir() else [request.source]
    if not files:
        raise InputError(f"{request.source}: no .json file in it; point at the folder with the conversations")
    scans = ListedScans(SOURCE, request, intake)
    num_named: Counter[str] = Counter()
    for file in files:
        answers = _answers_to(file, request.base)
        for line, item in json_items(file):
            if isinstance(item, dict) and "conversations" not in item and "answer" in item:
                continue
            where = SourceLocation(file.name, line)
            if not isinstance(item, dict) or not isinstance(item.get("conversations"), list):
                intake.refuse("bad item", 'expected {"id", "conversations", "vision3d"}; correct the item', where)
                continue
            name = str(item.get("id", f"{file.stem}:{line}"))
            reference = _reference(item, name, where, intake)
            if reference is None:
                continue
            try:
                conversations = _conversations(item, name, answers.get(name), num_named)
            except UnusableError as error:
                intake.refuse("bad item", f"{error}; correct the item", where, case_id=name)
                continue
            scans.add(reference, split_of(file.stem), conversations, where, called=name)
    return scans.cases


def _answers_to(file: Path, base: Path) -> dict[str, dict[str, Any]]:
    """Answers by id from "<name>_answers.json", else from every "*answers*.json" beside the questions."""
    own = file.with_name(f"{file.stem}_answers.json")
    items = (
        item
        for place in ([own] if own.is_file() else sorted(base.glob("*answers*.json")))
        for _, item in json_items(place)
    )
    return {
        str(item.get("id")): item
        for item in items
        if isinstance(item, dict) and "conversations" not in item and "answer" in item
    }


def _reference(item: dict[str, Any], name: str, where: SourceLocation, intake: Intake) -> str | None:
    """The one 3D scan that an item names; None for none or several, which is listed."""
    named: list[str] = []
    for key in _SCAN_KEYS:
        value = item.get(key) or []
        listed = [value] if isinstance(value, str) else value
        named += [str(entry) for entry in listed if not str(entry).lower().endswith(_PICTURES)]
    named = list(dict.fromkeys(named))
    if not named:
        intake.leave_out("no scan", "the item names no 3D scan, only text or 2D pictures", where, case_id=name)
    elif len(named) > 1:
        reason = f"the item asks about {len(named)} scans at once; a case holds one"
        intake.leave_out("several scans", reason, where, case_id=name)
    return named[0] if len(named) == 1 else None


def _conversations(
    item: dict[str, Any], name: str, answer: dict[str, Any] | None, num_named: Counter[str]
) -> list[Conversation]:
    """The item's turns; an id that comes again gets "~1" behind it, the next "~2"."""
    turns = _turns(item["conversations"], answer)
    stem = f"{name}~{num_named[name]}" if num_named[name] else name
    num_named[name] += 1
    ids = [stem] if len(turns) == 1 else [f"{stem}/{number}" for number in range(len(turns))]
    return [_conversation(turn_id, *turn, item.get("question_type")) for turn_id, turn in zip(ids, turns, strict=True)]


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
