"""Held-out cases are measured without a trace in the training, and the best weights are those with the lowest loss."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from slicesight.data.manifest import Case, Conversation, write_manifest
from slicesight.errors import InputError
from slicesight.training import fitting
from slicesight.training import stage as stages
from slicesight.training.fitting import FitSettings
from slicesight.training.provenance import draw_losses
from slicesight.training.recipe import EarlyStop, Validation, read_recipe
from slicesight.training.run import run_recipe
from slicesight.training.run_folder import read_log

STEPS = 12


class Targets(fitting.Samples):
    """Samples that all want the same number of a one-weight model, with some noise."""

    def __init__(self, target: float, length: int) -> None:
        self.target, self.length = target, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"target": torch.tensor([self.target + 0.01 * index])}


class OneWeight(torch.nn.Module):
    """A number that learns, behind dropout and a batch norm whose statistics would give an evaluation away."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.norm, self.dropout = torch.nn.BatchNorm1d(1), torch.nn.Dropout(0.2)

    def forward(self, targets: torch.Tensor) -> torch.Tensor:
        self.norm(targets)
        return (self.dropout(self.weight.expand_as(targets)) - targets).square().mean()


def fit(folder: Path, *, validation: Validation | None, held_out: float | None = 1.0, **changes):
    """Learn 5.0; held-out samples want 1.0, so that their loss falls at first and rises when the weight has passed."""
    torch.manual_seed(0)
    model = OneWeight()
    settings = {"steps": STEPS, "batch_size": 2, "learning_rate": 0.3, "schedule": "constant", "log_every": 4}
    folder.mkdir(exist_ok=True)
    fitting.fit(
        model,
        lambda batch: model(batch["target"]),
        Targets(5.0, 2 * STEPS),
        FitSettings(**{**settings, "device": "cpu", **changes}),
        seed=3,
        folder=folder,
        run_digest="same",
        validation=validation,
        held_out=None if held_out is None else Targets(held_out, 3),
    )
    return model, read_log(folder / "log.jsonl")


def val_losses(lines: list[dict]) -> dict[int, float]:
    return {line["step"]: line["val_loss"] for line in lines if "val_loss" in line}


def test_the_validation_loss_is_the_mean_over_all_held_out_samples_without_dropout(tmp_path) -> None:
    model, lines = fit(tmp_path, validation=Validation(every=5, keep_best=False))
    found = val_losses(lines)
    assert list(found) == [5, 10, 12]
    wanted = torch.tensor([1.0, 1.01, 1.02])
    assert found[12] == pytest.approx((model.weight - wanted).square().mean().item(), abs=1e-6)


def test_validation_leaves_no_trace_in_the_weights_and_statistics(tmp_path) -> None:
    one, lines = fit(tmp_path / "without", validation=None)
    two, _ = fit(tmp_path / "with", validation=Validation(every=1, keep_best=False))
    assert not val_losses(lines)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
    assert one.norm.num_batches_tracked == STEPS


def test_the_weights_with_the_lowest_validation_loss_are_kept(tmp_path) -> None:
    model, lines = fit(tmp_path / "best", validation=Validation(every=1))
    found = val_losses(lines)
    best = min(found, key=found.get)
    assert 1 < best < STEPS, "the loss falls, then rises"
    stopped, _ = fit(tmp_path / "stopped", validation=None, steps=best)
    assert torch.equal(model.weight, stopped.weight)
    last, _ = fit(tmp_path / "last", validation=Validation(every=1, keep_best=False))
    assert not torch.equal(model.weight, last.weight)


def test_training_stops_when_patience_runs_out_and_not_before(tmp_path) -> None:
    _, lines = fit(tmp_path, validation=Validation(every=1, early_stop=EarlyStop(patience=2)))
    found = val_losses(lines)
    best = min(found, key=found.get)
    assert list(found) == list(range(1, best + 3))


