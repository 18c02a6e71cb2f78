"""How do the released Med-2E3 weights become a folder this package loads? (`slicesight convert`)

The official layout: args/config.json; five parts, each with a pytorch_model.bin (llm, vision2d_model,
vision2d_connector, vision3d_model, vision3d_connector); tokenizer files at the root; adapter_config.json for LoRA.
Weights are renamed and rewritten piece by piece, never all in memory; the model itself is built on `meta` only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from slicesight.errors import ModelError
from slicesight.models.importers.adapters import read_adapter
from slicesight.models.importers.conversion import (
    ConversionReport,
    build_on_meta,
    copy_weights,
    find_file,
    finish_folder,
    load_tokenizer,
    plan_names,
    read_bert_shape,
    read_shapes,
    rename_m3d_vit,
)
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.models.med2e3.processing import Med2E3Processor

PARTS = ("llm", "vision2d_model", "vision2d_connector", "vision3d_model", "vision3d_connector")
TEXT_GUIDED_CONNECTOR = "spatial_pooling_score15_mlp2x_gelu"
MLP_CONNECTOR = "mlp2x_gelu"
QUESTION_TOKENIZER_FOLDERS = ("m3d_clip_tokenizer", "vision3d_model", "question_tokenizer")
TRAINED_LENGTH = 768


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
    files = {part: find_weights(source, part) for part in PARTS}
    shapes = {part: read_shapes(path) for part, path in files.items()}
    config = translate_config(official, shapes["vision3d_model"])
    num_slices, height, width = config.image_size
    processor = Med2E3Processor.for_model(
        config,
        load_tokenizer(source, "the language model's tokenizer"),
        template="phi",
        max_length=official.get("llm_max_length") or TRAINED_LENGTH,
        question_tokenizer=find_question_tokenizer(source, question_tokenizer),
        grid=grid or {"num_slices": num_slices, "height": height, "width": width, "window": "m3d"},
    )
    report = ConversionReport()
    model = build_on_meta(Med2E3ForConditionalGeneration, config)
    plan = plan_names(shapes, lambda part, name: rename(part, strip_base_layer(name), config), model, report)
    adapters = read_adapter(source)
    config.dtype = copy_weights(
        files,
        plan,
        out,
        change=lambda part, name, tensor: adapters.merge(part, strip_base_layer(name), tensor),
        on_progress=on_progress,
    )
    report.merged_adapters = adapters.count_merged()
    report.left_over.update({f"adapter/{name}": "no such weight" for name in adapters.unused()})
    return finish_folder(out, Med2E3ForConditionalGeneration, config, report, processor)


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
        own, reason = rename_m3d_vit(name.removeprefix("vision_encoder."), final_norm=False)
        return (None if own is None else f"vision3d.encoder.{own}"), reason
    return None, "contrastive head of M3D-CLIP; Med-2E3 does not use it"


def find_weights(source: Path, part: str) -> Path:
    """A part's weight file."""
    if path := find_file(source / part, ("model.safetensors", "pytorch_model.bin")):
        return path
    raise ModelError(f"{source}: {part}/pytorch_model.bin is missing; download that part of the released folder too.")


def find_question_tokenizer(source: Path, given: str | Path | None) -> PreTrainedTokenizerBase:
    """M3D-CLIP's BERT tokenizer: where the user says, or in a folder beside the parts."""
    folders = [Path(given)] if given is not None else [source / name for name in QUESTION_TOKENIZER_FOLDERS]
    for folder in folders:
        if (folder / "vocab.txt").is_file() or (folder / "tokenizer.json").is_file():
            return load_tokenizer(folder, "the question tokenizer")
    raise ModelError(
        f"{source}: the question's tokenizer (vocab.txt of GoodBaiBai88/M3D-CLIP) is not in {folders[0]}; the released "
        "folder does not hold it: download it and pass --question-tokenizer FOLDER."
    )
