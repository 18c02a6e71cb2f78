"""A bit that flips in a model's weights is found when the folder is loaded, and nothing else is refused for it."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

import slicesight
from slicesight.errors import ModelError
from slicesight.models.checksums import SUMS_FILE, check_checksums, write_checksums
from slicesight.models.encoders3d.backbones import build_backbone, save_backbone
from slicesight.models.folder import read_model_folder
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration
from slicesight.models.shipped import find_folder


def flip_a_bit(weights):
    content = bytearray(weights.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    weights.write_bytes(content)


@pytest.fixture
def saved(tiny_model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    (folder / SUMS_FILE).unlink(missing_ok=True)
    Med2E3ForConditionalGeneration.from_pretrained(folder).save_pretrained(folder)
    return folder


def test_a_flipped_bit_is_one_line_that_names_the_file(saved):
    slicesight.load(saved)
    flip_a_bit(saved / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors: its bytes are not those that were saved") as caught:
        slicesight.load(saved)
    assert "\n" not in str(caught.value)
    subprocess.run([sys.executable, "-m", "slicesight.models.checksums", saved], check=True)
    slicesight.load(saved)


def test_saving_again_makes_new_checksums_and_the_usual_tool_reads_them(saved):
    model = Med2E3ForConditionalGeneration.from_pretrained(saved)
    next(model.parameters()).data += 1
    model.save_pretrained(saved)
    Med2E3ForConditionalGeneration.from_pretrained(saved)
    if shutil.which("sha256sum"):
        checked = subprocess.run(["sha256sum", "-c", SUMS_FILE], cwd=saved, capture_output=True, text=True, check=True)
        assert checked.stdout == "model.safetensors: OK\n"


def test_a_folder_of_an_insight_verb_is_checked_too(tmp_path):
    save_backbone(build_backbone("segresnet", image_size=(16, 16, 16), init_filters=8), tmp_path)
    read_model_folder(tmp_path)
    flip_a_bit(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="are not those that were saved"):
        read_model_folder(tmp_path)
    (tmp_path / SUMS_FILE).unlink()
    read_model_folder(tmp_path)  # as folders of before, which have none


def test_a_checksum_that_is_none_or_names_a_file_elsewhere_is_refused(tmp_path):
    write_checksums(tmp_path)
    check_checksums(tmp_path)
    for line in ("hello\n", f"{'0' * 64}  ../other\n"):
        (tmp_path / SUMS_FILE).write_text(line)
        with pytest.raises(ModelError, match="is no checksum and file name"):
            check_checksums(tmp_path)


def test_the_shipped_phantom_model_has_checksums():
    folder = find_folder("phantom-tiny")
    assert "  model.safetensors\n" in (folder / SUMS_FILE).read_text()
    check_checksums(folder)