@pytest.mark.parametrize("keep_best", [True, False])
def test_a_stopped_run_goes_on_with_its_validation_history(tmp_path, keep_best) -> None:
    validation = Validation(every=1, keep_best=keep_best, early_stop=EarlyStop(patience=4))
    whole, lines = fit(tmp_path / "whole", validation=validation, checkpoint_every=3)
    calls = 0

    class StoppedError(Exception):
        pass

    def stop_before_seven(step: float) -> None:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise StoppedError

    original = fitting.train_loop

    def stopping(loss_of, batches_from, **settings):
        return original(loss_of, batches_from, **{**settings, "progress": lambda done, total: stop_before_seven(done)})

    fitting.train_loop = stopping
    try:
        with pytest.raises(StoppedError):
            fit(tmp_path / "resumed", validation=validation, checkpoint_every=3)
    finally:
        fitting.train_loop = original
    again, more = fit(tmp_path / "resumed", validation=validation, checkpoint_every=3)
    assert val_losses(more) == val_losses(lines)
    assert torch.equal(again.weight, whole.weight)


def test_data_without_the_split_are_trained_on_and_the_log_says_so_in_one_line(tmp_path) -> None:
    _, lines = fit(tmp_path, validation=Validation(), held_out=None)
    assert lines[0]["note"] == "the list holds no case of split 'val' to validate on; training without validation"
    assert lines[-1]["step"] == STEPS


def test_the_picture_shows_both_losses(tmp_path, monkeypatch) -> None:
    from matplotlib.axes import Axes

    fit(tmp_path, validation=Validation(every=4))
    labels, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *a, **k: labels.append(k.get("label")) or plot(self, *a, **k))
    draw_losses(tmp_path / "log.jsonl", tmp_path / "loss.png")
    assert labels[:2] == ["training", "validation"]
    assert (tmp_path / "loss.png").stat().st_size > 0


def test_settings_that_cannot_be_are_one_line() -> None:
    for wrong in ({"every": 0}, {"max_cases": 0}):
        with pytest.raises(InputError, match="expected at least 1"):
            Validation(**wrong)
    with pytest.raises(InputError, match="patience is 0; expected at least 1"):
        EarlyStop(patience=0)
    assert Validation(max_cases=4).chosen(10) == [0, 2, 5, 7]
    assert Validation(max_cases=40).chosen(3) == [0, 1, 2]


def changes(tmp_path: Path, **settings) -> tuple[str, ...]:
    """The tiny recipe without stage 0 and with one stage, in a folder of its own."""
    rows = {"pretrain_slices": "null", "pretrain_volumes": "null", "pretrain_language": "null"}
    rows |= {"output_dir": str(tmp_path / "run"), **settings}
    return tuple(f"{key}={value}" for key, value in rows.items())


@pytest.fixture
def measured(monkeypatch):
    """Every validation of a stage: the weights and the loss that was found; `losses` are put in place of it."""
    found: list[tuple[dict[str, torch.Tensor], float]] = []
    original = stages.answer_loss

    def watch(trainer, *arguments):
        loss = original(trainer, *arguments)
        found.append((copy.deepcopy(trainer.model.state_dict()), loss))
        return watch.losses.pop(0) if watch.losses else loss

    watch.losses, watch.found = [], found
    monkeypatch.setattr(stages, "answer_loss", watch)
    return watch


VALIDATION = "{every: 2, max_cases: 3, keep_best: false}"


def test_a_stages_validation_loss_is_the_mean_over_the_answers_tokens(tiny_recipe, tmp_path, measured) -> None:
    from slicesight.data.dataset import open_dataset
    from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, Med2E3Processor

    recipe = read_recipe(tiny_recipe, changes(tmp_path, validation=VALIDATION))
    folder = run_recipe(recipe)
    lines = [line for line in read_log(folder.parent / "log.jsonl") if line["stage"] == "instruct"]
    assert list(val_losses(lines)) == [2, 4, 5]
    weights, _ = measured.found[-1]
    model = Med2E3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    model.load_state_dict(weights)
    processor = Med2E3Processor.from_pretrained(folder)
    kept = Path(recipe.data.folder) / "validation"
    held_out = open_dataset("phantoms:6:3", grid=recipe.grid, folder=kept)
    total, count = 0.0, 0
    for case in held_out.cases:
        volume = torch.from_numpy(held_out.voxels(case))[None, None]
        for asked in held_out.conversations(case, 0):
            row = processor.encode_prompt(asked.prompt, answer=recipe.target(asked), num_volumes=1)
            batch = processor.pad_prompts([row], "right")
            labels = batch.pop("labels")
            with torch.no_grad():
                logits = model(**batch, volumes=volume, volume_index=torch.zeros(1, 1, dtype=torch.long)).logits
            total += functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum").item()
            count += int((labels[0, 1:] != -100).sum())
    assert val_losses(lines)[5] == pytest.approx(total / count, rel=1e-4)


