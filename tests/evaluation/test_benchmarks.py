"""One command per benchmark: answers, its table beside the published rows, files its own scorer takes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

import slicesight
from benchmark_layouts import (
    write_3d_rad,
    write_amos_mm,
    write_csv,
    write_ct_rate,
    write_deeptumorvqa,
    write_rexgroundingct,
)
from slicesight.cli.measure import run_evaluate, run_score
from slicesight.cli.scoring import EvaluateOptions, ScoreOptions
from slicesight.data.sources import BENCHMARKS, LAYOUTS
from slicesight.data.sources.ct_rate import FINDINGS
from slicesight.errors import InputError
from slicesight.evaluation.benchmarks import benchmark, benchmark_names
from slicesight.evaluation.benchmarks.board import make_board
from slicesight.evaluation.benchmarks.deeptumorvqa import BINARY, NUMERIC, letter_of_output, official_metrics
from slicesight.evaluation.benchmarks.deeptumorvqa_custom import VolumeAsker, asked_in, build_evaluator
from slicesight.evaluation.benchmarks.rules import RULES, column_value
from slicesight.evaluation.benchmarks.submissions import write_submission
from slicesight.evaluation.bulk import Answerer
from slicesight.evaluation.external import read_predictions
from slicesight.evaluation.metrics import MissingPartError
from slicesight.evaluation.predictions import Prediction, PredictionFile, read_jsonl
from slicesight.evaluation.sheet import metrics_of, score_file
from slicesight.reports.benchmark_table import best_published, board_notes, board_rows

RESULTS = json.loads(Path(__file__).with_name("deeptumorvqa_results.json").read_text())
"""What DeepTumorVQA's own evaluator (1df7460) wrote of 48 answers of phantom-tiny about 6 phantoms, asked both ways."""
WRITERS = {
    "3d-rad": write_3d_rad,
    "deeptumorvqa": write_deeptumorvqa,
    "amos-mm": write_amos_mm,
    "ct-rate": write_ct_rate,
    "rexgroundingct": write_rexgroundingct,
}


@pytest.fixture(scope="module")
def finished(tiny_model_folder, tmp_path_factory):
    """Benchmark -> the folder of its run with the tiny model, made when it is first wanted."""
    runs: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in runs:
            root = tmp_path_factory.mktemp(name)
            folder = WRITERS[name](root)
            run_evaluate(options(name, folder, root, tiny_model_folder, root / "out"), load=slicesight.load)
            runs[name] = root / "out"
        return runs[name]

    return run


def options(name: str, folder: Path, volumes: Path, model: Path, out: Path | None, **changes) -> EvaluateOptions:
    given = {"data": str(folder), "out": out, "model": str(model), "volumes": volumes, "controls": False, "figures": 0}
    return EvaluateOptions(benchmark=name, **{**given, **changes})


@pytest.mark.parametrize("name", BENCHMARKS)
def test_facts_name_their_source_and_only_columns_that_can_be_computed(name):
    facts = benchmark(name)
    assert facts.layout in LAYOUTS
    assert "http" in facts.source
    keys = {column.key for column in facts.columns}
    for column in facts.columns:
        for rule in filter(None, (column.rule, column.strict)):
            assert rule in RULES or rule in metrics_of(column.task)
    for row in facts.rows:
        assert row.source
        assert set(row.values) <= keys
        assert all(0 <= value <= 100 for value in row.values.values())


def test_an_unknown_benchmark_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="'m3d' is unknown; use one of ct-rate, 3d-rad"):
        benchmark("m3d")
    assert benchmark_names()[: len(BENCHMARKS)] == BENCHMARKS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_one_command_answers_a_benchmark_and_puts_it_beside_the_published_rows(finished, name):
    out = finished(name)
    board = json.loads((out / "sheet.json").read_text())["benchmark"]
    ours = [row for row in board["rows"] if row["origin"] == "this run"]
    assert len(ours) == 1
    rows = read_jsonl(out / "predictions.jsonl")
    assert board["counts"]["questions"] == len(rows) > 0
    assert len(board["rows"]) == 1 + len(benchmark(name).rows)
    assert any(line.startswith("scans: ") for line in board["differs"]), "a part of the benchmark is called one"
    values, missing = ours[0]["values"], {key.rpartition(": ")[2] for key in board["missing"]}
    assert set(values) | missing == {column["key"] for column in board["columns"]}
    assert [place for place in board["submission"] if not (out / place).is_file()] == []
    assert bool(board["submission"]) == (name != "rexgroundingct")
    assert board["title"] in (out / "report.html").read_text()


