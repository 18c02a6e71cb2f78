"""Does every prompt of a batch look at its own volume, however the batch was made?"""

import nibabel
import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments, default_data_collator

from slicesight.errors import InputError, ModelError
from slicesight.models.med2e3 import Med2E3Collator

QUESTIONS = ["What is shown in this image?", "Is there a lesion in the spleen?", "No?"]
ANSWERS = ["The liver.", "No.", "Yes, a lesion."]


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def processor(model, make_processor):
    return make_processor(model, grid={"num_slices": 8, "height": 32, "width": 32})


def squeezed(processor, question, **arguments):
    """An item as many a data set holds it: without the processor's axis of one."""
    return {name: value[0] for name, value in processor(question, **arguments).items()}


def test_what_the_default_collator_makes_of_two_volumes_is_refused(model, processor, volumes):
    items = [squeezed(processor, "What is shown?", volumes=volumes[row]) for row in range(2)]
    batch = default_data_collator(items)
    assert batch["volume_index"].tolist() == [[0], [0]]
    for call in (model, model.generate):
        with pytest.raises(ModelError, match=r"volume 1 of 2: .* Med2E3Collator") as caught:
            call(**batch)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("is_squeezed", [True, False])
@pytest.mark.parametrize("with_answers", [True, False])
def test_encoded_items_become_the_batch_that_the_processor_makes_itself(processor, volumes, is_squeezed, with_answers):
    answers = ANSWERS if with_answers else [None] * 3
    items = []
    for row, question in enumerate(QUESTIONS):
        item = dict(processor(question, volumes=volumes[row], answers=answers[row]))
        items.append({name: value[0] for name, value in item.items()} if is_squeezed else item)
    expected = processor(QUESTIONS, volumes=volumes, answers=ANSWERS if with_answers else None)
    batch = Med2E3Collator(processor)(items)
    assert batch.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(batch[name], tensor), name


def test_questions_become_the_same_batch_and_a_shared_scan_is_encoded_once(processor, volumes):
    items = [{"question": q, "answer": a, "volumes": volumes[0]} for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
    items[1]["volumes"] = volumes[1]
    items[2]["volumes"] = items[0]["volumes"]
    batch = Med2E3Collator(processor)(items)
    assert batch["volume_index"].tolist() == [[0], [1], [0]]
    expected = processor(QUESTIONS, volumes=volumes[:2], answers=ANSWERS, volume_index=[0, 1, 0])
    for name, tensor in expected.items():
        assert torch.equal(batch[name], tensor), name


def test_all_answers_of_a_conversation_are_learnt_where_asked_for(processor, volumes):
    item = {"question": "And?", "answer": "No.", "history": [("Large?", "Yes.")], "volumes": volumes[0]}
    last, every = (Med2E3Collator(processor, supervise=which)([item])["labels"] for which in ("last", "all"))
    learnt = [processor.tokenizer.decode(labels[labels >= 0]) for labels in (last, every)]
    assert learnt == [" No.<eos>", " Yes.<eos> No.<eos>"]


def test_prompts_of_several_volumes_of_one_and_of_none_stand_in_one_batch(model, processor, volumes):
    items = [
        {"question": "Compare.", "volumes": [volumes[0], volumes[1]]},
        {"question": "What?"},
        {"question": "What?", "volumes": volumes[2]},
    ]
    batch = Med2E3Collator(processor)(items)
    assert batch["volume_index"].tolist() == [[0, 1], [-1, -1], [2, -1]]
    encoded = [
        processor("Compare.", volumes=volumes[:2], volume_index=[[0, 1]]),
        processor("What?", volume_index=[[]]),
        processor("What?", volumes=volumes[2]),
    ]
    again = Med2E3Collator(processor)(encoded)
    for name, tensor in batch.items():
        assert torch.equal(again[name], tensor), name
    assert torch.isfinite(model(**batch).logits).all()


def test_the_text_encoders_questions_are_padded_too(make_model, make_processor, tokenizer, volumes):
    bert = {"model_type": "bert", "vocab_size": 320, "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 1, "intermediate_size": 8}  # fmt: skip
    model = make_model(question_source="text_encoder", text_encoder_config=bert)
    questions = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="a")
    processor = make_processor(model, question_tokenizer=questions)
    assert processor.question_padding not in (0, tokenizer.pad_token_id)
    items = [squeezed(processor, question, volumes=volumes[row]) for row, question in enumerate(QUESTIONS)]
    batch, expected = Med2E3Collator(processor)(items), processor(QUESTIONS, volumes=volumes)
    for name in ("question_ids", "question_ids_mask"):
        assert torch.equal(batch[name], expected[name]), name


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "there are no items"),
        ([{"volumes": 1}], r"item 0 has the keys \['volumes'\]; expected 'question' .* remove_unused_columns=False"),
        ([{"question": "a", "image": 1}], r"item 0 has the keys \['image', 'question'\]"),
        ([{"question": "a", "answer": "b"}, {"question": "a"}], "some items have 'answer' and others none"),
    ],
)
def test_items_that_make_no_batch_are_refused_in_one_line(processor, items, words):
    with pytest.raises(InputError, match=words) as caught:
        Med2E3Collator(processor)(items)
    assert "\n" not in str(caught.value)


def test_an_encoded_item_of_several_questions_or_with_a_wrong_index_is_refused(processor, volumes):
    several = processor(QUESTIONS[:2], volumes=volumes[:1])
    with pytest.raises(InputError, match=r"item 0: attention_mask has shape \(2, \d+\); expected one question"):
        Med2E3Collator(processor)([several])
    item = squeezed(processor, "What?", volumes=volumes[0])
    with pytest.raises(InputError, match=r"item 1 asks about volume 1 and holds 1; an item's volume_index counts"):
        Med2E3Collator(processor)([item, {**item, "volume_index": torch.tensor([1])}])
    del item["volumes"]
    with pytest.raises(InputError, match=r"item 0 asks about volume 0 and holds 0"):
        Med2E3Collator(processor)([item])


def test_a_trainer_trains_on_files_with_it(model, processor, tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for number in range(2):
        voxels = rng.integers(-1000, 1000, (24, 24, 10)).astype(np.int16)
        paths.append(tmp_path / f"scan_{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-2.0, -2.0, 3.0, 1.0])), paths[-1])
    texts = zip(QUESTIONS, ANSWERS, strict=True)
    items = [{"question": q, "answer": a, "volumes": paths[n % 2]} for n, (q, a) in enumerate(texts)]
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(tmp_path / "run"), per_device_train_batch_size=3, max_steps=3, learning_rate=1e-2,
            remove_unused_columns=False, report_to=[], save_strategy="no", logging_steps=1, use_cpu=True,
        ),
        train_dataset=items,
        data_collator=Med2E3Collator(processor),
    )  # fmt: skip
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
