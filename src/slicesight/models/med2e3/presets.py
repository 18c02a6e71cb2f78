"""Which configurations have a name? Full-size ones, to plan, build and train from; weights come from elsewhere."""

from __future__ import annotations

from typing import Any

from slicesight.errors import ModelError
from slicesight.models.med2e3.configuration import Med2E3Config

PHI3_MINI_128K: dict[str, Any] = {
    "model_type": "phi3",
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
    # The published factors come with the published weights; these stand for their number and change no shape.
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "short_factor": [1.0] * 48,
        "long_factor": [1.0] * 48,
    },
}


def make_preset(name: str, **overrides: Any) -> Med2E3Config:
    """A named configuration, with any of its options changed.

    Raises:
        ModelError: no configuration has this name.
    """
    presets: dict[str, dict[str, Any]] = {"med2e3-phi3": {"text_config": PHI3_MINI_128K}}
    if name not in presets:
        raise ModelError(f"no configuration is called {name!r}; known names: {', '.join(sorted(presets))}.")
    return Med2E3Config(**{**presets[name], **overrides})
