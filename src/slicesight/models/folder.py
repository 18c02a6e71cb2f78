"""What does a folder of a trained network hold? config.json and model.safetensors, as Hugging Face's folders do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import OutOfMemoryError, Tensor, nn

from slicesight import __version__
from slicesight.errors import InputError, ModelError
from slicesight.files import read_json_object, replacing, write_text
from slicesight.models.checksums import check_checksums, write_checksums

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
    write_checksums(place)
    config = {"model_type": FAMILY, "kind": kind, "slicesight_version": __version__, **facts}
    write_text(place / CONFIG_FILE, text=json.dumps(config, indent=2) + "\n")


def refuse_adapter(folder: str | Path, *, missing: str = "") -> None:
    """Raises ModelError where a folder that cannot be read holds a PEFT adapter: of which model, and what it lacks."""
    if not (path := Path(folder) / ADAPTER_FILE).is_file():
        return
    settings = read_json_object(path, error=ModelError)
    base = settings.get("base_model_name_or_path") or "a model it does not name"
    raise ModelError(
        f"{folder}: holds a {settings.get('peft_type', 'LORA')} adapter of {base}, not a whole model"
        f"{missing and f', and {missing}'}; load that model and its processor, then merge the two and save both: "
        "peft.PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained(OUT)"
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
    config = read_json_object(place / CONFIG_FILE, error=ModelError)
    found = config.get("kind") if config.get("model_type") == FAMILY else None
    if found not in KINDS:
        raise ModelError(f"{place}: config.json is not of this family; expected a folder that an insight verb wrote")
    if kind is not None and found != kind:
        raise ModelError(f"{place}: this folder holds a {found}; expected a {kind}")
    check_checksums(place)
    with one_line_for_damage(place):
        return config, load_file(place / WEIGHTS_FILE)


def check_whole(missing: Iterable[str], folder: str | Path) -> None:
    """Raises ModelError where weights were missing, which the library would fill at random, with a table only."""
    if names := sorted(missing):
        raise ModelError(
            f"{folder}: the weights lack {names[0]!r} and {len(names) - 1} more that config.json asks for; expected "
            "the folder's own config and weights, copy both again"
        )


@contextmanager
def one_line_for_damage(folder: str | Path) -> Iterator[None]:
    """Turn whatever the libraries raise while they read this model folder into one line that names the file at fault.

    Raises:
        ModelError: a file is damaged, or the files do not fit one another.
    """
    try:
        yield
    except (InputError, MemoryError, OutOfMemoryError):
        raise
    except BaseException as error:
        # the tokenizers' Rust panics come as a BaseException of a class that cannot be imported
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        check_files(Path(folder))
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        if "ignore_mismatched_sizes" in reason:
            reason = "the safetensors' shapes: a weight does not fit its config.json"
        raise ModelError(
            f"{folder}: cannot be loaded ({reason[:200]}); the folder needs config, safetensors and tokenizer files "
            "that were saved together: copy it again"
        ) from error


def check_files(folder: Path) -> None:
    """Read every JSON file of a model folder and the header of every safetensors file.

    Raises:
        ModelError: about the first that is damaged, or a shard that the index names and the folder lacks.
    """
    for path in sorted(folder.glob("*.json")):
        found = read_json_object(path, error=ModelError)
        if path.name.endswith(".safetensors.index.json"):
            shards = found.get("weight_map")
            if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
                raise ModelError(f"{path}: has no weight_map from weights to files; copy the file again")
            for name in sorted(set(shards.values())):
                if not (folder / name).is_file():
                    raise ModelError(f"{path}: names {name}, which is not in the folder; copy it there")
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: damaged ({error}); expected whole safetensors, copy the file again") from error
