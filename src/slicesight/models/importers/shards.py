"""How are weights read and written without ever holding them all? Memory-mapped in, safetensors shards out."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from slicesight.errors import ModelError

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


class WeightShardWriter:
    """Writes tensors as they come into model-0000i.safetensors and the index Hugging Face reads."""

    def __init__(self, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.waiting: dict[str, Tensor] = {}
        self.waiting_bytes = self.total_bytes = 0
        self.shards: list[list[str]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, tensor: Tensor) -> None:
        """Take one tensor; what waits is written when it would pass the shard size."""
        size = tensor.numel() * tensor.element_size()
        if self.waiting and self.waiting_bytes + size > self.shard_bytes:
            self.flush()
        self.waiting[name] = tensor.contiguous()
        self.waiting_bytes += size
        self.total_bytes += size

    def flush(self) -> None:
        """Write what waits as one shard, under a temporary name until the number of shards is known."""
        if self.waiting:
            save_file(self.waiting, self.shard_path(len(self.shards)), metadata={"format": "pt"})
            self.shards.append(list(self.waiting))
            self.waiting, self.waiting_bytes = {}, 0

    def shard_path(self, number: int) -> Path:
        """Where a shard waits for its final name."""
        return self.folder / f"shard-{number:05d}.safetensors.part"

    def finish(self) -> None:
        """Name the shards and write the index (none for a single shard)."""
        self.flush()
        names = {}
        for number, keys in enumerate(self.shards):
            name = f"model-{number + 1:05d}-of-{len(self.shards):05d}.safetensors"
            name = "model.safetensors" if len(self.shards) == 1 else name
            self.shard_path(number).replace(self.folder / name)
            names.update(dict.fromkeys(keys, name))
        if len(self.shards) > 1:
            index = {"metadata": {"total_size": self.total_bytes}, "weight_map": names}
            temporary = self.folder / "model.safetensors.index.json.part"
            temporary.write_text(json.dumps(index, indent=2))
            temporary.replace(self.folder / "model.safetensors.index.json")
