"""Checkpoints are whole or they do not exist; a run folder is never overwritten unasked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from slicesight.errors import InputError
from slicesight.training.checkpoints import CheckpointFolder, DamagedCheckpointError, TrainingPosition
from slicesight.training.run_folder import RunFolder, disk_errors

RECIPE = {"name": "tiny", "seed": 3, "save_every": 2, "stages": [{"steps": 5, "learning_rate": 0.1}]}


def write(folder: CheckpointFolder, step: int, *, section: int = 0, facts: dict | None = None) -> Path:
    place = TrainingPosition(section=section, step=step, name="align")
    written = folder.begin(place)
    (written / "inner").mkdir()
    (written / "inner" / "weights").write_bytes(bytes([step % 256]) * 100)
    return folder.complete(place, written, facts or {"log_bytes": 0, "seconds": 1.0, "recipe": RECIPE})


@pytest.fixture
def folder(tmp_path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "run" / "checkpoints")


def test_the_last_two_checkpoints_are_kept_in_the_order_of_the_run(folder) -> None:
    for section, step in ((0, 10), (0, 900), (1, 2), (1, 10)):
        write(folder, step, section=section)
    assert [checkpoint.place.step for checkpoint in folder.list_complete()] == [2, 10]
    assert len(list(folder.path.iterdir())) == 2


def test_what_was_not_finished_is_no_checkpoint_and_is_swept_away(folder) -> None:
    write(folder, 1)
    (folder.begin(TrainingPosition(section=0, step=2, name="align")) / "weights").write_bytes(b"half")
    (folder.path / "00-align-000003").mkdir()
    (folder.path / "00-align-000004").mkdir()
    (folder.path / "00-align-000004" / "complete.json").write_text('{"section": 0, "st')
    assert [checkpoint.place.step for checkpoint in folder.list_complete()] == [1]
    folder.prune()
    assert not list(folder.path.glob(".*"))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda file: file.write_bytes(b"\x01" * 99), "has 99 bytes, 100 were written"),
        (lambda file: file.write_bytes(b"\x02" * 100), "SHA-256 differs"),
        (lambda file: file.unlink(), "is missing"),
    ],
)
def test_a_file_that_is_not_what_was_written_is_named(folder, harm, said) -> None:
    write(folder, 1)
    harm(folder.path / "00-align-000001" / "inner" / "weights")
    with pytest.raises(DamagedCheckpointError, match=f"inner/weights.*{said}"):
        folder.list_complete()[0].check()


def test_a_damaged_checkpoint_is_passed_over_aloud(folder) -> None:
    write(folder, 1)
    (write(folder, 2) / "inner" / "weights").write_bytes(b"x")
    (folder.path.parent / "log.jsonl").write_text("")
    said: list[str] = []
    run = RunFolder(folder.path.parent, RECIPE, resume=True, say=said.append)
    assert run.start.place.step == 1
    assert "00-align-000002: inner/weights has 1 bytes" in said[0]
    assert "going back to the one before" in said[0]
    assert "resuming at align, step 1" in said[1]


def test_resuming_without_a_whole_checkpoint_is_refused_in_one_line(folder) -> None:
    with pytest.raises(InputError, match="there is no complete checkpoint, so nothing can be resumed"):
        RunFolder(folder.path.parent, RECIPE, resume=True)
    (write(folder, 1) / "inner" / "weights").write_bytes(b"x")
    (folder.path.parent / "log.jsonl").write_text("")
    with pytest.raises(InputError, match="no checkpoint is whole any more"):
        RunFolder(folder.path.parent, RECIPE, resume=True)


def test_log_lines_after_the_checkpoint_are_cut_off(folder) -> None:
    log = folder.path.parent / "log.jsonl"
    run = RunFolder(folder.path.parent, RECIPE)
    run.write_line({"step": 1})
    write(folder, 1, facts={**run.facts(), "seconds": 1000.0})
    run.write_line({"step": 2})
    with log.open("a") as file:
        file.write('{"step": 3, "lo')
    again = RunFolder(folder.path.parent, RECIPE, resume=True)
    again.write_line({"step": 2})
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2]
    assert again.seconds >= 1000


def test_a_run_goes_on_only_with_the_recipe_it_began_with(folder) -> None:
    write(folder, 1, section=3)  # in the first stage, behind the three parts of stage 0
    (folder.path.parent / "log.jsonl").write_text("")
    other = {**RECIPE, "stages": [{"steps": 5, "learning_rate": 0.2}]}
    with pytest.raises(InputError, match=r"began with stages.0.learning_rate 0.1, the recipe now says 0.2"):
        RunFolder(folder.path.parent, other, resume=True)
    assert RunFolder(folder.path.parent, {**RECIPE, "save_every": 7}, resume=True).start is not None


def test_an_existing_run_is_refused_with_the_ways_out_and_replaced_when_asked(folder) -> None:
    place = folder.path.parent
    RunFolder(place, RECIPE).write_line({"step": 1})
    RunFolder(place, RECIPE)  # a log alone is nothing to lose
    write(folder, 4)
    with pytest.raises(InputError, match="stopped at align, step 4; go on with --resume, give another folder"):
        RunFolder(place, RECIPE)
    (place / "model").mkdir()
    with pytest.raises(
        InputError, match=r"holds a trained model; give another folder .* or replace it with --overwrite"
    ):
        RunFolder(place, RECIPE)
    with pytest.raises(InputError, match="give one of them"):
        RunFolder(place, RECIPE, resume=True, overwrite=True)
    assert folder.list_complete()
    assert RunFolder(place, RECIPE, resume=True).is_finished
    assert not folder.list_complete(), "killed after its model was in place: nothing is left to go on with"
    write(folder, 4)
    run = RunFolder(place, RECIPE, overwrite=True)
    assert not folder.list_complete()
    assert (place / "log.jsonl").read_text() == ""
    run.begin()
    kept = sorted(path.name for path in place.glob("*.replaced"))
    assert kept == ["model.replaced"], "the old model stays until the new one is there"
    with pytest.raises(InputError, match="there is no complete checkpoint"):
        RunFolder(place, RECIPE, resume=True)
    RunFolder(place, RECIPE).finish()
    assert not (place / "model.replaced").exists()


def test_only_the_main_process_writes(folder) -> None:
    run = RunFolder(folder.path.parent, RECIPE, is_main=False)
    run.write_line({"step": 1})
    run.finish()
    assert not folder.path.parent.exists()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("[enforce fail] PytorchStreamWriter")]
)
def test_a_full_disk_is_one_line(tmp_path, error) -> None:
    with pytest.raises(InputError, match="make room or rights there") as caught, disk_errors(tmp_path):
        raise error
    assert "\n" not in str(caught.value)


def test_other_errors_keep_their_traceback(tmp_path) -> None:
    for error in (RuntimeError("shapes differ"), FileNotFoundError(2, "No such file")):
        with pytest.raises(type(error)), disk_errors(tmp_path):
            raise error


def test_a_place_that_cannot_be_written_is_one_line(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"Not a directory|File exists"), disk_errors(tmp_path / "file" / "run"):
        RunFolder(tmp_path / "file" / "run", RECIPE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_one_line(tmp_path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"), disk_errors(tmp_path / "run"):
        RunFolder(tmp_path / "run", RECIPE)
