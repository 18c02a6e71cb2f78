"""What does a folder of a trained network hold? config.json and model.safetensors, as Hugging Face's folders do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slicesight import __version__
from slicesight.errors import InputError, ModelError
from slicesight.files import replacing, write_text

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FAMILY = "slicesight-insight"
ADAPTER_FILE = "adapter_config.json"
KINDS = ("backbone", "pretraining", "segmenter", "classifier")


def write_model_folder(folder: str | Path, *, kind: str, facts: dict[str, Any], model: nn.Module) -> None:
    """Write weights, then config.json, each under a temporary name first; a folder with a config.json is whole."""
    assert kind in KINDS, kind
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(place / WEIGHTS_FILE) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    config = {"model_type": FAMILY, "kind": kind, "slicesight_version": __version__, **facts}
    write_text(place / CONFIG_FILE, text=json.dumps(config, indent=2) + "\n")


def refuse_adapter(folder: Any, *, missing: str) -> None:
    """Raises ModelError where a folder that cannot be read holds a PEFT adapter: of which model, and what it lacks."""
    if not (path := Path(folder) / ADAPTER_FILE).is_file():
        return
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        base = settings.get("base_model_name_or_path")
    except (ValueError, AttributeError):
        settings, base = {}, None
    raise ModelError(
        f"{folder}: holds a {settings.get('peft_type', 'LORA')} adapter of {base or 'a model it does not name'}, not a "
        f"whole model, and {missing}; load that model and its processor, then peft.PeftModel.from_pretrained."
    )


def finished_run(folder: Path, *, digest: str) -> bool:
    """Whether the folder holds this very run, finished; InputError: it holds another one."""
    if not (folder / CONFIG_FILE).exists():
        return False
    config, _ = read_model_folder(folder)
    if config.get("run") != digest:
        raise InputError(
            f"{folder}: holds a finished run with other settings or data; delete it or set another output_dir"
        )
    return True


def read_model_folder(folder: str | Path, *, kind: str | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the weights.

    Raises:
        ModelError: no such folder, another family's, another kind than asked for, or a damaged file.
    """
    place = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (place / name).is_file():
            raise ModelError(f"{place}: no {name} there; expected a folder that an insight verb wrote")
    try:
        config = json.loads((place / CONFIG_FILE).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{place / CONFIG_FILE}: not valid JSON ({error}); copy the folder again") from None
    found = config.get("kind") if isinstance(config, dict) and config.get("model_type") == FAMILY else None
    if found not in KINDS:
        raise ModelError(f"{place}: config.json is not of this family; expected a folder that an insight verb wrote")
    if kind is not None and found != kind:
        raise ModelError(f"{place}: this folder holds a {found}; expected a {kind}")
    try:
        return config, load_file(place / WEIGHTS_FILE)
    except SafetensorError as error:
        raise ModelError(f"{place / WEIGHTS_FILE}: damaged ({error}); copy the folder again") from None
