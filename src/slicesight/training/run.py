"""From a recipe to a trained model folder: set up, fit every stage, validate, save.

Stage 0 stands in for what the paper downloads (SigLIP, M3D-CLIP, Phi-3); stage 1 aligns the connectors on reports;
stage 2 trains on all eleven pairs. What each stage trains is a list of part names in the recipe.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from transformers import set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from slicesight.data.dataset import Dataset, PreparedDataset, open_dataset
from slicesight.errors import InputError
from slicesight.files import write_text
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, Med2E3Processor
from slicesight.training.adapters import stands_alone, write_adapter
from slicesight.training.checkpointing import CheckpointPolicy, read_weights
from slicesight.training.distributed import ProcessGroup, find_process_group, join, leave
from slicesight.training.provenance import describe_run, draw_losses, write_recipe
from slicesight.training.recipe import STAGE0_SECTIONS, Lora, PreparedData, Recipe, SourceData, Stage
from slicesight.training.run_folder import LOG_FILE, LOSS_PICTURE, Log, Progress, RunFolder, disk_errors
from slicesight.training.stage import add_adapters, check_parts, check_stages, merge_adapters, train_stage
from slicesight.training.stage0.imagined_scans import LabelMapStage0
from slicesight.training.stage0.label_maps import find_truths, read_labelled_scans
from slicesight.training.stage0.sections import pretrain
from slicesight.training.start import build_start, check_init
from slicesight.training.trainer import check_loggers

NUM_HELD_OUT_PHANTOMS = 64


def run_recipe(
    recipe: Recipe,
    *,
    console: Console | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Train everything the recipe asks for; returns the folder with the model, log.jsonl and the resolved recipe.

    resume: go on from the last complete checkpoint in the recipe's output_dir. overwrite: replace a run that is there.

    Raises:
        InputError: the recipe, its folder, the disk or the processes do not allow it.
    """
    if recipe.init:
        check_init(recipe.init)
    check_loggers(recipe.report_to)
    group = find_process_group()
    if recipe.pretrains and group.num_processes > 1:
        raise InputError("stage 0 trains in one process; run it alone, then start the stages from its folder with init")
    if group.is_sharded and recipe.save_every is None:
        raise InputError(f"save_every is null; {group.kind} needs checkpoints, whose weights start the next stage")
    if console is None or not group.is_main:
        console = Console(stderr=True, quiet=not group.is_main)
    folder = Path(recipe.output_dir)
    say = functools.partial(console.print, highlight=False, soft_wrap=True)
    join(group)
    try:
        with disk_errors(folder):
            run = RunFolder(
                folder, recipe.to_dict(), resume=resume, overwrite=overwrite, is_main=group.is_main, say=say
            )
            if run.is_finished:
                say(f"{folder} is finished already")
                return folder / "model"

            def log(facts: dict[str, Any]) -> None:
                say("  ".join(f"{key} {shown(key, value)}" for key, value in run.write_line(facts).items()))

            training = set_up(recipe, run, group, log)
            if recipe.pretrains:
                training.fit_stage0(log)
            for number, stage in enumerate(recipe.stages):
                if not run.is_behind(len(STAGE0_SECTIONS) + number):
                    training.fit(stage, number, log, progress)
            training.save()
            run.finish()
            return folder / "model"
    finally:
        leave(group)


def set_up(recipe: Recipe, run: RunFolder, group: ProcessGroup, log: Log) -> Training:
    """The data and the model that the run starts with; what is refused here leaves the folder as it was."""
    once: Log = log if run.start is None else lambda facts: None
    set_seed(recipe.seed)
    try:
        if not group.is_main:
            group.wait()  # until the main process has made the phantoms
        data = open_source(recipe, once=once)
        labelled = open_labelled(recipe, data, run, once=once)
        held_out = open_held_out(recipe, data, once=once)
        if group.is_main:
            group.wait()
        model, processor = build_start(recipe, data)
        check_stages(model, data, recipe, run, group)
    except InputError:
        run.withdraw()
        raise
    run.begin()
    training = Training(recipe, run, group, data, held_out, model, processor, labelled)
    if group.is_main:
        training.write_record(run.folder)
    once({"stage": "build", "step": 0, "parameters": sum(p.numel() for p in model.parameters())})
    return training


