"""The plain path that the engine is held against: one question at a time through the library's `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from slicesight.inference.batching import OpenBatch
from slicesight.inference.predictor import Predictor
from slicesight.inference.sampling import make_sampler
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


def build_reader(*, dtype: torch.dtype = torch.float32, template: str = "short", seed: int = 0, **changes: Any):
    """A tiny random reader; changes are words of the configuration."""
    torch.manual_seed(seed)
    config = Med2E3Config(**{**SETTINGS, **changes})
    grid = {"num_slices": 8, "height": 32, "width": 32}
    processor = Med2E3Processor.for_model(config, bytes_tokenizer(), grid=grid, template=template)
    model = Med2E3ForConditionalGeneration(config).to(dtype)
    return Predictor(model=model, processor=processor, card=ModelCard(name="tiny"))


def ask_plainly(reader: Predictor, encoded: Any, question: str, *, history: Any = (), **options: Any) -> list[int]:
    """New token ids of one question asked alone, by `generate`, from a prompt that shares nothing."""
    inputs = reader.processor(question, volume_index=[0], history=[history])
    with torch.inference_mode():
        ids = reader.model.generate(
            **inputs, volume_features=encoded.features, **{"do_sample": False, "max_new_tokens": 12, **options}
        )
    return ids[0, inputs["input_ids"].shape[1] :].tolist()


def plain_logits(reader: Predictor, encoded: Any, question: str, answer_ids: Sequence[int]) -> torch.Tensor:
    """Logits at every position that says a token of the answer, from one whole pass without any cache."""
    inputs = reader.processor(question, volume_index=[0])
    said = torch.tensor([list(answer_ids[:-1])], dtype=torch.long)
    with torch.inference_mode():
        embeds, _ = reader.model.embed_prompts(volume_features=encoded.features, **inputs)
        whole = torch.cat([embeds, reader.model.embed_tokens(said)], dim=1)
        logits = reader.model.language_model(inputs_embeds=whole, use_cache=False).logits
    return logits[0, inputs["input_ids"].shape[1] - 1 :]


def ask_together(
    reader: Predictor, jobs: Sequence[tuple[Any, Sequence[str]]], *, max_new_tokens: int = 12, batch_size: int = 16
) -> tuple[list[list[int]], list[torch.Tensor]]:
    """(new token ids, logits behind each of them) of every question of all jobs, through the engine."""
    choosing = make_sampler(reader.model, {})
    asking = reader._asking(max_new_tokens, batch_size, {})
    requests = asking._requests(
        [(scan, list(asked)) for scan, asked in jobs], OpenBatch(), history=(), choosing=choosing
    )
    ids: dict[int, list[int]] = {}
    logits: dict[int, list[torch.Tensor]] = {}
    say = Scheduler._say

    def listen(rows, logits_RW, choosing):
        for row, logits_W in zip(rows, logits_RW, strict=True):
            logits.setdefault(row.request.number, []).append(logits_W.clone())
        return say(rows, logits_RW, choosing)

    reader.engine._say = listen
    for step in reader.engine.answer(requests, choosing=choosing, at_once=batch_size):
        ids.update({said.number: said.token_ids for said in step})
    del reader.engine._say
    return [ids[number] for number in sorted(ids)], [torch.stack(logits[number]) for number in sorted(logits)]


@pytest.fixture
def make_reader():
    return build_reader


@pytest.fixture
def answer_together():
    return ask_together


@pytest.fixture
def make_grid():
    """Random grid volumes, different for every seed."""

    def make(reader: Predictor, seed: int = 0):
        found = make_phantom(7, seed, pixel_mm=(6.0, 6.0))
        return reader.grid(found.volume)

    return make


@pytest.fixture
def generate_alone():
    return ask_plainly


@pytest.fixture
def logits_alone():
    return plain_logits
