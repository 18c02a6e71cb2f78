"""A recipe with stage 0 on prepared scans runs, learns, goes on after a kill, and refuses what cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from slicesight.errors import InputError
from slicesight.training import checkpoints
from slicesight.training.augmentation import Augmentation
from slicesight.training.recipe import EncoderRun, PreparedData, Recipe, read_recipe
from slicesight.training.run import run_recipe


@pytest.fixture(scope="module")
def recipe(labelled_folder, tiny_recipe, tmp_path_factory) -> Recipe:
    found = read_recipe(
        tiny_recipe,
        (
            f"output_dir={tmp_path_factory.mktemp('run') / 'run'}",
            f"data={{prepared: {labelled_folder}, split: train}}",
            "grid=null",
            "stages=[]",
            "pretrain_slices.batch_size=6",
            "pretrain_slices.augment={shift: 0.02, zoom: 0.05}",
        ),
    )
    assert isinstance(found, Recipe)
    return found


def lines_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "minutes_left")} for line in lines]


def test_it_runs_from_nothing_reports_by_structure_and_goes_on_after_a_kill(recipe, tmp_path, monkeypatch) -> None:
    whole = tmp_path / "whole"
    run_recipe(replace(recipe, output_dir=str(whole)))
    logged = lines_of(whole)
    assert [line["stage"] for line in logged] == ["build", "language", "slices", "volumes"]
    assert {"heart_recall", "heart_precision", "lung_recall", "modality"} <= logged[2].keys()

    class KilledError(Exception): ...

    for kill_at in (4, 6):
        killed, calls, renamed = tmp_path / f"killed {kill_at}", [], checkpoints.os.replace

        def dying(*arguments, calls=calls, renamed=renamed, kill_at=kill_at):
            calls.append(1)
            if len(calls) == kill_at:
                raise KilledError
            return renamed(*arguments)

        interrupted = replace(recipe, output_dir=str(killed))
        with monkeypatch.context() as patched:
            patched.setattr(checkpoints.os, "replace", dying)
            with pytest.raises(KilledError):
                run_recipe(interrupted)
        run_recipe(interrupted, resume=True)
        weights = [load_file(place / "stage0" / "model.safetensors") for place in (whole, killed)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_slice_encoder_learns_to_name_what_it_shows(recipe, tmp_path) -> None:
    learning = replace(
        recipe,
        output_dir=str(tmp_path / "learns"),
        pretrain_language=None,
        pretrain_volumes=None,
        pretrain_slices=EncoderRun(steps=30, batch_size=12, learning_rate=1e-2),
        save_every=None,
    )
    run_recipe(learning)
    last = lines_of(tmp_path / "learns")[-1]
    assert (last["stage"], last["step"]) == ("slices", 30)
    assert min(last["heart_recall"], last["heart_precision"], last["lung_recall"]) > 0.8
    assert last["words"] < 10, "of 40 at the start"


def test_data_without_label_maps_are_refused_before_the_folder_is_touched(recipe, labelled_folder, tmp_path) -> None:
    from slicesight.data.manifest import read_manifest, write_manifest

    bare = labelled_folder / "bare.jsonl"
    write_manifest(
        [case.model_copy(update={"truth": None}) for case in read_manifest(labelled_folder / "manifest.jsonl")], bare
    )
    out = tmp_path / "run"
    wrong = replace(recipe, data=PreparedData(prepared=str(bare)), output_dir=str(out))
    with pytest.raises(InputError, match=r"stage 0 .* learns from label maps, but no case has"):
        run_recipe(wrong)
    assert not out.exists()


def test_a_mirror_image_is_refused() -> None:
    with pytest.raises(InputError, match="flip_sides would make its labels false"):
        EncoderRun(steps=1, batch_size=1, augment=Augmentation(flip_sides=0.5))
