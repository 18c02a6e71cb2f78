"""What does a row of the table of answers hold, and how is it written as CSV, JSON Lines or Parquet?

A row is one question of one scan. Lists (`scores`, `heaviest_slices`, `position_mm`) are JSON text in a CSV. The file
appears whole, in the order of scans and questions.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slicesight.errors import InputError
from slicesight.files import checked_place, replacing
from slicesight.inference.answers import Answer

COLUMNS: dict[str, str] = {
    "scan": "text",
    "series": "text",
    "id": "text",
    "question": "text",
    "choices": "texts",
    "answer": "text",
    "choice": "text",
    "confidence": "number",
    "confidence_note": "text",
    "abstained": "flag",
    "abstained_reason": "text",
    "would_say": "text",
    "doubts": "text",
    "evidence": "text",
    "evidence_summary": "text",
    "heaviest_slices": "wholes",
    "position_mm": "numbers",
    "heaviest_score": "number",
    "scores": "numbers",
    "notes": "text",
    "model": "text",
    "report": "text",
    "thumbnail": "text",
    "seconds": "number",
    "error": "text",
}
"""Every column and what is in it; a cell of which nothing is known is empty, null in JSON and Parquet."""
ENDINGS = (".csv", ".jsonl", ".parquet")


def cells_of(answer: Answer) -> dict[str, Any]:
    """What an answer says, by column."""
    from slicesight.reports.evidence import ABSTAINED, describe_answer, doubts_about

    heaviest = answer.slices[0] if answer.slices else None
    return {
        "answer": answer.text,
        "choice": answer.choice,
        "confidence": answer.confidence,
        "confidence_note": answer.confidence_note,
        "abstained": answer.abstained is not None,
        "abstained_reason": None if answer.abstained is None else ABSTAINED[answer.abstained],
        "would_say": answer.would_say,
        "doubts": " ".join(doubts_about(answer)) or None,
        "evidence": answer.evidence,
        "evidence_summary": describe_answer(answer),
        "heaviest_slices": None if heaviest is None else list(heaviest.source_slices),
        "position_mm": None if heaviest is None or heaviest.position_mm is None else list(heaviest.position_mm),
        "heaviest_score": None if heaviest is None else heaviest.score,
        "scores": list(answer.scores) or None,
    }


def check_table(path: Path) -> None:
    """Refuse a table that could not be written in the end.

    Raises:
        InputError: another ending, no such folder, or Parquet without pyarrow.
    """
    if path.suffix not in ENDINGS:
        raise InputError(f"{path}: a table of answers ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}; rename it")
    checked_place(path)
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise InputError(f"{path}: Parquet needs pyarrow: pip install 'slicesight[prepare]', or name a .csv")


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows in the format that the ending names; every row has every column."""
    whole = [{name: row.get(name) for name in COLUMNS} for row in rows]
    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            _write_parquet(temporary, whole)
        elif path.suffix == ".jsonl":
            lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in whole)
            with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(lines)
        else:
            with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows({name: _as_text(value) for name, value in row.items()} for row in whole)


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple) else value


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "text": pa.string(),
        "texts": pa.list_(pa.string()),
        "number": pa.float64(),
        "numbers": pa.list_(pa.float64()),
        "whole": pa.int64(),
        "wholes": pa.list_(pa.int64()),
        "flag": pa.bool_(),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    printable = [{name: _printable(value) for name, value in row.items()} for row in rows]
    pq.write_table(pa.Table.from_pylist(printable, schema=schema), path, compression="zstd")


def _printable(value: Any) -> Any:
    """Text without the surrogates that stand for bytes of a broken file name."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
