"""Curves and claims measure what they say: planted scores give the known numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import slicesight
from slicesight.cli.measure import run_faithfulness
from slicesight.cli.scoring import FaithfulnessOptions
from slicesight.data.dataset import ManifestDataset, select
from slicesight.errors import InputError
from slicesight.evaluation import faithfulness
from slicesight.evaluation.faithfulness import area_gains, curve_masks, mean_curves, measure, steps_of, verdict_of
from slicesight.evaluation.likelihood import BRANCHES, as_generated, log_likelihoods, open_scan, score_questions
from slicesight.evaluation.score_claims import STANDARD, AskedScores, distance, weigh_claims
from slicesight.evaluation.statistics import effective_number
from slicesight.reports.faithfulness import verdict_line

N = 8


@pytest.fixture(scope="module")
def source(scans):
    return select(ManifestDataset(scans / "manifest.jsonl"), count=2)


@pytest.fixture(scope="module")
def scan(source, tiny_reader):
    return open_scan(tiny_reader, source.grid(source.cases[0], tiny_reader.grid_spec))


def test_steps_double_until_all_slices():
    assert steps_of(32) == [0, 1, 2, 4, 8, 16, 32]
    assert steps_of(6) == [0, 1, 2, 4, 6]


def test_masks_take_the_heaviest_away_first_and_begin_with_the_whole_scan():
    scores = np.array([0.1, 0.5, 0.05, 0.35])
    kept, keys = curve_masks(scores, [np.array([2, 0, 3, 1])])
    assert kept[0].all()
    heaviest = [row for row, key in zip(kept, keys, strict=True) if key == ("deletion", "heaviest")]
    assert [np.flatnonzero(~row).tolist() for row in heaviest] == [[], [1], [1, 3], [0, 1, 2, 3]]
    random = [row for row, key in zip(kept, keys, strict=True) if key == ("deletion", "random")]
    assert [np.flatnonzero(~row).tolist() for row in random] == [[], [2], [0, 2], [0, 1, 2, 3]]
    lightest = [row for row, key in zip(kept, keys, strict=True) if key == ("insertion", "lightest")]
    assert [np.flatnonzero(row).tolist() for row in lightest] == [[], [2], [0, 2], [0, 1, 2, 3]]


def test_the_log_likelihood_is_the_sum_over_the_answers_tokens_one_scan_at_a_time(scan, tiny_reader):
    question, words = "Which phase is this?", "portal venous"
    kept = np.array([np.ones(N, bool), np.arange(N) > 2, np.zeros(N, bool)])
    found = log_likelihoods(scan, question, words, kept, branch="whole")
    model, processor = tiny_reader.model, tiny_reader.processor
    for row, mask in zip(found, kept, strict=True):
        volume = scan.voxels_1NHW * torch.from_numpy(mask)[:, None, None]
        inputs = processor(question, answers=words, volumes=volume[0])
        labels = inputs["labels"][0]
        with torch.inference_mode():
            logits = model(**{k: v for k, v in inputs.items() if k != "labels"}).logits[0]
        spread = torch.log_softmax(logits.float(), dim=-1)
        expected = sum(spread[place - 1, token].item() for place, token in enumerate(labels.tolist()) if token >= 0)
        assert row == pytest.approx(expected, abs=1e-4)


def test_a_mask_is_encoded_once_however_often_it_is_asked_for(source, tiny_reader, monkeypatch):
    scan = open_scan(tiny_reader, source.grid(source.cases[0], tiny_reader.grid_spec))
    kept = np.array([np.ones(N, bool), np.arange(N) > 2, np.ones(N, bool), np.arange(N) > 2])
    calls = []
    encode = tiny_reader.model.vision3d.forward
    monkeypatch.setattr(tiny_reader.model.vision3d, "forward", lambda volumes: calls.append(1) or encode(volumes))
    found = [log_likelihoods(scan, question, "yes", kept, branch="whole") for question in ("One?", "Two?")]
    assert len(calls) == 2
    assert found[0][:2].tolist() == found[0][2:].tolist()
    assert found[0][0] != found[0][1]


def test_masking_the_2d_branch_leaves_the_3d_tokens_alone(scan):
    kept = np.arange(N)[None] < 3
    whole, slices = (scan.features(kept, branch=branch) for branch in BRANCHES)
    torch.testing.assert_close(whole.tokens_2d_VNLD, slices.tokens_2d_VNLD)
    torch.testing.assert_close(slices.tokens_3d_VKPD, scan.seen.tokens_3d_VKPD)
    assert not torch.allclose(whole.tokens_3d_VKPD, slices.tokens_3d_VKPD)


def test_scores_are_those_the_reader_gives(scan, source, tiny_reader):
    question = "Where is the cyst?"
    grid = source.grid(source.cases[0], tiny_reader.grid_spec)
    assert score_questions(scan, [question])[0] == pytest.approx(tiny_reader.ask(grid, question)[0].scores, abs=1e-6)


def test_an_answer_without_letter_is_its_own_words(scan):
    assert as_generated(scan, "Which phase is this?", "venous") == "venous"
    closed = "Which? Choices: A. liver B. spleen"
    assert as_generated(scan, closed, "B. spleen") in ("B. spleen", "spleen", "B")


def planted(scores_point_at_it: bool) -> list:
    """Answers that rest on slice 3 alone: the likelihood is lost with it and found with it."""

    def curve(order, curve_name):
        steps = steps_of(N)
        kept_by_step = [set(order[:step]) if curve_name == "insertion" else set(order[step:]) for step in steps]
        return np.array([0.0 if 3 in kept else -5.0 for kept in kept_by_step])

    first = [3, *[j for j in range(N) if j != 3]] if scores_point_at_it else [j for j in range(N) if j != 3] + [3]
    found = []
    for volume in range(12):
        rng = np.random.default_rng(volume)
        curves = {}
        for branch in BRANCHES:
            for name in ("deletion", "insertion"):
                curves[branch, name, "heaviest"] = curve(first, name)
                curves[branch, name, "lightest"] = curve(first[::-1], name)
                curves[branch, name, "random"] = np.mean(
                    [curve(list(rng.permutation(N)), name) for _ in range(8)], axis=0
                )
        found.append(faithfulness.QuestionCurves(volume=str(volume), topic="organ", curves=curves))
    return found


@pytest.mark.parametrize("points", [True, False])
def test_gains_are_above_zero_just_where_the_scores_point_at_what_the_answer_rests_on(points):
    for entry in area_gains(planted(points), steps_of(N), N):
        assert (entry["gain"] > 0) == points
        assert (entry["ci95"][0] > 0) == points
        assert entry["p_holm"] < 0.05


def test_mean_curves_begin_with_the_whole_scan_and_have_intervals():
    curves = mean_curves(planted(True))
    assert curves["whole"]["deletion"]["heaviest"]["mean"] == [0, -5, -5, -5, -5]
    assert curves["whole"]["insertion"]["heaviest"]["mean"] == [-5, 0, 0, 0, 0]
    low, high = curves["whole"]["deletion"]["random"]["ci95"][2]
    assert -5 < low < high < 0


def asked(rng, *, by_volume: float, by_topic: float, by_wording: float, smooth: bool = False) -> list[AskedScores]:
    """Scores whose logits are a sum of a part of the volume, of the topic in it, and of the wording."""

    def noise():
        values = rng.normal(size=N)
        return np.convolve(values, [1, 1, 1], mode="same") if smooth else values

    def soft(logits):
        return np.exp(logits) / np.exp(logits).sum()

    found = []
    for volume in range(20):
        shared = by_volume * noise()
        topics = {topic: shared + by_topic * noise() for topic in STANDARD}
        topics["phase"] = topics["phase"] * 3
        topics["report"] = topics["report"] * 0.2
        found.append(
            AskedScores(
                volume=str(volume),
                standard={topic: soft(logits) for topic, logits in topics.items()},
                paraphrases={topic: (soft(logits + by_wording * noise()),) for topic, logits in topics.items()},
                forms=((soft(topics["organ"]), soft(topics["organ"] + by_wording * noise())),),
            )
        )
    return found


def test_claims_hold_for_scores_that_were_planted_so():
    claims = weigh_claims(asked(np.random.default_rng(0), by_volume=2, by_topic=1, by_wording=0.1))
    for name in ("other_volumes_other_scores", "other_questions_other_scores", "open_and_closed_alike", "key_slices",
                 "captions_denser_than_phase", "no_pattern_between_neighbours", "paraphrases_alike"):  # fmt: skip
        assert claims[name]["holds"], name
        low, high = claims[name]["ci95"]
        assert low <= claims[name]["value"] <= high
    assert claims["effective_slices"]["report"]["value"] > claims["effective_slices"]["phase"]["value"]


def test_claims_fail_for_scores_that_were_planted_so():
    rng = np.random.default_rng(0)
    claims = weigh_claims(asked(rng, by_volume=0, by_topic=1, by_wording=2, smooth=True))
    for name in ("open_and_closed_alike", "paraphrases_alike", "no_pattern_between_neighbours"):
        assert claims[name]["holds"] is False, name


@pytest.mark.parametrize(("ci95", "rests"), [(None, None), ([0.1, 0.3], True), ([-0.1, 0.3], False)])
def test_one_scan_cannot_say_whether_answers_rest_on_the_heaviest_slices(ci95, rests):
    gain = {"branch": "whole", "against": "random", "ci95": ci95, "p_holm": 0.01}
    verdict = verdict_of({"gains": [gain], "curves": {"whole": {}}, "evidence": None})
    assert verdict["answers_rest_on_the_heaviest_slices"] is rests
    line = verdict_line({"model": "tiny", "verdict": verdict, "evidence": None})
    assert ("one scan cannot tell" in line, "do NOT rest" in line) == (rests is None, rests is False)


def test_one_scan_neither_bears_out_a_claim_nor_refutes_it():
    claims = weigh_claims(asked(np.random.default_rng(0), by_volume=2, by_topic=1, by_wording=0.1)[:1])
    del claims["effective_slices"]
    assert {claim["holds"] for claim in claims.values()} == {None}
    assert {str(claim["ci95"]) for claim in claims.values()} == {"None"}


def test_distance_and_density_at_their_ends():
    one, even = np.eye(N)[0], np.full(N, 1 / N)
    assert distance(one, np.eye(N)[1]) == 1
    assert distance(even, even) == 0
    assert effective_number(one) == pytest.approx(1)
    assert effective_number(even) == pytest.approx(N)


def test_one_command_writes_numbers_and_one_figure(scans, tiny_model_folder, tmp_path, capsys):
    request = FaithfulnessOptions(model=[str(tiny_model_folder)] * 2, data=str(scans), out=tmp_path / "out", count=2)
    run_faithfulness(request, load=slicesight.load)
    document = json.loads((tmp_path / "out" / "faithfulness.json").read_text())
    (first, second) = document["models"]
    assert first == second, "the same model measured twice gives the same numbers"
    assert first["num_volumes"] == 2
    assert len(first["gains"]) == 8
    assert first["curves"]["whole"]["deletion"]["heaviest"]["mean"][0] == 0
    assert first["verdict"]["answers_rest_on_the_heaviest_slices"] is False, "two scans prove nothing"
    assert (tmp_path / "out" / "faithfulness.png").read_bytes()[:4] == b"\x89PNG"
    assert "rest on the slices it weighs most" in capsys.readouterr().out


def test_a_model_without_scores_is_refused(source, tiny_model_folder):
    reader = slicesight.load(tiny_model_folder)
    reader.model.scorer = None
    with pytest.raises(InputError, match="no slice scores"):
        measure(reader, source)
