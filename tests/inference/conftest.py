"""The plain path that the scheduler is held against: one question at a time through the library's `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from slicesight.inference.predictor import Predictor
from slicesight.inference.scheduler import Scheduler
from slicesight.models.card import ModelCard
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.models.med2e3.processing import Med2E3Processor
from slicesight.phantoms.rendering import make_phantom

LLAMA = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "tie_word_embeddings": False,
}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "vision_use_head": False,
}
SETTINGS: dict[str, Any] = {
    "text_config": LLAMA,
    "vision2d_config": SIGLIP,
    "vision3d_config": {"model_type": "cnn3d", "widths": [8, 16, 16], "num_groups": 4},
    "image_size": [8, 32, 32],
    "score_scale": 30.0,
    "score_norm": "l2",
}


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    tokens = ["<pad>", "<eos>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def build_predictor(*, dtype: torch.dtype = torch.float32, template: str = "short", seed: int = 0, **changes: Any):
    """A tiny random predictor; changes are words of the configuration."""
    torch.manual_seed(seed)
    config = Med2E3Config(**{**SETTINGS, **changes})
    grid = {"num_slices": 8, "height": 32, "width": 32}
    processor = Med2E3Processor.for_model(config, bytes_tokenizer(), grid=grid, template=template)
    model = Med2E3ForConditionalGeneration(config).to(dtype)
    return Predictor(model=model, processor=processor, card=ModelCard(name="tiny"))


def ask_plainly(predictor: Predictor, encoded: Any, question: str, *, history: Any = (), **options: Any) -> list[int]:
    """New token ids of one question asked alone, by `generate`, from a prompt that shares nothing."""
    inputs = predictor.processor(question, volume_index=[0], history=[history])
    with torch.inference_mode():
        ids = predictor.model.generate(
            **inputs, volume_features=encoded.features, **{"do_sample": False, "max_new_tokens": 12, **options}
        )
    return ids[0, inputs["input_ids"].shape[1] :].tolist()


def plain_logits(predictor: Predictor, encoded: Any, question: str, answer_ids: Sequence[int]) -> torch.Tensor:
    """Logits at every position that says a token of the answer, from one whole pass without any cache."""
    inputs = predictor.processor(question, volume_index=[0])
    said = torch.tensor([list(answer_ids[:-1])], dtype=torch.long)
    with torch.inference_mode():
        embeds, _ = predictor.model.embed_prompts(volume_features=encoded.features, **inputs)
        whole = torch.cat([embeds, predictor.model.embed_tokens(said)], dim=1)
        logits = predictor.model.language_model(inputs_embeds=whole, use_cache=False).logits
    return logits[0, inputs["input_ids"].shape[1] - 1 :]


def ask_together(
    predictor: Predictor, jobs: Sequence[tuple[Any, Sequence[str]]], *, max_new_tokens: int = 12, batch_size: int = 16
) -> tuple[list[list[int]], list[torch.Tensor]]:
    """(new token ids, logits behind each of them) of every question of all jobs, through the scheduler."""
    ids: dict[int, list[int]] = {}
    logits: dict[int, list[torch.Tensor]] = {}
    choose = Scheduler._choose_tokens

    def listen(rows, logits_RW, sampler):
        steps = choose(rows, logits_RW, sampler)
        for step, logits_W in zip(steps, logits_RW, strict=True):
            logits.setdefault(step.number, []).append(logits_W.clone())
            ids[step.number] = step.token_ids
        return steps

    predictor.scheduler._choose_tokens = listen
    for _ in predictor.ask_many(jobs, max_new_tokens=max_new_tokens, batch_size=batch_size):
        pass
    del predictor.scheduler._choose_tokens
    return [ids[number] for number in sorted(ids)], [torch.stack(logits[number]) for number in sorted(logits)]


@pytest.fixture
def make_predictor():
    return build_predictor


@pytest.fixture
def answer_together():
    return ask_together


@pytest.fixture
def make_grid():
    """Random grid volumes, different for every seed."""

    def make(predictor: Predictor, seed: int = 0):
        found = make_phantom(7, seed, pixel_mm=(6.0, 6.0))
        return predictor.grid(found.volume)

    return make


@pytest.fixture
def generate_alone():
    return ask_plainly


@pytest.fixture
def logits_alone():
    return plain_logits
