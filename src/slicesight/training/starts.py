"""What does a run start from? A model folder, or random weights with a tokenizer learnt from the training texts."""

from __future__ import annotations

import torch
from transformers import AutoProcessor

from slicesight.model import Med2E3Config, Med2E3ForConditionalGeneration, Med2E3Processor

from .language import sample_texts
from .phantom_set import PhantomSet
from .recipe import Recipe
from .tokenizer import train_tokenizer


def build(recipe: Recipe, phantoms: PhantomSet) -> tuple[Med2E3ForConditionalGeneration, Med2E3Processor]:
    """A random model and the processor whose tokenizer was learnt from the training texts."""
    tokenizer = train_tokenizer(sample_texts(phantoms, count=4000, seed=recipe.seed), vocab_size=recipe.vocab_size)
    grid = recipe.grid
    settings = dict(recipe.model)
    settings["text_config"] = {
        **settings["text_config"],
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    config = Med2E3Config(image_size=[grid.num_slices, grid.height, grid.width], **settings)
    processor = Med2E3Processor.for_model(config, tokenizer, grid=grid.to_dict(), template=recipe.template)
    model = Med2E3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


def load_start(recipe: Recipe) -> tuple[Med2E3ForConditionalGeneration, Med2E3Processor]:
    """The model folder named by `init`, with the recipe's model words laid over its configuration."""
    assert recipe.init is not None
    config = Med2E3Config.from_pretrained(recipe.init)
    for key, value in recipe.model.items():
        if not key.endswith("_config"):
            setattr(config, key, value)
    model = Med2E3ForConditionalGeneration.from_pretrained(recipe.init, config=config, dtype=torch.float32)
    return model, AutoProcessor.from_pretrained(recipe.init)
