"""Tokens are chosen as `generate` would: the likeliest, or drawn from the same shares by a question's own chance."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from slicesight.errors import InputError
from slicesight.inference.sampling import Sampler, make_sampler

QUESTIONS = ["Which phase is this?", "Where is the cyst?", "Describe the findings."]


@pytest.fixture(scope="module")
def shared():
    return {}


@pytest.fixture
def predictor(make_predictor, shared):
    return shared.setdefault("predictor", make_predictor())


@pytest.fixture
def encoded(predictor, make_grid, shared):
    if "scan" not in shared:
        shared["scan"] = predictor.encode(make_grid(predictor))
    return shared["scan"]


def build(**changes):
    settings = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "seed": 1,
        "suppressed": (),
        "ends": (),
    }
    return Sampler(**{**settings, **changes})


def test_drawn_answers_follow_the_seed_and_not_the_company(predictor, encoded):
    def texts(**options):
        return [
            answer.text for answer in predictor.ask(encoded, QUESTIONS, max_new_tokens=8, do_sample=True, **options)
        ]

    assert texts(seed=1) == texts(seed=1, batch_size=1)
    assert texts(seed=1) != texts(seed=2)


def test_one_question_asked_twice_gets_two_draws(predictor, encoded):
    answers = predictor.ask(encoded, [QUESTIONS[0]] * 4, max_new_tokens=8, do_sample=True, seed=0)
    assert len({answer.text for answer in answers}) > 1


def test_without_a_seed_draws_follow_torchs_own_source(predictor, encoded):
    torch.manual_seed(5)
    first = predictor.ask(encoded, QUESTIONS[0], max_new_tokens=8, do_sample=True)[0].text
    second = predictor.ask(encoded, QUESTIONS[0], max_new_tokens=8, do_sample=True)[0].text
    torch.manual_seed(5)
    assert predictor.ask(encoded, QUESTIONS[0], max_new_tokens=8, do_sample=True)[0].text == first
    assert first != second


def test_greedy_answers_leave_the_source_of_chance_alone(predictor, encoded):
    state = torch.get_rng_state()
    predictor.ask(encoded, QUESTIONS[0], max_new_tokens=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_drawn_tokens_have_the_warped_softmaxs_frequencies():
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -2.0]])
    sampler = build(temperature=0.7, top_k=4, top_p=0.9)
    warped = torch.softmax(logits / 0.7, dim=-1)[0]
    warped[4:] = 0
    warped /= warped.sum()
    keep = warped.cumsum(0) - warped < 0.9
    expected = warped * keep / (warped * keep).sum()
    generator = sampler.generator(0)
    drawn = torch.tensor([sampler.choose(logits, [generator])[0] for _ in range(4000)])
    found = torch.bincount(drawn, minlength=6) / 4000
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_a_suppressed_token_is_never_chosen_and_logits_stay_as_they_are():
    logits = torch.tensor([[0.0, 9.0, 1.0]])
    assert build(do_sample=False, suppressed=(1,)).choose(logits, []) == [2]
    assert build(suppressed=(1, 2)).choose(logits, [torch.Generator()]) == [0]
    assert logits.tolist() == [[0.0, 9.0, 1.0]]


def test_the_models_own_settings_hold_until_the_caller_says_otherwise(predictor, monkeypatch):
    own = GenerationConfig(do_sample=True, temperature=0.5, top_k=7, top_p=0.8, eos_token_id=[1, 4])
    monkeypatch.setattr(predictor.model, "generation_config", own)
    found = make_sampler(predictor.model, {"top_k": 3, "seed": 9})
    assert (found.do_sample, found.temperature, found.top_k, found.top_p, found.seed) == (True, 0.5, 3, 0.8, 9)
    assert found.ends == {1, 4}
    assert make_sampler(predictor.model, {"do_sample": False}).do_sample is False


@pytest.mark.parametrize(
    "options", [{"num_beams": 2}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}, {"min_new_tokens": 3}]
)
def test_what_only_generate_can_do_goes_through_generate(options, predictor, encoded, generate_alone):
    assert make_sampler(predictor.model, options) is None
    answers = predictor.ask(encoded, QUESTIONS, max_new_tokens=6, **options)
    tokenizer = predictor.processor.tokenizer
    for question, answer in zip(QUESTIONS, answers, strict=True):
        ids = generate_alone(predictor, encoded, question, max_new_tokens=6, **options)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        text = "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text).strip()
        assert answer.text == (text or "(the model gave no words)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; expected a number above 0"),
        ({"top_p": 1.5}, "top_p is 1.5; expected a number above 0 and at most 1"),
        ({"top_k": -1}, "top_k is -1; expected a whole number"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; expected at least 1"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
    ],
)
def test_a_wrong_setting_is_one_plain_line(options, message, predictor, encoded):
    with pytest.raises(InputError, match=message) as caught:
        predictor.ask(encoded, QUESTIONS[0], **{"do_sample": True, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("temperature", [1e-39, 1e-9, 9e-5])
def test_a_temperature_next_to_nothing_is_greedy(temperature):
    sampler = Sampler(
        do_sample=True, temperature=temperature, top_k=0, top_p=1.0, seed=1, suppressed=(), ends=frozenset()
    )
    logits_RW = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 1e4
    tokens = sampler.choose(logits_RW, [sampler.generator(row) for row in range(3)])
    assert tokens == logits_RW.argmax(dim=-1).tolist()
