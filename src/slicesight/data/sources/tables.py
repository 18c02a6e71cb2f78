"""On which line of its file does this row or item stand? CSV and JSON read so that an error can name the place."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from slicesight.errors import InputError

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def read_text(path: Path) -> str:
    """A UTF-8 text, with or without byte order mark.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
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
                raise InputError(
                    f"{path.name} line 1: no column {missing[0]!r} among {found}; expected {', '.join(needed)}"
                )
            first_line = rows.line_num + 1
            for cells in rows:
                if cells:
                    yield first_line, dict(zip(columns, cells, strict=True)) if len(cells) == len(columns) else None
                first_line = rows.line_num + 1
        except csv.Error as error:
            raise InputError(f"{path.name} line {rows.line_num}: {error}; save the table as CSV again") from None
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path.name} after line {rows.line_num}: a byte is not UTF-8 ({error.reason}); save it as UTF-8"
            ) from None


def json_items(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, item) of a JSON list, or of JSON Lines.

    Raises:
        InputError: not JSON, or neither of the two.
    """
    text = read_text(path)
    start = _after_space(text, 0)
    if text[start : start + 1] == "[":
        yield from _items(path.name, text, start)
    elif text[start : start + 1] == "{" and path.suffix == ".jsonl":
        line = _line(text, start)
        while start < len(text):
            value, end = _value(path.name, text, start)
            yield line, value
            line += text.count("\n", start, end := _after_space(text, end))
            start = end
    else:
        raise InputError(f"{path.name}: expected a JSON list of items, found {text[start : start + 20]!r}")


def json_lists(path: Path) -> Iterator[tuple[str, int, Any]]:
    """(key, line, item) of a JSON object of lists.

    Raises:
        InputError: not JSON, or of another shape.
    """
    text = read_text(path)
    place = _after_space(text, 0)
    if text[place : place + 1] != "{":
        raise InputError(f'{path.name}: expected {{"train": [...], ...}}, found {text[place : place + 20]!r}')
    place = _after_space(text, place + 1)
    while text[place : place + 1] == '"':
        key, place = _value(path.name, text, place)
        place = _after_space(text, place)
        if text[place : place + 1] != ":":
            raise InputError(f"{path.name} line {_line(text, place)}: expected ':' after {key!r}; the JSON is damaged")
        place = _after_space(text, place + 1)
        if text[place : place + 1] != "[":
            raise InputError(f"{path.name} line {_line(text, place)}: {key!r} should hold a list of images and texts")
        items = _items(path.name, text, place)
        while True:
            try:
                line, item = next(items)
            except StopIteration as finished:
                place = _after_space(text, finished.value)
                break
            yield key, line, item
        if text[place : place + 1] != ",":
            break
        place = _after_space(text, place + 1)
    if text[place : place + 1] != "}":
        raise InputError(f"{path.name} line {_line(text, place)}: the JSON object does not end here as it should")


def _items(name: str, text: str, start: int) -> Generator[tuple[int, Any], None, int]:
    """The items of the list that opens at `start`; returns the place after it."""
    place = _after_space(text, start + 1)
    line, counted = _line(text, place), place
    if text[place : place + 1] == "]":
        return place + 1
    while True:
        value, end = _value(name, text, place)
        yield line, value
        place = _after_space(text, end)
        mark = text[place : place + 1]
        if mark == "]":
            return place + 1
        if mark != ",":
            raise InputError(f"{name} line {_line(text, place)}: expected ',' or ']'; the JSON is cut off or damaged")
        place = _after_space(text, place + 1)
        line += text.count("\n", counted, place)
        counted = place


def _value(name: str, text: str, place: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, place)
    except json.JSONDecodeError as error:
        raise InputError(f"{name} line {error.lineno}: {error.msg}; the JSON is damaged") from None
    except RecursionError:
        raise InputError(f"{name} line {_line(text, place)}: nested too deep; the JSON is damaged") from None


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    assert found is not None
    return found.end()


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _opened_csv(path: Path) -> IO[str]:
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check path and permissions") from None
