"""A guest through every verb that takes a model: ask, evaluate, score, faithfulness, plan, serve."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from http_questions import question
from slicesight import load
from slicesight.cli import app
from slicesight.errors import InputError
from slicesight.io.writers import write_dicom, write_nifti
from slicesight.reports.dicom_sr.reading import read_report
from slicesight.serving.app import create_app
from slicesight.serving.options import ServeOptions
from tiny_guests import FAMILIES, PRESET, body, stub_server

COLOURS = PRESET.replace("soft_tissue|-160,240", '"-1024,1024+-135,215+0,80|min_max"')


@pytest.fixture(scope="module")
def guest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("guests") / "tiny-llava"
    FAMILIES["llava"](folder)
    (folder.parent / "small.yaml").write_text(PRESET)
    (folder.parent / "colours.yaml").write_text(COLOURS)
    return folder


@pytest.fixture
def short_answers(monkeypatch) -> None:
    """A random model never ends its answer; the tests do not wait for all of it."""
    for module in ("predict", "controls", "guest_faithfulness"):
        monkeypatch.setattr(f"slicesight.evaluation.{module}.MAX_NEW_TOKENS", 6)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Two scans, each with a closed and an open question about a ball in its middle slices."""
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for number, count in enumerate((12, 14)):
        write_nifti(body(count), folder / f"{number}.nii.gz")
        shown = list(range(count // 2 - 2, count // 2 + 2))
        closed = {
            "task": "closed",
            "topic": "organ",
            "question": "What is it?",
            "choices": ["ball", "cube"],
            "answer": "ball",
            "answer_choice": "A",
            "source_slices": shown,
        }
        opened = {"task": "open", "topic": "place", "question": "Where?", "answer": "middle", "source_slices": shown}
        lines.append({"id": f"case-{number}", "volume": f"{number}.nii.gz", "conversations": [closed, opened]})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def run(*arguments: object) -> str:
    found = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(one) for one in arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.stdout


def test_ask_writes_every_report_and_none_calls_a_share_a_score(guest, tmp_path) -> None:
    write_dicom(body(), tmp_path / "series")
    files = {name: tmp_path / f"scan.{name}" for name in ("json", "html", "png", "dcm")}
    said = run(
        *(
            "ask",
            tmp_path / "series",
            "What is seen?",
            "--model",
            f"hf:{guest}",
            "--preset",
            guest.parent / "small.yaml",
        ),
        *("--json", files["json"], "--html", files["html"], "--png", files["png"], "--sr", files["dcm"]),
    )
    assert "measured by occlusion" in said
    assert "Measured by occlusion, no score" in said
    (answer,) = json.loads(files["json"].read_text())["answers"]
    assert answer["evidence"]["measured_by"] == "occlusion"
    assert "passes" in answer["evidence"]["note"]
    page = files["html"].read_text()
    assert "easured by occlusion" in page
    assert "share of the fall 0." in page
    assert "score 0." not in page
    (reported,) = read_report(files["dcm"]).answers
    assert reported.measured_by == "occlusion"
    assert reported.scores == pytest.approx(answer["scores"], abs=1e-6)
    assert "Measured by occlusion" in reported.summary
    assert {len(one.images) for one in reported.slices} == {1}, "a picked slice refers to its own image"
    assert files["png"].stat().st_size > 10_000
    assert json.loads(files["json"].read_text())["model"]["preset"] == "small"


def test_ask_without_evidence_says_that_it_was_turned_off(guest, tmp_path) -> None:
    write_nifti(body(), tmp_path / "scan.nii.gz")
    said = run(
        *("ask", tmp_path / "scan.nii.gz", "What?", "--model", f"hf:{guest}", "--no-evidence"),
        *("--preset", guest.parent / "small.yaml"),
    )
    assert "no evidence: it was turned off" in said
    assert "does not weigh" not in said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--no-evidence", "--evidence-passes", "9"), "do not go together"),
        (("--int8",), "quantize is for this package's own models"),
        (("--preset", "nothing"), "preset 'nothing' is unknown"),
    ],
)
def test_options_that_cannot_be_are_refused(guest, tmp_path, options, expected) -> None:
    write_nifti(body(), tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match=expected):
        run("ask", tmp_path / "scan.nii.gz", "What?", "--model", f"hf:{guest}", *options)


