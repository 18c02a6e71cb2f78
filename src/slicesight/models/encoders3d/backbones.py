"""Which backbone learns from slices, and how do its weights travel from folder to folder?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from slicesight.data.plugins import find_plugin
from slicesight.errors import ModelError
from slicesight.models.encoders3d.backbone import BACKBONES, ENTRY_POINTS, Backbone, BackboneSpec
from slicesight.models.folder import read_model_folder, write_model_folder

KIND = "backbone"


def build_backbone(
    name: str, *, image_size: tuple[int, ...] = (64, 64, 64), in_channels: int = 1, **settings: Any
) -> Backbone:
    """A backbone with random weights; ModelError: an unknown name or setting, or sizes that do not fit the network."""
    return backbone_from(BackboneSpec(name=name, image_size=image_size, in_channels=in_channels, settings=settings))


def backbone_from(spec: BackboneSpec) -> Backbone:
    """The backbone of a spec, with random weights."""
    backbone: Backbone = find_plugin(spec.name, BACKBONES, ENTRY_POINTS)(spec)
    return backbone


def start_backbone(
    spec: BackboneSpec | None, *, init: str | Path | None = None, parts: Literal["all", "encoder"] = "all"
) -> Backbone:
    """The backbone a fine-tuning starts from: random weights, or those of a folder.

    Args:
        spec: what to build; None builds what `init` holds. It may ask for another image_size than was pre-trained,
            where the network allows that. parts: "encoder" leaves the decoder random.

    Raises:
        ModelError: neither is given, or the folder's weights do not fit the spec.
    """
    if init is None:
        if spec is None:
            raise ModelError(
                "no backbone is named; set `backbone:`, or `init:` to a folder that insight pretrain wrote"
            )
        return backbone_from(spec)
    saved = load_backbone(init)
    if spec is not None and spec.name != saved.spec.name:
        raise ModelError(f"{init}: holds a {saved.spec.name}, the recipe asks for a {spec.name}; change one of them")
    backbone = backbone_from(spec or saved.spec)
    weights = saved.state_dict()
    if parts == "encoder":
        random = backbone.state_dict()
        weights = {n: random.get(n, w) if n.startswith(backbone.decoder_parts) else w for n, w in weights.items()}
    load_weights(backbone, weights, init)
    return backbone


def save_backbone(backbone: Backbone, folder: str | Path, *, about: dict[str, Any] | None = None) -> None:
    """Write config.json and model.safetensors; `about` (how it was trained, say) goes into config.json beside."""
    write_model_folder(folder, kind=KIND, facts={"backbone": backbone.spec.to_dict(), **(about or {})}, model=backbone)


def load_backbone(folder: str | Path) -> Backbone:
    """The backbone of a pre-training run, or the one inside a segmenter or classifier.

    Raises:
        ModelError: the folder holds no such model, or weights of other names or shapes.
    """
    config, weights = read_model_folder(folder)
    spec = spec_of(config, folder)
    if config["kind"] != KIND:
        weights = {n.removeprefix("backbone."): w for n, w in weights.items() if n.startswith("backbone.")}
    backbone = backbone_from(spec)
    load_weights(backbone, weights, folder)
    return backbone


def spec_of(config: dict[str, Any], folder: str | Path) -> BackboneSpec:
    """The spec written in a model folder's config.json."""
    found = config.get("backbone")
    if not isinstance(found, dict) or not {"name", "image_size"} <= set(found):
        raise ModelError(f"{folder}: config.json names no backbone; expected a folder that insight pretrain wrote")
    known = {key: found[key] for key in ("name", "image_size", "in_channels", "settings") if key in found}
    return BackboneSpec(**known)


def load_weights(module: nn.Module, weights: dict[str, Tensor], folder: str | Path) -> None:
    """Load all of a module's weights or none, with one line about the first that does not fit."""
    own = module.state_dict()
    if problem := misfit(own.keys() - weights.keys(), weights.keys() - own.keys()):
        raise ModelError(f"{folder}: {problem}")
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape:
            raise ModelError(
                f"{folder}: weight {name!r} is {tuple(tensor.shape)}, this model's {tuple(own[name].shape)}; "
                "the folder does not fit its config.json"
            )
    module.load_state_dict(weights)


def misfit(missing: Iterable[str], extra: Iterable[str]) -> str | None:
    """One line about the first weight that a folder lacks or holds beyond its network's, or None."""
    for which, names in (("lacks", sorted(missing)), ("holds an unknown", sorted(extra))):
        if names:
            return f"model.safetensors {which} weight {names[0]!r}; the folder does not fit its config.json"
    return None
