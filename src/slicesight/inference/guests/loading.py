"""How does `--model hf:ID_OR_FOLDER` or `openai:URL#MODEL` become a guest, and what is refused in one line?

Nothing of a repository's own code is ever run. A processor that also prepares videos would need torchvision for that
part; it is left out where torchvision is not installed, since a guest is shown pictures only.
"""

from __future__ import annotations

from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from slicesight.errors import InputError, ModelError
from slicesight.inference.guests.guest import Guest
from slicesight.inference.guests.predictor import GuestPredictor
from slicesight.inference.guests.server_guest import ServerGuest, find_models
from slicesight.inference.occlusion import check_passes
from slicesight.models.card import CARD_FILE, ModelCard, read_card
from slicesight.models.guests.preset import Preset, find_preset

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from slicesight.inference.guests.transformers_guest import TransformersGuest

HUB, SERVER = "hf:", "openai:"


def load_guest(
    name: str,
    *,
    device: str,
    dtype: str,
    preset: str | Path | None = None,
    evidence_passes: int | None = None,
) -> GuestPredictor:
    """A guest by its name with its prefix.

    Args:
        device, dtype: checked, of a model that runs here.
        preset: a preset's name or YAML file; left out, the one that fits.
        evidence_passes: most masks per answer; None takes the usual, 0 measures no evidence.

    Raises:
        ModelError: it is no model, reads no pictures, needs code of its own, or cannot be reached.
        InputError: the preset or the budget cannot be.
    """
    check_passes(evidence_passes or None)
    if name.startswith(SERVER):
        guest: Guest = _server_guest(name.removeprefix(SERVER), preset)
        card = card_of_server(guest)
    else:
        guest, card = _hub_guest(name.removeprefix(HUB), preset, device=device, dtype=dtype)
    return GuestPredictor(guest=guest, card=card, evidence_passes=evidence_passes)


def check_source(source: str) -> str:
    """`model_type` of a repository or folder that can be a guest.

    Raises:
        ModelError: why it cannot.
    """
    from transformers import (
        CONFIG_MAPPING,
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        PreTrainedConfig,
    )

    from slicesight.models.folder import one_line_for_damage

    if not source:
        raise ModelError(f"{HUB} names no model; write {HUB}owner/model or {HUB}FOLDER.")
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise ModelError(f"{HUB}{source}: no config.json there; expected the folder of a transformers model.")
    try:
        with one_line_for_damage(source) if Path(source).is_dir() else nullcontext():
            settings, _ = PreTrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise ModelError(
            f"{HUB}{source}: no model's config.json there, neither in a folder here nor on the Hugging Face hub; check "
            "the name, the connection and HF_HUB_OFFLINE."
        ) from error
    kind = settings.get("model_type")
    if kind is None:
        raise ModelError(f"{HUB}{source}: its config.json names no model_type; expected a transformers model.")
    if kind.startswith("med2e3") or kind == "slicesight-insight":
        raise ModelError(f"{HUB}{source}: is a model of this package, not a guest; leave {HUB} out.")
    if kind not in CONFIG_MAPPING:
        how = "needs code of its own, which is never run" if "auto_map" in settings else "is unknown to transformers"
        raise ModelError(
            f"{HUB}{source}: its kind {kind} {how}; let vLLM or another server run it and name that: "
            f"{SERVER}http://HOST:PORT/v1#MODEL"
        )
    config_class = CONFIG_MAPPING[kind]
    if config_class not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        what = (
            "reads text only" if config_class in MODEL_FOR_CAUSAL_LM_MAPPING else "answers no questions about pictures"
        )
        raise ModelError(
            f"{HUB}{source}: a {kind} model {what}; a guest must be a vision-language model (image-text-to-text)."
        )
    return str(kind)


def read_guest_config(source: str) -> PreTrainedConfig:
    """The configuration of a repository or folder that can be a guest; errors as of `check_source`."""
    from transformers import AutoConfig

    from slicesight.models.folder import one_line_for_damage

    check_source(source)
    with one_line_for_damage(source) if Path(source).is_dir() else nullcontext():
        found: PreTrainedConfig = AutoConfig.from_pretrained(source)
        return found