def test_a_stage_ends_with_its_best_weights_and_the_card_names_their_step(tiny_recipe, tmp_path, measured) -> None:
    recipe = read_recipe(tiny_recipe, changes(tmp_path, validation="{every: 1, max_cases: 2}"))
    measured.losses = [3.0, 2.5, 2.6, 2.7, 2.8, 9.0, 4.0, 5.0, 6.0, 7.0]
    folder = run_recipe(recipe)
    saved = load_file(folder / "model.safetensors")
    best = measured.found[6][0]
    assert all(torch.equal(saved[name], best[name].to(torch.bfloat16)) for name in saved)
    facts = {"align": {"step": 2, "val_loss": 2.5}, "instruct": {"step": 2, "val_loss": 4.0}}
    assert json.loads((folder / "card.json").read_text())["validation"] == facts
    assert json.loads((folder / "run.json").read_text())["validation"] == facts
    assert not (folder.parent / "checkpoints").exists()


def test_a_stage_stops_early(tiny_recipe, tmp_path, measured) -> None:
    recipe = read_recipe(
        tiny_recipe, changes(tmp_path, validation="{every: 1, max_cases: 1, early_stop: {patience: 2}}")
    )
    measured.losses = [3.0, 3.1, 3.2, 9.0, 8.0, 8.1, 8.2]
    lines = read_log(run_recipe(recipe).parent / "log.jsonl")
    stopped = {line["stage"]: line["step"] for line in lines if "val_loss" in line}
    assert stopped == {"align": 3, "instruct": 4}


def test_a_stages_weights_are_the_same_with_and_without_validation(tiny_recipe, tmp_path) -> None:
    weights = []
    for name, validation in (("one", "null"), ("two", VALIDATION)):
        recipe = read_recipe(tiny_recipe, changes(tmp_path / name, validation=validation))
        weights.append(load_file(run_recipe(recipe) / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_prepared_scans_without_the_split_say_so_and_with_it_are_measured(tmp_path, phantom, tiny_recipe) -> None:
    pytest.importorskip("pyarrow")
    from slicesight.data.preprocess import prepare_volumes
    from slicesight.io.writers import write_nifti

    recipe = read_recipe(tiny_recipe)
    write_nifti(phantom.volume, tmp_path / "a.nii.gz")
    asked = (Conversation(task="report", topic="report", question="Describe it.", answer="A liver."),)
    for splits, expected in ((("train", "train"), False), (("train", "val"), True)):
        place = tmp_path / "-".join(splits)
        place.mkdir()
        cases = [
            Case(id=f"c{n}", volume="../a.nii.gz", conversations=asked, split=split) for n, split in enumerate(splits)
        ]
        write_manifest(cases, place / "manifest.jsonl")
        prepare_volumes(place / "manifest.jsonl", place, spec=recipe.grid)
        rows = {"data": f"{{prepared: {place}}}", "stages.1.tasks": "[report]", "stages.1.score_weight": 0}
        settings = changes(place, validation="{every: 2}", grid="null", **rows)
        lines = read_log(run_recipe(read_recipe(tiny_recipe, settings)).parent / "log.jsonl")
        notes = [line["note"] for line in lines if "note" in line]
        assert bool(val_losses(lines)) is expected
        assert len(notes) == (not expected)
        if notes:
            assert "holds no case of split 'val' to validate on; training without validation" in notes[0]
