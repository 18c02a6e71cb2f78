"""Engines: what a launcher asks for is found, refused where it cannot be had, and looked for in the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.training import distributed as engines
from slicesight.training.distributed import DistributedError, ProcessGroup, check_process_group, find_process_group
from slicesight.training.recipe import read_recipe
from slicesight.training.run import run_recipe

ENGINES = Path(__file__).parents[2] / "recipes" / "engines"
DRIVER = Path(__file__).with_name("engine_driver.py")
SOURCE = Path(__file__).parents[2] / "src"
TWO = {"WORLD_SIZE": "2", "RANK": "1"}
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true"}


def with_gpus(monkeypatch, *, are_there: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: are_there)
    monkeypatch.setattr(engines, "find_spec", lambda name: object())


def test_the_launchers_variables_name_the_engine(monkeypatch) -> None:
    with_gpus(monkeypatch, are_there=True)
    assert find_process_group({}) == ProcessGroup()
    assert find_process_group(TWO) == ProcessGroup(kind="ddp", rank=1, num_processes=2)
    assert find_process_group({**TWO, **FSDP}).kind == "fsdp2"
    assert find_process_group({**TWO, **DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}).kind == "zero3"
    assert find_process_group({**TWO, **DEEPSPEED}).kind == "zero2"
    assert not find_process_group({**TWO}).is_main
    assert [ProcessGroup(kind=kind).is_sharded for kind in ("single", "ddp", "fsdp2", "zero2")] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({**TWO, **FSDP}, "there is no GPU, and accelerate would then train unsharded in silence"),
        ({**TWO, **DEEPSPEED}, "zero2 was asked for but there is no GPU"),
        ({**TWO, **FSDP, "FSDP_VERSION": "1"}, "fsdp_version is 1; expected 2"),
        ({**TWO, **DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, "ZeRO stage is 1; expected 2 or 3"),
    ],
)
def test_an_engine_that_cannot_be_had_is_refused(monkeypatch, variables, said) -> None:
    with_gpus(monkeypatch, are_there=False)
    with pytest.raises(DistributedError, match=said):
        find_process_group(variables)


def test_sharding_one_process_is_refused(monkeypatch) -> None:
    with_gpus(monkeypatch, are_there=True)
    with pytest.raises(DistributedError, match="fsdp2 was asked for with one process"):
        find_process_group(FSDP)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "zero3"])
def test_a_model_prepared_in_another_way_is_found_out(kind) -> None:
    with pytest.raises(DistributedError, match=f"{kind} was asked for, but the model was prepared as 'single'"):
        check_process_group(ProcessGroup(kind=kind, num_processes=2), nn.Linear(2, 2))
    check_process_group(ProcessGroup(), nn.Linear(2, 2))


@pytest.mark.parametrize("path", sorted(ENGINES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_engine_is_one_that_accelerate_and_we_know(path, monkeypatch) -> None:
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    config = config_args.load_config_from_file(str(path))
    settings = yaml.safe_load(path.read_text())
    kind = config.distributed_type.value
    expected = {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(path.stem, "DEEPSPEED")
    assert kind == expected
    if kind == "FSDP":
        assert settings["fsdp_config"]["fsdp_version"] == 2
    if kind == "DEEPSPEED":
        with_gpus(monkeypatch, are_there=True)
        file = ENGINES.parents[1] / settings["deepspeed_config"]["deepspeed_config_file"]
        found = find_process_group({**TWO, **DEEPSPEED, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)})
        assert path.stem == f"deepspeed-{found.kind}"
        content = json.loads(file.read_text())
        assert found.kind == "zero2" or content["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]


def launch(*arguments: str, launcher: tuple[str, ...] = ("--nproc-per-node", "2")) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", *launcher, "--standalone", str(DRIVER), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=900)


def read_losses(folder: Path) -> dict[tuple[str, int], float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert len({(line["stage"], line["step"]) for line in lines}) == len(lines), "only one process logs"
    return {(line["stage"], line["step"]): line["loss"] for line in lines if "loss" in line}


@pytest.fixture(scope="module")
def stages_recipe(tiny_recipe, tmp_path_factory) -> Path:
    """The tiny recipe's two stages, from its own stage 0, and what one process makes of them; no dropout."""
    folder = tmp_path_factory.mktemp("engines")
    settings = yaml.safe_load(tiny_recipe.read_text())
    settings["model"]["text_config"]["attention_dropout"] = 0.0
    first = {**settings, "stages": [], "output_dir": str(folder / "first")}
    (folder / "first.yaml").write_text(yaml.safe_dump(first))
    run_recipe(read_recipe(folder / "first.yaml"))
    settings = {k: v for k, v in settings.items() if not k.startswith("pretrain")}
    settings |= {"init": str(folder / "first" / "stage0"), "model": {}, "output_dir": str(folder / "run")}
    (folder / "stages.yaml").write_text(yaml.safe_dump(settings))
    run_recipe(replace(read_recipe(folder / "stages.yaml"), output_dir=str(folder / "alone")))
    return folder / "stages.yaml"


