"""How do the released Med-2E3 weights become a folder this package loads? (`slicesight convert`)

The official layout: args/config.json; five parts, each with a pytorch_model.bin (llm, vision2d_model,
vision2d_connector, vision3d_model, vision3d_connector); tokenizer files at the root; adapter_config.json for LoRA.
Weights are renamed and rewritten piece by piece, never all in memory; the model itself is built on `meta` only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from slicesight.errors import ModelError
from slicesight.models.importers import conversion
from slicesight.models.importers.adapters import read_adapter
from slicesight.models.importers.conversion import Conversion, ConversionReport, NewName, Progress, Shapes, find_file
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.models.med2e3.processing import Med2E3Processor

TEXT_GUIDED_CONNECTOR = "spatial_pooling_score15_mlp2x_gelu"
MLP_CONNECTOR = "mlp2x_gelu"
QUESTION_TOKENIZER_FOLDERS = ("m3d_clip_tokenizer", "vision3d_model", "question_tokenizer")
TRAINED_LENGTH = 768
PREFIXES: dict[str, tuple[dict[str, str | None], str]] = {
    "llm": ({"": "language_model."}, ""),
    "vision2d_model": (
        {"vision_model.head.": None, "head.": None, "vision_model.": "vision2d.encoder.", "": "vision2d.encoder."},
        "SigLIP's pooling head; Med-2E3 uses the tokens",
    ),
    "vision2d_connector": ({"_connector.": "projector_2d.", "": "projector_2d."}, ""),
    "vision3d_connector": (
        {"text_mlp.": "scorer.question_projection.", "_connector.": "projector_3d.", "": "projector_3d."},
        "",
    ),
    "vision3d_model": (
        {"language_encoder.": "scorer.text_encoder."},
        "contrastive head of M3D-CLIP; Med-2E3 does not use it",
    ),
}
"""Part -> how the first prefix of its tensors' names changes, and why those that get no name are left over."""


def convert_released(
    source: str | Path,
    out: str | Path,
    *,
    question_tokenizer: str | Path | None = None,
    grid: dict[str, Any] | None = None,
    on_progress: Progress = lambda _: None,
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
    files = {part: find_weights(source, part) for part in PREFIXES}
    config = translate_config(official, conversion.read_shapes(files["vision3d_model"]))
    processor = Med2E3Processor.for_model(
        config,
        conversion.load_tokenizer(source, "the language model's tokenizer"),
        template="phi",
        max_length=official.get("llm_max_length") or TRAINED_LENGTH,
        question_tokenizer=find_question_tokenizer(source, question_tokenizer),
        grid=grid or m3d_grid(config),
    )
    adapters = read_adapter(source)
    report = Conversion(
        files=files,
        model_class=Med2E3ForConditionalGeneration,
        config=config,
        rename=lambda part, name: rename(part, strip_base_layer(name)),
        change=lambda part, name, tensor: adapters.merge(part, strip_base_layer(name), tensor),
        processor=processor,
    ).write(out, on_progress)
    report.merged_adapters = len(adapters.merged)
    report.left_over.update({f"adapter/{name}": "no such weight" for name in adapters.unused()})
    return report


def m3d_grid(config: Med2E3Config) -> dict[str, Any]:
    """The grid settings of M3D at the configured size."""
    num_slices, height, width = config.image_size
    return {"num_slices": num_slices, "height": height, "width": width, "window": "m3d"}


def strip_base_layer(name: str) -> str:
    """The name a weight had before a LoRA layer was wrapped around it."""
    return name.replace(".base_layer.", ".")


def read_official_config(source: Path) -> dict[str, Any]:
    """args/config.json (or config.json), with each part's own config.json laid over its section."""
    path = find_file(source, ("args/config.json", "config.json"))
    if path is None:
        raise ModelError(f"{source}: no args/config.json; expected an official Med-2E3 folder.")
    official: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for part in ("llm", "vision2d_model", "vision3d_model"):
        key = f"{part}_config"
        if (own := source / part / "config.json").is_file():
            official[key] = {**official.get(key, {}), **json.loads(own.read_text(encoding="utf-8"))}
        elif key not in official:
            raise ModelError(f"{source}: neither args/config.json nor {part}/config.json describes {part}.")
    return official


def translate_config(official: dict[str, Any], vision3d_shapes: Shapes) -> Med2E3Config:
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
    vision3d = conversion.read_vit_settings(official["vision3d_model_config"], final_norm=False)
    return Med2E3Config(
        image_size=vision3d["image_size"],
        text_config=keep_model_settings(official["llm_config"]),
        vision2d_config=vision2d,
        vision3d_config=vision3d,
        text_encoder_config=conversion.read_bert_shape(vision3d_shapes),
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
    library = {"torch_dtype", "torchscript", "architectures", "transformers_version", "use_bfloat16"}
    dropped = generation | library | {"id2label", "label2id"}
    return {k: v for k, v in section.items() if not k.startswith("_") and k not in dropped and v is not None}


def rename(part: str, name: str) -> NewName:
    """The tensor's name in the converted model, or None and the reason it has none there."""
    if part == "vision3d_model" and name.startswith("vision_encoder."):
        return conversion.rename_m3d_vit(name, old="vision_encoder.", new="vision3d.encoder.", final_norm=False)
    prefixes, otherwise = PREFIXES[part]
    return conversion.rename_by_prefix(name, prefixes, otherwise=otherwise)


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
            return conversion.load_tokenizer(folder, "the question tokenizer")
    raise ModelError(
        f"{source}: the question's tokenizer (vocab.txt of GoodBaiBai88/M3D-CLIP) is not in {folders[0]}; the released "
        "folder does not hold it: download it and pass --question-tokenizer FOLDER."
    )
