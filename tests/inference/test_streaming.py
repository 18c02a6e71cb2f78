"""Pieces joined are the answer, and each comes as soon as nothing can change it; scans come one by one."""

from __future__ import annotations

import pytest

from slicesight.inference.answers import NO_WORDS, AnswerDecoder

OPEN = "What is shown?"
CLOSED = "Which organ? Choices: A. liver B. left kidney C. spleen D. lung"


@pytest.fixture(scope="module")
def shared():
    return {}


@pytest.fixture
def predictor(make_predictor, shared):
    return shared.setdefault("predictor", make_predictor())


def follow(question, texts):
    """Feed growing texts to a AnswerDecoder: what it passed on, and the whole."""
    decoder = AnswerDecoder(question, lambda ids: texts[ids[-1]].strip())
    pieces = [decoder.next_piece([step]) for step in range(len(texts) - 1)]
    last, text = decoder.finish([len(texts) - 1])
    return [*pieces, last], text


def test_pieces_come_at_once_and_join_to_the_text():
    pieces, text = follow(OPEN, ["A", "A ", "A cyst", "A cyst in", "A cyst in the liver."])
    assert pieces == ["A", "", " cyst", " in", " the liver."]
    assert "".join(pieces) == text == "A cyst in the liver."


def test_half_a_letter_waits_for_its_other_half():
    pieces, text = follow(OPEN, ["5\ufffd", "5 µ", "5 µm"])
    assert pieces == ["5", " µ", "m"]
    assert text == "5 µm"


def test_a_closed_answer_waits_for_its_letter():
    pieces, text = follow(CLOSED, ["left", "left kid", "left kidney"])
    assert pieces == ["", "", "B. left kidney"]
    assert text == "B. left kidney"


def test_silence_is_said_at_the_end():
    assert follow(OPEN, ["", ""]) == (["", NO_WORDS], NO_WORDS)


def test_control_characters_are_never_streamed():
    pieces, text = follow(OPEN, ["\x1b[31mred", "\x1b[31mred\x07 now"])
    assert "".join(pieces) == text == "[31mred  now"


def test_streamed_pieces_join_to_what_ask_answers(predictor, make_grid):
    encoded = predictor.encode(make_grid(predictor))
    questions = [OPEN, CLOSED, "Where is the cyst, and how large is it?"]
    expected = predictor.ask(encoded, questions, max_new_tokens=10)
    pieces = list(predictor.ask_stream(encoded, questions, max_new_tokens=10))
    for number, answer in enumerate(expected):
        own = [piece for piece in pieces if piece.number == number]
        assert "".join(piece.text for piece in own) == answer.text
        assert [piece.answer for piece in own if piece.answer is not None] == [own[-1].answer]
        assert own[-1].answer.text == answer.text
    assert sum(piece.number == 2 for piece in pieces) > 1, "an open answer comes in pieces"


def test_a_stream_says_the_first_word_before_the_last_is_made(predictor, make_grid, monkeypatch):
    passed = []
    pass_token = type(predictor.scheduler)._pass_token
    monkeypatch.setattr(
        type(predictor.scheduler), "_pass_token", lambda self, *args: passed.append(1) or pass_token(self, *args)
    )
    stream = predictor.ask_stream(make_grid(predictor), OPEN, max_new_tokens=30)
    next(stream)
    assert len(passed) < 10
    assert list(stream)[-1].answer is not None
    assert len(passed) == 29


def test_many_scans_are_answered_in_order_and_read_only_when_there_is_room(predictor, make_grid):
    read = []

    def jobs():
        for seed in range(4):
            read.append(seed)
            yield make_grid(predictor, seed), [OPEN, CLOSED] if seed % 2 else OPEN

    found = predictor.ask_many(jobs(), max_new_tokens=6, batch_size=2)
    first = next(found)
    assert len(read) < 4
    together = [first, *found]
    for seed, answers in enumerate(together):
        alone = predictor.ask(make_grid(predictor, seed), [OPEN, CLOSED] if seed % 2 else OPEN, max_new_tokens=6)
        assert [answer.text for answer in answers] == [answer.text for answer in alone]
        assert answers[0].slices[0].grid_slice == alone[0].slices[0].grid_slice


def test_progress_over_many_scans_ends_at_all(predictor, make_grid):
    seen = []
    jobs = [(make_grid(predictor, seed), [OPEN] * 3) for seed in range(2)]
    list(predictor.ask_many(jobs, max_new_tokens=2, batch_size=2, progress=lambda *now: seen.append(now)))
    assert seen[0] == (0, 3)
    assert seen[-1] == (6, 6)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
