"""What is one training run? A YAML file, checked key by key before anything is loaded.

Unknown keys are errors that name the nearest known one; `--set stages.0.learning_rate=1e-4` changes one value.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from slicesight.conversations.schema import Conversation
from slicesight.errors import InputError
from slicesight.volumes.grid import GridSpec

TASKS = ("report", "open", "closed")


@dataclass(frozen=True, kw_only=True)
class PhantomData:
    """Training phantoms: made on first use, kept in `folder`."""

    folder: str
    seed: int = 1000
    count: int = 2400


@dataclass(frozen=True, kw_only=True)
class EncoderRun:
    """Stage 0 of one encoder."""

    steps: int
    batch_size: int
    learning_rate: float = 3e-3


@dataclass(frozen=True, kw_only=True)
class LanguageRun:
    """Stage 0 of the language model: it answers questions about imagined scans (language.py)."""

    steps: int
    batch_size: int = 32
    learning_rate: float = 2e-3


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training on volumes with their questions.

    trainable: the model's parts that learn (names of its children); everything else is frozen.
    questions_per_volume: drawn anew each time a volume comes up; None asks all of the chosen tasks.
    score_weight: of a second loss that wants the slice scores on the slices that show the abnormality asked about, from
        the label maps; 0 (the paper) leaves the scores to the answers' loss alone.
    """

    name: str
    trainable: tuple[str, ...]
    steps: int
    learning_rate: float
    tasks: tuple[str, ...] = TASKS
    volumes_per_step: int = 8
    questions_per_volume: int | None = None
    score_weight: float = 0.0
    warmup_share: float = 0.03
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown:
            raise InputError(f"stage {self.name}: task {unknown[0]!r} is unknown; the tasks are {', '.join(TASKS)}")
        if self.steps < 1 or self.volumes_per_step < 1:
            raise InputError(f"stage {self.name}: steps and volumes_per_step must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run from nothing to a model folder.

    model: fields of `Med2E3Config`. init: a model folder to start from instead of random weights.
    see_volume: False trains the blind baseline, whose prompts hold no volume.
    closed_target: how a closed answer is written: "letter" is M3D's "B. spleen", "text" the words of the choice alone.
    save_every: steps between two checkpoints, of which the last two are kept until the run is done; null writes none.
    """

    name: str
    output_dir: str
    data: PhantomData
    grid: GridSpec
    model: dict[str, Any]
    stages: tuple[Stage, ...]
    seed: int = 0
    vocab_size: int = 768
    template: str = "short"
    init: str | None = None
    see_volume: bool = True
    closed_target: str = "letter"
    save_every: int | None = 200
    pretrain_slices: EncoderRun | None = None
    pretrain_volumes: EncoderRun | None = None
    pretrain_language: LanguageRun | None = None
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.closed_target not in ("letter", "text"):
            raise InputError(f"closed_target is {self.closed_target!r}; expected letter or text")
        if self.save_every is not None and self.save_every < 1:
            raise InputError(f"save_every is {self.save_every}; expected at least 1 step, or null for no checkpoints")

    def target(self, conversation: Conversation) -> str:
        """The words the model should answer with."""
        return conversation.target if self.closed_target == "letter" else conversation.answer

    @property
    def pretrains(self) -> bool:
        """Whether there is a stage 0."""
        return any((self.pretrain_slices, self.pretrain_volumes, self.pretrain_language))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_recipe(path: str | Path, changes: tuple[str, ...] = ()) -> Recipe:
    """Read and check a recipe file.

    Args:
        changes: "key=value" strings, dotted keys, list positions as numbers; values are YAML.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such recipe; expected a YAML file")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path.name}: not valid YAML: {' '.join(str(error).split())}") from None
    for change in changes:
        _apply(settings, change)
    return _build(Recipe, settings, where=path.name)


def _apply(settings: Any, change: str) -> None:
    key, equals, value = change.partition("=")
    if not equals:
        raise InputError(f"--set {change}: expected key=value, for instance --set seed=3")
    *parents, last = key.split(".")
    place = settings
    try:
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        place[int(last) if isinstance(place, list) else last] = yaml.safe_load(value)
    except (IndexError, ValueError, TypeError, AttributeError):
        raise InputError(f"--set {change}: the recipe has no place {key!r}") from None


def _build(kind: type, settings: Any, *, where: str) -> Any:
    if not isinstance(settings, dict):
        raise InputError(f"{where}: expected a mapping, found {type(settings).__name__}")
    known = {f.name: f for f in fields(kind)}
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known)}"
            raise InputError(f"{where}: unknown key {key!r}; {hint}")
    hints = get_type_hints(kind)
    values = {key: _convert(hints[key], value, where=f"{where}: {key}") for key, value in settings.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{where}: {str(error).split('.')[-1].replace('__init__() ', '')}") from None


def _convert(hint: Any, value: Any, *, where: str) -> Any:
    options = [option for option in getattr(hint, "__args__", ()) if option is not type(None)]
    if value is None:
        return None
    if getattr(hint, "__origin__", None) is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where}: expected a list, found {value!r}")
        return tuple(_convert(options[0], item, where=f"{where}.{i}") for i, item in enumerate(value))
    if len(options) == 1 and not hasattr(hint, "__origin__"):  # X | None
        return _convert(options[0], value, where=where)
    if is_dataclass(hint):
        return _build(hint, value, where=where)  # type: ignore[arg-type]
    if hint is float and isinstance(value, (int, str)):
        try:
            return float(value)
        except ValueError:
            raise InputError(f"{where}: expected a number, found {value!r}") from None
    if hint in (int, str, bool) and type(value) is not hint:
        raise InputError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value
