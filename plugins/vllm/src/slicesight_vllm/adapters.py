"""Which LoRA adapters can stand beside a model in vLLM? Those of the language model's linear layers, and no others.

vLLM adds an adapter to its own layers only. What it would leave out in silence, an adapter of an encoder or a part that
learnt whole, is refused here, whoever loads it: `slicesight serve --engine vllm`, or vLLM's own server.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError, safe_open

from slicesight.errors import ModelError
from slicesight.files import read_json_object
from slicesight.models.folder import ADAPTER_FILE

LANGUAGE_MODEL = "language_model"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = f"base_model.model.{LANGUAGE_MODEL}."
MERGE = "merge it into its model and load that: slicesight.load(FOLDER).model.save_pretrained(MERGED)"


def check_adapter(folder: Path) -> int:
    """The adapter's rank, if vLLM adds all of it.

    Raises:
        ModelError: it has parts that vLLM leaves out, or its files cannot be read.
    """
    settings = read_json_object(folder / ADAPTER_FILE, error=ModelError)
    if settings.get("peft_type", "LORA") != "LORA" or settings.get("use_dora"):
        kind = "DORA" if settings.get("use_dora") else settings["peft_type"]
        raise ModelError(f"{folder}: is a {kind} adapter, and vLLM adds LoRA's only; {MERGE}.")
    if whole := settings.get("modules_to_save"):
        raise ModelError(
            f"{folder}: the adapter brings {', '.join(whole)} whole, which vLLM does not exchange; {MERGE}."
        )
    rank = settings.get("r")
    if not isinstance(rank, int) or rank < 1:
        raise ModelError(f"{folder / ADAPTER_FILE}: r is {rank!r}; expected the adapter's rank, a whole number.")
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="numpy") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{folder / WEIGHTS_FILE}: cannot be read ({reason}); copy the adapter again.") from error
    others = sorted(name for name in names if not name.startswith(PREFIX) or not _is_of_a_layer(name))
    if others or not names:
        found = f"{others[0]!r} and {len(others) - 1} more" if others else "no weights"
        raise ModelError(
            f"{folder}: the adapter holds {found}, and vLLM adds adapters to the language model's layers alone; "
            f"{MERGE}."
        )
    return rank


def _is_of_a_layer(name: str) -> bool:
    """Whether a weight is one of the two factors beside a linear layer, not beside embeddings or the head."""
    return (".lora_A." in name or ".lora_B." in name) and ".lm_head." not in name


def adapter_settings(folder: Path) -> dict[str, Any]:
    """vLLM's settings for one adapter of this rank.

    Raises:
        ModelError: as of `check_adapter`, or its rank is larger than vLLM's largest.
    """
    from vllm.config.lora import MaxLoRARanks

    rank, ranks = check_adapter(folder), sorted(get_args(MaxLoRARanks))
    fitting = [one for one in ranks if one >= rank]
    if not fitting:
        raise ModelError(f"{folder}: the adapter has rank {rank}, and vLLM takes at most {ranks[-1]}; {MERGE}.")
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": fitting[0]}


def refuse_other_layers(names: Iterable[str]) -> None:
    """Raises ModelError for an adapter of layers that are not the language model's; vLLM would leave them out."""
    others = sorted(name for name in names if not name.startswith(f"{LANGUAGE_MODEL}."))
    if others:
        raise ModelError(
            f"the adapter changes {others[0]!r} and {len(others) - 1} more layers outside the language model, and vLLM "
            f"would leave them out; {MERGE}."
        )
