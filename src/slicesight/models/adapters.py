"""How is a PEFT adapter, published without its model, put onto that model?

A folder with `adapter_config.json` names its model there; the processor and, unless it has its own, the card are the
model's.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from slicesight.errors import ModelError
from slicesight.files import read_json_object
from slicesight.models.folder import ADAPTER_FILE, CONFIG_FILE


def find_base(folder: str | Path) -> str | None:
    """What model the adapter in this folder is of; None for a folder with a model of its own, or without an adapter.

    Raises:
        ModelError: the adapter does not say.
    """
    path = Path(folder) / ADAPTER_FILE
    if not path.is_file() or (Path(folder) / CONFIG_FILE).is_file():
        return None
    base = read_json_object(path, error=ModelError).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{path}: base_model_name_or_path is {base!r}; name the model there that the adapter is of.")
    return base


def apply_adapter(model: Any, folder: str | Path) -> Any:
    """The model with the adapter added to its weights.

    Raises:
        ModelError: peft is not installed, or the adapter is not of this model.
    """
    try:
        import peft
    except ImportError as error:
        raise ModelError(
            f"{folder}: an adapter needs peft, which is not installed: pip install slicesight[train]"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing weights; they are refused below
        settings = peft.PeftConfig.from_pretrained(str(folder))
        settings.inference_mode = True
        try:
            adapted = peft.get_peft_model(model, settings)
        except ValueError as error:
            reason = " ".join(str(error).split())[:160]
            raise ModelError(
                f"{folder}: this adapter does not fit its model ({reason}); name the right one."
            ) from error
        weights = peft.load_peft_weights(str(folder), device="cpu")
        result = peft.set_peft_model_state_dict(adapted, weights)
    if not hasattr(adapted, "merge_and_unload"):
        raise ModelError(f"{folder}: a {settings.peft_type} adapter cannot be added to weights; expected LoRA's kind.")
    missing = sorted(name for name in result.missing_keys if "lora_" in name)
    if wrong := sorted(result.unexpected_keys) + missing:
        raise ModelError(
            f"{folder}: {wrong[0]!r} and {len(wrong) - 1} more of the adapter's weights do not fit the model "
            f"{settings.base_model_name_or_path}; the adapter belongs to another one, or its file is not whole."
        )
    return adapted.merge_and_unload()
