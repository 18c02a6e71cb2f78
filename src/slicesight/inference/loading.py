"""How does a model, named or in a folder, become a predictor on this machine?"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicesight.errors import InputError, ModelError, check_installed
from slicesight.files import read_json_object
from slicesight.inference.predictor import Predictor
from slicesight.models.card import CARD_FILE, read_card
from slicesight.models.shipped import (
    DEFAULT_MODEL,
    find_folder,
    how_to_get,
    nearest_model,
    pulled_models,
    shipped_models,
)

if TYPE_CHECKING:
    from slicesight.inference.calibration.calibration import Calibration

log = logging.getLogger(__name__)
SERVER_PREFIX = "openai:"
GUEST_PREFIXES = ("hf:", SERVER_PREFIX)
"""Of names that mean a vision-language model of somebody else's."""
INT8_IF_FASTER = "int8 if faster"


@contextmanager
def paused_garbage_collection() -> Iterator[None]:
    """What torch and transformers make while they are imported stays for good: looking for garbage among it, again and
    again, takes a tenth of the time to the first answer."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@paused_garbage_collection()
def load(
    name_or_dir: str | Path = DEFAULT_MODEL,
    *,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    compile_mode: str | None = None,
    cache_bytes: int = 0,
    cache_folder: str | Path | None = None,
    preset: str | Path | None = None,
    evidence_passes: int | None = None,
    ignore_calibration: bool = False,
) -> Predictor:
    """Load a model by the name of a shipped or pulled one, by its folder, or by its name on the Hugging Face hub.

    Without a name it is the shipped model for real scans; "phantom-tiny" is the one for synthetic scans.

    A folder with a PEFT adapter is loaded with the model that it names.
    `hf:ID_OR_FOLDER` is any vision-language model of transformers, and `openai:URL#MODEL` one behind a server in
    OpenAI's shape: guests, which are shown the scan's slices as pictures.

    Args:
        device: "cpu", "cuda", ...; left out, a GPU if there is one.
        dtype: "float32", "bfloat16", "auto" (as stored), "fastest" (on a CPU what it multiplies faster, float32 or
            bfloat16, measured); left out, float32 on the CPU and as stored elsewhere.
        quantize: "int8" rounds weights and activations of the language model and the 2D encoder to 8 bits (CPU only);
            "int8 if faster" does so where this model's own layers are then faster here, measured, and says if not.
        compile_mode: of PyTorch's compiler for both encoders, whose shapes stay the same: "default", "reduce-overhead"
            (CUDA graphs) or "max-autotune". For many scans on a GPU: the first one takes minutes.
        cache_bytes: of encoded scans kept in memory, the ones used last; 0 keeps none.
        cache_folder: keeps encoded scans as files there, for other runs. They show what the scan shows: treat them so.
        preset: what a guest is shown: a preset's name or a YAML file; left out, the one that fits the model.
        evidence_passes: for a guest's evidence, how often slices may be blanked per answer; 0 measures none.
        ignore_calibration: answer without the confidences of the folder's calibration, and hold nothing back.

    Raises:
        ModelError: there is no such model, or its folder is incomplete.
        InputError: another argument is wrong.
    """
    if str(name_or_dir).startswith(GUEST_PREFIXES):
        own = {"quantize": quantize, "compile_mode": compile_mode, "cache": cache_bytes or cache_folder}
        return _load_guest(str(name_or_dir), device, dtype, own, preset=preset, evidence_passes=evidence_passes)
    for setting, value in (("preset", preset), ("evidence_passes", evidence_passes)):
        if value is not None:
            raise InputError(f"{setting} is for guests (hf:… or openai:…), and {name_or_dir} is none; leave it out.")
    source, name = find_source(name_or_dir)
    check_installed("torch", "transformers")

    import torch
    from transformers.utils.hub import cached_file

    from slicesight.inference.cpu.processor import count_cores
    from slicesight.inference.cpu.transposed_linear import use_transposed_linear
    from slicesight.inference.cpu.tuning import read_tuning, tuning_for
    from slicesight.inference.cpu.upcast_linear import use_upcast_linear
    from slicesight.inference.feature_cache import FeatureCache
    from slicesight.models.adapters import apply_adapter, find_base
    from slicesight.models.folder import check_whole, one_line_for_damage
    from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, Med2E3Processor

    adapter = source
    if (base := find_base(source)) is not None:
        source, _ = find_source(base)
    device = _check_device(device)
    if not isinstance(cache_bytes, int) or cache_bytes < 0:
        raise InputError(f"cache_bytes is {cache_bytes!r}; expected 0 or more, a whole number of bytes.")
    if compile_mode is not None and quantize is not None:
        raise ModelError("compile_mode and quantize do not go together; leave one of them out.")
    torch.set_num_threads(min(torch.get_num_threads(), count_cores()))  # a container has fewer than the machine
    if dtype == "fastest":
        dtype = read_tuning().dtype if device == "cpu" else "auto"
    dtype = dtype or ("float32" if device == "cpu" else "auto")
    if dtype != "auto" and not isinstance(getattr(torch, str(dtype).removeprefix("torch."), None), torch.dtype):
        raise InputError(f"dtype is {dtype!r}; expected float32, bfloat16, float16, auto or fastest.")
    try:
        with one_line_for_damage(source) if Path(source).is_dir() else nullcontext():
            with _quiet_reading() if Path(source).is_dir() else nullcontext():
                model, found = Med2E3ForConditionalGeneration.from_pretrained(
                    source, dtype=dtype, use_safetensors=True, output_loading_info=True
                )
            check_whole(found["missing_keys"], source)
            if extra := sorted(found["unexpected_keys"]):
                log.warning("%s: %d weights are not used, %r among them", source, len(extra), extra[0])
            processor = Med2E3Processor.from_pretrained(source)
        if base is not None:
            with one_line_for_damage(Path(adapter)):
                model = apply_adapter(model, adapter)
        card_path = cached_file(
            adapter if (Path(adapter) / CARD_FILE).is_file() else source,
            CARD_FILE,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError as error:
        raise ModelError(_why_not_loaded(source, error)) from error
    if device == "cpu":
        tuning = tuning_for(model.language_model)
        if tuning.is_turned:
            use_transposed_linear(model.language_model)
        if tuning.is_widened:
            use_upcast_linear(model)
    if quantize == INT8_IF_FASTER:
        quantize = _int8_if_faster(model, device)
    if quantize is not None:
        from slicesight.inference.cpu.int8 import quantize_model

        quantize_model(model, quantize=quantize, device=device)
    if compile_mode is not None:
        from slicesight.inference.compiling import compile_encoders

        compile_encoders(model, mode=compile_mode)
    cache = None
    if cache_bytes or cache_folder is not None:
        cache = FeatureCache(memory_bytes=cache_bytes, folder=None if cache_folder is None else Path(cache_folder))
    return Predictor(
        model=model,
        processor=processor,
        card=read_card(Path(card_path) if card_path else None, name=name),
        device=device,
        cache=cache,
        calibration=None if ignore_calibration else _read_calibration(adapter),
    )


def _int8_if_faster(model: Any, device: str) -> str | None:
    """ "int8", or None with a line in the log where 8 bits would make the answers slower."""
    from slicesight.inference.cpu.int8 import has_operator
    from slicesight.inference.cpu.tuning import INT8_VARIABLE, int8_gain_of, int8_is_forced

    if int8_is_forced() or device != "cpu" or not has_operator():  # what cannot be is refused by `quantize_model`
        return "int8"
    gain = int8_gain_of(model.language_model)
    if gain >= 1:
        return "int8"
    log.warning(
        "8 bits are left out: this model would answer %.2f times as fast with them on this processor; "
        "%s=always rounds it all the same",
        gain,
        INT8_VARIABLE,
    )
    return None


def _load_guest(name: str, device: str | None, dtype: str | None, own: dict[str, Any], **settings: Any) -> Predictor:
    from slicesight.inference.guests.loading import load_guest
    from slicesight.inference.guests.predictor import refuse_for_guests

    refuse_for_guests(name, **own)
    if name.startswith(SERVER_PREFIX) and device is None:  # it runs elsewhere, and no library of models is needed here
        return load_guest(name, device="cpu", dtype="float32", **settings)
    check_installed("torch", "transformers")
    device = _check_device(device)
    dtype = dtype or ("float32" if device == "cpu" else "auto")
    with _quiet_reading():
        return load_guest(name, device=device, dtype=dtype, **settings)


@contextmanager
def _quiet_reading() -> Iterator[None]:
    """Without the library's bar, which would stay on the terminal, and its table of weights that do not fit."""
    from transformers.utils import logging as library

    was_shown = library.is_progress_bar_enabled()
    before = library.get_verbosity()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(before)
        if was_shown:
            library.enable_progress_bar()


