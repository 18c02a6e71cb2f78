"""Every command of docs/how-to/pretrain-and-segment.md in its order, with tiny networks and stand-ins for 2D models."""

import dataclasses
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from slicesight import cli
from slicesight.io.writers import write_dicom
from slicesight.training.pretraining_recipe import read_pretrain_recipe, read_triplet_settings
from slicesight.training.segmentation import read_segment_recipe

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "how-to" / "pretrain-and-segment.md").read_text(encoding="utf-8")
TINY_VIT = (
    "{name: m3d_vit, settings: {patch_size: [8, 8, 8], hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, "
    "intermediate_size: 32, pool_size: [1, 2, 2], feature_size: 4}}"
)
CUT = {
    "triplets": ["text=position", "captioner=null", "image_encoder=pixels", "text_encoder=words", "size=[16,16,16]",
                 "slices_per_plane=8", "picture_size=32"],
    "pretrain": [f"backbone={TINY_VIT}", "psat.num_queries=4", "psat.num_layers=1", "psat.num_heads=2", "epochs=null",
                 "training.steps=2", "training.batch_size=8", "training.num_workers=0", "training.bf16=false"],
    "segment": ["preparation.spacing_mm=[16,16,16]", "training.steps=2", "training.num_workers=0",
                "training.bf16=false"],
    "classify": ["training.num_workers=0", "training.bf16=false"],
}  # fmt: skip
SCRATCH = (
    "backbone={name: segresnet, image_size: [16, 16, 16], "
    "settings: {init_filters: 8, blocks_down: [1, 1], blocks_up: [1]}}"
)


def commands():
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def tiny(command):
    """The command's own words, with settings that make it quick added."""
    words = shlex.split(command)
    assert words[:2] == ["slicesight", "insight"]
    if "smoke" in words[3]:
        return [*words, "--set", "training.steps=2"]
    added = [word for change in CUT.get(words[2], []) for word in ("--set", change)]
    if words[2] == "segment" and "backbone=null" not in words:
        added += ["--set", SCRATCH]
    return [*words, *added]


@pytest.fixture
def desk(tmp_path, monkeypatch, balls, phantom):
    """A folder as the page assumes it."""
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    for file in balls.parent.iterdir():
        shutil.copy(file, tmp_path)
    lines = [json.loads(line) for line in balls.read_text().splitlines()]
    unlabelled = [{"image": lines[n % 6]["image"], "patient": f"p{n % 6}", "split": "train"} for n in range(9)]
    for name, kept in (
        ("scans", unlabelled),
        ("labelled", [{k: v for k, v in line.items() if k != "label"} for line in lines]),
        ("labels", [{k: v for k, v in line.items() if k != "mask"} for line in lines]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    shutil.copy(balls.parent / "scan7.nii.gz", tmp_path / "scan.nii.gz")
    same_kind = dataclasses.replace(phantom.volume, modality="MR", unit="arbitrary")  # as the scans learnt from
    write_dicom(same_kind, tmp_path / "dicom_folder")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_lists_on_the_page_are_lists(tmp_path):
    from slicesight.training.scan_list import read_cases

    for folder in ("scans", "masks"):
        (tmp_path / folder).mkdir()
        for number in range(1, 5):
            (tmp_path / folder / f"{number:04d}.nii.gz").touch()
    (tmp_path / "scans" / "0002").mkdir()
    unlabelled, labelled, *_ = re.findall(r"^```json\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "a.jsonl").write_text(unlabelled)
    (tmp_path / "b.jsonl").write_text(labelled)
    assert len(read_cases(tmp_path / "a.jsonl")) == 2
    assert [case.split for case in read_cases(tmp_path / "b.jsonl", needs="mask")] == ["train", "test"]


def test_training_without_the_pre_training_is_of_the_same_network():
    (scratch,) = [command for command in commands() if "runs/scratch" in command]
    changes = tuple(word for word in shlex.split(scratch) if "=" in word)
    recipe = read_segment_recipe(REPOSITORY / "recipes" / "segment.yaml", changes)
    pretrained = read_pretrain_recipe(REPOSITORY / "recipes" / "insight.yaml")
    assert (recipe.backbone.name, recipe.backbone.settings) == (pretrained.backbone.name, pretrained.backbone.settings)
    assert recipe.backbone.image_size == pretrained.triplets.size


def test_the_page_says_how_to_do_without_a_captioner():
    (said,) = re.findall(r"`((?:--set \w+=\w+ ?){2})`: plane and place", PAGE)
    changes = tuple(said.replace("--set", "").split())
    settings = read_triplet_settings(REPOSITORY / "recipes" / "insight.yaml", changes)
    assert (settings.text, settings.captioner) == ("position", None)


def test_the_commands_of_the_page_run_one_after_the_other(desk, monkeypatch, capsys):
    done = []
    for command in commands():
        monkeypatch.setattr(sys, "argv", tiny(command))
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code, f"{command}: {capsys.readouterr().err}"
        done.append(command.split()[2])
    assert done == [
        *("pretrain", "segment"), "triplets", "pretrain", "segment", "segment", "predict", "predict", "classify",
        "predict",
    ]  # fmt: skip
    assert (desk / "runs" / "insight" / "loss.png").exists()
    assert "image_hits" in (desk / "runs" / "insight" / "log.jsonl").read_text()
    assert (desk / "seg.dcm").stat().st_size > 0
    assert json.loads((desk / "findings.json").read_text())["model"] == "segmenter"
    mask, scan = nib.load(desk / "mask.nii.gz"), nib.load(desk / "scan.nii.gz")
    assert mask.shape != scan.shape  # the DICOM scan's mask was written last
    config = json.loads((desk / "runs" / "segment" / "config.json").read_text())
    assert config["backbone"]["name"] == "m3d_vit"
    scores = json.loads((desk / "runs" / "segment" / "scores.json").read_text())["summary"]
    assert all(np.isfinite(row["dice"]) for row in scores)
    check_the_python(desk)


def check_the_python(desk):
    """The last block, with the parts that it leaves open."""
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    tiny_text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    other_parts = {
        "text_config": {"model_type": "llama", "vocab_size": 64, "num_key_value_heads": 2, "bos_token_id": None,
                        "eos_token_id": 1, "pad_token_id": 0, **tiny_text},
        "vision2d_config": {"model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8,
                            "vision_use_head": False, **tiny_text},
        "placeholder_token_id": 2,
    }  # fmt: skip
    found = {"other_parts": other_parts}
    exec(compile(block, "pretrain-and-segment.md", "exec"), found)
    ours, theirs = found["model"].vision3d.encoder.state_dict(), found["backbone"].encoder.state_dict()
    assert all((ours[name] == theirs[name]).all() for name in theirs)