def test_evaluate_measures_the_model_alone_and_score_sets_controls_beneath_each_system(
    guest, manifest, short_answers, tmp_path
) -> None:
    model, preset = f"hf:{guest}", guest.parent / "small.yaml"
    out = tmp_path / "run"
    run(
        *("evaluate", "--data", manifest, "--out", out, "--model", model, "--preset", preset, "--blind-model", model),
        *("--evidence-passes", "4", "--figures", "1"),
    )
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    measured = [row for row in rows if row.get("evidence") == "occlusion"]
    assert measured
    assert all(sum(row["scores"]) == pytest.approx(1) for row in measured)
    for name in ("blank", "shuffled_slices", "wrong_volume", "blind"):
        control = [json.loads(line) for line in (out / "controls" / f"{name}.jsonl").read_text().splitlines()]
        assert len(control) == 4
        assert not any("scores" in row for row in control), "controls are answered without evidence"
    sheet = json.loads((out / "sheet.json").read_text())
    assert sheet["evidence"]["num_questions"] > 0
    assert sheet["controls"]["blind"]["closed"]["num_pairs"] == 2
    assert "Measured by occlusion" in (out / "report.html").read_text()
    written = (out / "predictions.jsonl").read_text()
    run(*("evaluate", "--data", manifest, "--out", out, "--model", model, "--preset", preset, "--evidence-passes", "4"))
    assert (out / "predictions.jsonl").read_text() == written, "a finished run is answered again"
    with pytest.raises(InputError, match="another model"):
        run(*("evaluate", "--data", manifest, "--out", out, "--model", model, "--preset", preset, "--no-evidence"))
    table = run("score", f"one={out}", f"two={out}", "--controls", "--json", tmp_path / "both.json")
    lines = [re.split(r"\s{2,}", line.strip())[0] for line in table.splitlines()]
    for name in ("one", "two"):
        assert lines[lines.index(name) + 1 :][:2] == ["blank", "shuffled_slices"]
    systems = json.loads((tmp_path / "both.json").read_text())["systems"]
    assert systems[0]["controls"].keys() == systems[1]["controls"].keys() >= {"blank", "majority", "blind"}


def test_score_says_where_there_are_no_controls(tmp_path) -> None:
    row = {"id": "1", "task": "open", "topic": "a", "question": "q", "prediction": "x", "answer": "x", "volume": "v"}
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match="--controls: none of these is a folder"):
        run("score", tmp_path / "own.jsonl", "--controls")


def test_faithfulness_of_a_guest_has_curves_of_the_whole_scan_and_says_what_is_no_test(
    guest, manifest, short_answers, tmp_path
) -> None:
    said = run(
        *("faithfulness", "--data", manifest, "--out", tmp_path, "--model", f"hf:{guest}", "--count", "2"),
        *("--preset", guest.parent / "small.yaml"),
    )
    (found,) = json.loads((tmp_path / "faithfulness.json").read_text())["models"]
    assert found["measured_by"] == "occlusion"
    assert set(found["curves"]) == {"whole"}
    assert found["steps"] == [0, 1, 2, 4, 6]
    deletion = found["curves"]["whole"]["deletion"]["heaviest"]["mean"]
    assert deletion[0] == 0.0
    assert deletion[-1] == pytest.approx(found["curves"]["whole"]["insertion"]["heaviest"]["mean"][0])
    assert {entry["branch"] for entry in found["gains"]} == {"whole"}
    assert "insertion and the excess mass are the tests" in said
    assert (tmp_path / "faithfulness.png").stat().st_size > 10_000


