"""A question is tokenised once and scored once, and what is embedded is what the processor and the model make of it."""

from __future__ import annotations

import pytest
import torch

from slicesight.inference.prompts import collate_prompts, embed_prompts, tokenize_questions

QUESTIONS = ["Which phase is this?", "Where is the lesion, if there is one?", "What else?"]
BERT = {
    "model_type": "bert",
    "vocab_size": 320,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture
def count_calls(monkeypatch):
    """How often a method of an object is called."""

    def watch(owner, name):
        calls = []
        method = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **inputs: calls.append(name) or method(*args, **inputs))
        return calls

    return watch


@pytest.mark.parametrize("num_questions", [1, 3])
def test_questions_are_scored_in_one_call_and_each_tokenised_once(
    num_questions, make_predictor, make_grid, count_calls
):
    predictor = make_predictor()
    scan = predictor.encode(make_grid(predictor))
    scored, tokenized = (
        count_calls(predictor.model.scorer, "aggregate"),
        count_calls(predictor.processor, "encode_prompt"),
    )
    predictor.ask(scan, QUESTIONS[:num_questions], max_new_tokens=2)
    assert len(scored) == 1
    assert len(tokenized) == num_questions


def test_a_text_encoder_reads_the_questions_once(make_predictor, make_grid, count_calls):
    predictor = make_predictor(question_source="text_encoder", text_encoder_config=BERT)
    predictor.processor.question_tokenizer = predictor.processor.tokenizer
    scan = predictor.encode(make_grid(predictor))
    read, tokenized = (
        count_calls(predictor.model.scorer.text_encoder, "forward"),
        count_calls(predictor.processor, "encode_questions"),
    )
    answers = predictor.ask(scan, QUESTIONS, max_new_tokens=2)
    assert (len(read), len(tokenized)) == (1, 1)
    assert all(abs(sum(answer.scores) - 1) < 1e-5 for answer in answers)


def test_the_inputs_and_scores_are_the_processors_and_the_models_own(make_predictor, make_grid):
    predictor = make_predictor()
    model, processor = predictor.model, predictor.processor
    scan = predictor.encode(make_grid(predictor))
    tokenized = tokenize_questions(processor, QUESTIONS, history=(), num_volumes=1, longest=None)
    expected = processor(QUESTIONS, volume_index=[0] * len(QUESTIONS))
    found = collate_prompts(processor, tokenized, has_volume=True)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with torch.inference_mode():
        scores_BMN = model.score_slices(scan.features, **expected)
    prompts = embed_prompts(model, processor, scan.features, tokenized)
    assert [prompt.scores for prompt in prompts] == [tuple(row) for row in scores_BMN[:, 0].double().tolist()]


def test_questions_without_a_scan_get_what_generate_answers(make_predictor):
    predictor = make_predictor()
    inputs = predictor.processor(QUESTIONS, volume_index=[[-1]] * len(QUESTIONS))
    inputs.pop("volume_index")
    with torch.inference_mode():
        ids = predictor.model.generate(**inputs, do_sample=False, max_new_tokens=12)
    expected = predictor.processor.decode_answers(ids, num_prompt_tokens=inputs["input_ids"].shape[1])
    answers = predictor.ask(None, QUESTIONS, max_new_tokens=12)
    printed = ["".join(letter if letter.isprintable() else " " for letter in text).strip() for text in expected]
    assert [answer.generated_text for answer in answers] == printed
    assert len(set(printed)) > 1
    assert all(answer.scores == () and answer.slices == () for answer in answers)


def test_beams_answer_questions_without_a_scan_too(make_predictor):
    predictor = make_predictor()
    (answer,) = predictor.ask(None, QUESTIONS[0], max_new_tokens=6, num_beams=2)
    inputs = predictor.processor(QUESTIONS[0], volume_index=[[-1]])
    inputs.pop("volume_index")
    with torch.inference_mode():
        ids = predictor.model.generate(**inputs, do_sample=False, max_new_tokens=6, num_beams=2)
    expected = predictor.decode(ids[0, inputs["input_ids"].shape[1] :].tolist())
    assert answer.generated_text == "".join(letter if letter.isprintable() else " " for letter in expected).strip()
