"""How are weights read and written without ever holding them all? Memory-mapped in, safetensors shards out."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from slicesight.errors import ModelError
from slicesight.files import replacing, write_text

SHARD_BYTES = 400 * 2**20  # a shard waits in memory beside the mapped weights
SMALLEST_SHARD = 32 * 2**20


def open_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .bin file, on the CPU, mapped from the file where its format allows.

    A .bin is a pickle: it is read with weights_only=True, so that it can hold nothing but tensors.

    Raises:
        ModelError: the file is not one, is damaged, or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{path}: not a plain weight file ({reason}); download it again.") from error
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ModelError(f"{path}: expected a dictionary of tensors, found {type(weights).__name__} with other things.")
    return weights


def write_shards(
    folder: Path,
    planned: Mapping[str, Tensor],
    make: Callable[[str], Tensor],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write model.safetensors, or its shards and the index Hugging Face reads; one shard is in memory at a time.

    Args:
        planned: every tensor by name, of the shape and dtype it will have; tensors on `meta` will do.
        make: gives a tensor's numbers when its shard is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    split = split_torch_state_dict_into_shards(
        dict(planned), filename_pattern="model{suffix}.safetensors", max_shard_size=shard_bytes
    )
    for file, names in split.filename_to_tensors.items():
        with replacing(folder / file) as temporary:
            save_file({name: make(name).contiguous() for name in names}, temporary, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_text(folder / "model.safetensors.index.json", text=json.dumps(index, indent=2))
