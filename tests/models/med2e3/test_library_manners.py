"""Does the model do what users of transformers expect of any model? Each test with the library's public calls only."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from pathlib import Path

import accelerate
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    BitsAndBytesConfig,
    pipeline,
)

import slicesight
from slicesight.errors import InputError, ModelError

QUESTION = "What is shown in this image?"


@pytest.fixture
def parts(make_model, make_processor, tokenizer):
    model = make_model()
    grid = {"num_slices": 8, "height": 32, "width": 32}
    return model, make_processor(model, grid=grid, question_tokenizer=tokenizer)


@pytest.fixture
def folder(parts, tmp_path):
    for part in parts:
        part.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def scan(tmp_path):
    voxels = np.random.default_rng(3).integers(-1000, 1000, (10, 36, 40)).astype(np.int16)
    np.save(tmp_path / "scan.npy", voxels)
    return tmp_path / "scan.npy"


def cache_as_hub(folder: Path, cache: Path, name: str) -> None:
    """Lay a folder down where the hub library keeps what it has fetched."""
    place = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)


def messages(*turns: object) -> list[dict[str, object]]:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]


def asks(text: str, *scans: object) -> list[dict[str, object]]:
    return [*({"type": "image", "image": scan} for scan in scans), {"type": "text", "text": text}]


def test_a_processor_by_its_name_on_the_hub_brings_its_question_tokenizer(folder, parts, tmp_path):
    cache_as_hub(folder, tmp_path / "cache", "somebody/model")
    found = AutoProcessor.from_pretrained("somebody/model", cache_dir=tmp_path / "cache", local_files_only=True)
    expected = parts[1]("What?")
    assert found.question_tokenizer is not None
    assert torch.equal(found("What?")["question_ids"], expected["question_ids"])
    shutil.rmtree(folder / "question_tokenizer")
    cache_as_hub(folder, tmp_path / "cache", "somebody/plain")
    plain = AutoProcessor.from_pretrained("somebody/plain", cache_dir=tmp_path / "cache", local_files_only=True)
    assert plain.question_tokenizer is None


@pytest.mark.parametrize("way", ["save_pretrained", "push_to_hub"])
def test_what_is_uploaded_is_all_that_a_processor_needs(parts, tmp_path, monkeypatch, way):
    uploaded: dict[str, list[str]] = {}

    def create_commit(self, repo_id, operations, **_):
        uploaded[repo_id] = sorted(one.path_in_repo for one in operations)

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: type("Repo", (), {"repo_id": repo_id})())
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    if way == "save_pretrained":
        parts[1].save_pretrained(tmp_path / "out", push_to_hub=True, repo_id="somebody/model")
    else:
        parts[1].push_to_hub("somebody/model")
    parts[1].save_pretrained(tmp_path / "whole")
    whole = [str(file.relative_to(tmp_path / "whole")) for file in (tmp_path / "whole").rglob("*") if file.is_file()]
    assert "question_tokenizer/tokenizer.json" in whole
    assert set(uploaded["somebody/model"]) - {"README.md"} == set(whole)


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM])
def test_every_auto_class_for_such_models_gives_this_one(folder, parts, auto_class):
    found = auto_class.from_pretrained(folder)
    assert type(found) is type(parts[0])
    assert type(auto_class.from_config(parts[0].config)) is type(parts[0])
    assert all(torch.equal(weight, parts[0].state_dict()[name]) for name, weight in found.state_dict().items())


@pytest.mark.parametrize("task", ["image-text-to-text", "any-to-any"])
def test_the_pipeline_answers_messages_about_a_file_as_the_model_does(folder, parts, scan, caplog, task):
    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.WARNING):
        pipe = pipeline(task, model=str(folder))
        (found,) = pipe(text=messages(asks(QUESTION, str(scan))), max_new_tokens=5, return_full_text=False)
    assert not [record for record in caplog.records if "not supported" in record.getMessage()]
    model, processor = parts
    inputs = processor(QUESTION, volumes=scan)
    ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    (expected,) = processor.decode_answers(ids, num_prompt_tokens=inputs["input_ids"].shape[1])
    assert found["generated_text"].strip() == expected
    (plain,) = pipe(text=QUESTION, volumes=str(scan), max_new_tokens=5, return_full_text=False)
    assert plain["generated_text"].strip() == expected
    with pytest.raises(ModelError, match="no prompt asks about volume 1 of 2"):
        pipe(text=[messages(asks(QUESTION, str(scan)))] * 2, batch_size=2, max_new_tokens=5)


def test_the_pipeline_goes_on_from_the_answer_that_the_messages_end_with(folder, scan):
    pipe = pipeline("image-text-to-text", model=str(folder))
    begun = messages(asks(QUESTION, str(scan)), [{"type": "text", "text": "The liver"}])
    (found,) = pipe(text=begun, max_new_tokens=4)
    said = found["generated_text"][-1]
    assert said["role"] == "assistant"
    assert said["content"][0]["text"].startswith("The liver")
    assert len(said["content"][0]["text"]) > len("The liver")


def test_text_is_a_bare_question_or_a_prompt_that_was_rendered(parts, scan):
    processor = parts[1]
    expected = processor(QUESTION, volumes=scan)
    rendered = processor.apply_chat_template(messages(asks(QUESTION, scan)), add_generation_prompt=True)
    assert rendered == processor.render(QUESTION)
    for text in (QUESTION, rendered, [rendered]):
        for scans in ({"images": scan}, {"volumes": str(scan)}, {"images": [slicesight.read_volume(scan)]}):
            found = processor(text=text, return_tensors="pt", padding=True, **scans)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)
    later = messages(asks(QUESTION, scan), "The liver.", "And the spleen?")
    with pytest.raises(InputError, match="a prompt of several turns"):
        processor(text=processor.apply_chat_template(later, add_generation_prompt=True), images=scan)


def test_text_that_only_begins_like_a_prompt_is_refused(make_processor, make_model):
    processor = make_processor(make_model(), template="phi")
    whole = processor.render("What?")
    expected = processor("What?")
    assert torch.equal(processor(text=whole)["input_ids"], expected["input_ids"])
    assert torch.equal(processor(text=whole)["question_mask"], expected["question_mask"])
    with pytest.raises(InputError, match="does not end with 'ASSISTANT:'"):
        processor(text=whole.removesuffix("ASSISTANT:"))


def test_messages_give_the_same_inputs_as_questions_with_their_history(parts, scan):
    processor = parts[1]
    turns = messages(asks(QUESTION, scan), "The liver.", "Is it enlarged?")
    found = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=True)
    expected = processor("Is it enlarged?", history=[[(QUESTION, "The liver.")]], volumes=scan)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    ids = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=True)
    assert torch.equal(ids, expected["input_ids"])
    finished = messages(asks(QUESTION, scan), "The liver.")
    learnt = processor.apply_chat_template(finished, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    answered = processor(QUESTION, answers="The liver.", volumes=scan)
    assert torch.equal(learnt["input_ids"], answered["input_ids"])
    assert torch.equal(learnt["assistant_masks"].bool(), answered["labels"] != -100)


@pytest.mark.parametrize("template", ["phi", "short", "lamed"])
def test_the_saved_chat_template_renders_what_the_model_was_trained_with(make_model, tokenizer, tmp_path, template):
    from slicesight.models.med2e3 import Med2E3Processor

    processor = Med2E3Processor(tokenizer, num_visual_tokens=3, template=template)
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").is_file()
    again = Med2E3Processor.from_pretrained(tmp_path)
    place = processor.prompt.place
    turns = messages([{"type": "image"}, *asks(" Is it <large>? ")], "Yes.", "How?")
    history = [(place + "Is it <large>?", "Yes.")]
    for system in (None, "Be brief. "):
        told = [] if system is None else [{"role": "system", "content": system}]
        found = again.apply_chat_template(told + turns, add_generation_prompt=True)
        assert found == processor.render("How?", history=history, system=system)
        begun = [*told, *turns, {"role": "assistant", "content": "Very"}]
        found = again.apply_chat_template(begun, continue_final_message=True)
        assert found == processor.render("How?", history=history, system=system, prefix="Very")
        assert again.apply_chat_template(begun) == processor.render(
            "How?", history=history, system=system, answer="Very"
        )


def test_another_chat_template_is_refused_and_not_left_out(parts, folder):
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(ModelError, match=r"chat_template gives .* where this model's own prompt is") as caught:
        AutoProcessor.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="chat_template gives"):
        parts[1].apply_chat_template(messages("What?"), chat_template="x", add_generation_prompt=True)


def test_a_system_message_stands_before_the_question_and_weighs_no_slice(parts, scan):
    model, processor = parts
    plain, told = (processor(QUESTION, volumes=scan, system=system) for system in (None, "Answer in German. <eos>"))
    assert processor.render(QUESTION, system="Be brief.") == f"Be brief.\n<image3d>\n{QUESTION} Answer:"
    assert processor.tokenizer.eos_token_id not in told["input_ids"][0]
    assert "German" in processor.tokenizer.decode(told["input_ids"][0])
    torch.testing.assert_close(model(**told).slice_scores, model(**plain).slice_scores, rtol=0, atol=1e-6)
    assert (model(**told).logits[0, -1] - model(**plain).logits[0, -1]).abs().max() > 1e-4


def test_the_beginning_of_an_answer_is_tokenised_as_the_answer_it_begins(parts, scan):
    processor = parts[1]
    begun = processor(QUESTION, volumes=scan, prefix="The liver")["input_ids"]
    answered = processor(QUESTION, volumes=scan, answers="The liver is enlarged.")["input_ids"]
    assert begun[0].tolist() == answered[0, : begun.shape[1]].tolist()
    assert begun.shape[1] > processor(QUESTION, volumes=scan)["input_ids"].shape[1]
    with pytest.raises(InputError, match="an answer and a prefix"):
        processor(QUESTION, answers="No.", prefix="The")


def test_several_scans_in_messages_are_shown_each_in_its_place(parts, scan, volumes):
    model, processor = parts
    first, second = volumes[0, 0].numpy(), volumes[1, 0].numpy()
    turns = messages(asks("Is it large?", first), "Yes.", asks("And now?", second, scan))
    found = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert found["volume_index"].tolist() == [[0, 1, 2]]
    assert torch.equal(found["volumes"][:2], volumes[:2])
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    assert text == "<image3d>\nIs it large? Answer: Yes.<eos><image3d>\n<image3d>\nAnd now? Answer:"
    output = model(**found)
    assert output.slice_scores.shape == (1, 3, 8)
    swapped = messages(asks("Is it large?", second), "Yes.", asks("And now?", first, scan))
    other = processor.apply_chat_template(swapped, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert (model(**other).logits - output.logits).abs().max() > 1e-4
    both = processor([QUESTION, "Is it large?"], images=[[first, second], [first]])
    assert both["volume_index"].tolist() == [[0, 1], [0, -1]]
    assert len(both["volumes"]) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "expected a list of"),
        ([{"role": "assistant", "content": "x"}], "messages.0.role is 'assistant', expected 'user'"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "y"}], "messages.1.role is 'system'"),
        ([{"role": "user", "content": [{"type": "video"}]}], "messages.0.content.0 is of type 'video'"),
        ([{"role": "system", "content": [{"type": "image"}]}], "messages.0 is the system's and holds a scan"),
        ([{"role": "system", "content": "x"}], "hold no question"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "continue_final_message=True"),
        ([{"role": "user", "content": [{"type": "image"}, {"type": "image", "path": "a"}]}], "names 1; name all"),
    ],
)
def test_messages_that_cannot_be_meant_are_refused_in_one_line(parts, given, words):
    with pytest.raises(InputError, match=words) as caught:
        parts[1].apply_chat_template(given, add_generation_prompt=True, tokenize=True)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_obeyed_is_refused_and_not_left_out(parts, scan):
    processor = parts[1]
    with pytest.raises(InputError, match="calls no tools"):
        processor.apply_chat_template(messages("What?"), tools=[{"type": "function"}], add_generation_prompt=True)
    with pytest.raises(InputError, match="a picture of 8×8 pixels is no 3D scan"):
        processor("What?", images=Image.new("L", (8, 8)))
    with pytest.raises(InputError, match="give the questions once"):
        processor("What?", text="What?")
    with pytest.raises(InputError, match="give the scans once"):
        processor("What?", images=scan, volumes=scan)
    with pytest.raises(ModelError, match="truncation is True"):
        processor("What?", truncation=True)
    with pytest.raises(InputError, match="the messages end with a question"):
        processor.apply_chat_template(messages("What?"), tokenize=True)


def test_the_output_comes_as_a_tuple_on_wish(parts, scan):
    model, processor = parts
    inputs = processor(QUESTION, volumes=scan)
    whole = model(**inputs)
    logits, *_ = found = model(**inputs, return_dict=False)
    assert torch.equal(logits, whole.logits)
    assert torch.equal(found[-1], whole.slice_scores)
    model.config.return_dict = False
    assert torch.equal(model(**inputs)[0], whole.logits)
    generated = model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True)
    assert generated.slice_scores is not None


@pytest.mark.parametrize("is_training", [False, True])
def test_labels_that_are_shifted_already_are_learnt_as_they_stand(parts, scan, is_training):
    model, processor = parts
    model.train(is_training)
    inputs = processor([QUESTION, "Is it large?"], answers=["The liver.", "No, it is not."], volumes=scan)
    expected = model(**inputs).loss
    labels = inputs.pop("labels")
    shifted = torch.cat([labels[:, 1:], torch.full((2, 1), -100)], dim=1)
    assert torch.equal(model(**inputs, shift_labels=shifted).loss, expected)
    assert torch.equal(model(**inputs, labels=labels.roll(1), shift_labels=shifted).loss, expected)
    shifted[:, -1] = 5  # of the token behind the last one, which labels cannot name
    assert not torch.equal(model(**inputs, shift_labels=shifted).loss, expected)


def test_image_features_are_what_forward_takes_again(parts, scan):
    model, processor = parts
    inputs = processor(QUESTION, volumes=scan)
    found = model.get_image_features(inputs["volumes"])
    assert found.last_hidden_state.shape == (1, 8 * 16, 32)
    (tokens,) = found.pooler_output
    assert torch.equal(tokens[-8 * 16 :], found.last_hidden_state[0])
    assert len(tokens) > 8 * 16
    expected = model(**inputs).logits
    del inputs["volumes"]
    assert torch.equal(model(**inputs, volume_features=found.features).logits, expected)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2, "num_return_sequences": 2}, {"do_sample": True}])
def test_generate_gives_the_slice_scores_beside_the_text(parts, scan, settings):
    model, processor = parts
    inputs = processor([QUESTION, "Is it large?"], volumes=scan)
    found = model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True, **settings)
    assert torch.allclose(found.slice_scores, model(**inputs).slice_scores, atol=1e-6)
    assert found["slice_scores"] is found.slice_scores


def test_tied_weights_are_stored_once_and_are_tied_again(make_model, tmp_path):
    text = {**make_model().config.text_config.to_dict(), "tie_word_embeddings": True}
    model = make_model(text_config=text)
    model.save_pretrained(tmp_path)
    from safetensors import safe_open

    with safe_open(tmp_path / "model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
    assert ("language_model.lm_head.weight" in names) + ("language_model.model.embed_tokens.weight" in names) == 1
    again, found = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"]
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_a_model_is_built_without_memory_and_filled_later(folder, parts, scan):
    with accelerate.init_empty_weights():
        empty = AutoModelForImageTextToText.from_config(parts[0].config)
    assert {weight.device.type for weight in empty.parameters()} == {"meta"}
    filled = accelerate.load_checkpoint_and_dispatch(empty, str(folder), device_map={"": "cpu"}).eval()
    inputs = parts[1](QUESTION, volumes=scan)
    torch.testing.assert_close(filled(**inputs).logits, parts[0](**inputs).logits)


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}])
def test_device_maps_place_the_model(folder, parts, scan, device_map):
    model = AutoModelForImageTextToText.from_pretrained(folder, device_map=device_map).eval()
    inputs = parts[1](QUESTION, volumes=scan)
    torch.testing.assert_close(model(**inputs).logits, parts[0](**inputs).logits)


def test_parts_that_lie_on_the_disk_answer_as_the_whole_does(folder, parts, scan, tmp_path):
    names = [name for name, _ in parts[0].named_children()]
    device_map = {name: "disk" if name != "projector_2d" else "cpu" for name in names}
    model = AutoModelForImageTextToText.from_pretrained(
        folder, device_map=device_map, offload_folder=tmp_path / "offload"
    ).eval()
    assert "meta" in {weight.device.type for weight in model.parameters()}
    inputs = parts[1]([QUESTION, "Is it large?"], volumes=scan)
    torch.testing.assert_close(model(**inputs).logits, parts[0](**inputs).logits)
    settings = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}
    found, expected = model.generate(**inputs, **settings), parts[0].generate(**inputs, **settings)
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(found.slice_scores, expected.slice_scores)


WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_rounds_the_language_model_and_leaves_the_scores_whole(
    make_model, make_processor, volumes, tmp_path, bits
):
    base = make_model()
    text = {**base.config.text_config.to_dict(), **WIDE, "head_dim": None}
    model = make_model(text_config=text, vision2d_config={**base.config.vision2d_config.to_dict(), **WIDE})
    processor = make_processor(model)
    model.save_pretrained(tmp_path)
    settings = BitsAndBytesConfig(**{f"load_in_{bits}bit": True}, bnb_4bit_compute_dtype=torch.float32)

    def load():
        return AutoModelForImageTextToText.from_pretrained(
            tmp_path, quantization_config=settings, dtype=torch.float32
        ).eval()

    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(ImportError, match="bitsandbytes"):
            load()
        return
    rounded = load()
    found = {name for name, weight in rounded.named_parameters() if not weight.is_floating_point()}
    assert {name.split(".")[0] for name in found} == {"language_model", "vision2d"}
    assert settings.llm_int8_skip_modules is None
    inputs = processor(QUESTION, volumes=volumes[:1])
    output, expected = rounded(**inputs), model(**inputs)
    assert 0 < (output.logits - expected.logits).std() < 0.7 * expected.logits.std()
    assert output.slice_scores.sum().item() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(output.slice_scores, expected.slice_scores, rtol=0, atol=0.1)
    assert rounded.generate(**inputs, max_new_tokens=3, do_sample=False).shape[0] == 1


def test_an_answer_goes_on_from_the_cache_it_left(parts, scan):
    model, processor = parts
    inputs = processor(QUESTION, volumes=scan)
    settings = {"do_sample": False, "return_dict_in_generate": True, "eos_token_id": -1, "pad_token_id": 0}
    whole = model.generate(**inputs, max_new_tokens=6, **settings)
    part = model.generate(**inputs, max_new_tokens=3, **settings)
    length = part.sequences.shape[1]
    inputs["input_ids"], inputs["attention_mask"] = part.sequences, torch.ones(1, length, dtype=torch.long)
    rest = model.generate(**inputs, past_key_values=part.past_key_values, max_new_tokens=3, **settings)
    assert torch.equal(rest.sequences, whole.sequences)


def test_a_smaller_model_may_draft_the_answer(parts, make_model, scan):
    model, processor = parts
    inputs = processor(QUESTION, volumes=scan)
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    expected = model.generate(**inputs, **settings)
    assert torch.equal(model.generate(**inputs, assistant_model=make_model(seed=1), **settings), expected)


def test_a_mask_that_is_not_the_prompts_is_one_line(parts, scan):
    inputs = parts[1](QUESTION, volumes=scan)
    inputs["input_ids"] = torch.nn.functional.pad(inputs["input_ids"], (3, 0))
    inputs["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (3, 0))
    with pytest.raises(ModelError, match=r"question_mask has shape .* and input_ids .*: pad both alike"):
        parts[0](**inputs)


def test_foreign_code_is_never_needed(folder):
    for part in (AutoProcessor, AutoModelForImageTextToText):
        part.from_pretrained(folder, trust_remote_code=False)
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert not [file for file in files if file.suffix == ".py" or b"auto_map" in file.read_bytes()]