def _check_device(device: str | None) -> str:
    """The device; left out, a GPU if there is one."""
    import torch

    has_gpu = torch.cuda.is_available()
    if device is None:
        return "cuda" if has_gpu else "cpu"
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        kind = ""
    if kind in ("", "meta") or (kind == "cuda" and not has_gpu):
        raise InputError(f"device is {device!r}; expected cpu{', or cuda' if has_gpu else ' (there is no GPU here)'}.")
    return device


def _read_calibration(source: str) -> Calibration | None:
    """The calibration beside the weights, in a folder here or in what the hub's library keeps of the model."""
    from slicesight.inference.calibration.storage import ARRAYS_FILE, CALIBRATION_FILE, read_calibration

    if not Path(source).is_dir():
        from transformers.utils.hub import cached_file

        for name in (ARRAYS_FILE, CALIBRATION_FILE):
            path = cached_file(
                source,
                name,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
            if path is None:
                return None
            folder = Path(path).parent
        return read_calibration(folder)
    return read_calibration(Path(source))


def find_source(name_or_dir: str | Path) -> tuple[str, str]:
    """(what from_pretrained takes, the model's name); loads nothing.

    Raises:
        ModelError: there is no such model.
    """
    name = str(name_or_dir)
    if name in shipped_models() or name in pulled_models():
        _refuse_vectors(find_folder(name), name)
        return str(find_folder(name)), name
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            from slicesight.models.adapters import find_base

            if find_base(folder) is not None:
                return str(folder), folder.resolve().name
            raise ModelError(f"{folder}: no config.json there; expected a model folder with config and safetensors.")
        _refuse_vectors(folder, name)
        return str(folder), folder.resolve().name
    is_hub_name = isinstance(name_or_dir, str) and name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if folder.exists() or not is_hub_name:
        raise ModelError(
            how_to_get(name)
            or f"{name}: no such model; {nearest_model(name)}, a model folder, or a hub name owner/model."
        )
    return name, name


def _refuse_vectors(folder: Path, name: str) -> None:
    """Raises ModelError for models of this package without a language model; what is damaged is told later."""
    from slicesight.models.folder import FAMILY

    kind = None
    with suppress(ModelError):
        kind = read_json_object(folder / "config.json", error=ModelError).get("model_type")
    if kind == FAMILY:
        raise ModelError(
            f"{name}: outlines structures or names classes and answers no questions; use it with slicesight insight "
            f"predict SCAN --model {name}"
        )
    if kind == "m3d_clip_vectors":
        raise ModelError(
            f"{name}: holds M3D-CLIP, which gives vectors and answers no questions; name a Med-2E3 or an M3D-LaMed"
        )


def _why_not_loaded(source: str, error: OSError) -> str:
    if Path(source).is_dir():  # the card beside the model
        return f"{source}: cannot be read ({error}); expected a folder that you may read."
    return (
        f"{source}: neither a folder here nor reachable on the Hugging Face hub; "
        "check the name, the connection and HF_HUB_OFFLINE, or give a folder; slicesight pull fetches one to stay."
    )
