"""What do the fine-tunings of a backbone share? Most of the recipe, and that a finished run is not run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from slicesight.errors import InputError
from slicesight.models.encoders3d.backbone import BackboneSpec
from slicesight.models.folder import finished_run
from slicesight.models.med3dinsight import InsightModel, Preparation
from slicesight.training.fitting import (
    FitSettings,
    Progress,
    check_resume,
    digest_of,
    finish_run,
    fit,
    settings_that_matter,
)
from slicesight.training.loop import Loss
from slicesight.training.recipe import Validation
from slicesight.training.scan_list import ScanDataset
from slicesight.training.scan_samples import ScanSamples, SpatialAugmentation

NOT_PART_OF_A_RUN = ("name", "output_dir", "data", "root", "prepared_dir", "score_splits", "save_masks", "num_overlays")
Model = TypeVar("Model", bound=InsightModel)


@dataclass(frozen=True, kw_only=True)
class FineTuneRecipe:
    """What every fine-tuning run says.

    data: a .jsonl of scans (scan_list.py). root: the folder that its paths start from, its own if None. backbone: its
    image_size is the crop's or cube's; None takes what `init` holds. init: a folder of `insight pretrain`, None for
    random weights. train_share: of the training patients, drawn by the seed. score_splits: scored after training.
    validation: of the training loss, on unchanged crops or cubes of the scans of its split. prepared_dir: where
    prepared scans are kept, for several runs to share; None is a folder in output_dir.
    """

    name: str
    output_dir: str
    data: str
    root: str | None = None
    seed: int = 0
    preparation: Preparation = field(default_factory=Preparation)
    backbone: BackboneSpec | None = None
    init: str | None = None
    train_share: float = 1.0
    augmentation: SpatialAugmentation = field(default_factory=SpatialAugmentation)
    training: FitSettings = field(default_factory=FitSettings)
    validation: Validation | None = None
    score_splits: tuple[Literal["train", "val", "test"], ...] = ("val", "test")
    prepared_dir: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.train_share <= 1:
            raise InputError(f"train_share is {self.train_share}; it must lie above 0 up to 1")
        if self.backbone is None and self.init is None:
            raise InputError("no backbone is named; set backbone, or init to a folder that insight pretrain wrote")

    @property
    def newer_settings(self) -> dict[str, Any]:
        """Settings that earlier versions did not have, and their values that change nothing."""
        return {}

    @property
    def num_samples(self) -> int:
        """Samples of the whole run."""
        return self.training.steps * self.training.batch_size

    @property
    def run_digest(self) -> str:
        """What must be alike for a checkpoint or a finished model to be of this run: the settings, the list itself."""
        settings = {key: value for key, value in self.to_dict().items() if key not in NOT_PART_OF_A_RUN}
        settings["training"] = settings_that_matter(self.training)
        if self.validation is None:
            del settings["validation"]  # as in runs before there was any
        for name, off in self.newer_settings.items():
            if settings[name] == off:
                del settings[name]  # likewise
        return digest_of(settings, Path(self.data).read_bytes().hex())

    def open_scans(self, image_size: Sequence[int], labels: Mapping[str, int] | None = None) -> ScanDataset:
        """The prepared scans of this run, for a network of this image_size."""
        place = Path(self.prepared_dir) if self.prepared_dir else Path(self.output_dir) / "prepared"
        return ScanDataset(place, self.preparation, image_size=image_size, labels=labels)

    def fit(
        self,
        model: nn.Module,
        loss_of: Callable[[dict[str, Tensor]], Loss],
        samples: ScanSamples,
        held_out: ScanSamples,
        progress: Progress | None,
    ) -> None:
        """Train the network on the samples as this run says, and validate it on those held out, where there are any."""
        fit(
            model,
            loss_of,
            samples,
            self.training,
            seed=self.seed,
            folder=Path(self.output_dir),
            run_digest=self.run_digest,
            validation=self.validation,
            held_out=held_out if len(held_out) else None,
            progress=progress,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def train_once(
    kind: type[Model], recipe: FineTuneRecipe, train: Callable[[], Model], *, verb: str, resume: bool
) -> Model:
    """The model that `train` makes, written; a finished run's is read from its folder.

    Writes config.json, model.safetensors and recipe.json into output_dir.

    Raises:
        InputError: output_dir holds a stopped run and `resume` is not set, or another run.
    """
    folder = Path(recipe.output_dir)
    check_resume(folder, resume=resume)
    folder.mkdir(parents=True, exist_ok=True)
    digest = recipe.run_digest
    if finished_run(folder, digest=digest):
        model: Model = kind.from_pretrained(folder)
        nn.Module.to(model, recipe.training.torch_device)
        return model
    model = train()
    finish_run(folder, model, kind=kind.kind, facts=model.facts(), verb=verb, recipe=recipe.to_dict(), digest=digest)
    return model
