"""Questions join those already at work, each answered as if it were alone, and leave when nobody waits."""

from __future__ import annotations

from collections import deque

import pytest

from slicesight.errors import InputError
from slicesight.inference.batching import AskRequest, ContinuousBatching

QUESTIONS = ["Which phase is this?", "Is there a lesion?", "Which plane do the slices show?", "What else?"]


class PanicException(BaseException):  # as Rust's panics are called in Python
    """What a tokenizer's native code raises."""


class Asker:
    """Somebody who waits, and what was said."""

    def __init__(self, encoded, question, **settings):
        self.pieces, self.last, self.failures = [], None, []
        self.request = AskRequest(
            scan=lambda: encoded,
            questions=[question],
            on_piece=self.receive,
            on_error=self.failures.append,
            **{"max_new_tokens": 20, **settings},
        )

    def receive(self, piece):
        self.pieces.append(piece.text)
        if piece.answer is not None:
            self.last = piece


@pytest.fixture(scope="module")
def encoded(tiny_reader, phantom):
    return tiny_reader.encode(phantom.volume)


def run(batching, take):
    for _ in batching.answer(take):
        pass


def answer_all(batching, askers):
    waiting = deque(asker.request for asker in askers)
    run(batching, lambda: waiting.popleft() if waiting else None)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_answers_are_the_readers_own_however_many_are_answered_together(tiny_reader, encoded, batch_size):
    askers = [Asker(encoded, text) for text in QUESTIONS]
    answer_all(ContinuousBatching(tiny_reader, batch_size=batch_size), askers)
    own = tiny_reader.ask(encoded, QUESTIONS, max_new_tokens=20)
    assert [asker.last.answer.text for asker in askers] == [answer.text for answer in own]
    assert [asker.last.answer.scores for asker in askers] == [pytest.approx(answer.scores, abs=1e-6) for answer in own]
    assert ["".join(asker.pieces) for asker in askers] == [answer.text for answer in own]


def test_a_question_that_comes_later_joins_the_one_at_work(tiny_reader, encoded):
    batching = ContinuousBatching(tiny_reader, batch_size=4)
    first, second = Asker(encoded, QUESTIONS[0], max_new_tokens=60), Asker(encoded, QUESTIONS[1], max_new_tokens=5)
    order = []
    first.request.on_piece = lambda piece: order.append(("first", piece.answer is not None))
    second.request.on_piece = lambda piece: order.append(("second", piece.answer is not None))
    steps = iter([first.request, *[None] * 10, second.request])
    run(batching, lambda: next(steps, None))
    own = tiny_reader.ask(encoded, QUESTIONS[0], max_new_tokens=60)[0]
    assert own.text
    assert order.index(("second", True)) < order.index(("first", True))


def test_two_turns_of_talk_are_answered_by_the_latest_question(tiny_reader, encoded):
    history = (("Which phase is this?", "arterial phase"),)
    asker = Asker(encoded, QUESTIONS[1], history=history)
    answer_all(ContinuousBatching(tiny_reader), [asker])
    own = tiny_reader.ask(encoded, QUESTIONS[1], history=history, max_new_tokens=20)[0]
    assert asker.last.answer.text == own.text
    assert asker.last.answer.scores == pytest.approx(own.scores, abs=1e-6)


def test_a_question_called_off_stops_and_leaves_its_place(tiny_reader, encoded):
    batching = ContinuousBatching(tiny_reader, batch_size=1)
    gone, next_one = Asker(encoded, QUESTIONS[0], max_new_tokens=10_000), Asker(encoded, QUESTIONS[1])
    num_steps = 0

    def take():
        nonlocal num_steps
        num_steps += 1
        if num_steps == 1:
            return gone.request
        if not gone.request.is_cancelled:
            return None
        return next_one.request if next_one.last is None and num_steps < 100 else None

    receive = gone.receive

    def leave_after_some(piece):
        receive(piece)
        gone.request.is_cancelled = len(gone.pieces) > 3

    gone.request.on_piece = leave_after_some
    run(batching, take)
    assert gone.last is None
    assert len(gone.pieces) == 4
    assert next_one.last is not None
    assert batching.num_rows == 0


def test_a_question_called_off_while_it_waits_is_never_begun(tiny_reader, encoded):
    def refuse():
        raise AssertionError("encoded for nobody")

    asker = Asker(encoded, QUESTIONS[0])
    asker.request.scan, asker.request.is_cancelled = refuse, True
    answer_all(ContinuousBatching(tiny_reader), [asker])
    assert asker.last is None
    assert not asker.failures


def test_greedy_and_drawn_answers_share_a_batch_and_a_seed_gives_the_same_words_again(tiny_reader, encoded):
    drawn = {"do_sample": True, "temperature": 1.5, "seed": 5}
    first = [Asker(encoded, QUESTIONS[0]), Asker(encoded, QUESTIONS[0], options=drawn), Asker(encoded, QUESTIONS[1])]
    answer_all(ContinuousBatching(tiny_reader), first)
    again = Asker(encoded, QUESTIONS[0], options=drawn)
    other = Asker(encoded, QUESTIONS[0], options={**drawn, "seed": 6})
    answer_all(ContinuousBatching(tiny_reader), [other, again])
    own = tiny_reader.ask(encoded, QUESTIONS[:2], max_new_tokens=20)
    assert [first[0].last.answer.text, first[2].last.answer.text] == [answer.text for answer in own]
    assert again.last.answer.text == first[1].last.answer.text
    assert other.last.answer.text != again.last.answer.text
    assert first[1].last.answer.text != own[0].text


