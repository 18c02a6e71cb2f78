"""How do questions that arrive while others are being answered join them? (continuous batching)

    take what waits -> a row each, beside the rows at work -> one token for every row -> tell -> take what waits ...

The engine looks for new requests before every step, so a question waits for the step under way, never for the end of a
batch. Each row chooses its words by its own settings. A question that was called off says a token that ends it, and its
place goes to the next one waiting. R rows, W vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slicesight.errors import InputError
from slicesight.inference.answers import Answer, Wording, make_answer
from slicesight.inference.batching import History
from slicesight.inference.encoded_scan import EncodedScan

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from slicesight.inference.predictor import Predictor
    from slicesight.inference.sampling import Sampler
    from slicesight.inference.scheduler import GenerationRequest, GenerationStep

CALLED_OFF = -1
"""A token no vocabulary has: it ends a row whose answer nobody waits for."""


@dataclass(frozen=True, kw_only=True)
class StreamedAnswer:
    """The next words of one answer; with the last ones, `answer` is the whole.

    is_cut: the answer ended because it had as many tokens as it may, not of itself.
    """

    text: str
    answer: Answer | None = None
    num_prompt_tokens: int = 0
    num_answer_tokens: int = 0
    is_cut: bool = False


@dataclass(eq=False, kw_only=True)
class AskRequest:
    """One question somebody waits for.

    scan: gives the encoded scan when the question's turn comes. tell, fail: called by the thread that answers.
    options: as for `Predictor.ask`. is_called_off: set by any thread; the answer is then neither finished nor told.
    """

    scan: Callable[[], EncodedScan]
    question: str
    tell: Callable[[StreamedAnswer], None]
    fail: Callable[[Exception], None]
    history: History = ()
    max_new_tokens: int = 160
    options: dict[str, Any] = field(default_factory=dict)
    is_called_off: bool = False


@dataclass(kw_only=True)
class OpenRequest:
    """A question at work: what its row needs to choose words and to become an answer."""

    inquiry: AskRequest
    choosing: Sampler
    chance: torch.Generator
    wording: Wording
    scores: tuple[float, ...]
    encoded: EncodedScan
    num_prompt_tokens: int
    room: int
    has_started: bool = False


class ContinuousBatching:
    """Answers questions of many callers with one model, in one thread.

    Args:
        at_once: most questions answered together; fewer where memory is short.
    """

    def __init__(self, reader: Predictor, *, at_once: int = 16) -> None:
        self.reader = reader
        self.at_once = at_once
        self.num_rows = 0
        self._open: dict[int, OpenRequest] = {}
        self._num_asked = 0

    def answer(self, take: Callable[[], AskRequest | None]) -> None:
        """Answer what `take` gives, until it gives None while nothing is under way; it is called before every step."""
        while True:
            try:
                for step in self.reader.engine.answer(
                    self._requests(take), choosing=_OwnWords(self), at_once=self.at_once
                ):
                    for said in step:
                        self._tell(said)
                    self.num_rows = len(self._open)
                return
            except InputError as error:  # a question that does not fit into memory even alone
                self.fail_all(error, only_waiting=True)

    def fail_all(self, error: Exception, *, only_waiting: bool = False) -> None:
        """Tell everybody who waits that there will be no answer."""
        for number in [number for number, one in self._open.items() if not (only_waiting and one.has_started)]:
            self._open.pop(number).inquiry.fail(error)
        self.num_rows = len(self._open)

    def call_off_all(self) -> None:
        """Nobody waits any more for what is under way; any thread may say so."""
        for one in list(self._open.values()):
            one.inquiry.is_called_off = True

    def _requests(self, take: Callable[[], AskRequest | None]) -> _Arrivals:
        return _Arrivals(lambda: self._next_request(take))

    def _next_request(self, take: Callable[[], AskRequest | None]) -> GenerationRequest | None:
        while (inquiry := take()) is not None:
            if inquiry.is_called_off:
                continue
            try:
                request = self._request(inquiry)
            except Exception as error:  # whatever it is, it is this question's alone, and somebody waits for it
                inquiry.fail(error)
                continue
            if request is not None:
                return request
        return None

    def _request(self, inquiry: AskRequest) -> GenerationRequest | None:
        """The question's request; None where only `generate` can answer it, which is then done."""
        from slicesight.inference.batching import make_request
        from slicesight.inference.prompts import check_lengths, embed_prompts, longest_text
        from slicesight.inference.sampling import make_sampler
        from slicesight.inference.scheduler import longest_prompt

        model, processor = self.reader.model, self.reader.processor
        choosing = make_sampler(model, inquiry.options)
        longest_made_for, longest_shared = longest_text(model.config), longest_prompt(model)
        (length,) = check_lengths(processor, [inquiry.question], history=inquiry.history, longest=longest_made_for)
        encoded = inquiry.scan()
        room = (
            inquiry.max_new_tokens
            if longest_made_for is None
            else min(inquiry.max_new_tokens, longest_made_for - length)
        )
        if choosing is None or (longest_shared is not None and length + room > longest_shared):
            self._ask_plainly(inquiry, encoded, num_prompt_tokens=length)
            return None
        (prompt,) = embed_prompts(model, processor, encoded.features, [inquiry.question], history=inquiry.history)
        number, self._num_asked = self._num_asked, self._num_asked + 1
        self._open[number] = OpenRequest(
            inquiry=inquiry,
            choosing=choosing,
            chance=choosing.generator(0),
            wording=Wording(inquiry.question, self.reader.decode),
            scores=prompt.scores,
            encoded=encoded,
            num_prompt_tokens=length,
            room=room,
        )
        return make_request(self.reader, encoded, prompt, number=number, max_new_tokens=room)

    def _ask_plainly(self, inquiry: AskRequest, encoded: EncodedScan, *, num_prompt_tokens: int) -> None:
        (answer,) = self.reader.ask(
            encoded,
            inquiry.question,
            history=inquiry.history,
            max_new_tokens=inquiry.max_new_tokens,
            **inquiry.options,
        )
        num_words = len(self.reader.processor.tokenizer(answer.text).input_ids)
        inquiry.tell(
            StreamedAnswer(
                text=answer.text, answer=answer, num_prompt_tokens=num_prompt_tokens, num_answer_tokens=num_words
            )
        )

    def _tell(self, said: GenerationStep) -> None:
        one = self._open[said.number]
        if said.is_finished:
            del self._open[said.number]
        if said.token_ids[-1] == CALLED_OFF:
            return
        if not said.is_finished:
            if text := one.wording.next_piece(said.token_ids):
                one.inquiry.tell(StreamedAnswer(text=text))
            return
        last, text = one.wording.finish(said.token_ids)
        one.inquiry.tell(
            StreamedAnswer(
                text=last,
                answer=make_answer(one.inquiry.question, text, one.scores, grid=one.encoded.grid),
                num_prompt_tokens=one.num_prompt_tokens,
                num_answer_tokens=len(said.token_ids),
                is_cut=said.token_ids[-1] not in one.choosing.ends,
            )
        )