def test_a_stopped_benchmark_goes_on_and_answers_nothing_twice(finished, tiny_model_folder):
    out = finished("3d-rad")
    whole = (out / "predictions.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    (out / "predictions.jsonl").write_text("".join(lines[:4]) + lines[4][:20])
    base = out.parent
    run_evaluate(options("3d-rad", base / "3DRAD", base, tiny_model_folder, out), load=slicesight.load)
    assert (out / "predictions.jsonl").read_text() == whole


def test_a_benchmark_on_a_cluster_gives_the_answers_and_the_table_of_one_process(
    finished, tiny_model_folder, monkeypatch, tmp_path
):
    def lines_of_a_worker(items, worker, **_):
        """What every worker of the cluster does; `test_bulk.py` has real ones."""
        answer = Answerer(**worker)
        for item in items:
            for line in answer({"case": [item["case"]], "systems": [item["systems"]]})["line"]:
                yield json.loads(line)

    monkeypatch.setattr("slicesight.evaluation.bulk._lines", lines_of_a_worker)
    alone = finished("3d-rad")
    base = alone.parent
    given = options("3d-rad", base / "3DRAD", base, tiny_model_folder, tmp_path / "out", ray="local", count=1)
    run_evaluate(given, load=slicesight.load)
    rows = read_jsonl(tmp_path / "out" / "predictions.jsonl")
    expected = {row.id: row for row in read_jsonl(alone / "predictions.jsonl")}
    assert 0 < len(rows) < len(expected)
    assert rows == [expected[row.id] for row in rows]
    board = json.loads((tmp_path / "out" / "sheet.json").read_text())["benchmark"]
    assert board["counts"]["questions"] == len(rows)
    assert any("only the first 1 scans were asked" in line for line in board["differs"])


def test_3d_rads_tables_are_written_as_its_scorer_writes_them_and_read_again(finished):
    folder = finished("3d-rad") / "submission"
    table = folder / "test" / "Task4_Existence_Detection" / "Atelectasis" / "eval_close_vqa.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["Question Aspect", "Question", "Answer", "Answer Choice", "Pred", "Correct"]
    assert [row["Answer Choice"] for row in rows] == ["B", "A"]
    assert rows[0]["Question"].endswith("Choices: A. Yes B. No")
    again = read_predictions(table)
    assert [row.choices for row in again.rows] == [("Yes", "No")] * 2
    assert again.rows[0].topic == "existence detection: atelectasis"


def test_vlm3ds_files_have_its_nesting_names_and_all_18_findings(finished):
    folder = finished("ct-rate") / "submission"
    reports = json.loads((folder / "reports.json").read_text())[0]["outputs"][0]["value"]["generated_reports"]
    assert [one["input_image_name"] for one in reports] == ["valid_1_a_1.mha"]
    said = json.loads((folder / "findings.json").read_text())[0]["outputs"][0]["value"]["predictions"]
    assert all(set(one["probabilities"]) == set(FINDINGS) for one in said)
    assert {value for one in said for value in one["probabilities"].values()} <= {0.0, 1.0}


def test_amos_mms_files_have_every_region_and_a_letter(finished):
    folder = finished("amos-mm") / "submission"
    for entry in json.loads((folder / "reports.json").read_text())["testing"]:
        assert set(entry["labels"]["report"]["findings"]) == {"chest", "abdomen", "pelvis"}
    for entry in json.loads((folder / "vqa.json").read_text())["testing"]:
        assert [one["prediction"] in "ABCD" for one in entry["labels"]["qa"]] == [True]


def test_the_evidence_of_rexgroundingct_is_against_the_masks_slices(finished):
    out = finished("rexgroundingct")
    rows = read_jsonl(out / "predictions.jsonl")
    assert all(row.scores and row.true_slices for row in rows)
    values = json.loads((out / "sheet.json").read_text())["benchmark"]["rows"][0]["values"]
    mass = [sum(row.scores[n] for n in row.true_slices) for row in rows]
    hits = [max(range(8), key=row.scores.__getitem__) in row.true_slices for row in rows]
    assert values["mass"]["value"] == pytest.approx(sum(mass) / len(mass))
    assert values["hit"]["value"] == pytest.approx(sum(hits) / len(hits))


@pytest.mark.parametrize(("kind", "task"), [("mc", "closed"), ("freeform", "open")])
def test_deeptumorvqas_own_result_file_scores_the_same_here(kind, task, tmp_path):
    document = RESULTS[kind]
    (tmp_path / "r.json").write_text(json.dumps(document))
    file = read_predictions(tmp_path / "r.json")
    ours, theirs = official_metrics(file.rows, task=task), document["metrics"]
    assert ours["overall"] == theirs["overall"]
    assert ours["by_super_type"] == theirs["by_super_type"]
    for subtype, found in theirs["by_subtype"].items():
        assert ours["by_subtype"][subtype]["accuracy"] == found.get("accuracy", found.get("mean_mra"))
    assert {row.task for row in file.rows} == {task}


def test_deeptumorvqa_reads_the_first_character_as_a_letter_whatever_follows():
    read = {
        "Benign": "B",
        "b": "B",
        "the answer is C": "C",
        "<think>A</think> D": "D",
        "<think>A": "",
        "": "",
        "no": "",
    }
    assert {text: letter_of_output(text) for text in read} == read


def test_every_subtype_has_one_kind_of_answer():
    assert not NUMERIC & BINARY
    assert (len(NUMERIC), len(BINARY)) == (11, 15)


def test_deeptumorvqas_files_hold_what_its_evaluator_writes(finished):
    folder = finished("deeptumorvqa") / "submission"
    for name, kind in (("mc.json", "mc"), ("freeform.json", "freeform")):
        document = json.loads((folder / name).read_text())
        assert set(document["results"][0]) == {*RESULTS[kind]["results"][0], "raw_output"}
        assert all("/" not in one["qid"] for one in document["results"])
    assert len(read_predictions(folder / "mc.json").rows) == 6


def test_the_custom_class_asks_as_evaluate_does(finished, tiny_reader):
    out = finished("deeptumorvqa")
    rows = [row for row in read_jsonl(out / "predictions.jsonl") if row.volume == "BDMAP_00000000"]
    volume = str(out.parent / "DeepTumorVQA_2.0" / "benchmark" / "ct" / "BDMAP_00000000" / "ct.nii.gz")
    asker = VolumeAsker(tiny_reader)
    for row in rows:
        listed = " ".join(f"{letter}: {text}" for letter, text in zip("ABCD", row.choices or (), strict=False))
        before = "You are given the full 3D abdominal CT volume (NIfTI, native voxel spacing).\nPatient: sex=F."
        prompt = f"{before}\n{row.question} {listed}".strip() + "\nAnswer with a single number."
        assert asker.answer(prompt, volume) == row.prediction
    with pytest.raises(InputError, match="--input 3d_volume"):
        asker.answer("Which?", None)
    assert asked_in("The image is a slice.\nWhich? A: x B: y\nAnswer with ONLY") == "Which? Choices: A. x B. y"


def test_the_custom_class_says_where_its_package_is_from():
    with pytest.raises(InputError, match="deeptumorvqa is not installed"):
        build_evaluator(object())


def test_a_number_that_cannot_be_had_is_named_and_not_invented():
    row = Prediction(id="a", task="open", topic="t", question="q", prediction="x", answer="x", volume="v")
    scored = score_file(PredictionFile(rows=(row,), format="jsonl"))
    for rule in ("masks", "green", "slice_hit"):
        with pytest.raises(MissingPartError):
            column_value(scored, rule, task="open")
    with pytest.raises(MissingPartError, match="no closed question of brain"):
        column_value(scored, "accuracy", task="closed", topic="brain")
    board = make_board(benchmark("rexgroundingct"), {"mine": scored})
    assert board["rows"][0]["values"] == {}
    assert "mine: dice" in board["missing"]
    assert all(line in "\n".join(board_notes(board)) for line in board["differs"])


def test_a_row_of_another_split_never_stands_as_the_best_where_a_fair_one_is_there():
    def row(system: str, value: float, differs: str | None) -> dict[str, object]:
        values = {"f1": {"value": value, "ci95": None}}
        return {"system": system, "origin": "published", "values": values, "source": "x", "differs": differs}

    columns = [{"key": "f1", "title": "F1", "rule": "finding_f1"}]
    board = {"rows": [row("other", 0.9, "split"), row("fair", 0.5, None)], "columns": columns}
    assert best_published(board, "f1")["system"] == "fair"
    assert [row["differs"] for row in board_rows(board)] == ["split", ""]


def test_another_package_can_add_a_benchmark(tmp_path, monkeypatch):
    facts = yaml.safe_load((Path(slicesight.__file__).parent / "evaluation/benchmarks/facts/amos-mm.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**facts, "title": "Mine"}))
    monkeypatch.setattr("slicesight.evaluation.benchmarks.known_names", lambda registry, group: {"mine": "m:f"})
    monkeypatch.setattr("slicesight.evaluation.benchmarks.find_plugin", lambda *given: lambda: tmp_path / "mine.yaml")
    assert benchmark.__wrapped__("mine").title == "Mine"


def test_options_that_do_not_go_together_are_one_line():
    for given, message in (
        ({"data": "x"}, "name one with --out"),
        ({"data": "x", "out": Path("o"), "volumes": Path("v")}, "--volumes belongs to --benchmark"),
        ({"data": "x", "benchmark": "3d-rad", "fill": "lowest"}, "--fill does not go with --benchmark"),
    ):
        with pytest.raises(InputError, match=message):
            EvaluateOptions(**given)
    assert EvaluateOptions(data="x", benchmark="3d-rad", model="some/hub name").folder == Path("runs/3d-rad-hub_name")


def test_a_missing_scan_stops_the_benchmark_or_is_counted(tiny_model_folder, tmp_path):
    folder = write_3d_rad(tmp_path, scans=("valid_1_a_1",))
    given = ("3d-rad", folder, tmp_path, tiny_model_folder, tmp_path / "out")
    with pytest.raises(InputError, match=r"Diagnosis.csv line 3: neither test_2_b_1 .* \(--skip-bad-cases goes on"):
        run_evaluate(options(*given), load=slicesight.load)
    assert not (tmp_path / "out" / "predictions.jsonl").exists()
    run_evaluate(options(*given, skip_bad_cases=True), load=slicesight.load)
    board = json.loads((tmp_path / "out" / "sheet.json").read_text())["benchmark"]
    assert "left out: 6 missing volume; data/skipped.jsonl says which" in board["differs"]


def test_score_shows_the_published_rows_of_a_benchmark(tmp_path, capsys):
    (tmp_path / "r.json").write_text(json.dumps(RESULTS["mc"]))
    run_score(ScoreOptions(predictions=[str(tmp_path / "r.json")], benchmark="deeptumorvqa", json=tmp_path / "s.json"))
    found = json.loads((tmp_path / "s.json").read_text())["benchmark"]
    assert found["rows"][0]["values"]["overall"]["value"] == pytest.approx(
        RESULTS["mc"]["metrics"]["overall"]["accuracy"], abs=1e-4
    )
    assert "DeepTumorVQA v2, test" in capsys.readouterr().out


def test_nothing_is_submitted_where_the_scorer_takes_no_answers(tmp_path):
    row = Prediction(id="a", task="open", topic="t", question="q", prediction="x", answer="x", volume="v")
    assert write_submission("rexgroundingct", [row], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_result_without_a_field_is_named_with_its_number(tmp_path):
    for change, message in (
        ({"correct_option": None}, "result 1: no 'correct_option'"),
        ({"qid": "bench_00000"}, "is result 0 already"),
    ):
        results = [dict(one) for one in RESULTS["mc"]["results"][:2]]
        results[1] |= change
        (tmp_path / "r.json").write_text(json.dumps({"results": results}))
        with pytest.raises(InputError, match=message):
            read_predictions(tmp_path / "r.json")


def test_a_csv_row_with_too_few_cells_is_named(tmp_path):
    path = write_csv(tmp_path / "t.csv", [{"Question Type": "1", "Question": "q", "Answer": "a", "Pred": "x"}])
    path.write_text(path.read_text() + "1,q\n")
    with pytest.raises(InputError, match=r"t\.csv line 3: fewer cells than the header"):
        read_predictions(path)


def test_findings_of_yes_or_no_answers_give_the_challenges_crg_and_f1():
    # scan: (finding, true, said); A = 2 of T = 4, w = .5: TP 1, FN 1, FP 1, s = .5 - .5 - 1 = -1, S = 1, CRG = 1/3
    told = [("v1", "emphysema", "yes", "yes"), ("v1", "lung nodule", "no", "yes"),
            ("v2", "emphysema", "yes", "no"), ("v2", "lung nodule", "no", "no")]  # fmt: skip
    rows = [
        Prediction(id=f"{volume}#{finding}", task="closed", topic=finding, question="q", volume=volume, answer=true,
                   choices=("yes", "no"), answer_choice="AB"[true == "no"], prediction=f"{'AB'[said == 'no']}. {said}")
        for volume, finding, true, said in told
    ]  # fmt: skip
    scored = score_file(PredictionFile(rows=tuple(rows), format="jsonl"))
    assert column_value(scored, "finding_crg", task="closed").value == pytest.approx(1 / 3)
    assert column_value(scored, "finding_f1", task="closed").value == pytest.approx((2 / 3 + 0) / 2)
    with pytest.raises(MissingPartError, match="no probability"):
        column_value(scored, "finding_auroc", task="closed")
