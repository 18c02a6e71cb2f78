import copy

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from slicesight.errors import InputError, ModelError
from slicesight.models.med2e3.processing import Med2E3Processor, strip_volume_token

IMAGE = 2


@pytest.fixture
def processor(tokenizer):
    return Med2E3Processor(tokenizer, num_visual_tokens=3, template="short")


def decode(processor, ids):
    return processor.tokenizer.decode(ids)


def test_one_image_token_becomes_the_models_number_of_placeholders(processor):
    batch = processor("What is shown?")
    assert (batch["input_ids"] == IMAGE).sum() == 3
    text = decode(processor, [i for i in batch["input_ids"][0].tolist() if i != IMAGE])
    assert text == "\nWhat is shown? Answer:"


@pytest.mark.parametrize("question", ["What is shown in this image?", "<image3d>\nWhat is shown in this image?"])
def test_the_mask_marks_the_bare_question_and_nothing_else(processor, question):
    batch = processor([question, "Is there a lesion in the spleen? "])
    for row, expected in enumerate(["What is shown in this image?", "Is there a lesion in the spleen?"]):
        assert decode(processor, batch["input_ids"][row][batch["question_mask"][row]]) == expected


def test_labels_are_the_answer_and_the_end_token_only(processor):
    batch = processor("What is shown?", answers="The liver.")
    learnt = batch["labels"][0]
    assert decode(processor, learnt[learnt != -100]) == " The liver.<eos>"
    assert torch.equal(batch["input_ids"][0][learnt != -100], learnt[learnt != -100])


def test_a_prompt_alone_is_the_beginning_of_the_prompt_with_its_answer(processor):
    asked, answered = processor("What is shown?"), processor("What is shown?", answers="The liver.")
    length = asked["input_ids"].shape[1]
    assert torch.equal(answered["input_ids"][:, :length], asked["input_ids"])
    assert (answered["labels"][:, :length] == -100).all()


def test_generation_pads_left_and_training_right(processor):
    questions = ["What is shown in this image?", "No?"]
    assert processor(questions)["attention_mask"][1, 0] == 0
    assert processor(questions, answers=["a", "a"])["attention_mask"][1, -1] == 0


@pytest.mark.parametrize(("supervise", "expected"), [("last", " No.<eos>"), ("all", " Yes.<eos> No.<eos>")])
def test_earlier_turns_are_learnt_only_on_request(processor, supervise, expected):
    batch = processor("And the spleen?", history=[[("Is it large?", "Yes.")]], answers="No.", supervise=supervise)
    learnt = batch["labels"][0]
    assert decode(processor, learnt[learnt != -100]) == expected
    assert decode(processor, batch["input_ids"][0][batch["question_mask"][0]]) == "And the spleen?"
    assert (
        processor.render("And the spleen?", history=[("Is it large?", "Yes.")], answer="No.")
        == "<image3d>\nIs it large? Answer: Yes.<eos>And the spleen? Answer: No.<eos>"
    )


def test_several_volumes_have_a_place_each_and_none_has_none(processor):
    assert processor.render("Compare.", num_volumes=2) == "<image3d>\n<image3d>\nCompare. Answer:"
    assert processor.render("What?", num_volumes=0) == "What? Answer:"
    batch = processor(["Compare.", "What?"], volume_index=[[0, 1], []])
    assert batch["volume_index"].tolist() == [[0, 1], [-1, -1]]
    assert (batch["input_ids"] == IMAGE).sum(-1).tolist() == [6, 0]


def test_the_papers_prompt_reads_as_published(tokenizer):
    processor = Med2E3Processor(tokenizer, num_visual_tokens=3)
    assert processor.render("What?", answer="A liver.") == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image3d>\nWhat? ASSISTANT: A liver.<eos>"
    )