class _Arrivals:
    """An iterator that may have more to give after it gave nothing."""

    def __init__(self, find: Callable[[], GenerationRequest | None]) -> None:
        self._find = find

    def __iter__(self) -> Iterator[GenerationRequest]:
        return self

    def __next__(self) -> GenerationRequest:
        found = self._find()
        if found is None:
            raise StopIteration
        return found


class _OwnWords:
    """Every row by its own settings; what the engine holds as a row's source of chance is the open question itself."""

    def __init__(self, asking: ContinuousBatching) -> None:
        from slicesight.inference.sampling import make_sampler

        self._open = asking._open
        usual = make_sampler(asking.reader.model, {"do_sample": False})
        self.ends = (usual.ends if usual else frozenset()) | {CALLED_OFF}

    def generator(self, number: int) -> OpenRequest:
        self._open[number].has_started = True
        return self._open[number]

    def choose(self, logits_RW: Tensor, generators: list[OpenRequest]) -> list[int]:
        tokens = [CALLED_OFF] * len(generators)
        waited_for = [row for row, one in enumerate(generators) if not one.inquiry.is_called_off]
        greedy = [row for row in waited_for if not generators[row].choosing.do_sample]
        if greedy:
            found = generators[greedy[0]].choosing.choose(logits_RW[greedy], [])
            for row, token in zip(greedy, found, strict=True):
                tokens[row] = token
        for row in waited_for:
            if generators[row].choosing.do_sample:
                (tokens[row],) = generators[row].choosing.choose(logits_RW[row : row + 1], [generators[row].chance])
        return tokens
