"""What does a run start from? A model folder, trained parts put together, or random weights and an own tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers import initialization as init
from transformers.utils import logging as library

from slicesight.data.dataset import Dataset
from slicesight.errors import InputError
from slicesight.files import read_json_object
from slicesight.models.encoders3d.networks import M3DViT
from slicesight.models.folder import check_whole, one_line_for_damage
from slicesight.models.importers.m3d import M3DClip
from slicesight.models.library_fetch import fetched
from slicesight.models.med2e3 import Med2E3Config, Med2E3ForConditionalGeneration, Med2E3Processor
from slicesight.models.med2e3.configuration import make_preset
from slicesight.models.med2e3.prompt_templates import VOLUME_TOKEN
from slicesight.models.shipped import find_folder, how_to_get, shipped_models
from slicesight.training.recipe import Parts, Recipe
from slicesight.volumes.grid import GridSpec

log = logging.getLogger(__name__)
NUM_TEXTS = 4000
PAD, END = "<pad>", "</s>"
Start = tuple[Med2E3ForConditionalGeneration, Med2E3Processor]


def build_start(recipe: Recipe, source: Dataset) -> Start:
    """The model and processor that a recipe starts with, in float32.

    Raises InputError where a part or folder is missing, or the parts do not fit one another.
    """
    grid = source.own_spec
    if recipe.init:
        return load_start(recipe, grid)
    return put_together(recipe, recipe.parts, grid) if recipe.parts else build(recipe, source, grid)


def check_init(init: str) -> Path:
    """The folder that `init` names: a shipped model's, or a folder with a whole Med-2E3; else raises InputError."""
    folder = find_folder(init)
    if not (folder / "config.json").is_file():
        if hint := how_to_get(init):
            raise InputError(f"init: {hint}")
        raise InputError(
            f"init: {init} is no folder with a model; name one, or a shipped model ({', '.join(shipped_models())}), "
            "or leave init out to start anew"
        )
    found = read_json_object(folder / "config.json").get("model_type")
    if found != Med2E3Config.model_type:
        raise InputError(
            f"init: {init} holds a {found}, expected a whole Med-2E3; name it under parts, with init: null, "
            "to start from it as one part"
        )
    return folder


def load_start(recipe: Recipe, grid: GridSpec) -> Start:
    """The model folder named by `init`, with the recipe's model settings laid over its configuration.

    Its processor takes the grid of the scans it will now be trained on. What the recipe adds to the folder's
    architecture begins at random, with a warning that names it. Raises InputError for scans of another size, ModelError
    where the folder lacks weights of its own.
    """
    assert recipe.init is not None
    folder = check_init(recipe.init)
    with one_line_for_damage(folder):
        config = Med2E3Config.from_pretrained(folder)
    reads, given = tuple(config.image_size), (grid.num_slices, grid.height, grid.width)
    if reads != given:
        size = ",".join(map(str, reads))
        raise InputError(
            f"init: {recipe.init} reads scans of {'×'.join(map(str, reads))}, but these are on a grid of "
            f"{'×'.join(map(str, given))}; prepare them with --size {size} into another folder (phantoms: change grid)"
        )
    for key, value in recipe.model.items():
        if not key.endswith("_config") and key != "preset":
            setattr(config, key, value)
    with one_line_for_damage(folder), quiet_library():
        model, found = Med2E3ForConditionalGeneration.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True
        )
        processor = AutoProcessor.from_pretrained(folder)
    if missing := set(found["missing_keys"]):
        with torch.device("meta"):
            expected = Med2E3ForConditionalGeneration(Med2E3Config.from_pretrained(folder)).state_dict()
        check_whole(missing & expected.keys(), folder)  # what the recipe adds is no damage
        log.warning("init: %s has no %s, which the recipe asks for; begins at random", recipe.init, names_of(missing))
    if unused := found["unexpected_keys"]:
        log.warning("init: %s of %s is not used by the recipe's model", names_of(unused), recipe.init)
    processor.grid = grid.to_dict()
    processor.num_visual_tokens = model.num_visual_tokens  # another fusion has others than the folder's own
    return model, processor


