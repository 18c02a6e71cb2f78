"""What is known of each scan from earlier runs, so that an unchanged one is not read again?

DIR/volumes/journal.jsonl: one line per prepared scan, added when the shard that holds it is complete. A line half
written by a killed run is left out; without the journal everything is prepared again, nothing is wrong.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from slicesight.files import write_text

NAME = "journal.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalEntry:
    """One scan: its files by size and time, their content, and what the settings asked for became."""

    id: str
    files: str
    content: str
    asked_window: str
    acquired: str
    settings: dict[str, Any]


def read_journal(folder: Path) -> dict[str, JournalEntry]:
    """The last line of every case."""
    path = folder / NAME
    if not path.is_file():
        return {}
    known: dict[str, JournalEntry] = {}
    shared: dict[str, dict[str, Any]] = {}  # thousands of scans have the same settings
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            try:
                entry = JournalEntry(**json.loads(line))
            except (json.JSONDecodeError, TypeError):
                continue
            settings = shared.setdefault(json.dumps(entry.settings), entry.settings)
            known[entry.id] = replace(entry, settings=settings)
    return known


def add_to_journal(folder: Path, entries: Iterable[JournalEntry]) -> None:
    """Append lines and see them on disk."""
    text = "".join(_line(entry) for entry in entries)
    if not text:
        return
    path = folder / NAME
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":  # a killed run's half line
                text = "\n" + text
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def write_journal(folder: Path, entries: Iterable[JournalEntry]) -> None:
    """Replace the journal by these lines, unless it holds just them."""
    text = "".join(_line(entry) for entry in entries)
    path = folder / NAME
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_text(path, text=text)


def _line(entry: JournalEntry) -> str:
    return json.dumps(asdict(entry), ensure_ascii=False) + "\n"
