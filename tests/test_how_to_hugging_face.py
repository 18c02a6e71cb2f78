"""Every code block of docs/how-to/hugging-face.md, one after another, and what the page says of them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, default_data_collator

import slicesight
from slicesight.errors import InputError, ModelError
from slicesight.models.shipped import find_folder

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "hugging-face.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def same(found, wanted):
    return all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_the_page_runs_from_top_to_bottom(phantom_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(phantom_file, "scan.nii.gz")
    assert len(BLOCKS) == 7
    load, ask, many, chat, train, save, adapt = BLOCKS
    names: dict[str, object] = {}

    exec(load, names)
    exec(ask, names)
    (expected,) = slicesight.load("phantom-tiny").ask("scan.nii.gz", "Which phase is this?", max_new_tokens=20)
    assert names["texts"] == [expected.text]
    output = names["output"]
    assert output["slice_scores"] is output.slice_scores
    assert output.slice_scores.sum().item() == pytest.approx(1)
    assert int(names["heaviest"]) == max(expected.slices, key=lambda one: one.score).grid_slice

    exec(many, names)
    assert names["scores"].shape == (2, 1, 32)

    exec(chat, names)
    length = names["inputs"]["input_ids"].shape[1]
    assert names["processor"].decode_answers(names["said"], num_prompt_tokens=length) == [expected.text]
    assert names["answer"].strip() == expected.text
    assert names["plain"][0]["generated_text"].strip() == expected.text

    before = {name: tensor.clone() for name, tensor in names["model"].state_dict().items()}
    exec(train, names)
    assert not same(names["model"].state_dict(), before)
    items = [names["processor"]("Which?", answers="This.", volumes=volume) for volume in ("scan.nii.gz",) * 2]
    with pytest.raises(ModelError, match="no prompt asks about volume 1 of 2"):
        names["model"](**default_data_collator([{key: value[0] for key, value in item.items()} for item in items]))

    exec(save, names)
    assert slicesight.load("tuned").ask("scan.nii.gz", "Which phase is this?", max_new_tokens=2)[0].text
    assert same(AutoModelForImageTextToText.from_pretrained("tuned").state_dict(), names["model"].state_dict())

    exec(adapt, names)
    assert (Path("lora") / "adapter_model.safetensors").stat().st_size < 500_000
    merged = AutoModelForImageTextToText.from_pretrained("merged").state_dict()
    tuned = AutoModelForImageTextToText.from_pretrained("tuned").state_dict()
    assert {name for name in tuned if not torch.equal(tuned[name], merged[name])} == {
        name for name in tuned if name.endswith(("q_proj.weight", "v_proj.weight"))
    }
    of_folders = [slicesight.load(name).ask("scan.nii.gz", "Which phase is this?") for name in ("merged", "lora")]
    assert of_folders[0] == of_folders[1]


def test_what_the_page_says_is_refused_is_refused(phantom, tmp_path):
    folder = find_folder("phantom-tiny")
    names: dict[str, object] = {}
    exec(BLOCKS[0], names)
    hounsfield = phantom.volume.voxels[:32, :96, :96]
    with pytest.raises(InputError, match=r"values from -\d+ to \d+; expected finite numbers in \[0, 1\]: give a scan"):
        names["processor"]("Which phase?", volumes=torch.from_numpy(hounsfield.copy()))
    with pytest.raises(InputError, match="is no 3D scan"):
        names["processor"]("Which phase?", images=Image.new("L", (8, 8)))
    assert names["processor"]("Which phase?", volumes=hounsfield)["volumes"].shape[1:] == (1, 32, 96, 96)
    assert names["processor"]("Which phase?", volumes=phantom.volume)["volumes"].shape[1:] == (1, 32, 96, 96)
    assert folder.is_dir()
