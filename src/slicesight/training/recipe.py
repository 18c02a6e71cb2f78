"""What is one training run? A YAML file, checked key by key (slicesight.settings) before anything is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from slicesight.data.manifest import Conversation
from slicesight.errors import InputError
from slicesight.settings import read_settings
from slicesight.training.augmentation import Augmentation
from slicesight.volumes.grid import GridSpec

TASKS = ("report", "open", "closed")
DTYPES = ("float32", "bfloat16")
STAGE0_SECTIONS = ("language", "slices", "volumes")


@dataclass(frozen=True, kw_only=True)
class PhantomData:
    """Training phantoms: made on first use, kept in `folder` (by default phantoms/ in the run's own); every pass asks
    other questions of them.
    """

    folder: str | None = None
    seed: int = 1000
    count: int = 2400
    workers: int = 2


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Scans brought to the grid by `slicesight prepare`, with the texts of their manifest.

    split: the cases to train on; None takes all.
    """

    prepared: str
    split: str | None = "train"


@dataclass(frozen=True, kw_only=True)
class SourceData:
    """Scans of a source by its name, NAME:REST as `slicesight evaluate --data` takes it, such as branches:2000:600.

    split: the cases to train on; None takes all.
    """

    source: str
    split: str | None = None

    def __post_init__(self) -> None:
        if ":" not in self.source:
            raise InputError(f"data.source is {self.source!r}; expected NAME:REST, such as branches:2000:600")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Trained parts to start from, each a Hugging Face folder or hub name; what is left out starts from random weights.

    vision3d: one of this package's 3D encoders, or a folder that `slicesight insight pretrain` wrote. text_encoder: of
    the question. tokenizer: by default the language model's own.
    """

    language_model: str | None = None
    vision2d: str | None = None
    vision3d: str | None = None
    text_encoder: str | None = None
    tokenizer: str | None = None
    question_tokenizer: str | None = None


@dataclass(frozen=True, kw_only=True)
class EncoderRun:
    """Stage 0 of one encoder.

    augment: further changes of prepared scans; contrast and brightness always vary a little. flip_sides stays 0.
    """

    steps: int
    batch_size: int
    learning_rate: float = 3e-3
    augment: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.augment.flip_sides:
            raise InputError("stage 0: augment.flip_sides would make its labels false; leave it out there")


@dataclass(frozen=True, kw_only=True)
class LanguageRun:
    """Stage 0 of the language model: it answers questions about imagined scans (training/stage0/language.py)."""

    steps: int
    batch_size: int = 32
    learning_rate: float = 2e-3


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters W + alpha / rank * B A on the linear layers of `parts`, merged into the weights at the end.

    targets: endings of the layers' names; None takes every linear layer except the language model's head.
    """

    parts: tuple[str, ...] = ("language_model",)
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.parts:
            raise InputError(f"lora: rank is {self.rank} for parts {list(self.parts)}; expected at least 1 of each")


@dataclass(frozen=True, kw_only=True)
class EarlyStop:
    """Stop when `patience` validations in a row brought no lower loss."""

    patience: int

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise InputError(f"validation.early_stop.patience is {self.patience}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class Validation:
    """When the loss of held-out cases is measured; without this setting it never is, and the data's `val` is not read.

    split: the cases to measure on; data without any of them are trained on without validation, which the run says.
    every: optimizer steps between two measurements; the last step is always measured.
    max_cases: spread evenly over the split; None takes all. Phantoms have no splits: as many further ones are made.
    keep_best: the weights with the lowest validation loss become the model, instead of the last ones.
    """

    split: Literal["train", "val", "test"] = "val"
    every: int = 100
    max_cases: int | None = 64
    keep_best: bool = True
    early_stop: EarlyStop | None = None

    def __post_init__(self) -> None:
        for name in ("every", "max_cases"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"validation.{name} is {value}; expected at least 1")

    def chosen(self, count: int) -> list[int]:
        """Which of `count` cases are measured, in ascending order."""
        wanted = count if self.max_cases is None else min(count, self.max_cases)
        return [index * count // wanted for index in range(wanted)]

    def missing(self, where: str) -> dict[str, Any]:
        """The log's line for data without the split."""
        return {"note": f"{where} holds no case of split {self.split!r} to validate on; training without validation"}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training on volumes with their questions.

    trainable: the model's parts that learn (names of its children); everything else is frozen. lora: parts that learn
        by adapters instead.
    steps or epochs: how long; an epoch is a pass through every volume that has a question of the chosen tasks.
    volumes_per_step or tokens_per_step: how much one optimizer step sees, whatever the number of processes. The token
        budget takes as many volumes as fit: prompts times the longest of them, visual tokens included.
    accumulation: parts that every process does its share of a step in; it changes memory, not the result.
    questions_per_volume: drawn anew each time a volume comes up; None asks all of the chosen tasks.
    subset: how many pairs of each task to train on, drawn once from all ({report: 50000, open: 25000, closed: 25000}).
    score_weight: of a second loss that wants the slice scores on the slices that show the abnormality asked about, from
        the label maps; 0 (the paper) leaves the scores to the answers' loss alone.
    entropy_weight: of a loss that wants the scores on few slices, whichever: their entropy, 1 where spread evenly.
    """

    name: str
    trainable: tuple[str, ...]
    learning_rate: float
    steps: int | None = None
    epochs: float | None = None
    tasks: tuple[str, ...] = TASKS
    volumes_per_step: int | None = None
    tokens_per_step: int | None = None
    accumulation: int = 1
    questions_per_volume: int | None = None
    subset: dict[str, int] | None = None
    augment: Augmentation = field(default_factory=Augmentation)
    lora: Lora | None = None
    score_weight: float = 0.0
    entropy_weight: float = 0.0
    warmup_share: float = 0.03
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for task in (*self.tasks, *(self.subset or {})):
            if task not in TASKS:
                raise InputError(f"stage {self.name}: task {task!r} is unknown; the tasks are {', '.join(TASKS)}")
        if (self.steps is None) == (self.epochs is None):
            raise InputError(f"stage {self.name}: give either steps or epochs")
        if self.tokens_per_step is None and self.volumes_per_step is None:
            object.__setattr__(self, "volumes_per_step", 8)
        if self.tokens_per_step is not None and self.volumes_per_step is not None:
            raise InputError(f"stage {self.name}: give either volumes_per_step or tokens_per_step")
        for name in ("steps", "volumes_per_step", "tokens_per_step", "accumulation", "questions_per_volume"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"stage {self.name}: {name} is {value}; it must be at least 1")
        for name in ("score_weight", "entropy_weight"):
            if not getattr(self, name) >= 0:
                raise InputError(f"stage {self.name}: {name} is {getattr(self, name)}; it must be 0 or more")
        if self.epochs is not None and not self.epochs > 0:
            raise InputError(f"stage {self.name}: epochs is {self.epochs}; it must be more than 0")
        if self.lora and (twice := set(self.lora.parts) & set(self.trainable)):
            raise InputError(
                f"stage {self.name}: {sorted(twice)[0]} is under trainable and under lora.parts; name it once"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run from nothing to a model folder.

    grid: what the volumes are brought to; prepared data know theirs.
    model: fields of `Med2E3Config`, or preset: NAME and the fields that differ from it.
    init: a model folder to start from. parts: trained encoders and language model instead. Neither: random weights.
    see_volume: False trains the blind baseline, whose prompts hold no volume.
    closed_target: how a closed answer is written: "letter" is M3D's "B. spleen", "text" the words of the choice alone.
    max_length: longest prompt in tokens, visual ones included; the answer's tail is cut, and what was cut is counted.
    bf16: multiply in bfloat16, with weights that learn in float32. frozen_dtype: of the weights that do not learn.
    recompute_activations: less memory for a second forward pass.
    feature_cache: a folder for what the frozen encoders give of each volume, so that they run once per volume.
    report_to: loggers of the Hugging Face Trainer beside log.jsonl (tensorboard, wandb, ...).
    save_every: steps between two checkpoints, of which the last two are kept until the run is done; null writes none.
    validation: of every stage, on its own tasks: the mean loss of an answer's tokens, without the losses on the scores.
    packing: a volume's questions share one row of the language model, which then reads their common beginning once.
    """

    name: str
    output_dir: str
    data: PhantomData | PreparedData | SourceData
    model: dict[str, Any]
    stages: tuple[Stage, ...]
    grid: GridSpec | None = None
    seed: int = 0
    vocab_size: int = 768
    template: str = "short"
    init: str | None = None
    parts: Parts | None = None
    see_volume: bool = True
    closed_target: str = "letter"
    max_length: int | None = None
    bf16: bool = False
    frozen_dtype: str = "float32"
    recompute_activations: bool = False
    feature_cache: str | None = None
    loader_workers: int = 0
    log_every: int = 10
    report_to: tuple[str, ...] = ()
    save_every: int | None = 200
    validation: Validation | None = None
    packing: bool = False
    pretrain_slices: EncoderRun | None = None
    pretrain_volumes: EncoderRun | None = None
    pretrain_language: LanguageRun | None = None
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.closed_target not in ("letter", "text"):
            raise InputError(f"closed_target is {self.closed_target!r}; expected letter or text")
        if self.save_every is not None and self.save_every < 1:
            raise InputError(f"save_every is {self.save_every}; expected at least 1 step, or null for no checkpoints")
        if self.save_every is None and self.validation is not None and self.validation.keep_best:
            raise InputError(
                "save_every is null, but validation.keep_best needs checkpoints; set one of them otherwise"
            )
        if self.packing and not self.see_volume:
            raise InputError("packing shares a volume among its questions, but see_volume is false; leave one out")
        if self.frozen_dtype not in DTYPES:
            raise InputError(f"frozen_dtype is {self.frozen_dtype!r}; expected one of {', '.join(DTYPES)}")
        if self.frozen_dtype == "bfloat16" and not self.bf16:
            raise InputError("frozen_dtype is bfloat16 but bf16 is false; set bf16: true, or leave frozen_dtype out")
        if self.init and self.parts:
            raise InputError("init and parts are both given; start from a model folder or from separate parts")
        if isinstance(self.data, PhantomData | SourceData) and self.grid is None:
            raise InputError(
                "grid is missing; phantoms need one, for instance grid: {num_slices: 32, height: 96, width: 96}"
            )
        for run in (self.pretrain_slices, self.pretrain_volumes):
            if run and run.augment.changes_pixels and isinstance(self.data, PhantomData | SourceData):
                raise InputError("stage 0: augment is for prepared scans, phantoms are plenty; leave it out")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise InputError(f"two stages are called {max(names, key=names.count)!r}; give each its own name")
        for stage in self.stages:
            learning = {*stage.trainable, *(stage.lora.parts if stage.lora else ())}
            if not self.see_volume and "language_model" not in learning:
                raise InputError(
                    f"stage {stage.name}: see_volume is false, and of {', '.join(sorted(learning))} nothing is used "
                    "then; name language_model under trainable, or leave the stage out"
                )
            if self.feature_cache and stage.augment.changes_pixels:
                raise InputError(
                    f"stage {stage.name}: augment changes pixels, so feature_cache would be wrong; "
                    "leave one of them out"
                )

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
    return read_settings(Recipe, path, changes, verb="train", needs_verb=False)
