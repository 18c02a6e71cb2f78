"""What does this package read of the M3D family? M3D-CLIP as vectors, M3D-LaMed as the 3D-only configuration.

M3D-CLIP gives one vector per volume and per text, for retrieval. M3D-LaMed answers questions from 3D tokens alone; its
segmentation and box heads are out of scope: their weights are left over, by name, and answers hold no masks.
V volumes of N slices H x W, B texts of Q tokens, C the vectors' width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from slicesight.errors import ModelError
from slicesight.models.encoders3d.networks import M3DViT
from slicesight.models.importers import conversion
from slicesight.models.importers.conversion import Conversion, ConversionReport, NewName, Progress, Shapes, find_file
from slicesight.models.importers.med2e3 import convert_released, keep_model_settings, m3d_grid
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.models.med2e3.processing import Med2E3Processor
from slicesight.models.sub_configs import SubConfigSpec, make_sub_configs, name_sub_configs

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
CLIP_PREFIXES = {
    "language_encoder.": "text_encoder.",
    "mm_vision_proj.": "volume_projection.",
    "mm_language_proj.": "text_projection.",
    "logit_scale": "logit_scale",
}
LAMED_SETTINGS = {
    "vision_select_feature": "patch",
    "vision_select_layer": -1,
    "proj_layer_type": "mlp",
    "proj_pooling_type": "spatial",
}
"""The only form of M3D-LaMed that was released."""
LAMED_VISION, LAMED_PROJECTOR = "model.vision_tower.vision_tower.", "model.mm_projector.projector."


@name_sub_configs
class M3DClipConfig(PreTrainedConfig):
    """A 3D ViT and a BERT with a Linear each into one space."""

    model_type = "m3d_clip_vectors"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision3d_config": SubConfigSpec(config_class=AutoConfig, model_type="m3d_vit"),
        "text_encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
    }

    vision3d_config: Any = None
    text_encoder_config: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        make_sub_configs(self)
        cast(Any, super()).__post_init__(**kwargs)


class M3DClip(PreTrainedModel):
    """Image and text vectors of M3D-CLIP."""

    config: M3DClipConfig
    config_class = M3DClipConfig
    base_model_prefix = ""
    main_input_name = "volumes"

    def __init__(self, config: M3DClipConfig) -> None:
        super().__init__(config)
        width = config.vision3d_config.hidden_size
        self.volume_encoder = M3DViT(config.vision3d_config)
        self.text_encoder = AutoModel.from_config(config.text_encoder_config)
        self.volume_projection = nn.Linear(width, width)
        self.text_projection = nn.Linear(config.text_encoder_config.hidden_size, width)
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))
        cast(Any, self).post_init()

    def encode_volumes(self, volumes: Tensor) -> Tensor:
        """Unit vectors (V, C) of volumes (V, 1, N, H, W): the class token after the final norm, projected."""
        tokens = self.volume_encoder.encode_tokens(volumes.to(self.dtype))
        return functional.normalize(self.volume_projection(tokens[:, 0]), dim=-1)

    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Unit vectors (B, C) of texts (B, Q): BERT's first token, projected."""
        tokens = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return functional.normalize(self.text_projection(tokens[:, 0]), dim=-1)

    def forward(self, volumes: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Cosine of every volume with every text (V, B)."""
        return self.encode_volumes(volumes) @ self.encode_texts(input_ids, attention_mask).T


def recall_at(similarity: Tensor, k: int) -> float:
    """Share of queries (rows) whose own key (same number) is among the k nearest."""
    nearest = similarity.topk(min(k, similarity.shape[1]), dim=1).indices
    return float((nearest == torch.arange(len(similarity)).unsqueeze(1)).any(dim=1).float().mean())


def convert_folder(
    source: str | Path,
    out: str | Path,
    *,
    question_tokenizer: str | Path | None = None,
    on_progress: Progress = lambda _: None,
) -> ConversionReport:
    """Convert an official folder of any kind this package reads: Med-2E3, M3D-CLIP, M3D-LaMed.

    Raises:
        ModelError: the folder is none of them, or cannot be converted.
    """
    path = find_file(Path(source), ("config.json",))
    kind = json.loads(path.read_text(encoding="utf-8")).get("model_type", "") if path else ""
    if kind == "m3d_clip":
        return convert_m3d_clip(source, out, on_progress=on_progress)
    if kind.startswith("lamed"):
        return convert_lamed(source, out, on_progress=on_progress)
    return convert_released(source, out, question_tokenizer=question_tokenizer, on_progress=on_progress)


def convert_m3d_clip(
    source: str | Path, out: str | Path, *, on_progress: Progress = lambda _: None
) -> ConversionReport:
    """Convert GoodBaiBai88/M3D-CLIP into a folder `AutoModel` reads as `M3DClip`."""
    source, out = Path(source), Path(out)
    official = json.loads((source / "config.json").read_text(encoding="utf-8"))
    files = find_weight_files(source)
    config = M3DClipConfig(
        vision3d_config=conversion.read_vit_settings(official, final_norm=True),
        text_encoder_config=conversion.read_bert_shape(conversion.read_shapes(*files.values())),
    )
    has_tokenizer = find_file(source, ("vocab.txt", "tokenizer.json")) is not None
    tokenizer = conversion.load_tokenizer(source, "the tokenizer of M3D-CLIP") if has_tokenizer else None
    return Conversion(
        files=files, model_class=M3DClip, config=config, rename=rename_m3d_clip, processor=tokenizer
    ).write(out, on_progress)


def rename_m3d_clip(_: str, name: str) -> NewName:
    """A tensor of M3D-CLIP in `M3DClip`."""
    if name.startswith("vision_encoder."):
        return conversion.rename_m3d_vit(name, old="vision_encoder.", new="volume_encoder.", final_norm=True)
    return conversion.rename_by_prefix(name, CLIP_PREFIXES, otherwise="no part of M3D-CLIP this package knows")


def convert_lamed(source: str | Path, out: str | Path, *, on_progress: Progress = lambda _: None) -> ConversionReport:
    """Convert M3D-LaMed's language-and-vision path into the 3D-only configuration.

    Raises:
        ModelError: a pooling, projector or feature other than the released models', or an incomplete folder.
    """
    source, out = Path(source), Path(out)
    official = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for key, value in LAMED_SETTINGS.items():
        if official.get(key, value) != value:
            raise ModelError(f"{source}/config.json: {key} is {official[key]!r}; only {value!r} can be converted.")
    files = find_weight_files(source)
    config = translate_lamed(official, conversion.read_shapes(*files.values()), source)
    tokenizer = conversion.load_tokenizer(source, "the tokenizer of M3D-LaMed")
    processor = Med2E3Processor.for_model(config, tokenizer, template="lamed", grid=m3d_grid(config))
    if not processor.opening_ids:
        raise ModelError(
            f"{source}: the tokenizer opens no text with a token of its own, which M3D-LaMed keeps before the volume; "
            "take the tokenizer that was released with the weights."
        )
    return Conversion(
        files=files,
        model_class=Med2E3ForConditionalGeneration,
        config=config,
        rename=rename_lamed,
        processor=processor,
    ).write(out, on_progress)


def translate_lamed(official: dict[str, Any], shapes: Shapes, source: Path | str) -> Med2E3Config:
    """M3D-LaMed as a Med2E3Config: 3D only, the ViT's output after its norm; the ViT's sizes from its tensors."""
    try:
        hidden = shapes[LAMED_VISION + "cls_token"][-1]
        inner = shapes[LAMED_VISION + "blocks.0.mlp.linear1.weight"][0]
    except KeyError as error:
        raise ModelError(f"{source}: no tensor {error.args[0]}; the folder holds no M3D-LaMed with its ViT.") from error
    blocks = {
        name.removeprefix(LAMED_VISION).split(".")[1] for name in shapes if name.startswith(LAMED_VISION + "blocks.")
    }
    pool = int(official.get("proj_pooling_size", 2))
    image_size = list(official["image_size"])
    own = ("vision_", "mm_", "proj_", "image_size", "patch_size", "image_channel", "seg", "tune_mm_mlp_adapter")
    text = {key: value for key, value in keep_model_settings(official).items() if not key.startswith(own)}
    return Med2E3Config(
        fusion="3d",
        image_size=image_size,
        text_config={**text, "model_type": official["model_type"].removeprefix("lamed_")},
        vision3d_config={
            "model_type": "m3d_vit",
            "image_size": image_size,
            "patch_size": list(official["patch_size"]),
            "pool_size": [pool, pool, pool],
            "in_channels": int(official.get("image_channel", 1)),
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": len(blocks),
            "num_attention_heads": max(1, hidden // conversion.BERT_HEAD_WIDTH),
            "final_norm": True,
        },
    )


def rename_lamed(_: str, name: str) -> NewName:
    """A tensor of M3D-LaMed in the 3D-only configuration."""
    if name.startswith(LAMED_VISION):
        return conversion.rename_m3d_vit(name, old=LAMED_VISION, new="vision3d.encoder.", final_norm=True)
    prefixes = {
        LAMED_PROJECTOR: "projector_3d.",
        "model.seg_module.": None,
        "model.seg_projector.": None,
        "": "language_model.",
    }
    return conversion.rename_by_prefix(name, prefixes, otherwise="segmentation head of M3D-LaMed, out of scope here")


def find_weight_files(source: Path) -> dict[str, Path]:
    """The weight file, or every shard of the index, by name; ModelError: there is none, or a shard is missing."""
    if index := find_file(source, INDEX_FILES):
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        for name in names:
            if Path(name).name != name or not (source / name).is_file():
                raise ModelError(f"{source}: {name} of {index.name} is missing; download that file too.")
        return {name: source / name for name in names}
    if path := find_file(source, WEIGHT_FILES):
        return {path.name: path}
    raise ModelError(f"{source}: no weights; expected {' or '.join(WEIGHT_FILES)}.")


AutoConfig.register(M3DClipConfig.model_type, M3DClipConfig)
AutoModel.register(M3DClipConfig, M3DClip)
