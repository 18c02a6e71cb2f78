"""Words that every layout shares: split names, drawn wordings, lines of tables."""

from __future__ import annotations

from collections import Counter

import pytest

from slicesight.data.sources.intake import REPORT_QUESTIONS, report_conversation, split_of
from slicesight.data.sources.places import folded
from slicesight.data.sources.tables import csv_rows, json_items


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("M3D_VQA_yn_train", "train"),
        ("validation", "val"),
        ("valid_choice", "val"),
        ("M3D_VQA_test5k", "test"),
        ("test1k", "test"),
        ("contest", None),
        ("train_and_test", None),
        ("all", None),
    ],
)
def test_split_names(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_report_questions_vary_by_case_and_never_by_run() -> None:
    asked = [report_conversation(f"case {number}", "text").question for number in range(400)]
    assert asked == [report_conversation(f"case {number}", "text").question for number in range(400)]
    assert set(asked) == set(REPORT_QUESTIONS)
    assert min(Counter(asked).values()) > 60


@pytest.mark.parametrize("name", ["Straße", "STRASSE", "strasse", "Strasse_", "stra sse"])
def test_names_are_compared_by_letters_and_digits(name: str) -> None:
    assert folded(name) == "strasse"
    assert folded("Ø_1") == "o1" != folded("o2")


def test_lines_of_rows_and_items_are_those_an_editor_shows(tmp_path) -> None:
    table = tmp_path / "a.csv"
    table.write_bytes('\ufeffa,b\r\n1,"two\r\nlines"\r\n\r\n3,4\r\n'.encode())
    assert list(csv_rows(table)) == [(2, {"a": "1", "b": "two\r\nlines"}), (5, {"a": "3", "b": "4"})]
    items = tmp_path / "a.json"
    items.write_text('\n[ {"a":\n1}, 2,\n\n\n[3\n], "x"]')
    assert list(json_items(items)) == [(2, {"a": 1}), (3, 2), (6, [3]), (7, "x")]
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"a": 1}\n\n{"b": "\\n"}\n')
    assert list(json_items(lines)) == [(1, {"a": 1}), (3, {"b": "\n"})]


def test_a_cell_may_be_longer_than_the_csv_modules_limit(tmp_path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("a\n" + "x" * 200_000 + "\n")
    assert len(next(csv_rows(table))[1]["a"]) == 200_000
