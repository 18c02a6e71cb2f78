"""What is read from the logits while an answer is said is its likelihood, whole vocabulary and among its choices."""

from __future__ import annotations

import math

import pytest
import torch

from slicesight.inference.calibration.likelihood import TokenRecord, note_tokens
from slicesight.inference.choice_decoding import ChoiceTree
from slicesight.inference.jobs import JobRunner

END = 0
A, B, LEFT, RIGHT, LUNG, OTHER = 1, 2, 3, 4, 5, 6
TREE = ChoiceTree([[A], [LEFT, LUNG], [B], [RIGHT, LUNG]], ends=frozenset({END}), names=["A", "A", "B", "B"])


def record_of(said: list[int], logits: dict[int, list[float]]) -> TokenRecord:
    """A record of tokens said, with logits (7,) at every place."""
    record = TokenRecord(tree=TREE)
    for place, token in enumerate(said):
        record.add(token, torch.log_softmax(torch.tensor(logits.get(place, [0.0] * 7)), dim=-1))
    return record


def test_token_logs_add_up_to_the_answers_likelihood():
    found = record_of([LEFT, LUNG, END], {}).finish()
    assert found.total == pytest.approx(3 * math.log(1 / 7))


def test_a_choices_share_counts_its_letter_beside_its_words():
    # first place: A and LEFT are the same choice, B and RIGHT the other; later places have one way only
    found = record_of([LEFT, LUNG, END], {0: [0.0, 1.0, 0.5, 2.0, 1.5, 0.0, 9.0]}).finish()
    mine, all_ = math.exp(1.0) + math.exp(2.0), sum(map(math.exp, (1.0, 0.5, 2.0, 1.5)))
    assert found.share == pytest.approx(mine / all_)


def test_what_is_no_choice_does_not_lower_a_choices_share():
    likely = record_of([LEFT, LUNG, END], {0: [0, 0, 0, 0, 0, 0, 9.0]}).finish()
    assert likely.share == pytest.approx(0.5)
    assert likely.token_logs[0] < -8


def test_an_answer_that_leaves_the_choices_has_no_share():
    assert record_of([LEFT, OTHER, END], {}).finish().share is None


def test_an_answer_that_is_cut_has_no_share():
    assert record_of([LEFT], {}).finish().share is None


def test_a_cancelled_row_is_not_noted():
    records = [TokenRecord(), None, TokenRecord()]
    note_tokens(torch.zeros(3, 7), [-1, 2, 3], records)
    assert [len(record.tokens) if record else None for record in records] == [0, None, 1]


def test_the_likelihood_of_what_was_said_is_the_teacher_forced_one(tiny_reader, make_body):
    from slicesight.evaluation.likelihood import log_likelihoods, open_scan

    grid = tiny_reader.grid(make_body(1))
    runner = JobRunner(
        predictor=tiny_reader, history=(), max_new_tokens=5, batch_size=4, options={"do_sample": False},
        wants_likelihoods=True,
    )  # fmt: skip
    question = "Which organ contains the cyst?"
    (piece,) = [piece for step in runner.pieces([(grid, [question])], in_pieces=False) for _, piece in step]
    assert piece.likelihood is not None
    inputs = tiny_reader.processor(question, volume_index=[0])
    features = open_scan(tiny_reader, grid).seen
    # the random model's tokens are no text, so the ids themselves are forced
    record_logs = piece.likelihood.token_logs
    ids: list[int] = []
    with torch.inference_mode():
        for log in record_logs:
            embeds, _ = tiny_reader.model.embed_prompts(volume_features=features, **inputs)
            whole = torch.cat([embeds, tiny_reader.model.embed_tokens(torch.tensor([ids], dtype=torch.long))], dim=1)
            logits = tiny_reader.model.language_model(inputs_embeds=whole, use_cache=False).logits[0, -1]
            logits[tiny_reader.model.config.placeholder_token_id] = -math.inf
            best = int(logits.argmax())
            assert log == pytest.approx(float(torch.log_softmax(logits, -1)[best]), abs=2e-2)
            ids.append(best)
    assert log_likelihoods is not None