def test_scans_of_different_numbers_of_slices_are_refused_for_curves(guest, manifest, short_answers, tmp_path) -> None:
    preset = tmp_path / "many.yaml"
    preset.write_text(PRESET.replace("slices: 6", "slices: 40"))
    with pytest.raises(InputError, match="12 and 14 slices; curves of one length need a --preset of at most 12 slices"):
        run("faithfulness", "--data", manifest, "--out", tmp_path, "--model", f"hf:{guest}", "--preset", preset)


def test_plan_tells_a_guests_memory_from_its_configuration(guest) -> None:
    said = run("plan", f"hf:{guest}", "--preset", guest.parent / "small.yaml", "--device", "24GiB")
    assert "6 pictures of 16 tokens" in said
    assert "fits" in said
    four = run("plan", "gemma-3-4b", "--preset", "medgemma-1.5", "--device", "16GiB")
    assert "4,300,079,472" in four, "the model card says 4.3 billion parameters"
    assert "85 pictures of 256 tokens" in four
    assert "DOES NOT FIT" in four
    with pytest.raises(InputError, match="--preset is for guests"):
        run("plan", "med2e3-phi3", "--preset", "gemma-3")


@pytest.mark.parametrize("preset", ["small", "colours"])
def test_the_page_asks_a_guest_and_its_reports_say_how_the_evidence_came_about(guest, tmp_path, preset) -> None:
    predictor = load(f"hf:{guest}", preset=guest.parent / f"{preset}.yaml")
    write_nifti(body(), tmp_path / "scan.nii.gz")
    options = ServeOptions(model=f"hf:{guest}", folder=tmp_path / "kept")
    with TestClient(create_app(predictor, options), base_url="http://127.0.0.1:8000") as client:
        file = ("scan.nii.gz", (tmp_path / "scan.nii.gz").read_bytes())
        sent = client.post("/v1/volumes", files={"file": file}, data={"unit": "HU"})
        assert sent.status_code == 201, sent.text
        volume = sent.json()["id"]
        assert len(sent.json()["grid_slices"]) == 6
        asked = question(volume, "What is seen?", max_tokens=6)
        asked["model"] = predictor.card.name
        answered = client.post("/v1/chat/completions", json=asked)
        assert answered.status_code == 200, answered.text
        message = answered.json()["choices"][0]["message"]
        assert message["evidence"] == "occlusion"
        assert "measured by occlusion" in message["evidence_note"]
        (direct,) = predictor.ask(body(), "What is seen?", max_new_tokens=6)
        assert message["content"] == direct.text, "what is kept of a scan is not what was shown"
        assert message["scores"] == pytest.approx(direct.scores, abs=1e-4)
        report = client.get(f"/v1/volumes/{volume}/report", params={"format": "json"}).json()
        assert report["answers"][0]["evidence"]["measured_by"] == "occlusion"
        streamed = client.post("/v1/chat/completions", json={**asked, "stream": True})
        assert "evidence_note" in streamed.text
        told = {**asked, "messages": [{"role": "system", "content": "Be brief."}, *asked["messages"]]}
        behind = client.post("/v1/chat/completions", json=told).json()
        assert behind["choices"][0]["message"]["content"] != message["content"]
        report = client.get(f"/v1/volumes/{volume}/report", params={"format": "json", "answers": behind["id"]}).json()
        assert [one["system"] for one in report["answers"]] == ["Be brief."]
        long = {**asked, "messages": [{**asked["messages"][0], "content": "x " * 60_000}]}
        assert client.post("/v1/chat/completions", json=long).status_code in (400, 422)


def test_a_servers_model_is_asked_from_the_command_line(tmp_path) -> None:
    (tmp_path / "small.yaml").write_text(PRESET)
    write_nifti(replace(body()), tmp_path / "scan.nii.gz")
    with stub_server() as server:
        said = run(
            *("ask", tmp_path / "scan.nii.gz", "What is seen?", "--model", f"openai:{server.url}#stub"),
            *("--preset", tmp_path / "small.yaml"),
        )
    assert "a cyst" in said
    assert "as far as the server tells it" in said
