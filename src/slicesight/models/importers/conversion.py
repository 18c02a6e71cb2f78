"""What does every importer do? Give each tensor its new name or a reason, check shapes, copy piece by piece, report.

Nothing is written before every name and shape has been checked. The model itself is built on `meta` only; weights are
mapped from their files and written shard by shard, so that they are never all in memory.
"""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from slicesight.errors import ModelError
from slicesight.files import replacing, write_text
from slicesight.models.checksums import write_checksums

SHARD_BYTES = 400 * 2**20  # a shard waits in memory beside the mapped weights
SMALLEST_SHARD = 32 * 2**20
BERT_HEAD_WIDTH = 64  # of every BERT; the folders of the M3D family do not say how many heads there are
Shapes = dict[str, tuple[int, ...]]
NewName = tuple[str | None, str]
"""The name in the converted model, or None and the reason it has none there."""
Progress = Callable[[str], None]


@dataclass(kw_only=True)
class ConversionReport:
    """What became of every tensor: loaded per part (tensors, numbers), left over by name with the reason."""

    loaded: dict[str, tuple[int, int]] = field(default_factory=dict)
    merged_adapters: int = 0
    left_over: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{part}: {tensors} tensors, {numbers:,} numbers" for part, (tensors, numbers) in self.loaded.items()]
        if self.merged_adapters:
            lines.append(f"LoRA: {self.merged_adapters} adapters merged")
        for reason in sorted(set(self.left_over.values())):
            names = sorted(name for name, why in self.left_over.items() if why == reason)
            lines += [f"left over, {len(names)} tensors: {reason}", *(f"  {name}" for name in names)]
        return "\n".join(lines)


