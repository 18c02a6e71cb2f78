"""The Python of docs/how-to/folders.md reads what `slicesight ask FOLDER` writes."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from slicesight.reports.answer_table.columns import COLUMNS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "how-to" / "folders.md"


def test_the_python_of_the_page_counts_the_answers_that_are_sure(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names = list(COLUMNS)
    assert {"abstained", "confidence"} <= set(names)
    rows = [("false", "0.93"), ("false", "0.41"), ("true", ""), ("false", "")]
    with (tmp_path / "answers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({**dict.fromkeys(names, ""), "abstained": held, "confidence": sure} for held, sure in rows)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == "4 rows, 1 of them sure\n"
