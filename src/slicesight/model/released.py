"""How do the released Med-2E3 weights become a folder this package loads? (`slicesight convert`)

The official layout: args/config.json; five parts, each with a pytorch_model.bin (llm, vision2d_model,
vision2d_connector, vision3d_model, vision3d_connector); tokenizer files at the root; adapter_config.json for LoRA.
Weights are renamed and rewritten piece by piece, never all in memory; the model itself is built on `meta` only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from slicesight.errors import ModelError
from slicesight.model.adapters import read_adapter
from slicesight.model.configuration import Med2E3Config
from slicesight.model.modeling import Med2E3ForConditionalGeneration
from slicesight.model.processing import Med2E3Processor
from slicesight.model.shards import ShardWriter, open_weights

PARTS = ("llm", "vision2d_model", "vision2d_connector", "vision3d_model", "vision3d_connector")
TEXT_GUIDED_CONNECTOR = "spatial_pooling_score15_mlp2x_gelu"
MLP_CONNECTOR = "mlp2x_gelu"
QUESTION_TOKENIZER_FOLDERS = ("m3d_clip_tokenizer", "vision3d_model", "question_tokenizer")
BERT_HEAD_WIDTH = 64  # of every BERT; the official folder does not say how many heads there are
TRAINED_LENGTH = 768


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
        lines += [f"left over: {name} ({reason})" for name, reason in sorted(self.left_over.items())]
        return "\n".join(lines)


def convert_released(
    source: str | Path,
    out: str | Path,
    *,
    question_tokenizer: str | Path | None = None,
    grid: dict[str, Any] | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> ConversionReport:
    """Convert an official Med-2E3 folder into one that `AutoModelForImageTextToText` and `slicesight.load` read.

    Args:
        question_tokenizer: folder of the M3D-CLIP tokenizer (vocab.txt), which the official folder does not hold.
        grid: grid settings to store with the processor; by default the M3D one of the configured size.

    Raises:
        ModelError: a file or tensor is missing, a shape differs, or a part is of a kind that is not supported.
    """
    source, out = Path(source), Path(out)
    official = read_official_config(source)
    shapes = {
        part: {name: tuple(t.shape) for name, t in open_weights(find_weights(source, part)).items()} for part in PARTS
    }
    config = translate_config(official, shapes["vision3d_model"])
    tokenizer = load_tokenizer(source, "the language model's tokenizer", source)
    processor = Med2E3Processor.for_model(
        config,
        tokenizer,
        template="phi",
        max_length=official.get("llm_max_length") or TRAINED_LENGTH,
        question_tokenizer=find_question_tokenizer(source, question_tokenizer),
        grid=grid
        or {
            "num_slices": config.image_size[0],
            "height": config.image_size[1],
            "width": config.image_size[2],
            "window": "m3d",
        },
    )
    report = ConversionReport()
    plan = plan_names(source, shapes, config, report)
    adapters = read_adapter(source)
    writer = ShardWriter(out)
    for part in PARTS:
        on_progress(part)
        weights = open_weights(find_weights(source, part))
        for name, target in plan[part].items():
            tensor = adapters.merge(part, strip_base_layer(name), weights.pop(name))
            writer.add(target, tensor)
            if part == "llm":
                config.dtype = tensor.dtype
    writer.finish()
    report.merged_adapters = adapters.count_merged()
    report.left_over.update({f"adapter/{name}": "no such weight" for name in adapters.unused()})
    config.architectures = [Med2E3ForConditionalGeneration.__name__]
    config.save_pretrained(out)
    GenerationConfig.from_model_config(config).save_pretrained(out)
    processor.save_pretrained(out)
    report.files = sorted(path.name for path in out.iterdir())
    return report


def plan_names(
    source: Path, shapes: dict[str, dict[str, tuple[int, ...]]], config: Med2E3Config, report: ConversionReport
) -> dict[str, dict[str, str]]:
    """Per part, official tensor name -> name in the converted model; fills the report. Nothing is written yet.

    Raises:
        ModelError: a shape differs from the configuration's, or a tensor of the model is nowhere.
    """
    with torch.device("meta"):
        model = Med2E3ForConditionalGeneration(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = set(expected) - set(model.all_tied_weights_keys)
    plan: dict[str, dict[str, str]] = {part: {} for part in PARTS}
    for part in PARTS:
        for name, found in shapes[part].items():
            target, reason = rename(part, strip_base_layer(name), config)
            if target is None or target not in expected:
                report.left_over[f"{part}/{name}"] = reason or "the converted model has no such tensor"
                continue
            if found != expected[target]:
                raise ModelError(
                    f"{part}/{name}: shape {found} but the configuration asks for {expected[target]}; "
                    "the weights and args/config.json are of different models."
                )
            plan[part][name] = target
            missing.discard(target)
        numbers = sum(math.prod(shapes[part][name]) for name in plan[part])
        report.loaded[part] = (len(plan[part]), numbers)
    if missing:
        raise ModelError(
            f"{source}: {len(missing)} tensors of the model are nowhere in the official folder, first "
            f"{sorted(missing)[:3]}; the folder is incomplete or of another version."
        )
    return plan


def strip_base_layer(name: str) -> str:
    """The name a weight had before a LoRA layer was wrapped around it."""
    return name.replace(".base_layer.", ".")


def read_official_config(source: Path) -> dict[str, Any]:
    """args/config.json (or config.json), with each part's own config.json laid over its section."""
    for path in (source / "args" / "config.json", source / "config.json"):
        if path.is_file():
            official: dict[str, Any] = json.loads(path.read_text())
            break
    else:
        raise ModelError(f"{source}: no args/config.json; expected an official Med-2E3 folder.")
    for key, part in (
        ("llm_config", "llm"),
        ("vision2d_model_config", "vision2d_model"),
        ("vision3d_model_config", "vision3d_model"),
    ):
        if (own := source / part / "config.json").is_file():
            official[key] = {**official.get(key, {}), **json.loads(own.read_text())}
        elif key not in official:
            raise ModelError(f"{source}: neither args/config.json nor {part}/config.json describes {part}.")
    return official


