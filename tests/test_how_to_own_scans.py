"""Every command of docs/how-to/own-scans.md in its order, on a small folder of scans and with tiny models."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from slicesight import cli
from slicesight.training.recipe import read_recipe

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "how-to" / "own-scans.md").read_text(encoding="utf-8")
NUM_PATIENTS = 10
CNN3D = "{model_type: cnn3d, widths: [8, 8], blocks: [0, 0], strides: [[2, 4, 4], [2, 2, 2]], pool_size: [1, 2, 2]}"
PARTS = "parts={language_model: parts/llm, vision2d: parts/siglip, vision3d: parts/cnn3d}"
SHORT = ["stages.0.epochs=1"]
PAPER = ["bf16=false", "frozen_dtype=float32", "recompute_activations=false", "loader_workers=0", "report_to=[]",
         "stages.0.volumes_per_step=4", "stages.0.accumulation=1", *SHORT]  # fmt: skip
CUT = {
    "own-scans.yaml": ["bf16=false", "stages.1.epochs=1", *SHORT],
    "med2e3-stage1.yaml": [PARTS, f"model={{vision3d_config: {CNN3D}}}", "template=short", *PAPER],
    "med2e3-stage2.yaml": PAPER,
}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def commands():
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def words_of(command):
    """The verb's words; what a launcher starts is started without it."""
    words = shlex.split(command)
    return words[words.index("slicesight.cli") :] if words[0] == "accelerate" else words


def tiny(command):
    """The command's own words, with what makes it quick added."""
    words = ["parts/tiny" if word == "med2e3-phi3" else word for word in words_of(command)]
    if words[1] == "prepare":
        return [*words, "--size", "8,32,32"]
    if words[1] == "train":
        changes = CUT[Path(words[2]).name]
        if any(word.startswith("parts={") for word in words):
            changes = ["parts={language_model: parts/llm, vision2d: parts/siglip}", *changes]
        return [*words, *(word for change in changes for word in ("--set", change))]
    return words


def write_scans(folder, phantom):
    """What a student has: NIfTI files, one DICOM folder, reports, a table of questions."""
    import nibabel as nib

    from slicesight.io.writers import write_dicom

    rng = np.random.default_rng(0)
    rows = ["scan,question,answer,choices,topic"]
    for number in range(NUM_PATIENTS):
        place = folder / f"patient_{chr(ord('a') + number)}"
        place.mkdir(parents=True)
        organ = ("liver", "spleen")[number % 2]
        (place / "report.txt").write_text(f"Kidneys unremarkable. A {number + 3} mm cyst in the {organ}.\n")
        name = "series" if number == 1 else "ct.nii.gz"
        if name == "series":
            write_dicom(phantom.volume, place / name)
        else:
            voxels = np.kron(rng.integers(-900, 900, (5, 5, 3)), np.ones((8, 8, 4))).astype(np.int16)
            nib.save(nib.Nifti1Image(voxels, np.diag([-2.0, -2.0, 5.0, 1.0])), place / name)
        rows.append(f"{place.name}/{name},Which organ contains the cyst?,{organ},liver|spleen,organ")
    (folder / "questions.csv").write_text("\n".join(rows) + "\n")