@dataclass
class Training:
    """A run at work: what it trains, on what, and where that goes."""

    recipe: Recipe
    run: RunFolder
    group: ProcessGroup
    data: Dataset
    held_out: Dataset | None
    model: Med2E3ForConditionalGeneration
    processor: Med2E3Processor
    labelled: LabelMapStage0 | None = None

    def fit_stage0(self, log: Log) -> None:
        """Teach encoders and language model what the data's own truth says, before any question about a scan."""
        arguments = (self.recipe, self.model, self.processor, log)
        settings: dict[str, Any] = {"run": self.run, "checkpoints_of": self.checkpoints_of}
        if self.labelled is not None:
            pretrain(self.labelled, *arguments, **settings)
        elif not isinstance(self.data, PreparedDataset):
            self.data.stage0(*arguments, **settings)
        if not self.run.is_behind(len(STAGE0_SECTIONS) - 1):
            self.write_model("stage0", dtype=torch.float32)

    def fit(self, stage: Stage, number: int, log: Log, progress: Progress) -> None:
        """Train one stage and validate it on the held-out cases; the model ends with its last or its best weights."""
        seed = self.recipe.seed + number
        set_trainable(self.model, stage.trainable, frozen_dtype=getattr(torch, self.recipe.frozen_dtype))
        adapters = add_adapters(self.model, stage.lora)
        checkpoints = self.checkpoints_of(section=len(STAGE0_SECTIONS) + number, name=stage.name)
        train_stage(
            self.model,
            self.processor,
            self.data.with_seed(seed),
            stage,
            self.recipe,
            log=log,
            seed=seed,
            checkpoints=checkpoints,
            held_out=self.held_out,
            progress=progress,
        )
        if self.group.is_sharded:
            self.model, adapters = whole_model(self.model, stage.lora, checkpoints.result.path)
        if stage.lora and stands_alone(self.recipe) and self.group.is_main:
            base = str(self.recipe.init)
            base = str(Path(base).resolve()) if Path(base).is_dir() else base
            card = {"name": f"{self.recipe.name} (adapter)", **self.recipe.card, "seed": self.recipe.seed}
            write_adapter(self.model, stage, self.run.folder / "adapter", base=base, card=card)
        merge_adapters(adapters)

    def save(self) -> None:
        """The model with its card, the loss curves, and what made it."""
        set_trainable(self.model, (), frozen_dtype=getattr(torch, self.recipe.frozen_dtype))
        if self.group.is_main:
            folder = self.run.folder
            draw_losses(folder / LOG_FILE, folder / LOSS_PICTURE)
            self.write_model("model", dtype=torch.bfloat16, training_minutes=round(self.run.seconds / 60, 1))
            self.write_record(folder / "model")
        self.group.wait()

    def checkpoints_of(self, *, section: int, name: str) -> CheckpointPolicy:
        """The checkpoints of one section of the run."""
        parts: dict[str, Any] = {"model": self.model, "processor": self.processor, "process_group": self.group}
        return CheckpointPolicy(self.run, section=section, name=name, save_every=self.recipe.save_every, **parts)

    def write_record(self, folder: Path) -> None:
        """The resolved recipe, what it ran with, and which steps were the best."""
        group, best = self.group, {"validation": self.run.best} if self.run.best else {}
        facts = describe_run(self.recipe, num_processes=group.num_processes, engine=group.kind) | best
        write_recipe(self.recipe, folder / "recipe.yaml")
        write_text(folder / "run.json", text=json.dumps(facts, indent=2) + "\n")

    def write_model(self, name: str, *, dtype: torch.dtype, **facts: Any) -> None:
        """The model with its processor and card, under a temporary name until complete."""
        folder, partial = self.run.folder / name, self.run.folder / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        nn.Module.to(self.model, dtype).save_pretrained(partial)
        self.processor.save_pretrained(partial)
        best = {"validation": self.run.best} if self.run.best else {}
        card = {"name": self.recipe.name, **self.recipe.card, "seed": self.recipe.seed, **facts, **best}
        write_text(partial / "card.json", text=json.dumps(card, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)


def shown(key: str, value: Any) -> str:
    """A number of the log as it is printed: losses with four digits."""
    return f"{value:#.4g}" if key.endswith("loss") and isinstance(value, float) else str(value)


def open_source(recipe: Recipe, *, once: Log) -> Dataset:
    """The recipe's data; phantoms that are not there yet are made."""
    data = recipe.data
    if isinstance(data, PreparedData):
        return open_dataset(f"prepared:{data.prepared}", split=data.split, grid=recipe.grid)
    if isinstance(data, SourceData):
        return open_dataset(data.source, split=data.split, grid=recipe.grid)
    assert recipe.grid is not None
    return open_dataset(
        f"phantoms:{data.seed}:{data.count}",
        grid=recipe.grid,
        folder=data.folder or Path(recipe.output_dir) / "phantoms",
        workers=data.workers,
        progress=lambda done, count: once({"stage": "phantoms", "step": done}) if done % 200 == 0 else None,
    )


def open_labelled(recipe: Recipe, data: Dataset, run: RunFolder, *, once: Log) -> LabelMapStage0 | None:
    """Prepared scans with their label maps, where stage 0 is to learn from them and a resumed run has it not behind.

    Raises:
        InputError: their cases hold no such truth, or a label map cannot be read.
    """
    if not recipe.pretrains or not isinstance(data, PreparedDataset) or run.is_behind(len(STAGE0_SECTIONS) - 1):
        return None
    if left_out := len(data) - len(find_truths(data)):
        once({"stage": "label maps", "step": 0, "note": f"{left_out} of {len(data)} cases have none; left out there"})
    return LabelMapStage0(
        read_labelled_scans(
            data, lambda done, _: once({"stage": "label maps", "step": done}) if done % 500 == 0 else None
        )
    )


def open_held_out(recipe: Recipe, data: Dataset, *, once: Log) -> Dataset | None:
    """The cases to validate on: the recipe's split of prepared scans, further phantoms; None where there are none."""
    validation = recipe.validation
    if validation is None:
        return None
    if isinstance(recipe.data, PreparedData | SourceData):
        named = recipe.data.source if isinstance(recipe.data, SourceData) else f"prepared:{recipe.data.prepared}"
        everything = open_dataset(named, grid=recipe.grid)
        cases = [case for case in everything.cases if case.split == validation.split]
        if not cases:
            once({"stage": "validation", "step": 0, **validation.missing(named)})
            return None
        return everything.subset(cases)
    seed, count = recipe.data.seed + 1, validation.max_cases or NUM_HELD_OUT_PHANTOMS
    folder = Path(recipe.data.folder or Path(recipe.output_dir) / "phantoms") / "validation"
    workers = recipe.data.workers
    return open_dataset(f"phantoms:{seed}:{count}", grid=recipe.grid, folder=folder, workers=workers)


def whole_model(
    model: Med2E3ForConditionalGeneration, lora: Lora | None, checkpoint: Path
) -> tuple[Med2E3ForConditionalGeneration, list[Any]]:
    """A model with all weights of a checkpoint, adapters not yet merged, for one that holds only a share of them."""
    unset_hf_deepspeed_config()  # under ZeRO-3 the library would build it in shares again
    whole = Med2E3ForConditionalGeneration(model.config)
    whole.generation_config = model.generation_config
    adapters = add_adapters(whole, lora)
    read_weights(whole, checkpoint)
    return whole, adapters


def set_trainable(
    model: Med2E3ForConditionalGeneration, parts: tuple[str, ...], *, frozen_dtype: torch.dtype = torch.float32
) -> None:
    """Exactly these parts of the model learn, in float32; the scorer's text encoder only under its own name.

    Raises InputError for a name that is no part of this model.
    """
    check_parts(model, parts)
    for name, module in model.parts.items():  # the text encoder, which the scorer holds, comes last
        module.requires_grad_(name in parts)
        module.to(torch.float32 if name in parts else frozen_dtype)