def names_of(weights: Iterable[str]) -> str:
    """The parts, one level deep, that these weights belong to."""
    return ", ".join(sorted({".".join(name.split(".")[:2]) for name in weights}))


def build(recipe: Recipe, source: Dataset, grid: GridSpec) -> Start:
    """A random model and the processor whose tokenizer was learnt from the training texts."""
    texts = source.texts(count=NUM_TEXTS, seed=recipe.seed)
    tokenizer = train_tokenizer(texts, vocab_size=recipe.vocab_size)
    tokens = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    config = make_config(recipe, grid=grid, tokens=tokens)
    model = Med2E3ForConditionalGeneration(config)
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model, Med2E3Processor.for_model(config, tokenizer, grid=grid.to_dict(), template=recipe.template)


def make_config(
    recipe: Recipe,
    *,
    grid: GridSpec,
    tokens: dict[str, Any] | None = None,
    parts: dict[str, PreTrainedConfig] | None = None,
) -> Med2E3Config:
    """The configuration that a recipe's model settings describe.

    tokens: fields of the language model's configuration that follow from the tokenizer. parts: configurations that come
    with trained parts, instead of the recipe's.
    """
    settings = dict(recipe.model)
    preset = settings.pop("preset", None)
    settings["image_size"] = [grid.num_slices, grid.height, grid.width]
    if tokens is not None:
        planned: Any = make_preset(preset or "med2e3-phi3").text_config
        chosen = settings.get("text_config") or planned.to_dict()
        settings["text_config"] = {**chosen, **tokens}
    settings |= parts or {}
    return Med2E3Config(**settings) if preset is None else make_preset(preset, **settings)


def put_together(recipe: Recipe, parts: Parts, grid: GridSpec) -> Start:
    """A model of trained parts; connectors, and parts that are not named, begin at random.

    Raises InputError where a part cannot be read, or there is no tokenizer.
    """
    loaded = load_parts(parts)
    planned = make_config(recipe, grid=grid)
    configs: dict[str, PreTrainedConfig] = {f"{name}_config": part.config for name, part in loaded.items()}
    if "language_model" in loaded:
        configs["text_config"] = configs.pop("language_model_config")
    if "vision3d" in loaded:
        reads, given = configs["vision3d_config"].image_size, (grid.num_slices, grid.height, grid.width)
        if tuple(reads) != given:
            raise InputError(
                f"parts: {parts.vision3d} reads volumes of {list(reads)}, the scans have a grid of {list(given)}; "
                f"prepare them with --size {','.join(map(str, reads))}, or leave vision3d out"
            )
        for name in ("pool_size", "final_norm"):  # how Med-2E3 reads it, whatever it was trained for
            if hasattr(planned.vision3d_config, name):
                setattr(configs["vision3d_config"], name, getattr(planned.vision3d_config, name))
        if isinstance(loaded["vision3d"], M3DViT) and not configs["vision3d_config"].final_norm:
            loaded["vision3d"].norm = None
    config = make_config(recipe, grid=grid, parts=configs)
    source = parts.tokenizer or parts.language_model
    if source is None:
        raise InputError("parts: no tokenizer; name a language_model or a tokenizer")
    question = parts.question_tokenizer and read_part("tokenizer", AutoTokenizer, parts.question_tokenizer)
    tokenizer = read_part("tokenizer", AutoTokenizer, source)
    processor = Med2E3Processor.for_model(
        config, tokenizer, grid=grid.to_dict(), template=recipe.template, question_tokenizer=question
    )
    with init.no_init_weights():
        model = Med2E3ForConditionalGeneration(config)
    place_parts(model, loaded)
    if "language_model" in loaded:
        model.generation_config = loaded["language_model"].generation_config
    return model, processor


