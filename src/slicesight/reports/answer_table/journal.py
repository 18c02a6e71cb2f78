"""Which scans have been asked what, so that no question is asked twice and no answer is lost?

FOLDER/journal.jsonl gets a line for every place a scan was found at and one for every scan that was asked, on disk
before anything else is written; a line cut short by a kill is passed over, and its scan is asked again. A scan is known
by the content of its files: a copy, a move or a new name is the same scan. FOLDER/run.json says who answers and how;
answers of two models, or of one with other settings, are never mixed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slicesight.data.fingerprints import content_digest, series_digest
from slicesight.errors import InputError
from slicesight.files import append_lines, write_text
from slicesight.io.scan_tree import FoundScan
from slicesight.reports.answer_table.asking import AskOutcome, AskSettings

FORMAT = 1
JOURNAL, RUN = "journal.jsonl", "run.json"
Place = tuple[str, str]
"""A scan's path from the folder, and its series."""


class AnswerJournal:
    """What a folder of answers knows.

    cells: {content: {prompt: cells of its row}}; errors: the same of prompts that were refused. bad: {content: why it
    cannot be asked}, faults: {content: traceback}. places: {place: content}, in the order they were found.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / JOURNAL
        self.cells: dict[str, dict[str, dict[str, Any]]] = {}
        self.errors: dict[str, dict[str, str]] = {}
        self.bad: dict[str, str] = {}
        self.faults: dict[str, str] = {}
        self.places: dict[Place, str] = {}
        self._content_of_stamp: dict[str, str] = {}
        for line in _whole_lines(self.path):
            self._take(line)

    def check_run(self, model: dict[str, Any], settings: AskSettings) -> None:
        """Begin with this model and these settings, or go on with them.

        Raises:
            InputError: the folder was begun with others, or holds what no run has written.
        """
        stated = {"format": FORMAT, "model": model["name"], "digest": model["digest"], **settings.decisive()}
        path = self.folder / RUN
        if not path.exists():
            write_text(path, text=json.dumps({**stated, "warnings": model["warnings"]}, indent=1) + "\n")
            return
        known = json.loads(path.read_text(encoding="utf-8"))
        for name, value in json.loads(json.dumps(stated)).items():
            if known.get(name) != value:
                what = "other weights or settings of the model" if name == "digest" else f"{name} {known.get(name)!r}"
                now = "" if name == "digest" else f", now it is {value!r}"
                raise InputError(f"{self.folder}: was begun with {what}{now}; name another --out, or remove it")

    def content_of(self, scan: FoundScan) -> str:
        """The digest of what the scan's files hold, read only where they may have changed; notes where it lies."""
        content = self._content_of_stamp.get(scan.stamp)
        if content is None:
            try:
                content = series_digest(scan.files) if scan.series or scan.problem else content_digest(scan.path)
            except OSError:
                content = f"unreadable {scan.stamp}"
        if self.places.get(scan.key) != content or scan.stamp not in self._content_of_stamp:
            self._add({"scan": scan.name, "series": scan.series, "stamp": scan.stamp, "content": content})
        return content

    def keep(self, content: str, outcome: AskOutcome) -> None:
        """Write down what came of asking the scan of this content."""
        found = {"cells": outcome.cells, "errors": outcome.errors, "bad": outcome.error, "fault": outcome.fault}
        self._add({"content": content, **{name: value for name, value in found.items() if value}})

    def is_answered(self, content: str, prompt: str, *, retry: bool) -> bool:
        """Whether nothing is left to ask; with `retry`, what was refused is asked again."""
        if prompt in self.cells.get(content, {}):
            return True
        return not retry and (content in self.bad or prompt in self.errors.get(content, {}))

    def _add(self, line: dict[str, Any]) -> None:
        append_lines(self.path, [json.dumps(line, ensure_ascii=True, allow_nan=False)])
        self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        content = line["content"]
        if "stamp" in line:
            self._content_of_stamp[line["stamp"]] = content
            self.places[line["scan"], line["series"]] = content
            return
        self.cells.setdefault(content, {}).update(line.get("cells", {}))
        self.errors.setdefault(content, {}).update(line.get("errors", {}))
        for prompt in line.get("cells", {}):
            self.errors[content].pop(prompt, None)
        for told, name in ((self.bad, "bad"), (self.faults, "fault")):
            told.pop(content, None)
            if name in line:
                told[content] = line[name]


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else than answers of an earlier run.

    Raises:
        InputError: a file stands there, or others' files lie there.
    """
    if folder.is_file():
        raise InputError(f"{folder}: is a file, where the pages beside the table would go; name another --out")
    if folder.is_dir() and not (folder / RUN).is_file():
        others = sorted(
            file.name for file in folder.iterdir() if not file.name.startswith(".") and file.name != JOURNAL
        )
        if others:
            found = f"holds {others[0]!r}, which no run of slicesight has written"
            raise InputError(f"{folder}: {found}; name another --out")


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            try:
                found = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut short by a kill
            if isinstance(found, dict) and "content" in found:
                yield found