def write_parts(folder):
    """Trained parts as a hub would give them, of a few thousand weights each."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, SiglipConfig, SiglipModel

    from slicesight.models.encoders3d.configuration import CNN3DConfig
    from slicesight.training.start import train_tokenizer

    torch.manual_seed(1)
    tokenizer = train_tokenizer(["Which organ contains the cyst? Answer: liver"] * 5, vocab_size=300)
    tokenizer.save_pretrained(folder / "llm")
    llama = LlamaConfig(**VISION, vocab_size=len(tokenizer), num_key_value_heads=2, pad_token_id=0, eos_token_id=1)
    AutoModelForCausalLM.from_config(llama).save_pretrained(folder / "llm")
    siglip = SiglipConfig(text_config={**VISION, "vocab_size": 30}, vision_config={**VISION, "image_size": 32, "patch_size": 8})  # fmt: skip  # noqa: E501
    SiglipModel(siglip).save_pretrained(folder / "siglip")
    cnn3d = CNN3DConfig(image_size=[8, 32, 32], widths=[8, 8], blocks=[0, 0], strides=[[2, 4, 4], [2, 2, 2]])
    AutoModel.from_config(cnn3d).save_pretrained(folder / "cnn3d")


@pytest.fixture
def desk(tmp_path, monkeypatch, phantom, tiny_model_folder):
    """A folder as the page assumes it, where the shipped model is replaced by the tiny random one."""
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    write_scans(tmp_path / "scans", phantom)
    write_parts(tmp_path / "parts")
    (tmp_path / "parts" / "tiny").symlink_to(tiny_model_folder)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "phantom-tiny").symlink_to(tiny_model_folder)
    monkeypatch.setattr("slicesight.models.shipped.SHIPPED_FOLDER", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words, monkeypatch):
    """Exit code of the command line."""
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


def test_every_command_of_the_page_is_one_and_every_recipe_it_names_is_valid(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    verbs = typer.main.get_command(cli.app).commands
    recipes = []
    for command in commands():
        _, verb, *arguments = words_of(command)
        given = verbs[verb].make_context(verb, arguments).params  # refuses options that do not exist
        if verb == "train":
            recipes.append(read_recipe(given["recipe"], tuple(given["changes"] or ())))
    assert len(recipes) == 8
    assert {recipe.data.split for recipe in recipes} == {"train"}
    starts = [recipe.init or recipe.parts.vision2d for recipe in recipes]
    assert starts[0] == "phantom-tiny"
    assert starts[3:5] == ["google/siglip-base-patch16-256", f"{recipes[3].output_dir}/model"]
    assert starts[6] == f"{recipes[5].output_dir}/model"


def test_the_readme_shows_commands_of_the_page():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n## Your own data\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("slicesight ")]
    assert [words_of(line)[1] for line in lines] == ["prepare", "train", "evaluate"]
    for line in lines:
        assert any(command.startswith(line) for command in commands()), line


def test_what_the_page_says_of_an_own_scan_recipe_is_so():
    recipe = read_recipe(REPOSITORY / "recipes" / "own-scans.yaml")
    align, instruct = recipe.stages
    assert (align.tasks, align.volumes_per_step, instruct.volumes_per_step) == (("report",), 4, 4)
    for words in ("'stages.0.tasks=[open, closed]'", "--size 32,96,96", "stages.1.accumulation=4"):
        assert words in PAGE
    assert read_recipe(REPOSITORY / "recipes" / "own-scans.yaml", ("stages.0.tasks=[open, closed]",))


@pytest.mark.slow
def test_the_commands_of_the_page_run_one_after_the_other(desk, monkeypatch, capsys):
    done = []
    for command in commands():
        assert run(tiny(command), monkeypatch) == 0, f"{command}: {capsys.readouterr().err}"
        done.append(words_of(command)[1])
    assert done == [
        "inspect", "prepare", "train", "train", "train", "evaluate", "score", "ask", "ask", "prepare", "train", "train",
        "plan", "train", "train", "train",
    ]  # fmt: skip
    summary = json.loads((desk / "prepared" / "summary.json").read_text())
    assert {split: held["scans"] for split, held in summary["counts"].items()} == {"train": 8, "val": 1, "test": 1}
    assert not summary["skipped"]
    assert all(f'"{name}"' in (desk / "sheet.json").read_text() for name in ("own", "blind"))
    for written in ("sheet.png", "answer.html", "truth.png", "runs/own/loss.png", "results/own/report.html"):
        assert (desk / written).stat().st_size > 0
    config = json.loads((desk / "runs" / "lora" / "model" / "config.json").read_text())
    assert (config["vision2d_config"]["model_type"], config["slice_mean"]) == ("siglip_vision_model", 0.5)
    check_the_python(capsys)


def check_the_python(capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    capsys.readouterr()
    exec(compile(block, "own-scans.md", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")
