"""Prompts in one row: every token sees the shared head and its own prompt only; loss and gradients stay as they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from slicesight.errors import ModelError
from slicesight.models.med2e3.matching import count_shared_visual_tokens
from slicesight.models.med2e3.packed import build_mask, gather_rows, own_prompt_mask
from slicesight.training.packing import Cost, plan_rows, prove_packing

QUESTIONS = ["What is shown in this image?", "Is the liver enlarged?", "Is there a lesion in the spleen?"]
ANSWERS = ["The liver is enlarged.", "No.", "No. The spleen is shown."]
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "vocab_size": 320,
}


def add_rows(model, batch) -> dict[str, Tensor]:
    rows = plan_rows(
        batch["input_ids"],
        batch["attention_mask"],
        batch["labels"],
        batch["volume_index"],
        placeholder=model.config.placeholder_token_id,
        num_shared=count_shared_visual_tokens(model.config, training=True),
        cost=Cost(per_token=1, per_pair=0),
    )
    return {**batch, "packed_places": rows.places, "packed_parts": rows.parts}


@pytest.fixture
def build_batch(make_processor, volumes):
    def build(model):
        processor = make_processor(model)
        batch = processor(QUESTIONS * 2, answers=ANSWERS * 2, volumes=volumes[:2], volume_index=[0, 0, 0, 1, 1, 1])
        return dict(batch)

    return build


def loss_and_gradients(model, batch, **more):
    model.zero_grad()
    loss = model(**batch, **more).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_token_sees_what_is_shared_and_its_own_prompt_and_nothing_later() -> None:
    parts = torch.tensor([[0, 0, 1, 1, 2, -1]])
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    assert torch.equal(own_prompt_mask(parts)[0, 0], torch.tensor(expected).bool())
    additive = build_mask(parts, "eager", torch.float32)
    assert torch.equal(additive == 0, own_prompt_mask(parts))


def test_rows_take_the_prompts_values_and_padding_where_they_end() -> None:
    values = torch.arange(6).view(2, 3)
    assert gather_rows(values, torch.tensor([[0, 1, 4, -1]]), padding=9).tolist() == [[0, 1, 4, 9]]


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_the_block_mask_of_flex_attention_is_the_same_mask() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    parts = torch.tensor([[0, 0, 1, 1, 2, -1], [0, 1, 1, 2, 2, 3]])
    query, key, value = torch.randn(3, 2, 1, 6, 16, generator=torch.Generator().manual_seed(0))
    found = flex_attention(query, key, value, block_mask=build_mask(parts, "flex_attention", torch.float32))
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=own_prompt_mask(parts))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_loss_and_gradients_in_rows_are_those_of_single_prompts(make_model, build_batch, attention) -> None:
    model = make_model().train()
    model.language_model.set_attn_implementation(attention)
    batch = build_batch(model)
    packed = add_rows(model, batch)
    assert len(packed["packed_places"]) < len(batch["input_ids"])
    loss, gradients = loss_and_gradients(model, batch)
    again, same = loss_and_gradients(model, packed)
    torch.testing.assert_close(again, loss, rtol=0, atol=1e-5)
    assert gradients.keys() == same.keys()
    assert any(name.startswith("projector_3d") for name in same)
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_the_sum_is_divided_by_the_same_number_of_items(make_model, build_batch) -> None:
    model = make_model().train()
    batch = build_batch(model)
    losses = [model(**rows, num_items_in_batch=40).loss for rows in (batch, add_rows(model, batch))]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        {"fusion": "3d"},
        {"fusion": "2d"},
        {"aggregation": "max"},
        {"aggregation": "mean"},
        {"scoring_inputs": ["3d", "2d"]},
        {"text_config": {**TEXT, "model_type": "phi3", "sliding_window": 200}},
        {"text_config": {**TEXT, "model_type": "qwen3", "head_dim": 8}},
        {"text_config": {**TEXT, "model_type": "gemma2", "head_dim": 8, "attn_implementation": "eager"}},
    ],
    ids=["3d only", "2d only", "maximum", "mean", "scores without text", "phi3", "qwen3", "gemma2"],
)
def test_other_models_give_the_same_loss_in_rows(make_model, build_batch, overrides) -> None:
    model = make_model(**overrides).train()
    prove_packing(model)
    batch = build_batch(model)
    loss, again = model(**batch).loss, model(**add_rows(model, batch)).loss
    torch.testing.assert_close(again, loss, rtol=0, atol=2e-5)


def test_a_prompt_cannot_be_changed_by_its_neighbour_in_the_row(make_model, build_batch) -> None:
    model = make_model()
    packed = add_rows(model, build_batch(model))
    before = model(**packed).logits
    other = {**packed, "input_ids": packed["input_ids"].clone(), "question_mask": packed["question_mask"].clone()}
    prompt, width = 0, other["input_ids"].shape[1]
    other["input_ids"][prompt, packed["labels"][prompt] != -100] = 7
    after = model(**other).logits
    of_prompt = (packed["packed_places"] // width == prompt) & (packed["packed_parts"] > 0)
    assert of_prompt.any()
    torch.testing.assert_close(after[~of_prompt], before[~of_prompt])
    assert not torch.allclose(after[of_prompt], before[of_prompt])


def test_models_whose_attention_cannot_take_the_mask_are_refused(make_model, build_batch) -> None:
    model = make_model()
    packed = add_rows(model, build_batch(model))
    model.language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="flash_attention_2 cannot take"):
        model(**packed)
    model = make_model(text_config={**TEXT, "model_type": "phi3", "sliding_window": 20})
    with pytest.raises(ModelError, match="sliding window of phi3, 20 tokens"):
        model(**add_rows(model, build_batch(model)))
    model = make_model()
    model.language_model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ModelError, match="linear_attention"):
        model(**packed)


def test_a_model_that_ignores_the_mask_is_found_out(make_model, monkeypatch) -> None:
    model = make_model()
    prove_packing(model)
    forward = model.language_model.forward
    monkeypatch.setattr(
        model.language_model, "forward", lambda attention_mask=None, **rest: forward(attention_mask=None, **rest)
    )
    monkeypatch.setattr(type(model), "takes_position_ids", True)
    with pytest.raises(ModelError, match="packing changes what llama computes"):
        prove_packing(model)
