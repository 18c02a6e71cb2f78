"""What a user's tools do with the model: LoRA by PEFT, gradient checkpointing, torch.compile, several turns, bf16."""

import pytest
import torch

from slicesight.errors import ModelError
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration

QUESTIONS = ["What is shown in this image?", "Is the liver enlarged?"]


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def processor(make_processor, model):
    return make_processor(model)


@pytest.fixture
def batch(processor, volumes):
    return processor(QUESTIONS, volumes=volumes[:1], answers=["The liver is enlarged.", "No."])


def test_lora_trains_only_its_adapters_and_loads_and_merges_back(
    make_model, model, processor, volumes, batch, tmp_path
):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    adapted = peft.get_peft_model(model, config)
    optimiser = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.05)
    before = adapted(**batch).loss
    for _ in range(3):
        adapted.train()(**batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert not adapted.base_model.model.vision2d.training
    assert all("lora" in name for name, p in adapted.named_parameters() if p.requires_grad)
    after = adapted.eval()(**batch)
    assert after.loss < before
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(make_model(), tmp_path).eval()
    torch.testing.assert_close(again(**batch).logits, after.logits)
    torch.testing.assert_close(again.merge_and_unload()(**batch).logits, after.logits, rtol=1e-4, atol=1e-5)
    asked = processor(QUESTIONS, volumes=volumes[:1])
    ids = adapted.generate(**asked, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert ids.shape == (2, asked["input_ids"].shape[1] + 3)


def test_checkpointed_activations_give_the_same_loss_and_gradients(make_model, batch):
    results = []
    for checkpointed in (False, True):
        model = make_model().train()
        if checkpointed:
            model.activation_checkpointing_enable()
        loss = model(**batch).loss
        loss.backward()
        results.append((loss, {name: p.grad for name, p in model.named_parameters()}))
    (plain, gradients), (again, same) = results
    torch.testing.assert_close(plain, again)
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, msg=name)


@pytest.mark.slow
def test_the_compiled_model_is_one_graph_with_the_same_logits_and_scores(model, batch):
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        found, expected = compiled(**batch), model(**batch)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.slice_scores, expected.slice_scores)
    torch.testing.assert_close(found.loss, expected.loss)


@pytest.mark.slow
def test_the_model_compiled_to_machine_code_agrees(model, batch):
    torch.compiler.reset()
    with torch.no_grad():
        found, expected = torch.compile(model)(**batch), model(**batch)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)


def test_a_later_turn_is_scored_by_the_latest_question_with_the_volume_in_the_first(model, processor, volumes):
    history = [("Is there a lesion in the spleen?", "No.")]
    later = processor(QUESTIONS[1], volumes=volumes[:1], history=[history])
    alone = processor(QUESTIONS[1], volumes=volumes[:1])
    text = processor.render(QUESTIONS[1], history=history)
    assert text.index("<image3d>") < text.index("spleen") < text.index("enlarged")
    torch.testing.assert_close(model(**later).slice_scores, model(**alone).slice_scores, rtol=0, atol=1e-6)
    other = processor("And the spleen?", volumes=volumes[:1], history=[history])
    assert (model(**other).slice_scores - model(**later).slice_scores).abs().max() > 1e-3
    assert (model(**later).logits[0, -1] - model(**alone).logits[0, -1]).abs().max() > 1e-4


def test_weights_saved_in_bfloat16_load_in_bfloat16_and_answer(model, processor, volumes, tmp_path):
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    again = Med2E3ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert again.dtype == torch.bfloat16
    asked = processor(QUESTIONS, volumes=volumes[:1])
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    saved, loaded = model.state_dict(), again.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    # `to` rounded the rotary frequencies too, which are no weights and stay float32 in what is loaded
    twice = Med2E3ForConditionalGeneration.from_pretrained(tmp_path).eval()
    ids = again.generate(**asked, **settings)
    assert ids.shape[1] == asked["input_ids"].shape[1] + 3
    assert torch.equal(twice.generate(**asked, **settings), ids)


def test_sampling_several_answers_of_each_question(model, processor, volumes):
    torch.manual_seed(0)
    asked = processor(QUESTIONS, volumes=volumes[:1])
    ids = model.generate(**asked, do_sample=True, num_return_sequences=3, max_new_tokens=4, min_new_tokens=4)
    assert ids.shape[0] == 6
    answers = ids[:, asked["input_ids"].shape[1] :]
    assert len({tuple(row.tolist()) for row in answers}) > 1
    assert (answers != model.config.placeholder_token_id).all()


def test_the_layers_to_keep_whole_are_layers_of_this_model(make_model):
    model = make_model()
    assert "LlamaDecoderLayer" in model._no_split_modules
    assert model._no_split_modules <= {type(module).__name__ for module in model.modules()}


def test_an_adapters_folder_is_read_with_its_base_or_says_of_which_model_it_is(make_model, make_processor, tmp_path):
    peft = pytest.importorskip("peft")
    model = make_model()
    processor = make_processor(model)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "base")
    base = Med2E3ForConditionalGeneration.from_pretrained(tmp_path / "base")
    peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "lora")
    found = Med2E3ForConditionalGeneration.from_pretrained(tmp_path / "lora")
    assert any("lora_A" in name for name, _ in found.named_parameters())
    with pytest.raises(ModelError, match=r"lora: holds a LORA adapter of .*base, not a whole model, and no processor"):
        type(processor).from_pretrained(tmp_path / "lora")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=r"adapter of .*base, .* that model cannot be read; load that model") as caught:
        Med2E3ForConditionalGeneration.from_pretrained(tmp_path / "lora")
    assert "\n" not in str(caught.value)
