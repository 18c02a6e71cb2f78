"""How does DeepTumorVQA v2 become cases: 10,000 questions about 991 abdominal CT, each with four choices and without?

Facts from https://github.com/Schuture/DeepTumorVQA (README, HF_README, src/deeptumorvqa/data/loader.py): the benchmark
is benchmark/test_qa.json, {"questions": [...]}, or test_qa.jsonl with one question a line; a question has `qid`,
`image_id`, `question`, `answer`, `mc_question` (the question, then "A: ... B: ... C: ... D: ..."), `correct_option`,
`question_type` (recognition, measurement, visual reasoning, medical reasoning) and `question_subtype` (42 of them).
Volumes are benchmark/ct/<image_id>/ct.nii.gz. Patients are not named, so every scan counts as its own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from slicesight.data.manifest import FOUR_LETTERS, Case, Conversation
from slicesight.data.sources.collected import CollectedCases
from slicesight.data.sources.intake import Intake, SourceLocation, SourceRequest, UnusableError, closed_conversation
from slicesight.data.sources.tables import json_items, json_lists
from slicesight.errors import InputError

SOURCE = "deeptumorvqa"
QUESTION_FILES = ("test_qa.json", "test_qa.jsonl")
TYPES = ("recognition", "measurement", "visual reasoning", "medical reasoning")
SEPARATOR = ": "
NEEDED = ("qid", "image_id", "question", "answer", "mc_question", "correct_option", "question_type", "question_subtype")
CLOSED, OPEN = "/mc", "/freeform"
"""What a question's id ends in: asked with its choices, and without."""


def read_deeptumorvqa(request: SourceRequest, intake: Intake) -> list[Case]:
    """One case per scan; every question twice, closed (`qid`/mc) and open (`qid`/freeform)."""
    listed = _question_file(request)
    collected = CollectedCases(source=SOURCE, intake=intake)
    for line, item in _items(listed):
        where = SourceLocation(request.name_of(listed), line)
        try:
            question = _checked(item)
            asked = _conversations(question)
        except UnusableError as error:
            named = str(item.get("qid", "")) if isinstance(item, dict) else ""
            intake.refuse("bad entry", f"{error}; correct it", where, case_id=named or None)
            continue
        name = question["image_id"]
        path = _volume(name, listed, request)
        if path is None:
            reason = f"ct/{name}/ct.nii.gz: not found; name the folder that holds {name}/ct.nii.gz with --volumes"
            intake.refuse("missing volume", reason, where, case_id=name)
            continue
        collected.add(name, path, asked, where, split="test", patient=name)
    return collected.cases


def split_choices(text: str) -> tuple[str, tuple[str, ...]]:
    """The question and the texts of its choices, from "Which? A: one B: two C: three D: four".

    Raises:
        UnusableError: A, B and so on do not stand in it in this order.
    """
    ends = len(text)
    found: list[str] = []
    for letter in reversed(FOUR_LETTERS):
        marks = list(re.finditer(rf"(?:^|(?<=[\s(])){letter}[:.)]\s*", text[:ends]))
        if not marks:
            if found:
                raise UnusableError(f"mc_question has a choice after {letter}, but no {letter}: {text[:60]!r}")
            continue
        found.insert(0, text[marks[-1].end() : ends].strip(" \t\r\n;,("))
        ends = marks[-1].start()
    if len(found) < 2:
        raise UnusableError(f"mc_question lists no choices A: ... B: ...: {text[:60]!r}")
    return re.sub(r"\s*(?:Choices|Options)\s*:?\s*$", "", text[:ends].strip().rstrip(" (")), tuple(found)


def _question_file(request: SourceRequest) -> Path:
    if request.source.is_file():
        return request.source
    places = [request.base / "benchmark", request.base]
    found = [place / name for place in places for name in QUESTION_FILES if (place / name).is_file()]
    if not found:
        expected = "neither benchmark/test_qa.json nor test_qa.jsonl in it"
        raise InputError(f"{request.source}: {expected}; point at the folder DeepTumorVQA_2.0")
    return found[0]


def _items(listed: Path) -> list[tuple[int, Any]]:
    """(line, question) of either form."""
    if listed.suffix == ".jsonl":
        return list(json_items(listed))
    text = listed.read_bytes()[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"["):
        return list(json_items(listed))
    return [(line, item) for key, line, item in json_lists(listed, only_lists=False) if key == "questions"]


def _checked(item: Any) -> dict[str, str]:
    """The question's fields as texts; raises UnusableError."""
    if not isinstance(item, dict):
        raise UnusableError(f"found {str(item)[:60]!r}, expected a question with qid, image_id, ...")
    missing = [name for name in NEEDED if item.get(name) is None or not str(item[name]).strip()]
    if missing:
        raise UnusableError(f"no {missing[0]!r} in the question {str(item.get('qid', ''))!r}")
    fields = {name: str(item[name]).strip() for name in NEEDED}
    if fields["question_type"].lower() not in TYPES:
        raise UnusableError(f"question_type is {fields['question_type']!r}, expected one of {', '.join(TYPES)}")
    return fields


def _conversations(fields: dict[str, str]) -> list[Conversation]:
    """The question with its choices, then without; raises UnusableError."""
    topic = fields["question_type"].lower() + SEPARATOR + fields["question_subtype"]
    asked, choices = split_choices(fields["mc_question"])
    letter = fields["correct_option"].upper()
    if letter not in FOUR_LETTERS[: len(choices)] or len(letter) != 1:
        raise UnusableError(f"correct_option is {letter!r}, expected one of {', '.join(FOUR_LETTERS[: len(choices)])}")
    closed = closed_conversation(
        fields["qid"] + CLOSED,
        topic=topic,
        question=asked or fields["question"],
        choices=choices,
        answer=choices[FOUR_LETTERS.index(letter)],
        letter=letter,
    )
    return [
        closed,
        Conversation(
            id=fields["qid"] + OPEN, task="open", topic=topic, question=fields["question"], answer=fields["answer"]
        ),
    ]


def _volume(name: str, listed: Path, request: SourceRequest) -> Path | None:
    roots = [*([request.volumes] if request.volumes else []), listed.parent / "ct", listed.parent]
    return next((path for root in roots if (path := root / name / "ct.nii.gz").is_file()), None)