def _hub_guest(
    source: str, given: str | Path | None, *, device: str, dtype: str
) -> tuple[TransformersGuest, ModelCard]:
    kind = check_source(source)
    name = Path(source).resolve().name if Path(source).is_dir() else source
    preset = find_preset(given, name=name, model_type=kind)

    from transformers import AutoModelForImageTextToText

    from slicesight.inference.guests.transformers_guest import TransformersGuest
    from slicesight.models.folder import check_whole, one_line_for_damage
    from slicesight.models.library_fetch import fetched

    try:
        with one_line_for_damage(source) if Path(source).is_dir() else nullcontext():
            loaded: Any = fetched(
                lambda: AutoModelForImageTextToText.from_pretrained(
                    source, dtype=dtype, use_safetensors=True, output_loading_info=True
                ),
                name=source,
            )
        model, found = loaded
        check_whole(found["missing_keys"], source)
    except OSError as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(
            f"{HUB}{source}: its weights cannot be read ({reason}); expected whole safetensors."
        ) from error
    processor = fetched(lambda: load_processor(source), name=source)
    if not (preset.chat_template or processor.chat_template or processor.tokenizer.chat_template):
        raise ModelError(
            f"{HUB}{source}: its processor has no chat template, so nobody knows how it is asked; write one as "
            "chat_template in a --preset file."
        )
    guest = TransformersGuest(model=model, processor=processor, preset=preset, name=name, device=device)
    card_file = Path(source) / CARD_FILE
    card = read_card(card_file if card_file.is_file() else None, name=name)
    return guest, _guest_card(card, preset, {"guest": f"{HUB}{source}", "model_type": kind})


def load_processor(source: str) -> Any:
    """The processor that came with a model; without its part for videos where that cannot be loaded.

    Raises:
        ModelError: there is none that takes pictures and text.
    """
    from transformers import AutoProcessor

    try:
        if find_spec("torchvision") is not None:
            processor = AutoProcessor.from_pretrained(source)
        else:
            processor = _without_videos(source)
    except ImportError as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{HUB}{source}: its processor needs what is not installed ({reason}).") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise ModelError(
            f"{HUB}{source}: no processor for pictures and text can be loaded ({reason}); the folder needs "
            "processor, tokenizer and chat template files."
        ) from error
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise ModelError(f"{HUB}{source}: its processor takes no pictures with text; expected a vision-language model.")
    return processor


class _NoVideos(dict[str, Any]):
    """Stands for the part that prepares videos: no settings. SmolVLM's chat template asks it for frames."""

    num_frames = fps = None


def _without_videos(source: str) -> Any:
    """The processor's class made from its parts, the one for videos left empty."""
    import transformers
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin

    settings, _ = ProcessorMixin.get_processor_dict(source)
    kind = getattr(transformers, str(settings.get("processor_class")), None)
    if kind is None or "video_processor" not in kind.get_attributes():
        return AutoProcessor.from_pretrained(source)

    class PicturesOnly(kind):  # type: ignore[misc, valid-type]  # of whichever family the folder is
        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            if isinstance(argument, _NoVideos):
                return _NoVideos
            return super().check_argument_for_proper_class(name, argument)

    PicturesOnly.__name__ = kind.__name__
    loaders = {"tokenizer": AutoTokenizer, "image_processor": AutoImageProcessor}
    parts = [
        loaders[name].from_pretrained(source) if name in loaders else _NoVideos()  # type: ignore[attr-defined]
        for name in kind.get_attributes()
    ]
    return PicturesOnly.from_args_and_dict(parts, {k: v for k, v in settings.items() if k not in kind.get_attributes()})


def _server_guest(address: str, given: str | Path | None) -> ServerGuest:
    url, _, model = address.partition("#")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ModelError(f"{SERVER}{address}: is no address of a server; expected {SERVER}http://HOST:PORT/v1#MODEL.")
    if parts.username or parts.password:
        raise ModelError(
            f"{SERVER}…: an address with a password is seen by others; put a key into SLICESIGHT_GUEST_KEY."
        )
    known = find_models(url)
    if not model and known is not None and len(known) == 1:
        (model,) = known
    if not model or (known and model not in known):
        listed = ", ".join((known or [])[:8]) or "which it does not list"
        what = f"has no model {model!r}" if model else "needs the model's name"
        raise ModelError(f"{SERVER}{url}: {what}; write {SERVER}{url}#MODEL, one of: {listed}.")
    return ServerGuest(url=url, model=model, preset=find_preset(given, name=model, model_type=None))


def card_of_server(guest: Guest) -> ModelCard:
    """What must be known about a server's model: above all where the pictures go."""
    assert isinstance(guest, ServerGuest)
    facts = {"guest": f"{SERVER}{guest.url}#{guest.model}"}
    notices = () if guest.is_this_machine else (f"The pictures of the scan are sent to {guest.host}.",)
    return _guest_card(ModelCard(name=guest.model), guest.preset, facts, notices)


def _guest_card(card: ModelCard, preset: Preset, facts: dict[str, Any], notices: tuple[str, ...] = ()) -> ModelCard:
    """What must be known about a guest beside its answers."""
    trained_on = card.trained_on if card.trained_on != "unknown" else " ".join(preset.trained_on.split())
    shown = "on one contact sheet" if preset.layout == "sheet" else "as single pictures"
    summary = card.summary or f"a guest: up to {preset.slices} slices {shown} (preset {preset.name})"
    return ModelCard(
        name=card.name,
        trained_on=trained_on,
        summary=summary,
        caption_question=card.caption_question,
        notices=notices,
        facts={**card.facts, **facts, "preset": preset.name, "preset_source": " ".join(preset.source.split())},
    )
