"""What every importer does: give each tensor its new name or a reason, check shapes, copy piece by piece, report.

Nothing is written before every name and shape has been checked, and the model itself is built on `meta` only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
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
from slicesight.models.importers.shards import SHARD_BYTES, SMALLEST_SHARD, open_weights, write_shards

BERT_HEAD_WIDTH = 64  # of every BERT; the folders of the M3D family do not say how many heads there are
Rename = Callable[[str, str], tuple[str | None, str]]
"""(part, name) -> the name in the converted model, or None and the reason it has none there."""


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
            lines.append(f"left over, {len(names)} tensors: {reason}")
            lines += [f"  {name}" for name in names]
        return "\n".join(lines)


def build_on_meta(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """The model with shapes and no weights."""
    with torch.device("meta"):
        return model_class(config)


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a weight file."""
    return {name: tuple(tensor.shape) for name, tensor in open_weights(path).items()}


def plan_names(
    shapes: dict[str, dict[str, tuple[int, ...]]], rename: Rename, model: PreTrainedModel, report: ConversionReport
) -> dict[str, dict[str, str]]:
    """Per part, old tensor name -> name in the converted model; fills the report.

    Raises:
        ModelError: a shape differs from the configuration's, or a tensor of the model is nowhere.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = set(expected) - set(model.all_tied_weights_keys)
    plan: dict[str, dict[str, str]] = {part: {} for part in shapes}
    for part, found_shapes in shapes.items():
        for name, found in found_shapes.items():
            target, reason = rename(part, name)
            if target is None or target not in expected:
                report.left_over[f"{part}/{name}"] = reason or "the converted model has no such tensor"
                continue
            if found != expected[target]:
                raise ModelError(
                    f"{part}/{name}: shape {found} but the configuration asks for {expected[target]}; "
                    "the weights and the configuration are of different models."
                )
            plan[part][name] = target
            missing.discard(target)
        numbers = sum(math.prod(found_shapes[name]) for name in plan[part])
        report.loaded[part] = (len(plan[part]), numbers)
    if missing:
        raise ModelError(
            f"{len(missing)} tensors of the model are nowhere in the folder, first {sorted(missing)[:3]}; "
            "the folder is incomplete or of another version."
        )
    return plan


def copy_weights(
    files: dict[str, Path],
    plan: dict[str, dict[str, str]],
    out: Path,
    *,
    change: Callable[[str, str, Tensor], Tensor] = lambda _part, _name, tensor: tensor,
    on_progress: Callable[[str], None] = lambda _: None,
) -> torch.dtype | None:
    """Copy every planned tensor into shards in `out`; returns the dtype most numbers have."""
    total = sum(path.stat().st_size for path in files.values())
    weights = {part: open_weights(path) for part, path in files.items()}
    sources = {target: (part, name) for part, names in plan.items() for name, target in names.items()}
    planned = {target: weights[part][name].to("meta") for target, (part, name) in sources.items()}
    numbers: dict[torch.dtype, int] = {}
    for tensor in planned.values():
        numbers[tensor.dtype] = numbers.get(tensor.dtype, 0) + tensor.numel()
    begun: set[str] = set()

    def make(target: str) -> Tensor:
        part, name = sources[target]
        if part not in begun:
            begun.add(part)
            on_progress(part)
        return change(part, name, weights[part].pop(name))

    write_shards(out, planned, make, shard_bytes=min(SHARD_BYTES, max(SMALLEST_SHARD, total // 16)))
    return max(numbers, key=lambda dtype: numbers[dtype]) if numbers else None


def finish_folder(
    out: Path,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    report: ConversionReport,
    processor: ProcessorMixin | PreTrainedTokenizerBase | None,
) -> ConversionReport:
    """Write what stands beside the weights: config.json, last of all what the processor or tokenizer has."""
    config.architectures = [model_class.__name__]
    config.save_pretrained(out)
    if issubclass(model_class, GenerationMixin):
        GenerationConfig.from_model_config(config).save_pretrained(out)
    if processor is not None:
        processor.save_pretrained(out)
    report.files = sorted(path.name for path in out.iterdir())
    return report


def read_bert_shape(shapes: dict[str, tuple[int, ...]], prefix: str = "language_encoder.") -> dict[str, Any]:
    """A BERT's configuration from the shapes of its tensors, for folders that hold only those.

    Raises:
        ModelError: there is no BERT.
    """
    try:
        vocabulary, width = shapes[prefix + "embeddings.word_embeddings.weight"]
        layers = {name.split(".")[3] for name in shapes if name.startswith(prefix + "encoder.layer.")}
        return {
            "model_type": "bert",
            "vocab_size": vocabulary,
            "hidden_size": width,
            "num_hidden_layers": len(layers),
            "num_attention_heads": max(1, width // BERT_HEAD_WIDTH),
            "intermediate_size": shapes[prefix + "encoder.layer.0.intermediate.dense.weight"][0],
            "max_position_embeddings": shapes[prefix + "embeddings.position_embeddings.weight"][0],
            "type_vocab_size": shapes[prefix + "embeddings.token_type_embeddings.weight"][0],
        }
    except KeyError as error:
        raise ModelError(f"no tensor {error.args[0]}; the text encoder of M3D-CLIP is missing.") from error


def rename_m3d_vit(name: str, *, final_norm: bool) -> tuple[str | None, str]:
    """A tensor of M3D's ViT (MONAI names) in this package's ViT."""
    if name.startswith("norm.") and not final_norm:
        return None, "the ViT's final norm; Med-2E3 takes the output before it"
    if "cross_attn" in name:
        return None, "MONAI's cross attention, which M3D does not use"
    for old, new in (
        ("patch_embedding.position_embeddings", "position_embedding"),
        ("patch_embedding.patch_embeddings.1.", "patch_embedding."),
        (".attn.", "."),
        (".mlp.", "."),
    ):
        name = name.replace(old, new)
    return name, ""


def load_tokenizer(folder: Path, what: str) -> PreTrainedTokenizerBase:
    """A tokenizer from files on this machine only.

    Raises:
        ModelError: there is none that can be read.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{what} cannot be read from {folder} ({reason}); add its files there.") from error


def find_file(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of these files that the folder holds."""
    return next((folder / name for name in names if (folder / name).is_file()), None)
