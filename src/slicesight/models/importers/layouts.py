"""What kind of model does a folder or repository hold, and which of its files make it?

Four kinds are read: this package's own folders (as `save_pretrained` writes them), and three official layouts, Med-2E3,
M3D-CLIP and M3D-LaMed. A repository also holds what nobody here needs: optimizer states, second copies of the weights
in another format, pictures. Only the chosen files are fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from slicesight.errors import ModelError
from slicesight.models.folder import FAMILY
from slicesight.models.importers.conversion import Shapes
from slicesight.models.importers.m3d import LAMED_VISION, M3DClipConfig, translate_lamed
from slicesight.models.importers.med2e3 import PREFIXES, QUESTION_TOKENIZER_FOLDERS, translate_config
from slicesight.models.med2e3.configuration import Med2E3Config

OWN_TYPES = (Med2E3Config.model_type, M3DClipConfig.model_type, FAMILY)
ROOT_SETTINGS = re.compile(
    r"[\w.-]+\.(?:json|jinja|model|yaml)|(?:vocab|merges)\.txt|LICEN[SC]E(?:\.\w+)?|NOTICE(?:\.\w+)?|SHA256SUMS"
)
WEIGHTS = (
    (r"model\.safetensors\.index\.json", r"model-\d+-of-\d+\.safetensors"),
    (r"pytorch_model\.bin\.index\.json", r"pytorch_model-\d+-of-\d+\.bin"),
    (None, r"model\.safetensors"),
    (None, r"pytorch_model\.bin"),
)
"""An index (or none) and the files it speaks of, in the order in which the importers look."""
ADAPTER = re.compile(r"adapter_model\.(?:safetensors|bin)")
VOCABULARY = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
BERT_BASE = {"width": 768, "inner": 3072, "layers": 12, "positions": 512, "vocabulary": 30522}
VIT_BASE = {"width": 768, "inner": 3072, "layers": 12}
"""What M3D's encoders are built on; sizes that only the weights tell are taken from here before they are fetched."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The kind of a model, the files that make it, and its configuration where it answers questions.

    kind: "own", "med2e3", "m3d_clip" or "lamed".
    """

    kind: str
    files: tuple[str, ...]
    weights: tuple[str, ...]
    config: Med2E3Config | None = None
    needs_vocabulary: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_own(self) -> bool:
        """Nothing needs converting."""
        return self.kind == "own"


def find_layout(name: str, paths: Iterable[str], read: Callable[[str], bytes]) -> Layout:
    """The layout of the repository or folder `name`, by its files' names and its settings, which `read` reads.

    Raises:
        ModelError: it holds no model, or one of a kind that is not read here.
    """
    there = sorted(paths)
    root = [path for path in there if ROOT_SETTINGS.fullmatch(path)]
    if any(path == "args/config.json" or path.startswith("vision3d_connector/") for path in there):
        return _official_med2e3(name, there, root, read)
    if "config.json" not in there:
        if "adapter_config.json" in there:
            raise ModelError(
                f"{name}: holds an adapter, not a whole model; fetch the model it belongs to and merge both"
            )
        raise ModelError(f"{name}: holds no config.json, so it is not a model; expected a model's repository or folder")
    settings = read_settings(name, "config.json", read)
    model_type = str(settings.get("model_type", ""))
    if model_type in OWN_TYPES:
        extra = [path for path in there if path.startswith("question_tokenizer/") and path.count("/") == 1]
        weights = choose_weights(name, there)
        if not all(path.endswith(".safetensors") for path in weights):
            raise ModelError(f"{name}: its weights are no safetensors; save the model again with save_pretrained")
        config = Med2E3Config.from_dict(settings) if model_type == Med2E3Config.model_type else None
        files = tuple(sorted({*root, *extra, *weights}))
        return Layout(kind="own", files=files, weights=weights, config=config, settings=settings)
    if model_type == "m3d_clip":
        weights = choose_weights(name, there)
        files = tuple(sorted({*root, *weights}))
        return Layout(kind="m3d_clip", files=files, weights=weights, settings=settings)
    if model_type.startswith("lamed"):
        weights = choose_weights(name, there)
        config = translate_lamed(settings, guessed_vit_shapes(), name)
        files = tuple(sorted({*root, *weights}))
        return Layout(kind="lamed", files=files, weights=weights, config=config, settings=settings)
    kind = repr(model_type) if model_type else "of no kind that its config.json names"
    raise ModelError(
        f"{name}: its model is {kind}; expected one of this package ({', '.join(OWN_TYPES)}) or an official Med-2E3, "
        "M3D-LaMed or M3D-CLIP"
    )


def _official_med2e3(name: str, there: list[str], root: list[str], read: Callable[[str], bytes]) -> Layout:
    settings = read_settings(name, "args/config.json" if "args/config.json" in there else "config.json", read)
    weights, configs = [], []
    for part in PREFIXES:
        inner = [path.removeprefix(f"{part}/") for path in there if path.startswith(f"{part}/")]
        weights += [f"{part}/{path}" for path in choose_weights(f"{name}/{part}", inner, in_shards=False)]
        configs += [f"{part}/config.json"] if "config.json" in inner else []
        if f"{part}/config.json" in configs and part in ("llm", "vision2d_model", "vision3d_model"):
            own = read_settings(name, f"{part}/config.json", read)
            settings[f"{part}_config"] = {**settings.get(f"{part}_config", {}), **own}
    for part in ("llm", "vision2d_model", "vision3d_model"):
        if f"{part}_config" not in settings:
            raise ModelError(f"{name}: neither args/config.json nor {part}/config.json describes {part}")
    adapter = [path for path in there if ADAPTER.fullmatch(path)]
    vocabulary = [
        path
        for path in there
        if path.count("/") == 1
        and path.split("/")[0] in QUESTION_TOKENIZER_FOLDERS
        and path.split("/")[1] in VOCABULARY
    ]
    files = {*root, *weights, *configs, *adapter, *vocabulary} | {path for path in there if path == "args/config.json"}
    has_vocabulary = any(path.endswith(("/vocab.txt", "/tokenizer.json")) for path in vocabulary)
    return Layout(
        kind="med2e3",
        files=tuple(sorted(files)),
        weights=tuple(sorted([*weights, *adapter])),
        config=translate_config(settings, guessed_bert_shapes()),
        needs_vocabulary=not has_vocabulary,
        settings=settings,
    )


def choose_weights(name: str, there: Iterable[str], *, in_shards: bool = True) -> tuple[str, ...]:
    """The weight files, with their index; ModelError where there are none, or where a part of a model is in shards."""
    paths = list(there)
    for index, pattern in WEIGHTS if in_shards else WEIGHTS[2:]:
        found = [path for path in paths if re.fullmatch(pattern, path)]
        listed = [path for path in paths if index is not None and re.fullmatch(index, path)]
        if found and (index is None or listed):
            return tuple(sorted([*found, *listed]))
    raise ModelError(f"{name}: holds no weights; expected model.safetensors or pytorch_model.bin, or their shards")


def read_settings(name: str, path: str, read: Callable[[str], bytes]) -> dict[str, Any]:
    """A JSON object; ModelError where it is none."""
    try:
        found = json.loads(read(path))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{name}: {path} is not valid JSON ({error}); expected a model's settings") from error
    if not isinstance(found, dict):
        raise ModelError(f"{name}: {path} holds a {type(found).__name__}; expected a model's settings")
    return found


def guessed_bert_shapes() -> Shapes:
    """A BERT-base's, as `read_bert_shape` looks them up."""
    old, width = "language_encoder.", BERT_BASE["width"]
    return {
        f"{old}embeddings.word_embeddings.weight": (BERT_BASE["vocabulary"], width),
        f"{old}embeddings.position_embeddings.weight": (BERT_BASE["positions"], width),
        f"{old}embeddings.token_type_embeddings.weight": (2, width),
        **{
            f"{old}encoder.layer.{layer}.intermediate.dense.weight": (BERT_BASE["inner"], width)
            for layer in range(BERT_BASE["layers"])
        },
    }


def guessed_vit_shapes() -> Shapes:
    """A ViT-B's, as `translate_lamed` looks them up."""
    width, inner = VIT_BASE["width"], VIT_BASE["inner"]
    return {
        f"{LAMED_VISION}cls_token": (1, 1, width),
        **{f"{LAMED_VISION}blocks.{block}.mlp.linear1.weight": (inner, width) for block in range(VIT_BASE["layers"])},
    }
