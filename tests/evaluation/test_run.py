"""An evaluation goes on where it was stopped, refuses what changed, and says what its numbers are worth."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import slicesight
from slicesight.cli.measure import run_evaluate
from slicesight.cli.scoring import EvaluateOptions
from slicesight.data.dataset import ManifestDataset, open_dataset, select
from slicesight.data.manifest import Conversation, read_manifest, write_manifest
from slicesight.errors import InputError
from slicesight.evaluation.controls import VOLUME_CONTROLS, disturb, majority
from slicesight.evaluation.predict import MODEL, PredictionRun, open_run, predict
from slicesight.evaluation.predictions import read_jsonl
from slicesight.evaluation.run import find_leaks
from slicesight.phantoms.dataset import PhantomDataset

from .conftest import NUM_WORDS


class KilledError(Exception):
    """Stands for a kill."""


@pytest.fixture
def source(scans):
    return ManifestDataset(scans / "manifest.jsonl")


@pytest.fixture(scope="module")
def finished(scans, tiny_model_folder, tmp_path_factory) -> Path:
    """A whole evaluation of the tiny model with a blind model and training data that leak one scan."""
    training = tmp_path_factory.mktemp("training")
    shutil.copy(scans / "1.nii.gz", training / "copy.nii.gz")
    case = read_manifest(scans / "manifest.jsonl")[1]
    write_manifest([case.model_copy(update={"id": "other", "volume": "copy.nii.gz"})], training / "manifest.jsonl")
    out = tmp_path_factory.mktemp("evaluated") / "out"
    run_evaluate(
        EvaluateOptions(
            model=str(tiny_model_folder), data=str(scans), out=out, train_data=str(training),
            blind_model=str(tiny_model_folder), figures=2,
        ),
        load=slicesight.load,
    )  # fmt: skip
    return out


def answer(run: PredictionRun, reader) -> None:
    open_run(run, reader)
    predict(run, reader)


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.jsonl"))}


def test_every_question_is_answered_once_with_its_scores(source, tiny_reader, tmp_path):
    run = PredictionRun(folder=tmp_path, source=source, systems=(MODEL,))
    answer(run, tiny_reader)
    rows = run.rows(MODEL)
    asked = [(case.id, pair.question) for case in source.cases for pair in case.conversations]
    assert [(row.volume, row.question) for row in rows] == asked
    assert all(abs(sum(row.scores) - 1) < 1e-5 and len(row.scores) == 8 for row in rows)
    assert len({row.id for row in rows}) == len(rows)
    grid = source.grid(source.cases[0], tiny_reader.grid_spec)
    said = tiny_reader.ask(grid, [pair.prompt for pair in source.cases[0].conversations], max_new_tokens=NUM_WORDS)
    assert [row.prediction for row in rows[:3]] == [one.text for one in said]
    for row in rows:
        held = None if row.choices is None else [f"{'ABCDEFGH'[n]}. {text}" for n, text in enumerate(row.choices)]
        assert (row.choice is None) if held is None else (row.choice in held)
    np.testing.assert_allclose([row.scores for row in rows[:3]], [one.scores for one in said], atol=1e-5)


def test_a_killed_run_goes_on_and_ends_like_one_that_was_not(source, tiny_reader, tmp_path, monkeypatch):
    systems = (MODEL, *VOLUME_CONTROLS)
    answer(PredictionRun(folder=tmp_path / "whole", source=source, systems=systems), tiny_reader)
    run = PredictionRun(folder=tmp_path / "killed", source=source, systems=systems)
    from slicesight.evaluation import predict as module

    append, count = module._append, 0

    def killing(path, rows):
        nonlocal count
        count += 1
        if count > 5:
            append(path, rows[:1])
            with path.open("a") as file:
                file.write('{"id": "half')
            raise KilledError
        append(path, rows)

    with monkeypatch.context() as patched:
        patched.setattr(module, "_append", killing)
        with pytest.raises(KilledError):
            answer(run, tiny_reader)
    answer(run, tiny_reader)
    assert texts(tmp_path / "killed") == texts(tmp_path / "whole")


def test_a_finished_run_is_not_asked_again(source, tiny_reader, tmp_path, monkeypatch):
    run = PredictionRun(folder=tmp_path, source=source, systems=(MODEL,))
    answer(run, tiny_reader)
    monkeypatch.setattr(type(tiny_reader), "encode", lambda *_: pytest.fail("a scan was encoded again"))
    answer(run, tiny_reader)


def test_a_changed_model_is_refused(source, tiny_reader, tiny_model_folder, tmp_path):
    import torch

    run = PredictionRun(folder=tmp_path, source=source, systems=(MODEL,))
    answer(run, tiny_reader)
    other = slicesight.load(tiny_model_folder)
    open_run(run, other)  # the same weights loaded again are the same model
    with torch.no_grad():
        next(other.model.parameters()).view(-1)[0] += 1
    with pytest.raises(InputError, match="was begun with another model"):
        open_run(run, other)


def test_a_changed_scan_or_question_is_refused_and_a_touched_file_is_not(scans, tiny_reader, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(scans, data)
    run = PredictionRun(folder=tmp_path / "out", source=ManifestDataset(data / "manifest.jsonl"), systems=(MODEL,))
    answer(run, tiny_reader)
    (data / "0.nii.gz").touch()
    open_run(run, tiny_reader)
    shutil.copy(data / "1.nii.gz", data / "0.nii.gz")
    with pytest.raises(InputError, match="the scan of case phantom_7_00000 has changed"):
        open_run(run, tiny_reader)
    cases = read_manifest(scans / "manifest.jsonl")
    write_manifest(cases[:2], data / "manifest.jsonl")
    fewer = PredictionRun(folder=tmp_path / "out", source=ManifestDataset(data / "manifest.jsonl"), systems=(MODEL,))
    with pytest.raises(InputError, match="was begun with other questions"):
        open_run(fewer, tiny_reader)


def test_predictions_of_unknown_origin_are_not_continued(source, tiny_reader, tmp_path):
    (tmp_path / "predictions.jsonl").write_text("")
    with pytest.raises(InputError, match="unknown origin"):
        open_run(PredictionRun(folder=tmp_path, source=source, systems=(MODEL,)), tiny_reader)


def test_a_bad_scan_stops_the_run_unless_it_is_to_be_skipped(scans, tiny_reader, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(scans, data)
    (data / "1.nii.gz").write_bytes(b"nothing")
    cases = ManifestDataset(data / "manifest.jsonl")
    with pytest.raises(InputError, match="case phantom_7_00001"):
        answer(PredictionRun(folder=tmp_path / "a", source=cases, systems=(MODEL,)), tiny_reader)
    run = PredictionRun(folder=tmp_path / "b", source=cases, systems=(MODEL, *VOLUME_CONTROLS), on_bad_case="skip")
    answer(run, tiny_reader)
    assert list(run.skipped) == ["phantom_7_00001"]
    assert {row.volume for row in run.rows(MODEL)} == {"phantom_7_00000", "phantom_7_00002"}
    assert {row.volume for row in run.rows("blank")} == {"phantom_7_00000", "phantom_7_00002"}


def test_controls_show_what_they_say(source, tiny_reader):
    grid, other = (source.grid(case, tiny_reader.grid_spec) for case in source.cases[:2])
    assert disturb("blank", grid, other, place=0).voxels.max() == 0
    shuffled = disturb("shuffled_slices", grid, other, place=0).voxels
    assert not np.array_equal(shuffled, grid.voxels)
    assert sorted(shuffled.sum(axis=(1, 2)).tolist()) == sorted(grid.voxels.sum(axis=(1, 2)).tolist())
    assert disturb("wrong_volume", grid, other, place=0) is other


def test_the_wrong_volume_is_the_neighbours_and_never_of_the_same_patient(scans, tiny_reader, tmp_path):
    cases = read_manifest(scans / "manifest.jsonl")
    cases = [case.model_copy(update={"patient": patient}) for case, patient in zip(cases, "aab", strict=True)]
    write_manifest(cases, scans / "patients.jsonl")
    source = ManifestDataset(scans / "patients.jsonl")
    run = PredictionRun(folder=tmp_path, source=source, systems=("wrong_volume",))
    answer(run, tiny_reader)
    scores = []
    for asked, shown in ((0, 2), (1, 2), (2, 1)):
        grid = source.grid(source.cases[shown], tiny_reader.grid_spec)
        said = tiny_reader.ask(grid, [pair.prompt for pair in cases[asked].conversations], max_new_tokens=NUM_WORDS)
        rows = [row for row in run.rows("wrong_volume") if row.volume == cases[asked].id]
        np.testing.assert_allclose([row.scores for row in rows], [one.scores for one in said], atol=1e-5)
        scores.append([row.scores for row in rows])
    assert not np.allclose(scores[0], scores[2], atol=1e-4), "the tiny model answers every scan alike, but weighs it so"


def test_the_majority_counts_training_answers_or_those_of_other_cases(scans):
    cases = read_manifest(scans / "manifest.jsonl")
    for row, pair in zip(majority(cases, cases[:1]), [p for c in cases for p in c.conversations], strict=True):
        if pair.task == "open" and pair.topic == cases[0].conversations[0].topic:
            assert row.prediction == cases[0].conversations[0].answer
    alone = majority(cases[:1], None)
    assert all(row.prediction == "" for row in alone if row.task == "open"), "a case's own answers are not counted"


def test_leaks_are_found_by_id_patient_and_content(scans, tmp_path):
    cases = read_manifest(scans / "manifest.jsonl")
    shutil.copy(scans / "0.nii.gz", tmp_path / "renamed.nii.gz")
    shutil.copy(scans / "2.nii.gz", tmp_path / "other.nii.gz")
    write_manifest(
        [
            cases[0].model_copy(update={"id": "x", "volume": "renamed.nii.gz", "patient": "p"}),
            cases[1].model_copy(update={"volume": "other.nii.gz"}),
        ],
        tmp_path / "manifest.jsonl",
    )
    test = [cases[0], cases[1], cases[2].model_copy(update={"patient": "p"})]
    write_manifest(test, scans / "test.jsonl")
    found = find_leaks(ManifestDataset(tmp_path / "manifest.jsonl"), ManifestDataset(scans / "test.jsonl"))
    assert found["num_shared_ids"] == 1
    assert found["num_shared_patients"] == 1
    assert found["num_shared_volumes"] == 2
    assert found["num_leaking"] == 3
    assert {"test": "phantom_7_00000", "training": "x"} in found["examples"]
    assert "p" not in json.dumps(found["leaking_cases"]).replace("phantom", ""), "no patient is named"


def test_phantoms_of_two_seeds_do_not_leak():
    training, test = PhantomDataset(1, 2), PhantomDataset(2, 2)
    assert find_leaks(training, test)["num_leaking"] == 0
    assert find_leaks(training, PhantomDataset(1, 1))["num_leaking"] == 1


def test_the_test_split_is_taken_where_there_are_splits(scans, tmp_path):
    cases = read_manifest(scans / "manifest.jsonl")
    split = [
        case.model_copy(update={"split": name}) for case, name in zip(cases, ("train", "test", "test"), strict=True)
    ]
    write_manifest(split, tmp_path / "manifest.jsonl")
    source = open_dataset(str(tmp_path))
    assert len(select(source, prefer="test").cases) == 2
    assert len(select(source, split="train").cases) == 1
    assert len(select(source, prefer="test", count=1).cases) == 1
    with pytest.raises(InputError, match="no case is in the split 'val'"):
        select(source, split="val")


@pytest.mark.parametrize(
    ("data", "message"), [("phantoms:x", "expected phantoms:SEED:COUNT"), ("nowhere", "no manifest")]
)
def test_data_that_is_none_is_named(data, message):
    with pytest.raises(InputError, match=message):
        open_dataset(data)


def test_the_sheet_holds_controls_comparisons_and_leaks(finished):
    sheet = json.loads((finished / "sheet.json").read_text())
    assert set(sheet["controls"]) == {"blank", "shuffled_slices", "wrong_volume", "majority", "blind"}
    assert all(parts["open"]["micro"]["rouge1"] is not None for parts in sheet["controls"].values())
    assert {entry["first"] for entry in sheet["comparisons"]} == {MODEL}
    assert {entry["second"] for entry in sheet["comparisons"]} == set(sheet["controls"])
    assert sheet["leaks"]["num_shared_volumes"] == 1
    assert sheet["leaks"]["scores_without_them"]["open"]["num_pairs"] < sheet["open"]["num_pairs"]
    assert sheet["num_volumes"] == 3
    for path in ("predictions.jsonl", "controls/blind.jsonl", "controls/majority.jsonl"):
        assert len(read_jsonl(finished / path)) == 9


def test_the_report_needs_nothing_but_itself(finished):
    page = (finished / "report.html").read_text()
    for address in re.findall(r"""(?:src|href)=["']([^"']+)""", page):
        assert address.startswith(("data:", "#")), address
    assert "://" not in re.sub(r"data:[^\"']+", "", page)
    assert "default-src 'none'" in page
    assert "For research use only" in page
    assert "was trained on synthetic CT only" in page
    assert "1 of 3 test cases leak" in page
    assert page.count('<article class="case">') == 2
    assert len(list((finished / "cases").glob("*.png"))) == 2


def test_the_report_lists_answers_worst_first_with_topics_to_filter_by(finished):
    page = (finished / "report.html").read_text()
    rows = json.loads(re.search(r"const rows = (\[.*?\]);\n", page).group(1))
    texts = [float(row["value"].removeprefix("ROUGE-1 ")) for row in rows if row["task"] != "closed"]
    assert texts == sorted(texts)
    closed = [row["verdict"] for row in rows if row["task"] == "closed"]
    assert closed == sorted(closed, reverse=True), "wrong ones first"
    assert len(rows) == 9
    for topic in {row["topic"] for row in rows}:
        assert f'data-value="{topic}"' in page


def test_a_report_is_neither_right_nor_wrong_whatever_its_words_share_with_the_truth():
    from slicesight.reports.evaluation_html import verdict

    assert verdict("report", 0.8) == verdict("report", 1.0) == ""
    assert [verdict("open", value) for value in (1.0, 0.7, 0.3)] == ["right", "", "wrong"]
    assert [verdict("closed", value) for value in (1.0, 0.0)] == ["right", "wrong"]


def test_hostile_text_stays_text_in_the_report(tmp_path, source, tiny_reader):
    from slicesight.evaluation.predictions import Prediction, PredictionFile
    from slicesight.evaluation.sheet import make_sheet, score_file
    from slicesight.reports.evaluation_html import render_report

    row = Prediction(
        id="0", task="open", topic="<b>t", question="?", prediction="</script><script>alert(1)</script>", answer="x",
        volume="v",
    )  # fmt: skip
    scored = score_file(PredictionFile(rows=(row,), format="jsonl"))
    sheet = make_sheet(scored, system="<i>s")
    sheet |= {"comparisons": [], "skipped_cases": {}, "data": {"source": "d", "split": None}, "model": {}}
    sheet["model"] = {"trained_on": "x", "summary": ""}
    page = render_report(sheet, scored, [])
    assert "<script>alert" not in page
    assert "<i>s" not in page
    assert "<b>t" not in page


@pytest.mark.browser
def test_the_report_filters_in_a_browser_and_fits_a_phone(finished, tmp_path):
    import subprocess

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    page = (finished / "report.html").read_text()
    probe = (
        "<script>window.onload=()=>{document.querySelector('[data-filter=task] button[data-value=closed]').click();"
        "document.title=[document.querySelectorAll('#list .row').length,"
        "document.documentElement.scrollWidth<=innerWidth].join()}</script>"
    )
    (tmp_path / "probe.html").write_text(page.replace("</body>", probe + "</body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--dump-dom"]
    dumped = subprocess.run(
        [*command, (tmp_path / "probe.html").as_uri()], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert "<title>3,true</title>" in dumped


def test_a_copy_that_is_read_otherwise_is_a_leak(scans):
    training, test = open_dataset(scans), open_dataset(scans, fill="LOWEST")
    renamed = test.subset([case.model_copy(update={"id": f"{case.id} copy"}) for case in test.cases])
    assert find_leaks(training, renamed)["num_shared_volumes"] == len(test.cases)


def test_a_scan_with_nan_is_evaluated_where_fill_says_what_takes_its_place(scans, tiny_model_folder, tmp_path):
    case = read_manifest(scans / "manifest.jsonl")[0]
    voxels = np.random.default_rng(0).random((12, 40, 40), dtype=np.float32)
    voxels[:2] = np.nan
    np.save(tmp_path / "nan.npy", voxels)
    write_manifest([case.model_copy(update={"volume": "nan.npy"})], tmp_path / "manifest.jsonl")

    def evaluated(fill: str | None) -> None:
        options = EvaluateOptions(
            model=str(tiny_model_folder), data=str(tmp_path), out=tmp_path / "out", controls=False, figures=0, fill=fill
        )
        run_evaluate(options, load=slicesight.load)

    with pytest.raises(InputError, match="--fill LOWEST or VALUE"):
        evaluated(None)
    shutil.rmtree(tmp_path / "out")
    evaluated("LOWEST")
    assert len(read_jsonl(tmp_path / "out" / "predictions.jsonl")) == len(case.conversations)


def test_every_worker_of_a_cluster_fills_as_one_process_does(scans, tiny_model_folder, tmp_path, monkeypatch):
    from slicesight.evaluation import bulk

    handed = {}

    def lines(items, worker, **_):
        handed.update(worker)
        raise KilledError

    monkeypatch.setattr(bulk, "_lines", lines)
    options = EvaluateOptions(
        model=str(tiny_model_folder), data=str(scans), out=tmp_path / "out", controls=False, ray="local", fill="-7"
    )
    with pytest.raises(KilledError):
        run_evaluate(options, load=slicesight.load)
    cases = bulk.Answerer(**handed).run.source.cases
    assert {case.read_options["fill"] for case in cases} == {-7.0}


def test_the_findings_of_the_reports_and_of_every_control_are_scored(scans, tiny_model_folder, tmp_path):
    """The commonest report is right about every finding here: what a clinical score is worth without a scan."""
    asked = Conversation(task="report", topic="report", question="Describe.", answer="Small left pleural effusion.")
    cases = [
        case.model_copy(update={"volume": str(scans / case.volume), "labels": None, "conversations": (asked,)})
        for case in read_manifest(scans / "manifest.jsonl")
    ]
    write_manifest(cases, tmp_path / "manifest.jsonl")
    out = tmp_path / "out"
    options = {"model": str(tiny_model_folder), "data": str(tmp_path / "manifest.jsonl"), "out": out, "figures": 0}
    run_evaluate(EvaluateOptions(**options, labels="rules"), load=slicesight.load)
    sheet = json.loads((out / "sheet.json").read_text())
    assert sheet["clinical"]["num_positive"] == len(cases)
    assert sheet["clinical"]["micro"]["recall"] == 0, "a random model says nothing that is a finding"
    assert sheet["controls"]["majority"]["clinical"]["micro"]["f1"] == 1
    assert set(sheet["controls"]["blank"]["clinical"]["ci95"]) == {"crg", "micro", "macro"}
    assert "findings, labels by rules" in (out / "report.html").read_text()
    with pytest.raises(InputError, match="evaluate labels what it asks"):
        run_evaluate(EvaluateOptions(**options, labels="labels.csv", true_labels="rules"), load=slicesight.load)
