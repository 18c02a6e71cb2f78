"""On which line of its file does this row or item stand? CSV and JSON read so that an error can name the place."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from slicesight.errors import InputError

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def read_text(path: Path, *, name: str | None = None) -> str:
    """A UTF-8 text, with or without byte order mark, called `name` in the InputError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name or path.name}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check path and permissions") from None


def csv_columns(path: Path) -> list[str]:
    """The header of a CSV file; empty where there is none."""
    with _opened_csv(path) as lines:
        try:
            return [name.strip() for name in next(csv.reader(lines), [])]
        except (csv.Error, UnicodeDecodeError):
            return []


def csv_rows(path: Path, *, needed: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str] | None]]:
    """(line on which the row begins, row by column); None where the row has not as many cells as the header.

    Raises:
        InputError: a needed column is not there, or the file is not CSV in UTF-8.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # reports outgrow the module's 128 KiB
    with _opened_csv(path) as lines:
        rows = csv.reader(lines, strict=True)
        try:
            columns = [name.strip() for name in next(rows, [])]
            missing = [name for name in needed if name not in columns]
            if missing:
                found = ", ".join(columns) or "nothing"
                expected = f"expected {', '.join(needed)}"
                raise InputError(f"{path.name} line 1: no column {missing[0]!r} among {found}; {expected}")
            first_line = rows.line_num + 1
            for cells in rows:
                if cells:
                    yield first_line, dict(zip(columns, cells, strict=True)) if len(cells) == len(columns) else None
                first_line = rows.line_num + 1
        except csv.Error as error:
            raise InputError(f"{path.name} line {rows.line_num}: {error}; save the table as CSV again") from None
        except UnicodeDecodeError as error:
            found = f"{path.name} after line {rows.line_num}: a byte is not UTF-8 ({error.reason})"
            raise InputError(f"{found}; save it as UTF-8") from None


def json_items(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, item) of a JSON list, or of JSON Lines (InputError: not JSON, or neither of the two)."""
    text = _Json(path)
    if text.take("["):
        yield from text.items()
    elif path.suffix == ".jsonl" and text.rest.startswith("{"):
        while text.rest:
            yield text.line, text.value()
    else:
        raise InputError(f"{path.name}: expected a JSON list of items, found {text.rest!r}")


def json_lists(path: Path, *, only_lists: bool = True) -> Iterator[tuple[str, int, Any]]:
    """(key, line, item) of a JSON object of lists (InputError: not JSON, or of another shape).

    only_lists: whether a value that is no list, such as a version beside the lists, is an error; else passed over.
    """
    text = _Json(path)
    if not text.take("{"):
        raise InputError(f'{path.name}: expected {{"train": [...], ...}}, found {text.rest!r}')
    is_done = text.take("}")
    while not is_done:
        key = text.value()
        if not text.take(":"):
            raise text.refusal(f"expected ':' after {key!r}; the JSON is damaged")
        if text.take("["):
            for line, item in text.items():
                yield key, line, item
        elif only_lists:
            raise text.refusal(f"{key!r} should hold a list of images and texts")
        else:
            text.value()
        is_done = text.take("}")
        if not is_done and not text.take(","):
            raise text.refusal("the JSON object does not end here as it should")


class _Json:
    """A JSON text and the place up to which it has been read."""

    def __init__(self, path: Path) -> None:
        self.name, self.text, self.place = path.name, read_text(path), 0
        self._line, self._counted = 1, 0
        self.take("")

    @property
    def line(self) -> int:
        self._line += self.text.count("\n", self._counted, self.place)
        self._counted = self.place
        return self._line

    @property
    def rest(self) -> str:
        """The next 20 characters."""
        return self.text[self.place : self.place + 20]

    def take(self, mark: str) -> bool:
        """Step over the mark, if it comes next, and the space behind it."""
        is_next = self.text.startswith(mark, self.place)
        if is_next:
            space = _SPACE.match(self.text, self.place + len(mark))
            self.place = space.end() if space else self.place
        return is_next

    def value(self) -> Any:
        try:
            value, self.place = _DECODER.raw_decode(self.text, self.place)
        except json.JSONDecodeError as error:
            raise InputError(f"{self.name} line {error.lineno}: {error.msg}; the JSON is damaged") from None
        except RecursionError:
            raise self.refusal("nested too deep; the JSON is damaged") from None
        self.take("")
        return value

    def items(self) -> Iterator[tuple[int, Any]]:
        """(line, item) of the list that has been opened."""
        is_done = self.take("]")
        while not is_done:
            yield self.line, self.value()
            is_done = self.take("]")
            if not is_done and not self.take(","):
                raise self.refusal("expected ',' or ']'; the JSON is cut off or damaged")

    def refusal(self, reason: str) -> InputError:
        return InputError(f"{self.name} line {self.line}: {reason}")


def _opened_csv(path: Path) -> IO[str]:
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check path and permissions") from None
