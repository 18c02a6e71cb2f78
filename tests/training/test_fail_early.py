"""What a later stage would be refused for is found before the first step, and a stopped run says how it goes on."""

import shutil
from types import SimpleNamespace

import pytest

from slicesight.cli.training import stoppable
from slicesight.errors import InputError
from slicesight.training import run as runs
from slicesight.training.checkpoints import Checkpoint, CheckpointFolder, TrainingPosition
from slicesight.training.recipe import read_recipe
from slicesight.training.run import run_recipe, shown
from slicesight.training.run_folder import refuse_other_recipe


def recipe_with(tiny_recipe, tmp_path, *changes: str):
    return read_recipe(tiny_recipe, (f"output_dir={tmp_path / 'run'}", *changes))


LORA = "stages.1.trainable=[projector_2d]"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            (LORA, "stages.1.lora={targets: [v_porj]}"),
            "stage instruct: lora: language_model has no linear layer called",
        ),
        ((LORA, "stages.1.lora={targets: [q_proj, v_porj]}"), "is called v_porj; expected some of .*v_proj"),
        (("stages.1.trainable=[projector]",), "stage instruct: trainable: 'projector' is no part of this model"),
        (("stages.1.subset={report: 100000}",), "subset: 100000 pairs of report are wanted"),
    ],
)
def test_a_fault_of_a_later_stage_is_found_before_stage_0(
    tiny_recipe, tmp_path, monkeypatch, changes, expected
) -> None:
    monkeypatch.setattr(runs.Training, "fit_stage0", lambda *a, **k: pytest.fail("stage 0 began"))
    with pytest.raises(InputError, match=expected):
        run_recipe(recipe_with(tiny_recipe, tmp_path, *changes))
    assert not (tmp_path / "run").exists()


def test_tasks_that_the_data_do_not_ask_are_found_before_stage_0(tiny_recipe, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(runs.Training, "fit_stage0", lambda *a, **k: pytest.fail("stage 0 began"))
    open_source = runs.open_source

    def without_reports(*arguments, **settings):
        data = open_source(*arguments, **settings)
        asked = [
            case.model_copy(update={"conversations": tuple(c for c in case.conversations if c.task != "report")})
            for case in data.cases
        ]
        monkeypatch.setattr(type(data), "cases", property(lambda self: asked))
        return data

    monkeypatch.setattr(runs, "open_source", without_reports)
    with pytest.raises(InputError, match="stage align: none of the 6 cases has a question of report"):
        run_recipe(recipe_with(tiny_recipe, tmp_path))


def test_too_little_disk_is_found_before_stage_0_unless_nothing_is_kept(tiny_recipe, tmp_path, monkeypatch) -> None:
    began = []
    monkeypatch.setattr(runs.Training, "fit_stage0", lambda *a, **k: began.append(1) or (_ for _ in ()).throw(Began))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=300_000))
    with pytest.raises(InputError, match=r"GB are free, and this run writes about .* save_every: null"):
        run_recipe(recipe_with(tiny_recipe, tmp_path))
    assert not began
    with pytest.raises(Began):
        run_recipe(recipe_with(tiny_recipe, tmp_path, "save_every=null"))


class Began(Exception):  # noqa: N818
    """Stage 0 was reached."""


def test_a_resumed_run_takes_changes_to_stages_that_have_not_begun(tmp_path) -> None:
    was = {"seed": 3, "stages": [{"name": "align", "steps": 5}, {"name": "instruct", "steps": 5}]}
    place = TrainingPosition(section=3, step=2, name="align")
    checkpoint = Checkpoint(path=tmp_path, place=place, facts={"recipe": was})
    later = {"seed": 3, "stages": [was["stages"][0], {"name": "instruct", "steps": 9}, {"name": "third", "steps": 1}]}
    refuse_other_recipe(checkpoint, later, tmp_path)
    with pytest.raises(InputError, match=r"stages\.0\.steps 5, the recipe now says 9"):
        refuse_other_recipe(checkpoint, {**was, "stages": [{"name": "align", "steps": 9}, was["stages"][1]]}, tmp_path)
    with pytest.raises(InputError, match="seed 3, the recipe now says 4"):
        refuse_other_recipe(checkpoint, {**was, "seed": 4}, tmp_path)
    begun = Checkpoint(path=tmp_path, place=TrainingPosition(section=4, step=1, name="instruct"), facts={"recipe": was})
    with pytest.raises(InputError, match=r"stages\.1\.steps 5, the recipe now says 9"):
        refuse_other_recipe(begun, later, tmp_path)


def test_ctrl_c_says_how_the_run_goes_on(tmp_path, capsys) -> None:
    import typer

    def stop() -> str:
        with pytest.raises(typer.Exit) as stopped, stoppable(tmp_path):
            raise KeyboardInterrupt
        assert stopped.value.exit_code == 130
        return " ".join(capsys.readouterr().err.split())

    assert "stopped before the first checkpoint" in stop()
    folder, place = CheckpointFolder(tmp_path / "checkpoints"), TrainingPosition(section=3, step=7, name="align")
    folder.complete(place, folder.begin(place), {})
    assert "the last checkpoint is at align, step 7: give the same command with --resume to go on" in stop()


def test_losses_are_printed_with_four_digits() -> None:
    assert shown("loss", 0.123456) == "0.1235"
    assert shown("val_loss", 12.0) == "12.00"
    assert shown("seconds", 12345.6) == "12345.6"
    assert shown("step", 3) == "3"
