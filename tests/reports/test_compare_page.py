"""The page that compares systems: whose number is whose, what is tested, where the slices are from, and no address."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

import slicesight
from json_checks import documented
from slicesight import cli
from slicesight.cli.measure import run_compare, run_evaluate
from slicesight.cli.scoring import CompareOptions, EvaluateOptions
from slicesight.errors import InputError
from slicesight.evaluation.comparing import best_of, compare_files
from slicesight.reports.compare_html import TILE, render_comparison

FOUR = ("liver", "spleen", "left kidney", "pancreas")


def line(number: int, said: str, *, volume: str, task: str = "closed", true: int = 1, **fields) -> str:
    row = {"id": f"{volume}/{number}", "task": task, "topic": "organ", "question": f"Which organ <{number}>?",
           "prediction": said, "answer": FOUR[true], "volume": volume}  # fmt: skip
    closed = {"choices": FOUR, "answer_choice": "ABCD"[true]} if task == "closed" else {}
    return json.dumps({**row, **closed, **fields}) + "\n"


@pytest.fixture
def write(tmp_path):
    """A file of `volumes` scans with four questions each, of which the first `right` are right."""

    def call(name: str, right: int, *, volumes: int = 8, **fields) -> str:
        lines = [
            line(n, "B. spleen" if n < right else "A. liver", volume=f"v{volume}", **fields)
            for volume in range(volumes)
            for n in range(4)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        return f"{name}={tmp_path / name}.jsonl"

    return call


def embedded(page: str, name: str):
    """A value of the page's script."""
    found = re.search(rf"[ ,]{name} = (.*?)(?:, \w+ = |;\n)", page)
    assert found
    return json.loads(found.group(1))


def test_every_number_of_the_leaderboard_is_the_systems_own(write):
    comparison = compare_files([write("good", 4), write("fair", 3), write("bad", 0)])
    rows = embedded(render_comparison(comparison, num_cases=0), "board")
    assert {row["name"]: row["cells"]["all questions"]["closed.accuracy"][:2] for row in rows} == {
        "good": ["100.00", 100.0], "fair": ["75.00", 75.0], "bad": ["0.00", 0.0],
    }  # fmt: skip
    assert rows[0]["cells"]["organ"]["closed.accuracy"][0] == "100.00"
    assert [row["best"] for row in rows] == [["closed"], [], []]


def test_tests_are_paired_by_scan_and_corrected_over_the_page(write):
    comparison = compare_files([write("good", 4), write("fair", 3), write("alike", 3)])
    found = {(test["first"], test["second"]): test for test in comparison.tests}
    assert len(found) == 3
    assert found["good", "fair"]["difference"] == pytest.approx(0.25)
    assert found["good", "fair"]["p_holm"] == pytest.approx(min(1, 3 * found["good", "fair"]["p"]))
    assert best_of(comparison, "closed") == ("good", set())
    page = render_comparison(comparison, num_cases=0)
    assert "<b>good is better</b>" in page
    assert "may be chance" in page
    assert "Too few scans" not in page


def test_too_few_scans_to_show_any_difference_are_called_so(write):
    page = render_comparison(compare_files([write("a", 4, volumes=3), write("b", 0, volumes=3)]), num_cases=0)
    assert "the smallest p that this table could show is 0.25" in page


def test_one_scan_has_no_interval_on_the_page_instead_of_one_without_width(write):
    page = render_comparison(compare_files([write("a", 4, volumes=1), write("b", 2, volumes=1)]), num_cases=0)
    assert embedded(page, "noInterval") == "one scan: no interval"
    rows = embedded(page, "board")
    assert [row["cells"]["all questions"]["closed.accuracy"][2:] for row in rows] == [[None, None]] * 2
    assert "<td>+50.0<small>one scan: no interval</small></td>" in page
    assert "about 1 scan</h1>" in page
    assert 'viewBox="-52.5 0 105.0 10"' in page, "the difference itself lies beyond the picture"


def test_questions_that_only_some_answered_are_counted_and_named(write, tmp_path):
    arguments = [write("whole", 4), write("part", 3, volumes=5)]
    comparison = compare_files(arguments)
    assert (len(comparison.shared), comparison.is_one_test) == (20, False)
    assert "did not answer the same questions (whole 32, part 20; 20 in common)" in render_comparison(
        comparison, num_cases=0
    )


