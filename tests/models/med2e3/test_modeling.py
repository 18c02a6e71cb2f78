import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from slicesight.errors import ModelError
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration

GOLDEN_LOSSES = [6.49753, 5.94332, 5.25682, 4.82726, 4.52171]
QUESTIONS = ["What is shown in this image?", "Is the liver enlarged?", "No?"]


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def processor(make_processor, model):
    return make_processor(model)


def test_saving_and_loading_through_auto_classes_changes_no_logit(model, processor, volumes, tmp_path):
    batch = processor(QUESTIONS, volumes=volumes)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    reread = AutoProcessor.from_pretrained(tmp_path)(QUESTIONS, volumes=volumes)
    assert isinstance(again, Med2E3ForConditionalGeneration)
    assert AutoConfig.from_pretrained(tmp_path).scoring_inputs == ["text", "3d", "2d"]
    for name in batch:
        assert torch.equal(batch[name], reread[name]), name
    assert torch.equal(model(**batch).logits, again(**reread).logits)


def test_generate_equals_a_greedy_loop_written_by_hand(model, processor, volumes):
    batch = processor(QUESTIONS, volumes=volumes)
    found = model.generate(**batch, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    ids, attention, question = batch["input_ids"], batch["attention_mask"], batch["question_mask"]
    for _ in range(6):
        logits = model(
            input_ids=ids,
            attention_mask=attention,
            question_mask=question,
            volumes=volumes,
            volume_index=batch["volume_index"],
        ).logits[:, -1]
        logits[:, [model.config.text_config.eos_token_id, model.config.placeholder_token_id]] = -torch.inf
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
        attention, question = functional.pad(attention, (0, 1), value=1), functional.pad(question, (0, 1))
    assert torch.equal(found, ids)
    assert len(set(found[:, -6:].flatten().tolist())) > 3, "a model that always says the same token proves nothing"


@pytest.mark.parametrize("settings", [{"use_cache": False}, {"num_beams": 3}, {"num_beams": 3, "use_cache": False}])
def test_beams_and_a_missing_cache_see_the_volumes_encoded_once(model, processor, volumes, settings, monkeypatch):
    batch = processor(QUESTIONS[:2], volumes=volumes, volume_index=[[0, 1], [2]])
    calls, kept = [], []
    encode, see = model.encode_volumes, model.compose_visual_tokens
    monkeypatch.setattr(model, "encode_volumes", lambda given: calls.append(len(given)) or encode(given))
    monkeypatch.setattr(
        model, "compose_visual_tokens", lambda features, *rest: kept.append(features) or see(features, *rest)
    )
    found = model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, **settings)
    assert calls == [3]
    assert {tuple(features.tokens_2d_VNLD.shape[:2]) for features in kept} == {(3, 8)}
    given = model.generate(
        **{name: value for name, value in batch.items() if name != "volumes"},
        volume_features=encode(volumes),
        max_new_tokens=4,
        min_new_tokens=4,
        do_sample=False,
        num_beams=settings.get("num_beams", 1),
    )
    assert torch.equal(found, given)


ABSOLUTE = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 320}


@pytest.mark.parametrize("overrides", [{}, {"text_config": ABSOLUTE}], ids=["rotary positions", "absolute positions"])
def test_padding_side_and_batch_size_change_nothing(make_model, make_processor, volumes, overrides):
    model = make_model(**overrides)
    processor = make_processor(model)
    features = model.encode_volumes(volumes)
    outputs = {}
    for side in ("left", "right"):
        batch = processor(QUESTIONS, volume_index=[1, 0, 2], padding_side=side)
        outputs[side] = model(**batch, volume_features=features), batch["attention_mask"].bool()
    for row, question in enumerate(QUESTIONS):
        batch = processor(question, volumes=volumes[[1, 0, 2][row]])
        alone = model(**batch)
        for output, mask in outputs.values():
            torch.testing.assert_close(output.logits[row][mask[row]], alone.logits[0], rtol=0, atol=2e-5)
            torch.testing.assert_close(output.slice_scores[row], alone.slice_scores[0], rtol=0, atol=1e-6)