def test_an_image_token_in_an_answer_or_without_a_volume_is_refused(processor):
    with pytest.raises(InputError, match="2 <image3d> for 1 volumes"):
        processor("<image3d> or <image3d>?")
    with pytest.raises(InputError, match="1 <image3d> for 0 volumes"):
        processor("<image3d>?", volume_index=[[-1]])


def test_a_prompt_longer_than_the_limit_is_refused_not_cut(tokenizer):
    processor = Med2E3Processor(tokenizer, num_visual_tokens=30, max_length=32)
    with pytest.raises(InputError, match="exceeds max_length 32"):
        processor("What is shown in this image?")


def test_volumes_come_as_arrays_or_tensors_and_must_agree(processor):
    batch = processor(["a", "b"], volumes=[torch.zeros(4, 8, 8), torch.ones(1, 4, 8, 8).numpy()])
    assert batch["volumes"].shape == (2, 1, 4, 8, 8)
    assert batch["volume_index"].tolist() == [[0], [1]]
    with pytest.raises(InputError, match="different shapes"):
        processor(["a", "b"], volumes=[torch.zeros(4, 8, 8), torch.zeros(4, 8, 9)])
    with pytest.raises(InputError, match="3 questions and 2 volumes"):
        processor(["a", "b", "c"], volumes=torch.zeros(2, 1, 4, 8, 8))


def test_settings_survive_saving(tokenizer, tmp_path):
    template = {"system": "S ", "user": "{question}|", "cue": "A:", "answer": "A:{answer}{eos}"}
    processor = Med2E3Processor(
        tokenizer,
        num_visual_tokens=5,
        grid={"num_slices": 8, "window": "lung"},
        template=template,
        max_length=99,
        question_tokenizer=tokenizer,
    )
    processor.save_pretrained(tmp_path)
    again = Med2E3Processor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    assert again.question_tokenizer is not None
    assert again.render("Q", answer="X") == "S <image3d>\nQ|A:X<eos>"
    assert torch.equal(again("What?")["question_ids"], processor("What?")["question_ids"])


def test_unknown_templates_are_refused_by_name(tokenizer):
    with pytest.raises(ModelError, match="template is 'vicuna'; expected one of phi, short"):
        Med2E3Processor(tokenizer, num_visual_tokens=1, template="vicuna")


def test_a_tokenizer_that_opens_with_a_token_opens_every_prompt_once(tokenizer):
    opening = copy.deepcopy(tokenizer)
    opening._tokenizer.post_processor = processors.TemplateProcessing(
        single="<eos> $A", pair="<eos> $A $B", special_tokens=[("<eos>", 1)]
    )
    plain = Med2E3Processor(tokenizer, num_visual_tokens=2, template="short")("What?")["input_ids"][0].tolist()
    assert Med2E3Processor(opening, num_visual_tokens=2, template="short")("What?")["input_ids"][0].tolist() == [
        1,
        *plain,
    ]


def test_a_piece_that_begins_with_a_space_gets_sentencepieces_own_space_too():
    words = {"<unk>": 0, "<eos>": 1, "\u2581": 2, "\u2581\u2581": 3, "A": 4, "Q": 5, "?": 6}
    sentencepiece = Tokenizer(models.BPE(vocab=words, merges=[("\u2581", "\u2581")], unk_token="<unk>"))
    sentencepiece.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=sentencepiece, eos_token="<eos>", pad_token="<eos>")
    template = {"system": "", "user": "{question} ", "cue": "A", "answer": "A{answer}{eos}", "place": "<image3d>"}
    processor = Med2E3Processor(tokenizer, num_visual_tokens=1, template=template)
    batch = processor("Q? <image3d>")
    place = processor.placeholder_token_id
    assert batch["input_ids"][0].tolist() == [2, 5, 6, 2, place, 3, 4]
    assert batch["question_mask"][0].tolist() == [True, True, True, False, False, False, False]


def test_the_bare_question_has_no_image_token():
    assert strip_volume_token("Is it <image3d>\n large?") == "Is it large?"