def translate_config(official: dict[str, Any], vision3d_shapes: dict[str, tuple[int, ...]]) -> Med2E3Config:
    """The released form as a Med2E3Config: TG-IS by the text encoder, logits divided by 5, dropout 0.1, no final norms.

    Raises:
        ModelError: a connector, layer or encoder the released form does not have.
    """
    expected = {
        "vision3d_connector_type": (TEXT_GUIDED_CONNECTOR,),
        "vision2d_connector_type": (MLP_CONNECTOR,),
        "vision2d_model_select_layer": (-1,),
        "vision3d_model_select_layer": (-1,),
        "vision3d_model_select_feature": ("patch",),
        "vision3d_model_type": ("m3d",),
    }
    for key, allowed in expected.items():
        if official.get(key) not in allowed:
            raise ModelError(f"args/config.json: {key} is {official.get(key)!r}; only {allowed[0]!r} can be converted.")
    vision2d = keep_model_settings(official["vision2d_model_config"])
    feature = official.get("vision2d_model_select_feature")
    if feature != ("cls_patch" if vision2d["model_type"].startswith("siglip") else "patch"):
        raise ModelError(
            f"args/config.json: vision2d_model_select_feature is {feature!r} for a {vision2d['model_type']}; "
            "only all patch tokens can be converted."
        )
    if vision2d["model_type"].startswith("siglip"):
        vision2d["vision_use_head"] = False
    m3d = official["vision3d_model_config"]
    image_size = list(m3d["img_size"])
    return Med2E3Config(
        image_size=image_size,
        text_config=keep_model_settings(official["llm_config"]),
        vision2d_config=vision2d,
        vision3d_config={
            "model_type": "m3d_vit",
            "image_size": image_size,
            "patch_size": list(m3d["patch_size"]),
            "in_channels": m3d.get("in_channels", 1),
            "hidden_size": m3d["hidden_size"],
            "intermediate_size": m3d["mlp_dim"],
            "num_hidden_layers": m3d["num_layers"],
            "num_attention_heads": m3d["num_heads"],
            "final_norm": False,
        },
        text_encoder_config=read_bert_shape(vision3d_shapes),
        vision2d_feature="before_final_norm",
        question_source="text_encoder",
        score_scale=0.2,
        score_dropout=0.1,
    )


