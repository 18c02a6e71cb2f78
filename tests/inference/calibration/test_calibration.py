"""A calibrated model says how sure it is and holds back what it should; one without a calibration answers as before."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

import slicesight
from slicesight.data.answer_tolerance import read_tolerances
from slicesight.errors import InputError, ModelError
from slicesight.inference.answers import Answer
from slicesight.inference.calibration import calibration as module
from slicesight.inference.calibration import fitting
from slicesight.inference.calibration.calibration import DO_NOT_KNOW, NO_RULE, NO_SCAN, NOT_CALIBRATED, Calibration
from slicesight.inference.calibration.confidence import ConfidenceCurve
from slicesight.inference.calibration.fitting import calibrate, spread_out
from slicesight.inference.calibration.likelihood import AnswerLikelihood
from slicesight.inference.calibration.questions import QuestionJudgement, TaughtQuestion, fit_questions
from slicesight.inference.calibration.storage import ARRAYS_FILE, CALIBRATION_FILE, write_calibration
from slicesight.models.checksums import write_checksums

CLOSED = "Which phase is this? Choices: A. arterial phase B. venous phase"
OPEN = "Which organ contains the cyst?"
UNKNOWN = "Is there pneumonia?"
FEW = 6


@pytest.fixture(scope="module")
def good(calibrated, make_body):
    return calibrated.encode(calibrated.grid(make_body(100)))


@pytest.fixture(scope="module")
def strange(calibrated, make_body):
    volume = make_body(100)
    return calibrated.encode(calibrated.grid(replace(volume, voxels=-800 - volume.voxels)))


def plain(answers):
    """What an answer was before there were confidences."""
    return [(answer.text, answer.scores, answer.cut_at, answer.choice) for answer in answers]


def test_a_model_without_a_calibration_gives_none_and_says_why(tiny_reader, make_body):
    (answer,) = tiny_reader.ask(make_body(100), OPEN, max_new_tokens=FEW)
    assert (answer.confidence, answer.confidence_note, answer.abstained) == (None, NOT_CALIBRATED, None)


def test_a_calibration_changes_no_answer_that_it_does_not_hold_back(tiny_reader, calibrated, good):
    for choices in ("free", "only", "both"):
        before = tiny_reader.ask(good, [CLOSED, OPEN], choices=choices, max_new_tokens=FEW)
        after = calibrated.ask(good, [CLOSED, OPEN], choices=choices, max_new_tokens=FEW)
        assert plain(after) == plain(before)


def test_a_closed_answer_among_its_choices_has_a_confidence(calibrated, good):
    (answer,) = calibrated.ask(good, CLOSED, choices="only", max_new_tokens=40)
    assert answer.confidence is not None
    assert 0 < answer.confidence < 1
    assert answer.confidence_note is None


def test_an_answer_outside_the_choices_is_surely_wrong(calibrated, good):
    (answer,) = calibrated.ask(good, CLOSED, max_new_tokens=FEW)
    assert answer.is_outside_choices
    assert answer.confidence == 0.0


def test_a_report_has_no_confidence_and_says_why(calibrated, good):
    (answer,) = calibrated.ask(good, max_new_tokens=FEW)
    assert (answer.confidence, answer.confidence_note) == (None, NO_RULE)


def test_a_strange_scan_is_not_answered_and_what_would_be_said_is_kept(tiny_reader, calibrated, strange):
    (said,) = tiny_reader.ask(strange, OPEN, max_new_tokens=FEW)
    (answer,) = calibrated.ask(strange, OPEN, max_new_tokens=FEW)
    assert answer.abstained == "strange_scan"
    assert answer.text.startswith(DO_NOT_KNOW)
    assert answer.would_say == said.text
    assert answer.confidence is None


def test_an_unknown_question_is_not_answered(calibrated, good):
    known, unknown = calibrated.ask(good, [OPEN, UNKNOWN], max_new_tokens=FEW)
    assert known.abstained is None
    assert unknown.abstained == "unknown_question"
    assert "pneumonia" in unknown.text


def test_answer_anyway_gives_the_text_and_says_what_is_wrong_with_it(tiny_reader, calibrated, strange):
    (said,) = tiny_reader.ask(strange, OPEN, max_new_tokens=FEW)
    (answer,) = calibrated.ask(strange, OPEN, answer_anyway=True, max_new_tokens=FEW)
    assert (answer.text, answer.would_say, answer.abstained) == (said.text, None, "strange_scan")


def test_less_confidence_than_asked_for_is_held_back(calibrated, good):
    (answer,) = calibrated.ask(good, CLOSED, choices="only", min_confidence=1.0, max_new_tokens=40)
    assert answer.abstained == "low_confidence"
    assert answer.confidence is not None
    assert answer.would_say is not None
    assert answer.choice is None
    (answer,) = calibrated.ask(good, CLOSED, choices="only", min_confidence=0.0, max_new_tokens=40)
    assert answer.abstained is None


@pytest.mark.parametrize("value", [-0.1, 1.1, "much", True, float("nan")])
def test_a_min_confidence_that_is_no_share_is_refused(calibrated, good, value):
    with pytest.raises(InputError, match="min_confidence"):
        calibrated.ask(good, OPEN, min_confidence=value, max_new_tokens=FEW)


def test_a_confidence_asked_of_a_model_without_a_calibration_is_refused(tiny_reader, good):
    with pytest.raises(InputError, match=r"tiny-random has no calibration.*calibrate it"):
        tiny_reader.ask(good, OPEN, min_confidence=0.5)
    assert tiny_reader.ask(good, OPEN, min_confidence=0.0, max_new_tokens=FEW)


def test_held_back_pieces_joined_are_the_answers_text_and_nothing_leaks_before(calibrated, strange, good):
    pieces = list(calibrated.ask_stream(strange, OPEN, max_new_tokens=FEW))
    assert "".join(piece.text for piece in pieces) == pieces[-1].answer.text
    assert pieces[-1].answer.would_say not in "".join(piece.text for piece in pieces)
    pieces = list(calibrated.ask_stream(good, OPEN, min_confidence=1.0, max_new_tokens=FEW))
    assert [piece.answer is not None for piece in pieces] == [True]
    assert len(list(calibrated.ask_stream(good, OPEN, max_new_tokens=FEW))) > 1


def test_a_question_without_a_scan_has_no_confidence(calibrated):
    (answer,) = calibrated.ask(None, UNKNOWN, max_new_tokens=FEW)
    assert (answer.confidence_note, answer.abstained) == (NO_SCAN, None)


def test_beams_keep_no_likelihood_but_a_strange_scan_is_still_held_back(calibrated, strange, good):
    (answer,) = calibrated.ask(good, OPEN, num_beams=2, max_new_tokens=4)
    assert answer.confidence is None
    assert "likelihood" in answer.confidence_note
    (answer,) = calibrated.ask(strange, OPEN, num_beams=2, max_new_tokens=4)
    assert answer.abstained == "strange_scan"


def test_a_scan_is_judged_once_however_often_it_is_asked(calibrated, make_body, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "measure_scan", lambda scan: calls.append(scan) or measure(scan))
    from slicesight.inference.calibration.scan_features import measure_scan as measure

    scan = calibrated.encode(calibrated.grid(make_body(102)))
    for _ in range(3):
        calibrated.ask(scan, [OPEN, CLOSED], max_new_tokens=FEW)
    assert len(calls) == 1


def test_other_weights_are_not_taken_for_those_that_were_calibrated(calibrated_folder, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "other"
    shutil.copytree(calibrated_folder, folder)
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name] + torch.tensor(0.5)}, folder / "model.safetensors", {"format": "pt"})
    write_checksums(folder)
    with pytest.raises(ModelError, match=r"other weights .* calibrate again"):
        slicesight.load(folder)
    assert slicesight.load(folder, ignore_calibration=True).calibration is None


@pytest.mark.parametrize("damage", ["no arrays", "other arrays", "cut", "another format", "no curves"])
def test_a_damaged_calibration_is_one_line(calibrated_folder, tmp_path, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(calibrated_folder, folder)
    document = json.loads((folder / CALIBRATION_FILE).read_text(encoding="utf-8"))
    if damage == "no arrays":
        (folder / ARRAYS_FILE).unlink()
    elif damage == "other arrays":
        (folder / ARRAYS_FILE).write_bytes((folder / ARRAYS_FILE).read_bytes()[:-8] + bytes(8))
    elif damage == "cut":
        (folder / CALIBRATION_FILE).write_text(json.dumps(document)[:100], encoding="utf-8")
    else:
        changed = {"format": 99} if damage == "another format" else {"curves": None}
        (folder / CALIBRATION_FILE).write_text(json.dumps(document | changed), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        slicesight.load(folder)
    assert "\n" not in str(caught.value)
    assert "calibration" in str(caught.value)


def test_a_calibration_is_read_as_it_was_written(fitted, calibrated):
    stored, made = calibrated.calibration, fitted.calibration
    assert stored.facts == made.facts
    assert stored.curves.keys() == {*made.curves, "closed"}
    assert stored.questions.terms == made.questions.terms
    assert stored.questions.shapes == made.questions.shapes
    assert stored.scans.known == made.scans.known


def test_too_few_scans_are_refused(tiny_reader, bodies):
    with pytest.raises(InputError, match="5 readable scans; expected at least 20"):
        calibrate(tiny_reader, bodies(5), max_new_tokens=2)


def test_a_patient_in_both_training_and_validation_data_is_refused(tiny_reader, bodies):
    with pytest.raises(InputError, match="is in the training data and in the validation"):
        calibrate(tiny_reader, bodies(20), training=bodies(2, first=19), max_new_tokens=2)


def test_an_unreadable_scan_stops_the_run_or_is_listed(tiny_reader, bodies, monkeypatch):
    data = bodies(22)
    grid = data.grid

    def broken(case, spec):
        if case.id == "body 3":
            raise InputError("the file is cut off")
        return grid(case, spec)

    data.grid = broken
    with pytest.raises(InputError, match="case body 3: the file is cut off"):
        calibrate(tiny_reader, data, max_new_tokens=2)
    assert calibrate(tiny_reader, data, on_bad_case="skip", max_new_tokens=2).skipped == {
        "body 3": "the file is cut off"
    }


def test_writing_twice_leaves_the_last_one_whole(fitted, calibrated_folder, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(calibrated_folder, folder)
    write_calibration(replace(fitted.calibration, min_confidence=0.4), folder)
    assert slicesight.load(folder).calibration.min_confidence == 0.4
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("question", "expected"),
    [("Is the larynx in view? Choices: A. yes B. no", 0.25), ("Is the larynx in view?", 0.75)],
)
@pytest.mark.parametrize("nearest", ["closed/presence", "open/presence"])
def test_a_topic_asked_with_choices_and_without_has_a_curve_for_each(question, expected, nearest):
    def curve(width: int, share: float) -> ConfidenceCurve:
        offset = math.log(share / (1 - share))
        flat = np.zeros(width)
        return ConfidenceCurve(middle=flat, scale=flat + 1, weights=flat, offset=offset, count=1000)

    calibration = Calibration(curves={"closed/presence": curve(1, 0.25), "open/presence": curve(3, 0.75)})
    likelihood = AnswerLikelihood(token_logs=(-0.1,))
    assert calibration.confidence(likelihood, question=question, kind=nearest) == pytest.approx(expected)


def test_a_question_is_refused_on_a_scan_of_a_kind_that_was_never_asked_it(knows_rods, make_body, make_rod):
    (group,) = knows_rods.calibration.scans_of_topics
    assert group.topics == {"phase", "organ", "report"}
    for volume, held_back in ((make_body(100), None), (make_rod(100), "strange_scan")):
        phase, modality = knows_rods.ask(volume, [CLOSED, "What is the modality?"], max_new_tokens=FEW)
        assert phase.abstained == held_back
        assert modality.abstained is None
    assert "unlike those of which the model was taught such questions" in phase.text


def test_an_answer_that_no_question_of_its_kind_ever_had_is_not_believed(knows_rods, make_body):
    answer = knows_rods.ask(make_body(100), "What is the modality?", max_new_tokens=FEW)[0]
    assert answer.text != "CT", "the tiny model knows nothing"
    assert (answer.confidence, answer.confidence_note) == (0.0, module.NO_SUCH_ANSWER)
    assert knows_rods.calibration.questions.may_say("ct.", kind="open/modality")
    assert knows_rods.calibration.questions.may_say("anything", kind="closed/phase"), "choices have their own rule"


def test_the_training_scans_beside_are_spread_over_all_of_them(bodies):
    cases = bodies(50).cases
    chosen = [int(case.volume) for case in spread_out(cases, 5)]
    assert chosen[0] == 0
    assert chosen[-1] == 49
    assert max(np.diff(chosen)) <= 13
    assert spread_out(cases, 60) == cases


def test_an_open_answer_counts_as_right_by_its_topics_rule(tiny_reader, bodies, good, monkeypatch):
    monkeypatch.setattr(fitting, "is_near_enough", lambda said, asked, rule: rule is not None)
    rules = read_tolerances(["organ=within:2"])
    found = {
        one.kind: one.is_right for one in fitting.judge_answers(tiny_reader, good, bodies(1).cases[0], tolerances=rules)
    }
    assert found == {"closed/phase": False, "open/organ": True}


def test_a_confidence_by_a_rule_of_its_own_says_what_counts_as_right(calibrated, good, monkeypatch):
    rules = read_tolerances(["organ=within:2", "phase=within:2"])
    whole = calibrated.calibration
    any_answer = replace(whole, tolerances=rules, questions=replace(whole.questions, answers={}))
    monkeypatch.setattr(calibrated, "calibration", any_answer)
    closed, opened = calibrated.ask(good, [CLOSED, OPEN], choices="only", max_new_tokens=40)
    assert opened.confidence is not None
    assert opened.confidence_note == "right means within 2 of the true number"
    assert closed.confidence_note is None, "a choice is right or wrong"


def test_tolerances_are_kept_with_the_calibration_and_damage_is_one_line(fitted, calibrated_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(calibrated_folder, folder)
    rules = read_tolerances(["organ=overlap:0.5"])
    write_calibration(replace(fitted.calibration, tolerances=rules), folder)
    assert slicesight.load(folder).calibration.tolerances == rules
    path = folder / CALIBRATION_FILE
    path.write_text(path.read_text(encoding="utf-8").replace("overlap:0.5", "overlap:5"), encoding="utf-8")
    with pytest.raises(ModelError, match=r"overlap:5.*run slicesight calibrate again"):
        slicesight.load(folder)


def test_a_tolerance_of_a_topic_that_nobody_was_asked_openly_is_refused(tiny_reader, bodies):
    with pytest.raises(InputError, match="'phase', of which the data ask no open question; expected one of organ"):
        calibrate(tiny_reader, bodies(20), tolerances=read_tolerances(["phase=within:2"]), max_new_tokens=2)


def test_an_adapted_model_is_as_sure_as_its_own_calibration_says_and_not_as_its_models(calibrated_folder, tmp_path):
    peft = pytest.importorskip("peft")
    model = slicesight.load(calibrated_folder).model
    layer = next(name for name, _ in model.named_modules() if name.endswith("self_attn.q_proj"))
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=[layer]))
    adapted.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(calibrated_folder)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert slicesight.load(calibrated_folder).calibration is not None
    assert slicesight.load(tmp_path).calibration is None  # the weights are no longer those that it was made for


@pytest.mark.parametrize("told", [{"prefix": "The organ is"}, {"system": "You answer in one word."}])
def test_what_was_never_calibrated_has_no_confidence_and_says_why(calibrated, good, told):
    (answer,) = calibrated.ask(good, OPEN, max_new_tokens=FEW, **told)
    assert (answer.confidence, answer.confidence_note) == (None, module.NOT_ALONE)


def test_a_range_said_to_what_was_taken_for_another_kind_is_weighed_as_a_range():
    def curve(share: float) -> ConfidenceCurve:
        flat = np.zeros(3)
        offset = math.log(share / (1 - share))
        return ConfidenceCurve(middle=flat, scale=flat + 1, weights=flat, offset=offset, count=1000)

    answers = {"open/slices": ["slices 3 to 9 of 32"], "open/most": ["slice 5 of 32"]}
    asked = [TaughtQuestion(text=f"Which is {kind}?", kind=kind) for kind in answers]
    calibration = Calibration(
        curves={"open/slices": curve(0.9), "open/most": curve(0.2)},
        questions=fit_questions(asked, taught=answers, answers=answers),
        tolerances=read_tolerances(["slices=overlap:0.5", "most=within:2"]),
    )
    judgement = QuestionJudgement(kind="open/most", score=0.1)
    watch = module.AnswerWatch(calibration=calibration, rule=module.AnswerRule(), scan=None, question=judgement)
    for text, confidence, note in (("slices 13 to 26 of 32", 0.9, "overlaps"), ("slice 7 of 32", 0.2, "within 2")):
        answer = Answer(question="Where is it?", text=text, scores=(), slices=())
        found = watch.finish(answer, AnswerLikelihood(token_logs=(-0.1,)))
        assert found.confidence == pytest.approx(confidence)
        assert note in found.confidence_note