def test_what_is_wrong_with_one_question_is_that_ones_alone(tiny_reader, encoded):
    def broken():
        raise InputError("this scan is gone")

    bad, good = Asker(encoded, QUESTIONS[0]), Asker(encoded, QUESTIONS[1])
    bad.request.scan = broken
    too_long = Asker(encoded, "long " * 5000)
    answer_all(ContinuousBatching(tiny_reader), [bad, too_long, good])
    assert "gone" in str(bad.failures[0])
    assert "shorten" in str(too_long.failures[0])
    assert good.last.answer.text


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_row_whose_token_cannot_be_drawn_fails_alone(tiny_reader, encoded, monkeypatch, batch_size):
    from slicesight.inference.sampling import Sampler

    choose = Sampler.choose

    def broken(self, logits_RW, generators):
        if self.temperature == 0.125:
            logits_RW = logits_RW * float("nan")
        return choose(self, logits_RW, generators)

    monkeypatch.setattr(Sampler, "choose", broken)
    warm = {"do_sample": True, "seed": 1}
    askers = [Asker(encoded, text, options={**warm, "temperature": 1.0}) for text in QUESTIONS]
    bad = [
        Asker(encoded, QUESTIONS[0], options={**warm, "temperature": 0.125}),
        Asker(encoded, QUESTIONS[0], options={"do_sample": False, "temperature": 0.125}),
    ]
    answer_all(ContinuousBatching(tiny_reader, batch_size=batch_size), [askers[0], *bad, *askers[1:]])
    assert all("no numbers" in str(one.failures) for one in bad)
    assert [asker.failures for asker in askers] == [[]] * 4
    assert all(asker.last.answer.text for asker in askers)


def test_a_row_whose_text_cannot_be_decoded_fails_alone(tiny_reader, encoded, monkeypatch):
    good, bad = Asker(encoded, QUESTIONS[1]), Asker(encoded, QUESTIONS[0])
    monkeypatch.setattr(
        "slicesight.inference.batching.AnswerDecoder.next_piece",
        lambda self, _: (_ for _ in ()).throw(PanicException()) if self.question == QUESTIONS[0] else "",
    )
    answer_all(ContinuousBatching(tiny_reader), [bad, good])
    assert "PanicException" in str(bad.failures[0])
    assert len(bad.failures) == 1
    assert good.last.answer.text


def test_a_tokenizer_that_panics_fails_its_question_alone(tiny_reader, encoded, monkeypatch):
    encode = type(tiny_reader.processor).encode_prompt

    def panics(self, question, **settings):
        if question == QUESTIONS[0]:
            raise PanicException("index out of bounds")
        return encode(self, question, **settings)

    monkeypatch.setattr(type(tiny_reader.processor), "encode_prompt", panics)
    good, bad = Asker(encoded, QUESTIONS[1]), Asker(encoded, QUESTIONS[0])
    answer_all(ContinuousBatching(tiny_reader), [bad, good])
    assert "PanicException" in str(bad.failures[0])
    assert good.last.answer.text


def test_the_programs_end_is_nobodys_error(tiny_reader, encoded):
    def stop():
        raise KeyboardInterrupt

    asker = Asker(encoded, QUESTIONS[0])
    asker.request.scan = stop
    with pytest.raises(KeyboardInterrupt):
        answer_all(ContinuousBatching(tiny_reader), [asker])


def test_a_question_that_memory_cannot_hold_is_refused_and_the_next_answered(tiny_reader, encoded, monkeypatch):
    monkeypatch.setattr(tiny_reader.scheduler, "free_bytes", lambda: 400_000)
    large, small = Asker(encoded, QUESTIONS[0], max_new_tokens=1500), Asker(encoded, QUESTIONS[1], max_new_tokens=4)
    answer_all(ContinuousBatching(tiny_reader), [large, small])
    assert "memory" in str(large.failures[0])
    assert small.last is not None


def test_an_answer_cut_at_its_length_says_so(tiny_reader, encoded):
    asker = Asker(encoded, QUESTIONS[0], max_new_tokens=3)
    answer_all(ContinuousBatching(tiny_reader), [asker])
    assert asker.last.is_truncated
    assert asker.last.num_answer_tokens == 3
    assert asker.last.num_prompt_tokens > 20


def test_what_only_generate_can_do_is_answered_too(tiny_reader, encoded):
    beams = Asker(encoded, QUESTIONS[0], options={"num_beams": 2}, max_new_tokens=6)
    usual = Asker(encoded, QUESTIONS[1], max_new_tokens=6)
    answer_all(ContinuousBatching(tiny_reader), [usual, beams])
    own = tiny_reader.ask(encoded, QUESTIONS[0], max_new_tokens=6, num_beams=2)[0]
    assert beams.last.answer.text == own.text
    assert usual.last is not None
