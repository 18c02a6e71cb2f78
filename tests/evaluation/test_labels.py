"""Tables of labels are read for what they say, refused with file and line, and scored by `slicesight score`."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest

from json_checks import documented
from slicesight import cli
from slicesight.data.sources.ct_rate import FINDINGS
from slicesight.errors import InputError
from slicesight.evaluation.metrics.labels import Place, is_label_table, matched, read_labels, write_rows
from slicesight.evaluation.metrics.radeval import radeval_scores

from .conftest import prediction_line

GOOD = "VolumeName,Lung nodule,Pleural_effusion\nvalid_1_a_1.nii.gz,1,0\nvalid_2_a_1.nii.gz,0.25,\n"


@pytest.fixture
def table(tmp_path):
    """A function that writes a csv -> its path."""

    def write(text: str, name: str = "labels.csv", encoding: str = "utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write


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


def test_a_table_of_labels_is_read(table):
    found = read_labels(table("\ufeff" + GOOD))
    assert found.volumes == ("valid_1_a_1", "valid_2_a_1")
    assert found.findings == ("Lung nodule", "Pleural_effusion")
    assert np.array_equal(found.present, [[1, 0], [0, np.nan]], equal_nan=True)
    assert found.probability[1, 0] == 0.25, "a probability between 0 and 1 makes all of them probabilities"
    assert read_labels(table(GOOD.replace("0.25", "0"))).probability is None


def test_uncertain_labels_count_as_the_user_says(table):
    path = table("id,Nodule\na,-1\nb,0\n")
    assert read_labels(path).present.tolist() == [[1], [0]]
    assert read_labels(path, uncertain="absent").present.tolist() == [[0], [0]]
    assert read_labels(path).about["num_uncertain"] == 1


def test_sides_and_locations_are_columns_of_their_finding(table):
    path = table("volume,Nodule,Nodule: side,Nodule: location\na,1,left,upper lobe; apex\nb,1,bilateral,\nc,0,,\n")
    places = read_labels(path).places
    assert places["a", "Nodule"] == Place(side=frozenset({"left"}), location=frozenset({"upper lobe", "apex"}))
    assert places["b", "Nodule"].side == {"left", "right"}
    assert ("c", "Nodule") not in places


def test_what_is_written_is_read_as_it_was(table, tmp_path):
    first = read_labels(table("volume,Nodule,Nodule: side,Nodule: location\na,1,left,apex\nb,0,,\n"))
    with (tmp_path / "again.csv").open("w", newline="") as file:
        csv.writer(file).writerows(write_rows(first))
    again = read_labels(tmp_path / "again.csv")
    assert (again.volumes, again.findings, dict(again.places)) == (first.volumes, first.findings, dict(first.places))
    assert np.array_equal(again.present, first.present)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Lung nodule,Effusion\n1,0\n", "labels.csv line 1: no column VolumeName among Lung nodule, Effusion"),
        ("", "labels.csv line 1: no column VolumeName among nothing"),
        ("VolumeName\na\n", "line 1: no finding beside VolumeName"),
        ("VolumeName,Nodule\n", "labels.csv: no row below the header"),
        ("VolumeName,Nodule\na,1\nb,yes please\n", "line 3: Nodule is 'yes please'; expected 0, 1"),
        ("VolumeName,Nodule\na,1.5\n", "line 2: Nodule is '1.5'"),
        ("VolumeName,Nodule\na,1\na,1\n", "line 3: a is on line 2 too; keep one"),
        ("VolumeName,Nodule\na,1\nb,0\na.nii.gz,0\n", "line 4: a has other labels on line 2 too"),
        ("VolumeName,Nodule\na,1,0\n", "line 2: more or fewer cells than the header"),
        ("VolumeName,Nodule\n,1\n", "line 2: VolumeName is empty"),
        ("VolumeName,Nodule,nodule\na,1,1\n", "line 1: the column 'nodule' comes twice"),
        ("VolumeName,Nodule,Nodule: side\na,1,up\n", "line 2: Nodule: side is 'up'; expected left, right"),
        ("VolumeName,Nodule,Cyst: side\na,1,left\n", "line 1: 'Cyst: side' belongs to no finding's column"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line_with_the_place(table, text, message):
    with pytest.raises(InputError) as caught:
        read_labels(table(text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_encoding_is_named(table):
    with pytest.raises(InputError, match="UTF-8"):
        read_labels(table("VolumeName,Nödule\na,1\n", encoding="latin-1"))


def test_scans_and_findings_that_only_one_table_has(table):
    true, said = (
        read_labels(table(GOOD, "true.csv")),
        read_labels(table(GOOD.replace("valid_2", "valid_9"), "said.csv")),
    )
    with pytest.raises(InputError, match=r"said.csv: scan 'valid_9_a_1' \(1 of 2\) is not in true.csv"):
        matched(said, true, said_name="said.csv", true_name="true.csv")
    fewer = read_labels(table(GOOD.replace("Lung nodule", "Cyst"), "said.csv"))
    with pytest.raises(InputError, match=r"no label for 'Lung nodule' \(1 of 2 findings\)"):
        matched(fewer, true, said_name="said.csv", true_name="true.csv")
    half = read_labels(table("volume,pleural effusion,lung nodule\nvalid_1_a_1,0,1\n", "half.csv"))
    one, other, num_left = matched(half, true, said_name="half.csv", true_name="true.csv")
    assert (one.findings, one.present.tolist(), other.present.tolist(), num_left) == (
        true.findings,
        [[1, 0]],
        [[1, 0]],
        1,
    )


def test_tables_of_labels_are_known_from_tables_of_answers(table, peers):
    assert is_label_table(table(GOOD))
    assert not is_label_table(peers / "eval_caption.csv")
    assert not is_label_table(table("Foo,Bar\n1,2\n"))


# --- the command line ------------------------------------------------------------------------------------------------


def reports(path, *pairs):
    lines = [
        prediction_line(
            id=str(number), task="report", topic="report", volume=f"v{number}", prediction=said, answer=true
        )
        for number, (said, true) in enumerate(pairs)
    ]
    path.write_text("".join(lines))
    return path


PAIRS = (
    ("Pleural effusion on the left.", "Small left pleural effusion. No nodule."),
    ("No pleural effusion. A nodule in the right lung.", "A nodule in the left lung."),
    ("Normal.", "Cardiomegaly."),
)


def test_findings_are_read_from_the_reports(run, tmp_path):
    reports(tmp_path / "a.jsonl", *PAIRS)
    code, out, _ = run("score", "a.jsonl", "--labels", "rules", "--json", "-")
    documented("score", out)
    part = json.loads(out)["clinical"]
    assert code == 0
    assert (part["num_volumes"], part["num_labels"], part["num_positive"]) == (3, 54, 3)
    assert part["findings"]["Pleural effusion"]["f1"] == 1
    assert part["findings"]["Cardiomegaly"]["recall"] == 0
    assert part["findings"]["Emphysema"]["f1"] is None
    assert part["side"]["agreement"] == 0.5
    assert part["controls"]["nothing"]["micro"]["recall"] == 0
    assert part["labels"]["said"]["from"] == "rules"
    _, told, _ = run("score", "a.jsonl", "--labels", "rules")
    assert "CRG" in told
    assert "Cardiomegaly" in told


def test_without_labels_the_sheet_says_how_to_have_them(run, tmp_path):
    reports(tmp_path / "a.jsonl", *PAIRS)
    sheet = json.loads(run("score", "a.jsonl", "--json", "-")[1])
    assert sheet["clinical"] is None
    assert "--labels rules" in sheet["missing"]["clinical"]


def test_true_labels_come_from_a_table_and_scans_left_out_are_told(run, tmp_path, table):
    reports(tmp_path / "a.jsonl", *PAIRS)
    rows = [["VolumeName", *FINDINGS]]
    rows += [
        [f"v{number}.nii.gz", *("1" if name == "Lung nodule" else "0" for name in FINDINGS)] for number in range(5)
    ]
    table("\n".join(",".join(row) for row in rows) + "\n", "true.csv")
    code, out, _ = run("score", "a.jsonl", "--labels", "rules", "--true-labels", "true.csv", "--json", "-")
    sheet = json.loads(out)
    assert code == 0
    assert sheet["clinical"]["findings"]["Lung nodule"]["recall"] == pytest.approx(1 / 3)
    assert sheet["missing"]["clinical.volumes"].startswith("2 of 5 scans of true.csv")


def test_tables_of_two_classifiers_are_scored_and_compared_without_any_report(run, table):
    rng = np.random.default_rng(0)
    truth = rng.random((60, 3)) < 0.4

    def write(name, values):
        rows = "\n".join(f"v{row}," + ",".join(f"{value:.2f}" for value in line) for row, line in enumerate(values))
        table(f"VolumeName,A,B,C\n{rows}\n", name)

    write("true.csv", truth.astype(float))
    write("good.csv", np.clip(truth * 0.7 + rng.random(truth.shape) * 0.35, 0.01, 0.99))
    write("bad.csv", rng.random(truth.shape))
    code, out, _ = run("score", "good.csv", "bad.csv", "--true-labels", "true.csv", "--json", "-")
    document = json.loads(out)
    assert code == 0
    good, bad = (sheet["clinical"] for sheet in document["systems"])
    assert good["macro"]["auroc"] > 0.9 > 0.65 > bad["macro"]["auroc"]
    entry = next(entry for entry in document["comparisons"] if entry["metric"] == "macro_f1")
    assert entry["difference"] > 0.2
    assert entry["p_holm"] < 0.05
    code, out, _ = run("score", "good.csv", "bad.csv", "--true-labels", "true.csv")
    assert code == 0
    assert "AUROC" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("labels.csv",), "labels.csv holds labels; name the true ones with --true-labels"),
        (("a.jsonl", "--true-labels", "labels.csv"), "--true-labels belongs to --labels"),
        (("a.jsonl", "--labels", "labels.csv"), "needs --true-labels"),
        (("a.jsonl", "--labels", "b=labels.csv", "--true-labels", "rules"), "no system is called b; there are a"),
        (("a.jsonl", "--labels", "labels.csv", "--true-labels", "rules"), "is not in the labels by rules"),
        (("a.jsonl", "--labels", "nowhere.csv", "--true-labels", "rules"), "cannot be read"),
        (("a.jsonl", "--labels", "no/such-model"), "cannot be loaded"),
    ],
)
def test_a_choice_that_cannot_be_is_one_line_and_exit_code_2(run, tmp_path, table, arguments, message):
    table(GOOD)
    reports(tmp_path / "a.jsonl", *PAIRS)
    code, out, err = run("score", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_any_classifier_of_sequences_labels_the_reports(run, tmp_path, tiny_bert):
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    names = {0: "Cyst", 1: "Mass", 2: "Stone"}
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(
        tiny_bert, num_labels=3, id2label=names, problem_type="multi_label_classification"
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "classifier")
    BertTokenizerFast.from_pretrained(tiny_bert).save_pretrained(tmp_path / "classifier")
    reports(tmp_path / "a.jsonl", *PAIRS, ("long " * 200, "cyst"))
    code, out, _ = run("score", "a.jsonl", "--labels", "classifier", "--json", "-")
    part = json.loads(out)["clinical"]
    assert code == 0
    assert list(part["findings"]) == list(names.values())
    assert part["labels"]["said"]["num_cut"] == 1
    config.id2label = {number: f"LABEL_{number}" for number in range(3)}
    config.save_pretrained(tmp_path / "classifier")
    code, _, err = run("score", "a.jsonl", "--labels", "classifier")
    assert code == 2
    assert "name the findings in id2label" in err
    code, _, err = run("score", "a.jsonl", "--labels", tiny_bert)
    assert code == 2
    assert "expected a ...ForSequenceClassification" in err


# --- RadEval ---------------------------------------------------------------------------------------------------------


FAKE = """
class RadEval:
    def __init__(self, metrics, per_sample, show_progress):
        if metrics == ["green"]:
            raise OSError("no weights here\\nand more")
        if metrics == ["bertscore"]:
            raise OSError("We couldn't connect to 'https://huggingface.co' to load the files")
        if metrics == ["ratescore"]:
            import medspacy_that_is_not_here
        if metrics == ["crash"]:
            import os
            os._exit(3)
    def __call__(self, refs, hyps):
        return {"radgraph_simple": [float(a == b) for a, b in zip(refs, hyps)]}