def test_many_questions_about_one_volume_equal_the_volume_given_once_each(model, processor, volumes):
    once = model(**processor(QUESTIONS, volumes=volumes[:1]))
    each = model(**processor(QUESTIONS, volumes=volumes[:1].repeat(3, 1, 1, 1, 1)))
    torch.testing.assert_close(once.logits, each.logits, rtol=0, atol=2e-5)


def test_the_same_question_scores_two_volumes_differently_and_two_questions_one_volume(model, processor, volumes):
    scores = model(**processor([QUESTIONS[0], QUESTIONS[0], QUESTIONS[1]], volumes=volumes[:2], volume_index=[0, 1, 0]))
    first, other_volume, other_question = scores.slice_scores[:, 0]
    assert (first - other_volume).abs().max() > 1e-3
    assert (first - other_question).abs().max() > 1e-3


def test_scores_without_the_language_model_equal_those_of_the_forward_pass(model, processor, volumes):
    batch = processor(QUESTIONS, volumes=volumes)
    scores = model.score_slices(model.encode_volumes(volumes), **batch)
    assert torch.equal(scores, model(**batch).slice_scores)


def test_training_loss_from_few_logits_equals_the_plain_one(model, processor, volumes):
    batch = processor(QUESTIONS, volumes=volumes, answers=["The liver", "Yes", "No lesion in the spleen"])
    plain = model(**batch)
    shifted = functional.cross_entropy(plain.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    few = model.train()(**batch)
    assert few.logits.shape[1] < plain.logits.shape[1] / 2
    torch.testing.assert_close(plain.loss, shifted)
    torch.testing.assert_close(few.loss, shifted)
    torch.testing.assert_close(
        few.loss * 3, model(**batch, num_items_in_batch=(batch["labels"] != -100).sum() / 3).loss
    )


def test_frozen_parts_get_no_gradient_and_stay_in_evaluation_mode(model, processor, volumes):
    for part in ("vision3d", "vision2d", "language_model"):
        model.parts[part].requires_grad_(False)
    model.train()
    assert not model.vision2d.training
    assert not model.language_model.training
    assert model.projector_2d.training
    batch = processor(QUESTIONS, volumes=volumes, answers=["a", "b", "c"])
    model(**batch).loss.backward()
    assert all(p.grad is not None for p in model.projector_2d.parameters())
    assert all(p.grad is None for p in model.vision2d.parameters())
    features = model.encode_volumes(volumes)
    assert features.tokens_2d_VNLD.requires_grad


def test_a_whole_step_in_bfloat16_runs_on_a_cpu_and_its_scores_sum_to_one(make_model, make_processor, volumes):
    model = make_model().to(torch.bfloat16)
    batch = make_processor(model)(QUESTIONS, volumes=volumes, answers=["a", "b", "c"])
    output = model.train()(**batch)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    torch.testing.assert_close(output.slice_scores.sum(-1), torch.ones(3, 1), rtol=0, atol=1e-6)


def test_two_volumes_in_one_prompt_each_fill_their_own_place(model, processor, volumes):
    both = processor("Compare.", volumes=volumes[:2], volume_index=[[0, 1]])
    swapped = processor("Compare.", volumes=volumes[:2], volume_index=[[1, 0]])
    seen = processor("Compare.", volumes=volumes[[1, 0]], volume_index=[[1, 0]])
    assert int((both["input_ids"] == model.config.placeholder_token_id).sum()) == 2 * model.num_visual_tokens
    torch.testing.assert_close(model(**both).logits, model(**seen).logits, rtol=0, atol=2e-5)
    assert (model(**both).logits - model(**swapped).logits).abs().max() > 1e-3
    assert model(**both).slice_scores.shape == (1, 2, 8)


def test_a_prompt_without_a_volume_beside_one_with_a_volume(model, processor, volumes):
    batch = processor(["What is a liver?", "What is shown?"], volumes=volumes[:1], volume_index=[[-1], [0]])
    alone = processor("What is a liver?", volume_index=[[-1]])
    mask = batch["attention_mask"][0].bool()
    found, expected = model(**batch), model(**alone)
    torch.testing.assert_close(found.logits[0][mask], expected.logits[0], rtol=0, atol=2e-5)
    assert not found.slice_scores[0].any()
    generated = model.generate(**alone, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert generated.shape[1] == alone["input_ids"].shape[1] + 3


@pytest.mark.parametrize(("volume_index", "words"), [([[3], [0]], "below 3"), ([[-1, 0], [0, 1]], "volumes first")])
def test_a_volume_index_that_points_nowhere_is_refused(model, processor, volumes, volume_index, words):
    batch = processor(QUESTIONS[:2], volume_index=volume_index)
    with pytest.raises(ModelError, match=words):
        model(**batch, volumes=volumes)


def test_placeholders_without_a_volume_and_of_another_model_are_refused(model, processor, volumes):
    with pytest.raises(ModelError, match="no volumes were given"):
        model(**processor("What?"))
    batch = processor("What?", volumes=volumes[:1])
    keep = batch["input_ids"][0] != 2
    keep[int((~keep).nonzero()[0])] = True
    for name in ("input_ids", "attention_mask", "question_mask"):
        batch[name] = batch[name][:, keep]
    with pytest.raises(ModelError, match=r"prompt 0 holds 1 placeholder tokens for 24 visual tokens"):
        model(**batch)


def test_volumes_of_another_size_are_refused_with_both_sizes(model, processor):
    with pytest.raises(ModelError, match=r"\(1, 1, 16, 32, 32\).*8, 32, 32"):
        model.encode_volumes(torch.zeros(1, 1, 16, 32, 32))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"image_size": [7, 32, 32]}, "7 slices .* do not divide by 2 .patch_size"),
        ({"image_size": [10, 32, 32]}, "do not divide by 2 .pool_size"),
        ({"image_size": [8, 48, 48]}, "2D encoder .* 48 x 48"),
        ({"slice_pool": 3}, "slice_pool 3 does not divide the 2D token grid 4 x 4"),
        ({"fusion": "4d"}, "fusion is '4d'; expected one of 3d, 2d, 3d\\+2d"),
        ({"scoring_inputs": ["text"]}, "no image feature"),
        ({"scoring_inputs": ["text", "4d"]}, "4d"),
        ({"question_source": "text_encoder"}, "text_encoder_config is missing"),
        ({"score_scale": 0.0}, "score_scale"),
    ],
)
def test_parts_that_do_not_fit_fail_at_construction_in_one_line(make_model, overrides, words):
    with pytest.raises(ModelError, match=words) as caught:
        make_model(**overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("num_slices", [4, 12, 32])
def test_any_number_of_slices_the_patches_allow_answers(make_model, make_processor, num_slices):
    model = make_model(image_size=[num_slices, 32, 32])
    volumes = torch.rand(1, 1, num_slices, 32, 32)
    output = model(**make_processor(model)("What?", volumes=volumes))
    assert output.slice_scores.shape == (1, 1, num_slices)


def test_five_training_steps_give_the_golden_losses(make_model, make_processor, volumes):
    model = make_model(seed=3).train()
    batch = make_processor(model)(
        QUESTIONS, volumes=volumes, answers=["The liver is enlarged.", "Yes", "No lesion in the spleen"]
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(5):
        loss = model(**batch).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=1e-4)


def test_embeddings_start_with_the_spread_the_text_configuration_asks_for(model):
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}])
def test_generate_gives_the_scores_of_its_prompts_with_the_sequences(model, processor, volumes, settings):
    batch = processor(QUESTIONS, volumes=volumes)
    expected = model(**batch).slice_scores
    found = model.generate(**batch, max_new_tokens=2, return_dict_in_generate=True, **settings)
    assert torch.equal(found.slice_scores, expected)
    ids = batch.pop("input_ids")
    again = model.generate(ids, **batch, max_new_tokens=2, return_dict_in_generate=True, **settings)
    assert torch.equal(again["slice_scores"], expected)
    text = processor(QUESTIONS, volume_index=[[]] * 3)
    assert model.generate(**text, max_new_tokens=2, return_dict_in_generate=True).slice_scores is None
