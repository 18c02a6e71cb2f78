"""Imagined tokens hold the words of what a scan shows, where it shows it, and strongly what the question names."""

from __future__ import annotations

import numpy as np
import pytest

from slicesight.data.manifest import Conversation
from slicesight.errors import InputError
from slicesight.training.stage0.imagined_scans import LabelMapStage0
from slicesight.training.stage0.labels import LabelWords
from slicesight.training.stage0.sections import TokenGrids
from slicesight.training.start import train_tokenizer

GRIDS = TokenGrids(deep=(2, 2, 2), flat=(1, 2, 2))


@pytest.fixture(scope="module")
def source(scans) -> LabelMapStage0:
    return LabelMapStage0(scans)


@pytest.fixture(scope="module")
def words(source) -> LabelWords:
    names = (*source.scheme.cell_labels, *source.scheme.whole_labels)
    return LabelWords(train_tokenizer([f"The {name} is {name}" for name in names] * 9, vocab_size=500), source.scheme)


def asks(question: str, *choices: str) -> Conversation:
    if not choices:
        return Conversation(task="open", topic="presence", question=question, answer="yes")
    return Conversation(
        task="closed", topic="which", question=question, choices=choices, answer=choices[0], answer_choice="A"
    )


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (asks("Is the Heart in view?"), {"heart"}),
        (asks("Is the hearth in view?"), set()),
        (asks("Where is the calculus?"), {"stone"}),
        (asks("Is the right lung larger than the left?"), {"left lung", "right lung"}),
        (asks("Is the right lung in view?"), {"right lung"}),
        (asks("Which lung is larger?"), {"left lung", "right lung"}),
        (asks("Are both lungs seen?"), {"left lung", "right lung"}),
        (asks("Which of these is in view?", "stone", "heart"), {"heart", "stone"}),
        (asks("Which modality is it?"), set()),
    ],
)
def test_a_question_asks_about_what_it_names(source, asked, expected) -> None:
    assert source.asked_about(asked) == expected


def mean_bags(source, words, scan: int, asked: Conversation) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.mean([source.imagine(scan, asked, words, GRIDS, rng) for _ in range(200)], axis=0)


def test_2d_tokens_show_strongly_what_is_asked_and_3d_tokens_where_it_lies(source, words, scans) -> None:
    heart = words.of_label["heart"][0]
    asked, other = (mean_bags(source, words, 0, asks(f"Is the {name} in view?")) for name in ("heart", "stone"))
    assert asked.shape == (8 + 4, len(words))
    lies = scans.shown_in(0, GRIDS.flat)[:, scans.scheme.cell_labels.index("heart")] > 0
    assert lies.any()
    assert (asked[8:, heart][lies] > 1.8 * other[8:, heart][lies]).all()
    assert not asked[8:, heart][~lies].any()
    deep = scans.shown_in(0, GRIDS.deep)[:, scans.scheme.cell_labels.index("heart")] > 0
    assert (asked[:8, heart] > 0.1).tolist() == deep.tolist()
    assert asked[:8, heart].max() < 0.6, "faintly"


def test_every_token_says_what_the_whole_scan_is_where_it_is_stated(source, words) -> None:
    chest, ct = words.of_label["chest"][0], words.of_label["CT"][0]
    for scan, is_stated in ((0, False), (1, True)):
        bags = mean_bags(source, words, scan, asks("Which region is it?"))
        assert (bags[:, ct] > 0.3).all()
        assert (bags[:, chest] > 0.3).all() == is_stated


def test_what_is_drawn_but_out_of_view_is_not_imagined_and_what_nobody_drew_may_be(source, words, scans) -> None:
    stone = scans.scheme.cell_labels.index("stone")
    assert scans.known[0, :, stone].all()
    position = words.of_label["stone"][0]
    hidden = scans.labels.copy()
    hidden[hidden == stone + 1] = 0
    from dataclasses import replace

    unseen = LabelMapStage0(replace(scans, labels=hidden))
    assert not mean_bags(unseen, words, 0, asks("Is the stone in view?"))[:, position].any()
    assert mean_bags(source, words, 1, asks("Is the heart in view?"))[:, position].any()


def test_reports_and_questions_are_drawn_from_the_cases_own(source) -> None:
    rng = np.random.default_rng(0)
    asked = source.draw(rng, 40, report=False)
    assert len(asked) == 40
    assert {conversation.task for _, conversation in asked} == {"open"}
    assert all(conversation in source.scans.cases[number].conversations for number, conversation in asked)
    reports = source.draw(rng, 40, report=True)
    assert len(reports) == 8
    assert {conversation.task for _, conversation in reports} == {"report"}


def test_without_conversations_the_language_model_has_nothing_to_learn(scans) -> None:
    from dataclasses import replace

    silent = [case.model_copy(update={"conversations": ()}) for case in scans.cases]
    with pytest.raises(InputError, match="pretrain_language needs conversations"):
        LabelMapStage0(replace(scans, cases=silent)).draw(np.random.default_rng(0), 4, report=False)
