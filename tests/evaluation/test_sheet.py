"""A sheet holds every average with its interval, unrounded, and the reason for everything it cannot give."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from json_checks import documented
from slicesight import cli
from slicesight.evaluation.external import read_predictions
from slicesight.evaluation.predictions import Prediction, PredictionFile
from slicesight.evaluation.report_labels import LabelOptions
from slicesight.evaluation.sheet import compare_systems, make_sheet, score_file
from slicesight.reports.score_tables import percent
from slicesight.reports.selective_tables import selective_rows


@pytest.fixture
def run(capsys, monkeypatch, tmp_path, nltk_data):
    """Run the command line in this process -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["slicesight", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return call


def test_micro_is_the_mean_over_questions_and_macro_over_topics(predictions_file, nltk_data):
    scored = score_file(read_predictions(predictions_file("a.jsonl", 0.7)))
    sheet = make_sheet(scored, system="a")
    by_topic = sheet["open"]["by_topic"]
    rows = [row for row in scored.rows if row.task == "open"]
    right = np.array([row.prediction == row.answer for row in rows])
    assert sheet["open"]["micro"]["rouge1"] == right.mean()
    assert sheet["open"]["macro"]["rouge1"] == pytest.approx(np.mean([by_topic[t]["rouge1"] for t in by_topic]))
    assert sheet["open"]["num_empty"] == (~right).sum()
    low, high = sheet["open"]["ci95"]["micro"]["rouge1"]
    assert low < right.mean() < high
    assert set(sheet["open"]["ci95"]["by_topic"]) == {"plane", "phase", "organ"}
    assert sheet["report"] is None
    assert sheet["missing"]["report"] == "the file holds no report questions"


def intervals_of(part, path=()):
    """Every interval of nested dicts with where it stands."""
    for key, inner in part.items() if isinstance(part, dict) else ():
        if isinstance(inner, list) and len(inner) == 2 and any(str(one).endswith("ci95") for one in (*path, key)):
            yield (*path, key), inner
        yield from intervals_of(inner, (*path, key))


def rows_about(*volumes: str) -> list[Prediction]:
    """Questions of every kind with scores and a confidence, two of each about a scan, one right; a topic per scan."""
    found = []
    for volume in volumes:
        for number, said in enumerate(("liver", "spleen")):
            one = {
                "volume": volume,
                "scores": (0.5, 0.3, 0.2),
                "true_slices": (number,),
                "confidence": 0.4 + number / 4,
            }
            closed = {"choices": ("liver", "spleen"), "answer_choice": "A"}
            of = {"id": f"{volume}{number}", "question": "?", "answer": "liver", "prediction": said, **one}
            found.append(Prediction(task="closed", topic=f"topic {volume}", **closed, **of))
            found.append(Prediction(task="open", topic="shared", **{**of, "id": f"{volume}{number}o"}))
        report = {"answer": "Lymphadenopathy. No pleural effusion.", "prediction": "Lymphadenopathy."}
        found.append(Prediction(id=f"{volume}r", task="report", topic="report", question="?", volume=volume, **report))
    return found


def test_one_scan_has_no_interval_anywhere_and_the_sheet_says_so(nltk_data):
    scored = score_file(PredictionFile(rows=tuple(rows_about("a")), format="jsonl"))
    sheet = make_sheet(scored, system="a", labels=LabelOptions(said="rules"))
    assert sheet["missing"]["ci95"] == "one scan: no interval"
    assert (sheet["report"]["micro"]["cider"], sheet["report"]["micro"]["rougel"] > 0) == (None, True)
    assert sheet["missing"]["report.cider"].startswith("one text alone: CIDEr weighs words by how rare they are")
    assert sheet["selective"]["closed"]["aurc"]["value"] > 0
    assert sheet["clinical"]["crg"] is not None
    assert not list(intervals_of(sheet))
    assert {row[2] for row in selective_rows(sheet["selective"]["closed"])} == {"one scan: no interval"}


def test_a_topic_that_only_one_scan_is_asked_about_has_no_interval(nltk_data):
    sheet = _sheet_of(*rows_about("a", "b", "c"))
    assert "ci95" not in sheet["missing"]
    closed = sheet["closed"]["ci95"]
    assert [closed["by_topic"][f"topic {name}"]["accuracy"] for name in "abc"] == [None] * 3
    assert sheet["open"]["ci95"]["by_topic"]["shared"]["exact"] is not None
    assert closed["micro"]["accuracy"] is not None
    assert len(list(intervals_of(sheet))) > 20


def test_closed_questions_have_both_rules_and_every_outcome(predictions_file, nltk_data):
    part = make_sheet(score_file(read_predictions(predictions_file("a.jsonl", 0.7))), system="a")["closed"]
    assert part["micro"]["accuracy"] == part["micro"]["accuracy_legacy"]
    assert sum(part["outcomes"].values()) == part["num_pairs"] == 20


def test_what_a_peers_file_cannot_give_is_null_with_the_reason(run, peers):
    code, out, _ = run("score", peers / "eval_caption.csv", "--json", "-")
    sheet = documented("score", out)
    assert code == 0
    assert sheet["num_volumes"] is None
    assert sheet["report"]["ci95"] is None
    assert sheet["report"]["micro"]["bleu1"] == 0.5
    assert sheet["report"]["micro"]["bertscore_f1"] is None
    assert sheet["controls"] is None
    assert sheet["open"] is None
    for key in ("volume", "ci95", "bertscore_f1", "controls", "open", "closed", "evidence", "leaks"):
        assert sheet["missing"][key], key


def test_three_m3d_tables_are_one_line_of_the_table(run, peers):
    names = [peers / name for name in ("eval_caption.csv", "eval_close_vqa.csv", "eval_open_vqa.csv")]
    code, out, _ = run("score", *names)
    assert code == 0
    assert out.count("peers") >= 3
    assert "50.00" in out


def test_numbers_in_json_are_not_rounded(run, predictions_file):
    path = predictions_file("a.jsonl", 0.63, volumes=7)
    _, out, _ = run("score", path, "--json", "-")
    value = json.loads(out)["open"]["micro"]["rouge1"]
    assert value == score_file(read_predictions(path)).values["rouge1"][[0, 1, 2]].mean() or len(str(value)) > 6


def test_two_systems_are_compared_by_volume_with_correction(run, predictions_file):
    good, bad = predictions_file("good.jsonl", 0.95), predictions_file("bad.jsonl", 0.3, seed=1)
    code, out, _ = run("score", good, bad, "--json", "-")
    document = documented("score", out)
    assert code == 0
    assert [sheet["system"] for sheet in document["systems"]] == ["good", "bad"]
    entry = next(e for e in document["comparisons"] if (e["task"], e["metric"]) == ("open", "rouge1"))
    assert entry["difference"] > 0.3
    assert entry["ci95"][0] > 0
    assert entry["p"] <= entry["p_holm"] < 0.05
    assert entry["effect_size_d"] > 1
    assert entry["num_volumes"] == 20


def test_a_system_compared_with_itself_is_no_better(predictions_file, nltk_data):
    scored = score_file(read_predictions(predictions_file("a.jsonl", 0.7)))
    assert {entry["p_holm"] for entry in compare_systems({"a": [scored], "b": [scored]})} == {1.0}


def test_runs_of_one_name_are_seeds_of_one_system(run, predictions_file):
    first, second = predictions_file("s0.jsonl", 0.9), predictions_file("s1.jsonl", 0.7, seed=2)
    _, out, _ = run("score", f"ours={first}", f"ours={second}", "--json", "-")
    sheet = json.loads(out)
    each = [json.loads(run("score", path, "--json", "-")[1])["open"]["micro"]["rouge1"] for path in (first, second)]
    assert sheet["num_seeds"] == 2
    assert sheet["open"]["micro"]["rouge1"] == pytest.approx(np.mean(each))


def test_a_missing_file_is_one_line_and_exit_code_2(run):
    code, out, err = run("score", "nowhere.jsonl")
    assert (code, out) == (2, "")
    assert err.startswith("slicesight: nowhere.jsonl: no such file")
    assert err.count("\n") == 1


def test_json_to_a_file_is_written_and_named(run, predictions_file, tmp_path):
    code, out, err = run("score", predictions_file("a.jsonl", 0.7), "--json", "sheet.json")
    assert code == 0
    assert "exact" in out
    assert "wrote sheet.json" in err
    assert json.loads((tmp_path / "sheet.json").read_text())["system"] == "a"


def test_the_sheet_of_bertscore_names_its_model(run, predictions_file, tiny_bert):
    path = predictions_file("a.jsonl", 0.7, volumes=3)
    _, out, _ = run("score", path, "--json", "-", "--bertscore", tiny_bert)
    sheet = json.loads(out)
    assert sheet["metrics"]["bertscore_f1"]["model"] == str(tiny_bert)
    assert 0 <= sheet["open"]["micro"]["bertscore_f1"] <= 1


def test_percent_prints_as_the_papers_do():
    assert (percent(0.536349), percent(None), percent(0.0)) == ("53.63", "–", "0.00")


def _closed(number: int, **said: str) -> Prediction:
    return Prediction(
        id=str(number),
        task="closed",
        topic="phase",
        question="Which phase?",
        answer="venous",
        answer_choice="B",
        choices=("arterial", "venous"),
        volume=f"scan{number // 2}",
        **said,
    )


def _sheet_of(*rows: Prediction) -> dict:
    return make_sheet(score_file(PredictionFile(rows=rows, format="jsonl")), system="a")


def test_answers_held_to_the_choices_are_scored_beside_the_free_ones_which_keep_their_numbers():
    said = ("perhaps", "B. venous", "A. arterial", "who knows")
    held = ("B. venous", "B. venous", "A. arterial", "A. arterial")
    free = [_closed(number, prediction=text) for number, text in enumerate(said)]
    both = [row.model_copy(update={"choice": text}) for row, text in zip(free, held, strict=True)]
    before, after = _sheet_of(*free), _sheet_of(*both)
    assert after["closed"]["micro"]["accuracy_constrained"] == 0.5
    assert after["closed"]["micro"]["accuracy"] == before["closed"]["micro"]["accuracy"] == 0.25
    assert before["closed"]["micro"]["accuracy_constrained"] is None
    assert "accuracy_constrained" in before["missing"]
    assert "accuracy_constrained" not in after["missing"]
    half = _sheet_of(*both[:2], *free[2:])
    assert half["closed"]["micro"]["accuracy_constrained"] is None  # of half the questions it would be another number


def test_the_paired_tests_are_the_same_family_with_and_without_choices():
    free = [_closed(number, prediction="B. venous" if number % 3 else "?") for number in range(8)]
    other = [row.model_copy(update={"prediction": "A. arterial"}) for row in free]

    def compared(*, choice: str | None) -> list[dict]:
        files = ([row.model_copy(update={"choice": choice}) for row in rows] for rows in (free, other))
        runs = [[score_file(PredictionFile(rows=tuple(rows), format="jsonl"))] for rows in files]
        return compare_systems(dict(zip("ab", runs, strict=True)))

    assert compared(choice="B. venous") == compared(choice=None)


def test_json_says_which_schema_it_follows_and_is_ascii(run, predictions_file):
    first, second = predictions_file("a.jsonl", 0.7), predictions_file("b.jsonl", 0.9)
    for arguments in ((f"Größe={first}",), (f"Größe={first}", f"肝={second}")):
        code, out, _ = run("score", *arguments, "--json", "-")
        assert code == 0
        assert out.isascii()
        assert next(iter(json.loads(out).items())) == ("schema", 1)


def _told(number: int, task: str, said: str, answer: str) -> Prediction:
    return Prediction(
        id=str(number), task=task, topic="organ", question="?", prediction=said, answer=answer, volume=f"v{number // 2}"
    )


def test_a_report_behind_its_reasoning_scores_as_without_it_and_the_reasoning_is_counted(nltk_data):
    report = "The liver is large. No cyst is seen."
    bare = [_told(number, "report", report, report) for number in range(4)]
    said = (f"<think>A cyst? No.</think>{report}", f"First I look.</think>\n{report}", report, "<think>A cyst or")
    wrapped = [_told(number, "report", text, report) for number, text in enumerate(said)]
    before, after = _sheet_of(*bare)["report"], _sheet_of(*wrapped)["report"]
    assert before["micro"]["bleu1"] == 1.0
    assert after["micro"]["bleu1"] == 0.75, "the last never said anything"
    assert after["reasoning"] == {"num": 3, "num_unfinished": 1, "mean_words": 3.0}
    assert before["reasoning"]["num"] == 0


def test_every_way_of_answering_is_counted_with_both_rules(nltk_data):
    said = ("B", "B. venous", "The answer is B", "\\boxed{B}", '{"answer": "B"}', "<answer>A</answer>", "venous", "?")
    ways = _sheet_of(*(_closed(number, prediction=text) for number, text in enumerate(said)))["closed"]["ways"]
    assert {way: counts["num"] for way, counts in ways.items()} == {
        "alone": 1, "marked": 1, "declared": 1, "boxed": 1, "json": 1, "tag": 1, "words": 1, "none": 1,
    }  # fmt: skip
    assert sum(counts["num_right"] for counts in ways.values()) == 6
    assert {way for way, counts in ways.items() if counts["num_right_legacy"]} == {"marked"}


@pytest.mark.parametrize("task", ["open", "report"])
def test_a_line_without_a_true_answer_is_in_no_mean_and_the_sheet_says_so(task, nltk_data):
    rows = [_told(0, task, "spleen", "spleen"), _told(1, task, "liver", "spleen"), _told(2, task, "liver", "  ")]
    sheet = _sheet_of(*rows)
    assert sheet[task]["micro"]["exact"] == sheet[task]["macro"]["exact"] == 0.5
    assert sheet[task]["num_pairs"] == 3
    assert sheet[task]["num_without_answer"] == 1
    assert sheet["missing"][f"{task}.answer"].startswith(f"1 of 3 {task} lines have no true answer (the first is 2)")
    assert _sheet_of(*rows[:2])[task]["num_without_answer"] == 0
    nothing = _sheet_of(rows[2])
    assert nothing[task]["micro"]["exact"] is None
    assert nothing[task]["ci95"]["micro"]["exact"] is None


def test_a_line_without_a_true_answer_is_told_in_the_terminal(run, tmp_path):
    line = '{"id": "7", "task": "open", "topic": "organ", "question": "?", "prediction": "liver", "answer": ""}\n'
    (tmp_path / "a.jsonl").write_text(line)
    code, out, _ = run("score", "a.jsonl")
    assert code == 0
    assert "1 of 1 open lines have no true answer" in " ".join(out.split())