def read_bert_shape(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The question encoder's configuration, which the official folder holds only in its tensors' shapes."""
    prefix = "language_encoder."
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
        raise ModelError(
            f"vision3d_model/pytorch_model.bin: no {error.args[0]}; the text encoder of M3D-CLIP is missing."
        ) from error


def keep_model_settings(section: dict[str, Any]) -> dict[str, Any]:
    """A part's configuration without what an old library wrote beside it (generation defaults, private fields)."""
    if "model_type" not in section:
        raise ModelError("args/config.json: a part has no model_type; it cannot be told what it is.")
    generation = set(GenerationConfig().to_dict()) - {"bos_token_id", "eos_token_id", "pad_token_id"}
    dropped = generation | {
        "torch_dtype",
        "torchscript",
        "architectures",
        "transformers_version",
        "use_bfloat16",
        "id2label",
        "label2id",
    }
    return {k: v for k, v in section.items() if not k.startswith("_") and k not in dropped and v is not None}


def rename(part: str, name: str, config: Med2E3Config) -> tuple[str | None, str]:
    """The tensor's name in the converted model, or None and the reason it has none there."""
    if part == "llm":
        return f"language_model.{name}", ""
    if part == "vision2d_model":
        inner = name.removeprefix("vision_model.")
        if inner.startswith("head."):
            return None, "SigLIP's pooling head; Med-2E3 uses the tokens"
        return f"vision2d.encoder.{inner}", ""
    if part == "vision2d_connector":
        return f"projector_2d.{name.removeprefix('_connector.')}", ""
    if part == "vision3d_connector":
        if name.startswith("text_mlp."):
            return f"scorer.question_projection.{name.removeprefix('text_mlp.')}", ""
        return f"projector_3d.{name.removeprefix('_connector.')}", ""
    if name.startswith("language_encoder."):
        return f"scorer.text_encoder.{name.removeprefix('language_encoder.')}", ""
    if name.startswith("vision_encoder."):
        return rename_m3d_vit(name.removeprefix("vision_encoder."), final_norm=config.vision3d_config.final_norm)
    return None, "contrastive head of M3D-CLIP; Med-2E3 does not use it"


def rename_m3d_vit(name: str, *, final_norm: bool) -> tuple[str | None, str]:
    """A tensor of M3D's ViT (MONAI names) in this package's ViT."""
    if name.startswith("norm.") and not final_norm:
        return None, "the ViT's final norm; Med-2E3 takes the output before it"
    if "norm_cross_attn" in name or "cross_attn" in name:
        return None, "MONAI's cross attention, which M3D does not use"
    for old, new in (
        ("patch_embedding.position_embeddings", "position_embedding"),
        ("patch_embedding.patch_embeddings.1.", "patch_embedding."),
        (".attn.", "."),
        (".mlp.", "."),
    ):
        name = name.replace(old, new)
    return f"vision3d.encoder.{name}", ""


def find_weights(source: Path, part: str) -> Path:
    """A part's weight file."""
    for file_name in ("model.safetensors", "pytorch_model.bin"):
        if (path := source / part / file_name).is_file():
            return path
    raise ModelError(f"{source}: {part}/pytorch_model.bin is missing; download that part of the released folder too.")


def load_tokenizer(folder: Path, what: str, source: Path) -> PreTrainedTokenizerBase:
    """A tokenizer from files on this machine only."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{source}: {what} cannot be read from {folder} ({reason}); add its files there.") from error


def find_question_tokenizer(source: Path, given: str | Path | None) -> PreTrainedTokenizerBase:
    """M3D-CLIP's BERT tokenizer: where the user says, or in a folder beside the parts."""
    folders = [Path(given)] if given is not None else [source / name for name in QUESTION_TOKENIZER_FOLDERS]
    for folder in folders:
        if (folder / "vocab.txt").is_file() or (folder / "tokenizer.json").is_file():
            return load_tokenizer(folder, "the question tokenizer", source)
    raise ModelError(
        f"{source}: the question's tokenizer (vocab.txt of GoodBaiBai88/M3D-CLIP) is not in {folders[0]}; the released "
        "folder does not hold it: download it and pass --question-tokenizer FOLDER."
    )