def start(recipe: Path, name: str) -> Path:
    """The same recipe for another output folder."""
    settings = yaml.safe_load(recipe.read_text())
    path = recipe.with_name(f"{name}.yaml")
    path.write_text(yaml.safe_dump({**settings, "output_dir": str(recipe.with_name(name))}))
    return path


def assert_close_to_one_process(recipe: Path, name: str) -> None:
    alone, together = (read_losses(recipe.with_name(folder)) for folder in ("alone", name))
    assert together.keys() == alone.keys()
    for place, loss in alone.items():
        assert together[place] == pytest.approx(loss, abs=1e-4), place
    one, two = (load_file(recipe.with_name(folder) / "model" / "model.safetensors") for folder in ("alone", name))
    assert one.keys() == two.keys()
    for weight in one:
        torch.testing.assert_close(two[weight].float(), one[weight].float(), atol=2e-2, rtol=2e-2, msg=weight)


@pytest.mark.distributed
def test_two_processes_with_ddp_train_as_one_does(stages_recipe) -> None:
    done = launch("train", str(start(stages_recipe, "ddp")))
    assert done.returncode == 0, done.stderr
    assert_close_to_one_process(stages_recipe, "ddp")


@pytest.mark.distributed
def test_two_processes_with_fsdp2_train_as_one_does(stages_recipe) -> None:
    done = launch("train-fsdp2", str(start(stages_recipe, "fsdp2")))
    assert done.returncode == 0, done.stderr
    assert_close_to_one_process(stages_recipe, "fsdp2")


@pytest.mark.distributed
@pytest.mark.parametrize("engine", ["train", "train-fsdp2"])
def test_killed_processes_go_on_from_their_checkpoint_and_it_loads_anywhere(stages_recipe, engine) -> None:
    recipe = start(stages_recipe, f"killed-{engine}")
    killed = launch(engine, str(recipe), "--stop-after", "7")
    assert killed.returncode != 0
    checkpoints = sorted(recipe.with_suffix("").glob("checkpoints/[0-9]*"))
    assert [path.name for path in checkpoints] == ["03-align-000005", "04-instruct-000002"]
    loaded = Med2E3ForConditionalGeneration.from_pretrained(checkpoints[-1])
    assert not any(parameter.is_meta for parameter in loaded.parameters())
    assert load_file(checkpoints[-1] / "model.safetensors")
    done = launch(engine, str(recipe), "--resume")
    assert done.returncode == 0, done.stderr
    assert_close_to_one_process(stages_recipe, recipe.stem)


@pytest.mark.distributed
def test_fsdp2_without_a_gpu_is_refused_in_one_line(stages_recipe, monkeypatch) -> None:
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    done = launch("train", str(start(stages_recipe, "refused")))
    assert done.returncode != 0
    assert "slicesight: fsdp2 was asked for but there is no GPU" in done.stderr
    assert not stages_recipe.with_name("refused").exists()


@pytest.mark.distributed
def test_fully_shard_on_the_model_gives_the_loss_and_the_step_of_one_process(tmp_path, tiny_model_folder) -> None:
    from slicesight.models.med2e3.processing import Med2E3Processor

    model = Med2E3ForConditionalGeneration.from_pretrained(tiny_model_folder, dtype=torch.float32).train()
    processor = Med2E3Processor.from_pretrained(tiny_model_folder)
    questions, answers = ["Which phase is this?", "Where is the cyst?"] * 2, ["Arterial.", "Nowhere."] * 2
    volumes = torch.rand(1, 1, 8, 32, 32, generator=torch.Generator().manual_seed(1))
    batch = dict(processor(questions, answers=answers, volumes=volumes, volume_index=[0] * 4))
    model.save_pretrained(tmp_path / "start")
    torch.save(batch, tmp_path / "batch.pt")
    done = launch("fully-shard", str(tmp_path))
    assert done.returncode == 0, done.stderr
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    assert float((tmp_path / "loss.txt").read_text()) == pytest.approx(loss.item(), abs=1e-4)
    loaded = Med2E3ForConditionalGeneration.from_pretrained(tmp_path / "sharded", dtype=torch.float32).state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded[name], weight, atol=1e-5, rtol=1e-4, msg=name)