def test_two_files_with_different_truths_are_refused_with_both_places(write, tmp_path):
    one, other = write("one", 4), write("other", 4)
    path = tmp_path / "other.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], line(1, "B. spleen", volume="v0", true=2), *lines[2:]]))
    with pytest.raises(InputError, match=r"other: other\.jsonl line 2: the true answer of 'v0/1' is 'c', in one: one"):
        compare_files([one, other])


def test_one_system_is_nothing_to_compare(write):
    with pytest.raises(InputError, match="one system; name two or more"):
        compare_files([write("alone", 1)])


def test_texts_of_answers_are_text_on_the_page_and_nothing_is_asked_elsewhere(write):
    evil = "<script>alert(1)</script></style>"
    comparison = compare_files([write("a", 4, prediction=evil), write("b", 1, question="x</script>")])
    page = render_comparison(comparison, num_cases=2)
    assert evil not in page
    assert page.count("</script>") == 1
    assert not re.search(r"(?:src|href|url\()\s*=?[\"'(]?(?:https?:)?//", page)
    assert "default-src 'none'" in page


@pytest.fixture(scope="module")
def runs(tiny_model_folder, tmp_path_factory) -> list[Path]:
    """Two runs of the tiny model on two phantoms, the second with other answers and other slice scores."""
    root = tmp_path_factory.mktemp("runs")
    folders = [root / "one", root / "two"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slicesight.evaluation.predict.MAX_NEW_TOKENS", 4)
        run_evaluate(
            EvaluateOptions(
                data="phantoms:9000:2", out=folders[0], model=str(tiny_model_folder), controls=False, figures=0
            ),
            load=slicesight.load,
        )
    folders[1].mkdir()
    (folders[1] / "sheet.json").write_text((folders[0] / "sheet.json").read_text())
    rows = [json.loads(one) for one in (folders[0] / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        row["prediction"] = f"{row['answer_choice']}. {row['answer']}" if row.get("answer_choice") else row["answer"]
        row["scores"] = row["scores"][::-1]
    (folders[1] / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folders


def test_the_worst_scans_show_the_slices_each_system_points_at(runs):
    comparison = compare_files([f"one={runs[0]}", f"two={runs[1]}"])
    page = render_comparison(comparison, num_cases=1)
    assert page.count('<article class="case">') == 1
    assert page.count("background-image: url(data:image/jpeg;base64,") == 1, "one picture of the scan for both"
    first, second = comparison.shared[0].rows
    for row in (first, second):
        heaviest = max(range(len(row.scores)), key=row.scores.__getitem__)
        assert f"slice {heaviest}, {100 * row.scores[heaviest]:.0f} %" in page
    places = {int(number) for number in re.findall(r"background-position:-(\d+)px", page)}
    assert places <= {TILE * column for column in range(8)}
    assert "No slices of" not in page


def test_scans_that_are_gone_are_said_to_be_and_the_page_stands_without_them(runs, tmp_path):
    sheet = json.loads((runs[0] / "sheet.json").read_text())
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "predictions.jsonl").write_text((runs[0] / "predictions.jsonl").read_text())
    (moved / "sheet.json").write_text(json.dumps({**sheet, "data": {"source": str(tmp_path / "gone")}}))
    arguments = [f"moved={moved}", f"file={runs[1] / 'predictions.jsonl'}"]
    page = render_comparison(compare_files(arguments), num_cases=1)
    assert "No slices of moved: its scans are not where they were" in page
    found = render_comparison(compare_files(arguments), num_cases=1, data="phantoms:9000:2")
    assert "No slices of moved" not in found
    with pytest.raises(InputError, match="no manifest there"):
        render_comparison(compare_files(arguments), num_cases=1, data=str(tmp_path / "gone"))


def test_the_verb_writes_the_page_and_json_and_shows_the_tests(runs, tmp_path, capsys):
    page, sheet = tmp_path / "c.html", tmp_path / "c.json"
    run_compare(CompareOptions(runs=[f"one={runs[0]}", f"two={runs[1]}"], html=page, json=sheet, cases=0))
    document = documented("compare", sheet.read_text())
    assert [one["system"] for one in document["systems"]] == ["one", "two"]
    assert {test["metric"] for test in document["comparisons"]} == {"rouge1", "accuracy"}
    assert document["benchmark"] is None
    assert "one, two: compared on 22 questions about 2 scans" in page.read_text()
    assert "paired by volume" in capsys.readouterr().out


def test_a_users_mistake_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["slicesight", "compare", str(tmp_path / "no.jsonl"), "--html", "c.html"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "no such file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
