"""How does a model, named or in a folder, get into vLLM? What can be refused is, before vLLM starts its processes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicesight.errors import ModelError
from slicesight.inference.calibration.storage import read_calibration
from slicesight.inference.loading import GUEST_PREFIXES
from slicesight.models.adapters import find_base
from slicesight.models.card import CARD_FILE, ModelCard, read_card
from slicesight.models.folder import CONFIG_FILE
from slicesight.models.shipped import find_folder, nearest_model
from slicesight_vllm.adapters import adapter_settings, check_adapter

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig

    from slicesight_vllm.predictor import EnginePredictor

CPU_CACHE_VARIABLE, CPU_CACHE_GIB = "VLLM_CPU_KVCACHE_SPACE", "2"
LOG_VARIABLE = "VLLM_LOGGING_LEVEL"
CPU_SETTINGS: dict[str, Any] = {"enforce_eager": True, "block_size": 32}
"""Keys and values are shared by whole blocks: vLLM's usual 128 tokens on a CPU are longer than a small model's scan."""


def load(name_or_dir: str | Path, *, dtype: str | None = None, **engine_settings: Any) -> EnginePredictor:
    """Load a model into vLLM by the name of a shipped or pulled one, or by its folder.

    Args:
        name_or_dir: a folder with a LoRA adapter is loaded beside the model that it names.
        dtype: left out, float32 on a CPU and as stored elsewhere, as the package's own `load` takes it.
        engine_settings: further ones of vLLM's EngineArgs (max_model_len, tensor_parallel_size, ...).

    Raises:
        ModelError: there is no such model, its calibration is damaged, or it is an adapter that vLLM does not take.
    """
    folder, adapter = check_folder(name_or_dir)
    os.environ.setdefault(LOG_VARIABLE, "ERROR")
    from vllm import EngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    from slicesight_vllm.choices import PLACE
    from slicesight_vllm.predictor import EnginePredictor
    from slicesight_vllm.processing import load_maker

    on_cpu = current_platform.is_cpu()
    if on_cpu:
        os.environ.setdefault(CPU_CACHE_VARIABLE, CPU_CACHE_GIB)
    usual = {"dtype": "float32", **CPU_SETTINGS} if on_cpu else {"dtype": "auto"}
    own = folder if adapter is None else adapter
    calibration = read_calibration(own)
    settings = {
        **usual,
        "disable_log_stats": True,
        "logits_processors": [PLACE],
        **({} if adapter is None else adapter_settings(adapter)),
        **engine_settings,
        **({"dtype": dtype} if dtype else {}),
    }
    try:
        config = EngineArgs(model=str(folder), **settings).create_engine_config()
    except (TypeError, ValueError) as error:  # pydantic's are ValueErrors of several lines
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder}: vLLM does not take these settings ({reason}); change them.") from error
    engine = LLMEngine.from_vllm_config(config, disable_log_stats=bool(settings["disable_log_stats"]))
    lora = None if adapter is None else LoRARequest(own.resolve().name, 1, str(own.resolve()))
    if lora is not None:
        engine.add_lora(lora)
    card = own / CARD_FILE if (own / CARD_FILE).is_file() else folder / CARD_FILE
    return EnginePredictor(
        engine=engine,
        maker=load_maker(engine.model_config),
        generation=read_generation(folder, engine.model_config.hf_config),
        card=with_engine(read_card(card, name=own.resolve().name)),
        calibration=calibration,
        adapter=lora,
    )


def read_generation(folder: Path, config: PreTrainedConfig) -> GenerationConfig:
    """The model's own settings of generation; what follows from its configuration where the folder has none."""
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(config)


def check_folder(name_or_dir: str | Path) -> tuple[Path, Path | None]:
    """(the model's folder, that of the adapter beside it), if vLLM can answer with them as the package would.

    Raises:
        ModelError: why it cannot.
    """
    name = str(name_or_dir)
    if name.startswith(GUEST_PREFIXES):
        raise ModelError(f"{name}: vLLM runs no guest here; start vllm serve with it and name openai:URL#MODEL.")
    folder = find_folder(name_or_dir)
    if (base := find_base(folder)) is not None:
        check_adapter(folder)
        return check_folder(base)[0], folder
    if not (folder / CONFIG_FILE).is_file():
        raise ModelError(f"{name}: no model there (no config.json); {nearest_model(name)}, or name a model folder.")
    return folder, None


def with_engine(card: ModelCard) -> ModelCard:
    """The card, which says who computes."""
    return replace(card, facts={**card.facts, "engine": "vllm"})
