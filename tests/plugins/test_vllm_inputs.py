"""What vLLM is given for a scan and a question; nothing here needs vLLM."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slicesight.errors import InputError, ModelError
from slicesight.models.med2e3 import VolumeFeatures
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


def test_a_calibrated_model_is_refused_because_its_abstentions_would_be_lost(tiny_model_folder, tmp_path):
    import shutil

    folder = tmp_path / "calibrated"
    shutil.copytree(tiny_model_folder, folder)
    assert check_folder(folder) == folder
    (folder / "calibration.json").write_text("{}")
    with pytest.raises(ModelError, match="--engine own"):
        check_folder(folder)


@pytest.mark.parametrize("name", ["hf:owner/model", "phantom-tinny"])
def test_what_vllm_cannot_load_is_refused_before_it_starts(name):
    with pytest.raises(ModelError, match=r"openai:URL#MODEL|did you mean 'phantom-tiny'"):
        check_folder(name)