"""


@pytest.fixture
def fake_radeval(tmp_path, monkeypatch):
    """An environment whose RadEval has one metric, one that lacks its weights and one that kills the process."""
    (tmp_path / "site" / "radeval-2.2.1.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "radeval-2.2.1.dist-info" / "METADATA").write_text("Name: radeval\nVersion: 2.2.1\n")
    (tmp_path / "site" / "radeval.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))


def test_radeval_gives_its_figures_and_says_what_it_lacks(run, tmp_path, fake_radeval):
    reports(tmp_path / "a.jsonl", ("x", "x"), ("y", "z"))
    arguments = ("--radeval", "radgraph", "--radeval", "green", "--radeval-python", sys.executable)
    code, out, _ = run("score", "a.jsonl", *arguments, "--json", "-")
    sheet = json.loads(out)
    assert code == 0
    assert sheet["radeval"]["values"]["radgraph_simple"]["mean"] == 0.5
    assert sheet["radeval"]["values"]["green"] is None
    assert sheet["missing"]["radeval.green"] == "OSError: no weights here"
    assert sheet["radeval"]["version"] == "2.2.1"


def test_a_radeval_that_dies_or_is_not_there_is_null_with_the_reason(fake_radeval, monkeypatch, tmp_path):
    died = radeval_scores([("x", "x")], ["crash"])
    assert died.values == {}
    assert "exit code 3" in died.missing["crash"]
    lacking = radeval_scores([("x", "x")], ["bertscore", "ratescore"]).missing
    assert lacking["bertscore"].endswith("where there is a connection, its weights are fetched then and kept")
    assert "No module named 'medspacy_that_is_not_here'; pip install it into the environment of" in lacking["ratescore"]
    monkeypatch.delenv("PYTHONPATH")
    absent = radeval_scores([("x", "x")], ["radgraph"])
    if absent.version is None:
        assert "pip install radeval" in absent.missing["radgraph"]
    nowhere = radeval_scores([("x", "x")], ["radgraph"], python=tmp_path / "no-python")
    assert "cannot be run" in nowhere.missing["radgraph"]
