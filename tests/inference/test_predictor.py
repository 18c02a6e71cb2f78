"""Reader against the model's own calls: encode once, ask many, rank the slices, find models."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import slicesight
from slicesight.errors import InputError, ModelError
from slicesight.inference.answers import NO_WORDS
from slicesight.volumes.grid import to_grid

QUESTIONS = ["Which phase is this?", "Where is the cyst?", "Describe the findings of this scan, every organ in turn."]


def test_answers_equal_direct_calls_of_the_model(tiny_reader, phantom):
    grid = to_grid(phantom.volume, tiny_reader.grid_spec)
    model, processor = tiny_reader.model, tiny_reader.processor
    answers = tiny_reader.ask(phantom.volume, QUESTIONS, max_new_tokens=12)
    for question, answer in zip(QUESTIONS, answers, strict=True):
        inputs = processor(question, volumes=[grid.voxels])
        with torch.inference_mode():
            scores = model(**inputs).slice_scores[0, 0]
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
        expected = processor.tokenizer.decode(ids, skip_special_tokens=True)
        expected = "".join(letter if letter.isprintable() else " " for letter in expected).strip()
        assert answer.text == (expected or NO_WORDS)
        assert answer.question == question
        np.testing.assert_allclose(answer.scores, scores.numpy(), atol=1e-5)


def test_asking_in_small_batches_gives_the_same_answers(tiny_reader, phantom):
    together = tiny_reader.ask(phantom.volume, QUESTIONS, max_new_tokens=8)
    in_turn = tiny_reader.ask(phantom.volume, QUESTIONS, max_new_tokens=8, batch_size=1)
    assert [answer.text for answer in together] == [answer.text for answer in in_turn]
    for one, other in zip(together, in_turn, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_volume_is_encoded_once_for_many_questions(tiny_reader, phantom, monkeypatch):
    calls = []
    encode = tiny_reader.model.encode_volumes
    monkeypatch.setattr(tiny_reader.model, "encode_volumes", lambda volumes: calls.append(1) or encode(volumes))
    tiny_reader.ask(phantom.volume, QUESTIONS, batch_size=1, max_new_tokens=2)
    assert len(calls) == 1
    encoded = tiny_reader.encode(phantom.volume)
    tiny_reader.ask(encoded, QUESTIONS[0], max_new_tokens=2)
    tiny_reader.ask(encoded, QUESTIONS[1], max_new_tokens=2)
    assert len(calls) == 2


def test_slices_are_ranked_and_carry_the_grids_places(tiny_reader, phantom):
    grid = tiny_reader.grid(phantom.volume)
    (answer,) = tiny_reader.ask(grid, "Which phase is this?", max_new_tokens=2)
    assert abs(sum(answer.scores) - 1) < 1e-5
    assert [found.rank for found in answer.slices] == list(range(1, 9))
    assert sorted((found.score for found in answer.slices), reverse=True) == [found.score for found in answer.slices]
    for found in answer.slices:
        assert found.score == answer.scores[found.grid_slice]
        assert found.source_slices == grid.slices[found.grid_slice].source_slices
        assert found.position_mm == grid.slices[found.grid_slice].position_mm


def test_without_a_question_the_cards_caption_question_is_asked(tiny_reader, phantom):
    (answer,) = tiny_reader.ask(phantom.volume, max_new_tokens=2)
    assert answer.question == tiny_reader.card.caption_question


def test_silence_becomes_a_plain_sentence_not_an_empty_answer(tiny_reader, phantom, monkeypatch):
    monkeypatch.setattr(tiny_reader.processor, "decode_answers", lambda *_, **__: [""])
    (answer,) = tiny_reader.ask(phantom.volume, "Which phase?", max_new_tokens=1)
    assert answer.text == "(the model gave no words)"


def test_control_characters_never_reach_a_terminal(tiny_reader, phantom, monkeypatch):
    monkeypatch.setattr(tiny_reader.processor, "decode_answers", lambda *_, **__: ["\x1b[31mred\x07\nnext line"])
    (answer,) = tiny_reader.ask(phantom.volume, "Which phase?", max_new_tokens=1)
    assert answer.text == "[31mred \nnext line"


def test_progress_runs_from_none_to_all(tiny_reader, phantom):
    seen = []
    tiny_reader.ask(
        phantom.volume,
        QUESTIONS,
        batch_size=2,
        max_new_tokens=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(0, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("questions", [[], [" "], ["Which phase?", ""]])
def test_an_empty_question_is_refused(tiny_reader, phantom, questions):
    with pytest.raises(InputError):
        tiny_reader.ask(phantom.volume, questions)


def test_a_3d_only_model_answers_without_slice_scores(tiny_reader, phantom, monkeypatch):
    embed = tiny_reader.model.embed_prompts
    monkeypatch.setattr(tiny_reader.model, "embed_prompts", lambda *args, **inputs: (embed(*args, **inputs)[0], None))
    (answer,) = tiny_reader.ask(phantom.volume, "Which phase?", max_new_tokens=1)
    assert answer.scores == ()
    assert answer.slices == ()


def test_window_and_plane_change_the_grid_and_nothing_else(tiny_reader, phantom):
    grid = tiny_reader.grid(phantom.volume, window="bone", plane="coronal")
    assert grid.spec == replace(tiny_reader.grid_spec, window="bone", plane="coronal")
    assert tiny_reader.grid(phantom.volume).plane == "axial"


def test_several_windows_are_refused_not_silently_cut_to_one(tiny_reader, phantom):
    with pytest.raises(InputError, match="3 channels"):
        tiny_reader.encode(tiny_reader.grid(phantom.volume, window="lung+bone+soft_tissue"))


def test_a_synthetic_model_warns_about_a_real_scan_only(tiny_reader, phantom):
    assert tiny_reader.card.warnings_about(phantom.volume) == ()
    (warning,) = tiny_reader.card.warnings_about(replace(phantom.volume, is_synthetic=False))
    assert warning.startswith("tiny-random was trained on synthetic CT only")


@pytest.mark.parametrize("name", ["no-such-model", "./nowhere", "some/hub-model-that-cannot-be-reached"])
def test_an_unknown_model_is_one_plain_line(name):
    with pytest.raises(ModelError) as caught:
        slicesight.load(name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_an_empty_model_folder_is_one_plain_line(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        slicesight.load(tmp_path)


def test_a_model_folder_without_weights_is_one_plain_line(tiny_model_folder, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError) as caught:
        slicesight.load(folder)
    assert "\n" not in str(caught.value)
    assert "half" in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"trained_on": 3}'])
def test_a_broken_card_is_refused(tiny_model_folder, tmp_path, text):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "card.json").write_text(text)
    with pytest.raises(ModelError, match=r"card\.json"):
        slicesight.load(folder)


def test_a_model_without_card_is_named_after_its_folder(tiny_model_folder, tmp_path):
    folder = tmp_path / "my-model"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "card.json").unlink()
    assert slicesight.load(folder).card.to_dict() == {"name": "my-model", "trained_on": "unknown", "summary": ""}


def test_a_card_keeps_facts_it_does_not_know(tiny_model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "card.json").write_text(json.dumps({"name": "n", "seeds": [1, 2]}))
    assert slicesight.load(folder).card.to_dict()["seeds"] == [1, 2]


def test_a_processor_of_another_grid_is_refused(tiny_reader):
    processor = type("Stub", (), {"grid": {"num_slices": 16}})()
    with pytest.raises(ModelError, match="processor's grid"):
        slicesight.Reader(model=tiny_reader.model, processor=processor, card=tiny_reader.card)
