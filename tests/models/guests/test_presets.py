from __future__ import annotations

import pytest

from slicesight.errors import InputError
from slicesight.models.guests.preset import OWN_FOLDER, Preset, find_preset, known_presets, read_preset

SHIPPED = sorted(known_presets())


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_preset_reads_and_names_its_source(name) -> None:
    preset = read_preset(known_presets()[name])
    assert preset.name == name
    assert preset.about
    assert preset.source


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("google/medgemma-1.5-4b-it", "gemma3", "medgemma-1.5"),
        ("medgemma1.5:4b", None, "medgemma-1.5"),
        ("google/medgemma-4b-it", "gemma3", "gemma-3"),
        ("google/gemma-3-4b-it", "gemma3", "gemma-3"),
        ("my-fine-tune", "gemma3", "gemma-3"),
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl", "qwen3-vl"),
        ("lingshu-medical-mllm/Lingshu-7B", "qwen2_5_vl", "qwen3-vl"),
        ("OpenGVLab/InternVL3-8B-hf", "internvl", "internvl"),
        ("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", "smolvlm", "smolvlm"),
        ("llava-hf/llava-1.5-7b-hf", "llava", "llava"),
        ("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "llava_onevision", "llava-onevision"),
        ("ZJU-AI4H/Hulu-Med-7B", None, "hulu-med"),
        ("somebody/new", "unheard_of", "contact-sheet"),
        ("somebody/new", None, "contact-sheet"),
    ],
)
def test_a_model_finds_the_preset_of_its_name_or_kind(name, kind, expected) -> None:
    assert find_preset(None, name=name, model_type=kind).name == expected


def test_medgemma_sees_what_its_makers_notebook_shows() -> None:
    preset = find_preset("medgemma-1.5", name="x", model_type=None)
    assert preset.slices == 85
    assert preset.grid_spec.window == "-1024,1024+-135,215+0,80|min_max"
    assert preset.grid_spec.plane == "axial"
    assert preset.caption.format(number=3, count=85, place="") == "SLICE 3"
    assert preset.caption_after


def test_ones_own_presets_come_first(tmp_path, monkeypatch) -> None:
    (tmp_path / "llava.yaml").write_text("name: mine\nslices: 9\nmodel_types: [llava]\n")
    (tmp_path / "new.yaml").write_text("name: new\nnames: ['*special*']\n")
    monkeypatch.setenv(OWN_FOLDER, str(tmp_path))
    assert find_preset(None, name="llava-hf/llava-9", model_type="llava").name == "mine"
    assert find_preset("new", name="x", model_type=None).name == "new"
    assert find_preset(None, name="a/Special-1", model_type="llava").name == "new"
    monkeypatch.setenv(OWN_FOLDER, str(tmp_path / "missing"))
    with pytest.raises(InputError, match="no such folder"):
        known_presets()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slices: 4\n", "name is missing"),
        ("name: a\nslice: 4\n", "unknown key 'slice'"),
        ("name: a\nslices: many\n", "slices"),
        ("name: a\nslices: 0\n", "expected 1 to 512"),
        ("name: a\nwindow: lungs\n", "did you mean 'lung'"),
        ("name: a\nwindow: lung+bone\n", "has 2 parts"),
        ("name: a\nwindow: lung|bone|brain\n", "3 alternatives"),
        ("name: a\nplane: oblique\n", "plane 'oblique' is unknown"),
        ("name: a\nlayout: film\n", "layout"),
        ("name: a\ncaption: 'slice {nr}'\n", "names {nr}; the places are {number}, {count}, {place}"),
        ("name: a\ncaption: 'slice {'\n", "double a brace"),
        ("name: a\nquestion: 'Answer.'\n", "has no place {question}"),
        ("name: a\nthinking: ['<t>']\n", "1 marks"),
        ("name: a\nslices: 4\ncolumns: 5\n", "columns is 5"),
        ("- a\n", "expected a mapping"),
        ("name: [\n", "not valid YAML"),
    ],
)
def test_a_preset_that_cannot_be_is_one_line(tmp_path, text, expected) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        read_preset(file)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_preset_picks_single_slices_and_cuts_nothing_away() -> None:
    spec = Preset(name="a").grid_spec
    assert spec.pick_slices
    assert not spec.crop_foreground
    assert spec.to_dict()["pick_slices"] is True