def place_parts(model: Med2E3ForConditionalGeneration, loaded: dict[str, PreTrainedModel]) -> None:
    """Put trained parts into a model without weights and start everything else at random."""
    for name, part in loaded.items():
        if name == "language_model":
            model.language_model = part
        elif name == "text_encoder":
            assert model.scorer is not None
            model.scorer.text_encoder = part
        else:
            model.get_submodule(name).encoder = part
    for part in loaded.values():
        for module in part.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]
    cast(Any, model).init_weights()
    for module in model.modules():
        if hasattr(module, "_is_hf_initialized"):
            del module._is_hf_initialized


def load_parts(parts: Parts) -> dict[str, PreTrainedModel]:
    """Every named part in float32; SigLIP gives its vision half, M3D-CLIP and Med3DInsight's runs their 3D encoder."""
    loaded: dict[str, PreTrainedModel] = {}
    if parts.language_model:
        loaded["language_model"] = load_part(AutoModelForCausalLM, parts.language_model)
    if parts.vision2d:
        config = read_part("configuration", AutoConfig, parts.vision2d)
        config = getattr(config, "vision_config", config)
        if hasattr(config, "vision_use_head"):
            config.vision_use_head = False
        loaded["vision2d"] = load_part(AutoModel, parts.vision2d, config=config)
    if parts.vision3d:
        loaded["vision3d"] = load_vision3d(parts.vision3d)
    if parts.text_encoder:
        found = load_part(AutoModel, parts.text_encoder)
        loaded["text_encoder"] = found.text_encoder if isinstance(found, M3DClip) else found
    return loaded


def load_vision3d(name: str) -> PreTrainedModel:
    """A 3D encoder: one of this package's, M3D-CLIP's, or what `slicesight insight pretrain` taught."""
    about = Path(name) / "config.json"
    if about.is_file() and "backbone" in read_json_object(about):
        from slicesight.models.encoders3d.backbones import load_backbone  # MONAI's networks need MONAI

        return load_backbone(name).vision3d()
    found = load_part(AutoModel, name)
    return found.volume_encoder if isinstance(found, M3DClip) else found


@contextmanager
def quiet_library() -> Iterator[None]:
    """Without its table of weights that are missing or left over."""
    before = library.get_verbosity()
    library.set_verbosity_error()
    try:
        yield
    finally:
        library.set_verbosity(before)


def load_part(kind: Any, name: str, **settings: Any) -> Any:
    """One part from a folder or the hub; weights it has beyond those are left, but none of its own may be missing."""
    with quiet_library():
        part, found = read_part("model", kind, name, dtype=torch.float32, output_loading_info=True, **settings)
    if missing := sorted(found["missing_keys"]):
        raise InputError(
            f"parts: {name} lacks {len(missing)} weights of a {type(part).__name__}, {missing[0]} among them; "
            f"name a folder that holds them all"
        )
    return part


def read_part(what: str, kind: Any, name: str, **settings: Any) -> Any:
    """What a class of the library reads from a folder or the hub; raises InputError where it cannot."""
    try:
        with one_line_for_damage(name) if Path(name).is_dir() else nullcontext():
            return fetched(lambda: kind.from_pretrained(name, **settings), name=name)
    except (OSError, ValueError) as error:
        raise InputError(f"parts: {name} cannot be read as a {what}: {' '.join(str(error).split())[:200]}") from error


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE of exactly or just under `vocab_size` entries, special tokens included.

    Bytes are the alphabet, so that any question a user types has a spelling in it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), [PAD, END, VOLUME_TOKEN]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, additional_special_tokens=[VOLUME_TOKEN]
    )


def build_on_meta(recipe: Recipe, *, grid: GridSpec | None = None) -> Med2E3ForConditionalGeneration:
    """The model a recipe describes, with shapes and no weights; what it starts from is not looked at."""
    grid = recipe.grid or grid or GridSpec()
    with torch.device("meta"):
        return Med2E3ForConditionalGeneration(make_config(recipe, grid=grid))