@dataclass(kw_only=True)
class Conversion:
    """One folder on its way: weight files by part, what each of their tensors becomes, and the model it all makes."""

    files: dict[str, Path]
    model_class: type[PreTrainedModel]
    config: PreTrainedConfig
    rename: Callable[[str, str], NewName]
    change: Callable[[str, str, Tensor], Tensor] = lambda _part, _name, tensor: tensor
    processor: ProcessorMixin | PreTrainedTokenizerBase | None = None
    report: ConversionReport = field(default_factory=ConversionReport)

    def write(self, out: Path, on_progress: Progress) -> ConversionReport:
        """Write the weights, then config.json and last of all what the processor or tokenizer has.

        Raises:
            ModelError: a shape differs from the configuration's, or a tensor of the model is nowhere.
        """
        self.config.dtype = self.copy_weights(self.plan_names(), out, on_progress)
        self.config.architectures = [self.model_class.__name__]
        self.config.save_pretrained(out)
        if issubclass(self.model_class, GenerationMixin):
            GenerationConfig.from_model_config(self.config).save_pretrained(out)
        if self.processor is not None:
            self.processor.save_pretrained(out)
        write_checksums(out)
        self.report.files = sorted(path.name for path in out.iterdir())
        return self.report

    def plan_names(self) -> dict[str, tuple[str, str]]:
        """Name in the converted model -> (part, name) it comes from; fills the report."""
        model = build_on_meta(self.model_class, self.config)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        sources: dict[str, tuple[str, str]] = {}
        for part, path in self.files.items():
            loaded = []
            for name, found in read_shapes(path).items():
                target, reason = self.rename(part, name)
                if target is None or target not in expected:
                    self.report.left_over[f"{part}/{name}"] = reason or "the converted model has no such tensor"
                    continue
                if found != expected[target]:
                    raise ModelError(
                        f"{part}/{name}: shape {found} but the configuration asks for {expected[target]}; "
                        "the weights and the configuration are of different models."
                    )
                sources[target] = part, name
                loaded.append(math.prod(found))
            self.report.loaded[part] = len(loaded), sum(loaded)
        if missing := sorted(expected.keys() - sources.keys() - set(model.all_tied_weights_keys)):
            raise ModelError(
                f"{len(missing)} tensors of the model are nowhere in the folder, first {missing[:3]}; "
                "the folder is incomplete or of another version."
            )
        return sources

    def copy_weights(self, sources: dict[str, tuple[str, str]], out: Path, on_progress: Progress) -> torch.dtype | None:
        """Copy every planned tensor into shards in `out`; returns the dtype most numbers have."""
        total = sum(path.stat().st_size for path in self.files.values())
        weights = {part: open_weights(path) for part, path in self.files.items()}
        planned = {target: weights[part][name].to("meta") for target, (part, name) in sources.items()}
        begun: set[str] = set()

        def make(target: str) -> Tensor:
            part, name = sources[target]
            if part not in begun:
                begun.add(part)
                on_progress(part)
            return self.change(part, name, weights[part].pop(name))

        write_shards(out, planned, make, shard_bytes=min(SHARD_BYTES, max(SMALLEST_SHARD, total // 16)))
        numbers: Counter[torch.dtype] = Counter()
        for tensor in planned.values():
            numbers[tensor.dtype] += tensor.numel()
        return max(numbers, key=lambda dtype: numbers[dtype], default=None)


def build_on_meta(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """The model with shapes and no weights."""
    with torch.device("meta"):
        return model_class(config)


def read_shapes(*paths: Path) -> Shapes:
    """The shape of every tensor of weight files."""
    return {name: tuple(tensor.shape) for path in paths for name, tensor in open_weights(path).items()}


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
    folder: Path, planned: Mapping[str, Tensor], make: Callable[[str], Tensor], *, shard_bytes: int = SHARD_BYTES
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


def read_bert_shape(shapes: Shapes, prefix: str = "language_encoder.") -> dict[str, Any]:
    """A BERT's configuration from the shapes of its tensors, for folders that hold only those."""
    try:
        vocabulary, width = shapes[prefix + "embeddings.word_embeddings.weight"]
        return {
            "model_type": "bert",
            "vocab_size": vocabulary,
            "hidden_size": width,
            "num_hidden_layers": len(
                {name.split(".")[3] for name in shapes if name.startswith(f"{prefix}encoder.layer.")}
            ),
            "num_attention_heads": max(1, width // BERT_HEAD_WIDTH),
            "intermediate_size": shapes[prefix + "encoder.layer.0.intermediate.dense.weight"][0],
            "max_position_embeddings": shapes[prefix + "embeddings.position_embeddings.weight"][0],
            "type_vocab_size": shapes[prefix + "embeddings.token_type_embeddings.weight"][0],
        }
    except KeyError as error:
        raise ModelError(f"no tensor {error.args[0]}; the text encoder of M3D-CLIP is missing.") from error


def read_vit_settings(official: Mapping[str, Any], *, final_norm: bool) -> dict[str, Any]:
    """The ViT of an M3D-CLIP's configuration as one of this package's."""
    return {
        "model_type": "m3d_vit",
        "image_size": list(official["img_size"]),
        "patch_size": list(official["patch_size"]),
        "in_channels": official.get("in_channels", 1),
        "hidden_size": official["hidden_size"],
        "intermediate_size": official["mlp_dim"],
        "num_hidden_layers": official["num_layers"],
        "num_attention_heads": official["num_heads"],
        "final_norm": final_norm,
    }


def rename_m3d_vit(name: str, *, old: str, new: str, final_norm: bool) -> NewName:
    """A tensor of M3D's ViT (MONAI names) in this package's ViT, `old` and `new` the ViT's place in each model."""
    name = name.removeprefix(old)
    if name.startswith("norm.") and not final_norm:
        return None, "the ViT's final norm; Med-2E3 takes the output before it"
    if "cross_attn" in name:
        return None, "MONAI's cross attention, which M3D does not use"
    for before, after in (
        ("patch_embedding.position_embeddings", "position_embedding"),
        ("patch_embedding.patch_embeddings.1.", "patch_embedding."),
        (".attn.", "."),
        (".mlp.", "."),
    ):
        name = name.replace(before, after)
    return new + name, ""


def rename_by_prefix(name: str, prefixes: Mapping[str, str | None], *, otherwise: str) -> NewName:
    """The name with the first of these prefixes replaced; where that is None or there is none, the reason."""
    for old, new in prefixes.items():
        if name.startswith(old):
            return (None, otherwise) if new is None else (new + name.removeprefix(old), "")
    return None, otherwise


def load_tokenizer(folder: Path, what: str) -> PreTrainedTokenizerBase:
    """A tokenizer from files on this machine only; ModelError where none can be read."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{what} cannot be read from {folder} ({reason}); add its files there.") from error


def find_file(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of these files that the folder holds."""
    return next((folder / name for name in names if (folder / name).is_file()), None)
