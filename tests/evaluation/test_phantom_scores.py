"""Scores on phantoms: what counts as right, and what the evidence figures mean."""

import pytest
import torch
from phantom_scores import (
    AskedQuestion,
    ask_phantoms,
    evidence,
    interval,
    majority_answers,
    score,
    triple_scores,
)

from slicesight.data.choices import with_letter
from slicesight.data.manifest import Conversation
from slicesight.inference.answers import NO_WORDS, printable
from slicesight.phantoms.anatomy import Finding, PhantomTruth

CLOSED = Conversation(
    task="closed",
    topic="organ",
    question="Which organ?",
    choices=("liver", "spleen"),
    answer="spleen",
    answer_choice="B",
)
OPEN = Conversation(task="open", topic="organ", question="Which organ?", answer="right lung")


def asked(conversation: Conversation, prediction: str, case: int = 0, **fields) -> AskedQuestion:
    return AskedQuestion(case=case, conversation=conversation, prediction=prediction, **fields)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("B. spleen", True),
        ("(B)", True),
        ("B", True),
        ("A. spleen", False),
        ("spleen", True),
        ("B. liver", False),
        ("Both", False),
        ("", False),
    ],
)
def test_a_closed_answer_names_the_right_choice_and_no_other(prediction: str, expected: bool) -> None:
    assert asked(CLOSED, prediction).is_right is expected


def test_an_open_answer_must_have_the_same_words() -> None:
    assert asked(OPEN, "Right lung.").is_right
    assert not asked(OPEN, "left lung").is_right
    assert not asked(OPEN, "the right lung").is_right


def test_triples_count_over_all_reports() -> None:
    true = "There is a large cyst in the tail of the pancreas. A small lipoma is seen in the head of the pancreas."
    half = "There is a small cyst in the tail of the pancreas."
    wrong = "There is a large cyst in the head of the pancreas."
    numbers = triple_scores([(true, half), (true, wrong)])
    assert numbers == {"precision": 0.5, "recall": 0.25, "f1": pytest.approx(1 / 3)}
    assert triple_scores([(true, "")])["f1"] == 0.0


def test_evidence_is_one_on_the_true_slices_and_zero_for_an_even_spread() -> None:
    pointed = asked(OPEN, "", scores=(0.0, 1.0, 0.0, 0.0), true_grid_slices=(1,))
    even = asked(OPEN, "", scores=(0.25,) * 4, true_grid_slices=(1,))
    away = asked(OPEN, "", scores=(1.0, 0.0, 0.0, 0.0), true_grid_slices=(1,))
    assert evidence([pointed])["excess"] == pytest.approx(1.0)
    assert evidence([even])["excess"] == pytest.approx(0.0)
    assert evidence([away])["excess"] < 0
    assert evidence([asked(OPEN, "", scores=(0.25,) * 4, true_grid_slices=(0, 1, 2))]) is None, (
        "shown nearly everywhere"
    )
    assert evidence([asked(OPEN, "")]) is None


def test_scores_are_given_per_topic_and_in_all() -> None:
    rows = [asked(CLOSED, "B. spleen"), asked(CLOSED, "A. liver", case=1), asked(OPEN, "right lung")]
    numbers = score(rows)
    assert (numbers["closed"], numbers["closed_by_topic"], numbers["open"]) == (0.5, {"organ": 0.5}, 1.0)
    assert numbers["num_phantoms"] == 2


def test_the_interval_draws_phantoms_and_not_questions() -> None:
    sure = [asked(CLOSED, "B", case=case) for case in range(30)]
    assert interval(sure, "closed") == (1.0, 1.0)
    clustered = [asked(CLOSED, "B" if case < 5 else "A", case=case) for case in range(10) for _ in range(20)]
    single = [asked(CLOSED, "B" if case < 100 else "A", case=case) for case in range(200)]
    wide, narrow = interval(clustered, "closed"), interval(single, "closed")
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0]), "200 answers about 10 phantoms say less than about 200"


def test_the_majority_answer_looks_at_training_texts_only() -> None:
    finding = Finding(
        abnormality="cyst",
        organ="spleen",
        part="anterior part",
        diameter_mm=30.0,
        centre_mm=(0, 0, 0),
        source_slices=(3,),
    )
    truth = PhantomTruth(plane="axial", phase="arterial phase", findings=(finding,), organ_slices={"aorta": (1,)})
    rows = majority_answers([(truth, 40)], [asked(CLOSED, ""), asked(OPEN, "")], seed=0)
    assert [row.prediction for row in rows] == ["B. spleen", "spleen"]


def test_the_text_control_is_what_generate_answers_to_the_questions_alone(tiny_reader):
    found = ask_phantoms(tiny_reader, seed=5, count=1, control="text")
    prompts = [row.conversation.prompt for row in found]
    inputs = tiny_reader.processor(prompts, volume_index=[[-1]] * len(prompts))
    inputs.pop("volume_index")
    with torch.inference_mode():
        ids = tiny_reader.model.generate(**inputs, do_sample=False, max_new_tokens=160)
    texts = tiny_reader.processor.decode_answers(ids, num_prompt_tokens=inputs["input_ids"].shape[1])
    expected = [with_letter(prompt, printable(text)) or NO_WORDS for prompt, text in zip(prompts, texts, strict=True)]
    assert [row.prediction for row in found] == expected
    assert all(row.scores == () for row in found)
