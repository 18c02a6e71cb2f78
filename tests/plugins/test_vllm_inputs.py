"""What vLLM is given for a scan and a question; nothing here needs vLLM."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from slicesight.errors import InputError, ModelError
from slicesight.models.med2e3 import VolumeFeatures
from slicesight_vllm.adapters import check_adapter, refuse_other_layers
from slicesight_vllm.inputs import InputMaker, ScanInput, find_places
from slicesight_vllm.loading import check_folder
from slicesight_vllm.scan_features import GIB_VARIABLE, ScanFeatures, read_feature_bytes


@pytest.fixture(scope="module")
def maker(tiny_reader):
    return InputMaker(tiny_reader.model.config, tiny_reader.processor)


@pytest.fixture(scope="module")
def scan(maker, phantom):
    return maker.scan(phantom.volume)


def test_a_scan_has_the_voxels_that_the_predictor_shows_its_encoders(tiny_reader, phantom, scan):
    assert np.array_equal(scan.voxels[0].numpy(), tiny_reader.grid(phantom.volume).voxels)


def test_two_questions_share_the_volume_and_have_slices_of_their_own(maker, scan):
    first, second = (maker.ask(text, [scan]) for text in ("Which phase?", "How large?"))
    assert first.volumes[0].key == second.volumes[0].key
    assert first.slices[0].key != second.slices[0].key
    assert first.slices[0].key == maker.ask("Which phase?", [scan]).slices[0].key


def test_slices_follow_the_question_and_not_the_turns_before_it(maker, scan):
    alone = maker.ask("How large?", [scan])
    later = maker.ask("How large?", [scan], history=[("Which phase?", "venous")])
    assert alone.slices[0].key == later.slices[0].key
    assert alone.prompt.input_ids != later.prompt.input_ids


def test_another_voxel_is_another_scan(scan):
    changed = scan.voxels.clone()
    changed[0, 0, 0, 0] += 1e-3
    assert ScanInput.of(changed).key != scan.key
    assert ScanInput.of(scan.voxels.clone()).key == scan.key


def test_where_no_question_weighs_slices_all_questions_share_them(tiny_reader, scan):
    import copy

    config = copy.deepcopy(tiny_reader.model.config)
    assert config.reads_question
    config.aggregation = "mean"
    assert not config.reads_question
    maker = InputMaker(config, tiny_reader.processor)
    assert maker.ask("Which phase?", [scan]).slices[0].key == maker.ask("How large?", [scan]).slices[0].key


def test_a_question_without_a_scan_has_no_items_and_no_places(maker):
    asked = maker.ask("Which phase?")
    assert set(asked.for_engine) == {"prompt_token_ids"}
    assert maker.config.placeholder_token_id not in asked.prompt.input_ids


def test_a_text_cannot_spell_a_place_for_a_scan(maker, scan):
    with pytest.raises(InputError, match="2 <image3d> for 1 volumes"):
        maker.ask("<image3d> and <image3d>", [scan])


def test_an_array_that_is_not_of_the_models_size_is_refused_in_one_line(maker):
    with pytest.raises(InputError, match=r"this model reads \(1, 8, 32, 32\)") as caught:
        maker.scan(torch.zeros(4, 32, 32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "num_scans", "starts"),
    [
        ([5, 9, 9, 9, 6], 1, [1]),
        ([9, 9, 9, 9, 9, 9], 2, [0, 3]),
        ([9, 9, 9, 5, 9, 9, 9, 6], 2, [0, 4]),
        ([5, 6], 0, []),
    ],
)
def test_places_of_each_scan_are_found(prompt, num_scans, starts):
    assert find_places(prompt, 9, 3, num_scans) == starts


@pytest.mark.parametrize(("prompt", "num_scans"), [([9, 9, 5, 9], 1), ([9, 9], 1), ([5], 1), ([9, 9, 9], 0)])
def test_places_that_are_not_the_scans_are_refused(prompt, num_scans):
    with pytest.raises(InputError, match="places for visual tokens"):
        find_places(prompt, 9, 3, num_scans)


def features_of(size: int) -> VolumeFeatures:
    return VolumeFeatures(tokens_3d_VKPD=torch.zeros(1, 1, 1, size))


def test_a_scan_is_encoded_once_and_the_one_used_longest_ago_is_forgotten_first():
    kept = ScanFeatures(max_bytes=2 * 4 * 100)
    for key in "aab":
        kept.get(key, lambda: features_of(100))
    assert kept.num_encoded == 2
    kept.get("a", lambda: features_of(100))
    kept.get("c", lambda: features_of(100))
    assert kept.num_encoded == 3
    kept.get("a", lambda: features_of(100))
    assert kept.num_encoded == 3
    kept.get("b", lambda: features_of(100))
    assert kept.num_encoded == 4


def test_the_bound_on_kept_scans_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv(GIB_VARIABLE, "0.5")
    assert read_feature_bytes() == 2**29
    for wrong in ("-1", "much", "0", "inf"):
        monkeypatch.setenv(GIB_VARIABLE, wrong)
        with pytest.raises(InputError, match=GIB_VARIABLE):
            read_feature_bytes()


def write_adapter(folder, base, *, names=("language_model.model.layers.0.self_attn.q_proj",), **changed):
    """A PEFT folder as training writes it, with weights of these layers."""
    from safetensors.torch import save_file

    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": str(base), "modules_to_save": None, **changed}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    weights = {f"base_model.model.{name}.lora_{part}.weight": torch.ones(4, 4) for name in names for part in "AB"}
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def test_a_model_and_an_adapter_with_its_model_are_found(tiny_model_folder, tmp_path):
    assert check_folder(tiny_model_folder) == (tiny_model_folder, None)
    adapter = write_adapter(tmp_path / "adapter", tiny_model_folder)
    assert check_folder(adapter) == (tiny_model_folder, adapter)
    assert check_adapter(adapter) == 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"modules_to_save": ["projector_2d"]}, "projector_2d whole"),
        ({"use_dora": True}, "DORA"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"r": None}, "expected the adapter's rank"),
        ({"names": ("vision2d.encoder.layers.0.self_attn.q_proj",)}, "language model's layers alone"),
        ({"names": ("language_model.lm_head",)}, "layers alone"),
        ({"names": ()}, "no weights"),
    ],
)
def test_an_adapter_that_vllm_would_add_in_part_is_refused_in_one_line(tiny_model_folder, tmp_path, changed, said):
    adapter = write_adapter(tmp_path / "adapter", tiny_model_folder, **changed)
    with pytest.raises(ModelError, match=said) as caught:
        check_folder(adapter)
    assert "\n" not in str(caught.value)


def test_an_adapter_without_its_weights_is_refused_in_one_line(tiny_model_folder, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", tiny_model_folder)
    (adapter / "adapter_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match="copy the adapter again"):
        check_folder(adapter)


def test_layers_of_an_encoder_are_refused_wherever_the_adapter_comes_from():
    refuse_other_layers(["language_model.model.layers.0.mlp.up_proj"])
    with pytest.raises(ModelError, match="1 more layers outside the language model"):
        refuse_other_layers(["language_model.lm_head", "vision2d.q_proj", "scorer.text"])


@pytest.mark.parametrize("name", ["hf:owner/model", "phantom-tinny"])
def test_what_vllm_cannot_load_is_refused_before_it_starts(name):
    with pytest.raises(ModelError, match=r"openai:URL#MODEL|did you mean 'phantom-tiny'"):
        check_folder(name)
