"""Prediction by several workers writes the files that one process writes, and goes on after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import slicesight
from slicesight.data.dataset import open_dataset
from slicesight.evaluation.predict import MODEL, PredictionRun, open_run, predict

DATA = "phantoms:51000:5"
SYSTEMS = (MODEL, "blank", "wrong_volume")


def open_folder(folder, reader):
    folder.mkdir(exist_ok=True)
    run = PredictionRun(folder=folder, source=open_dataset(DATA, prefer="test"), systems=SYSTEMS)
    open_run(run, reader)
    return run


def test_a_block_answers_its_own_cases_as_the_whole_run_would(tmp_path, tiny_model_folder):
    pytest.importorskip("ray")
    from slicesight.evaluation.bulk import Answerer

    reader = slicesight.load(tiny_model_folder)
    run = open_folder(tmp_path / "alone", reader)
    predict(run, reader)
    worker = Answerer(
        load=slicesight.load,
        model=str(tiny_model_folder),
        data=DATA,
        split=None,
        count=None,
        systems=SYSTEMS,
        on_bad_case="stop",
        skipped={},
    )
    cases = [case.id for case in run.source.cases]
    lines = [
        json.loads(line)
        for block in (cases[:2], cases[2:])
        for line in worker({"case": block, "systems": [json.dumps(SYSTEMS)] * len(block)})["line"]
    ]
    for system in SYSTEMS:
        found = [row for line in lines if line["system"] == system for row in line["rows"]]
        assert found == [row.model_dump(mode="json") for row in run.rows(system)]


@pytest.mark.distributed
def test_two_workers_write_the_files_of_one_process_and_finish_what_was_begun(tmp_path, tiny_model_folder, monkeypatch):
    pytest.importorskip("ray")
    from slicesight.evaluation.bulk import predict_in_bulk

    # conftest's few words do not reach the workers, which are processes of their own
    monkeypatch.setattr("slicesight.evaluation.predict.MAX_NEW_TOKENS", 160)

    reader = slicesight.load(tiny_model_folder)
    alone = open_folder(tmp_path / "alone", reader)
    predict(alone, reader)
    bulk = open_folder(tmp_path / "bulk", reader)
    half = alone.path(MODEL).read_text().splitlines(keepends=True)[: 2 * 11]
    bulk.path(MODEL).write_text("".join(half))
    seen = []
    predict_in_bulk(
        bulk,
        load=slicesight.load,
        model=str(tiny_model_folder),
        data=DATA,
        num_workers=2,
        progress=lambda *now: seen.append(now),
    )
    for system in SYSTEMS:
        assert bulk.path(system).read_text() == alone.path(system).read_text()
    assert seen[-1] == (15, 15)


@pytest.mark.distributed
def test_a_worker_that_is_killed_is_replaced_and_its_block_answered_again(tmp_path, tiny_model_folder, monkeypatch):
    pytest.importorskip("ray", reason="pip install 'slicesight[ray]'")
    from slicesight.evaluation.bulk import predict_in_bulk

    monkeypatch.setattr("slicesight.evaluation.predict.MAX_NEW_TOKENS", 160)
    reader = slicesight.load(tiny_model_folder)
    alone = open_folder(tmp_path / "alone", reader)
    predict(alone, reader)
    bulk = open_folder(tmp_path / "bulk", reader)
    died = str(tmp_path / "died")

    def load_what_dies_once(model):
        import os
        import signal
        from pathlib import Path

        import slicesight

        predictor = slicesight.load(model)
        answer = predictor.ask_many

        def ask_many(*arguments, **settings):
            try:
                Path(died).touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
            return answer(*arguments, **settings)

        predictor.ask_many = ask_many
        return predictor

    predict_in_bulk(bulk, load=load_what_dies_once, model=str(tiny_model_folder), data=DATA, num_workers=2)
    assert Path(died).exists()
    for system in SYSTEMS:
        assert bulk.path(system).read_text() == alone.path(system).read_text()
