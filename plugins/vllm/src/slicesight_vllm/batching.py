"""How do the questions of many callers reach vLLM's engine, and its tokens become their answers?

    take requests -> the engine, a request each -> one step of the engine -> pieces of text ... whole: slice scores

It has the methods of the package's own `ContinuousBatching`, so that the server need not know who computes. A cancelled
question is aborted; an error is its request's alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from slicesight.errors import InputError
from slicesight.inference.answers import AnswerDecoder, AnswerPiece, make_answer
from slicesight.inference.batching import AskRequest, as_exception
from slicesight.inference.prompts import TokenizedQuestion, tokenize_questions
from slicesight_vllm.inputs import AskInput

if TYPE_CHECKING:
    from slicesight_vllm.predictor import EnginePredictor, EngineScan

NOT_CALIBRATED = "answers of vLLM have no confidence; the package's own engine gives it"


@dataclass(eq=False, kw_only=True)
class EngineQuestion:
    """A question at work."""

    request: AskRequest
    number: int
    asked: AskInput
    scan: EngineScan | None
    tokenized: TokenizedQuestion
    decoder: AnswerDecoder


class EngineBatching:
    """Answers requests with one engine, in one thread.

    Args:
        batch_size: most questions given to the engine at a time.
    """

    def __init__(self, predictor: EnginePredictor, *, batch_size: int = 16) -> None:
        self.predictor, self.batch_size = predictor, batch_size
        self.open: dict[str, EngineQuestion] = {}
        self._numbers = itertools.count()

    def answer(self, take: Callable[[], AskRequest | None]) -> Iterator[None]:
        """Answer what `take` gives, until it gives None while nothing is under way; stops a moment at every step."""
        engine = self.predictor.engine
        try:
            while True:
                while len(self.open) < self.batch_size and (request := take()) is not None:
                    if not request.is_cancelled:
                        self._open(request)
                self._abort_cancelled()
                if not self.open:
                    return
                finished = []
                for output in engine.step():
                    question = self.open.get(output.request_id)
                    if question is None:  # it was cancelled meanwhile
                        continue
                    if output.finished:
                        del self.open[output.request_id]
                        finished.append((question, output.outputs[0]))
                    else:
                        self._pass_on(question, output.outputs[0].token_ids)
                self._finish(finished)
                yield
        finally:
            if self.open:  # the caller left, or the engine failed
                engine.abort_request(list(self.open))

    @property
    def num_rows(self) -> int:
        """Questions at work."""
        return len(self.open)

    def fail_all(self, error: Exception, *, only_waiting: bool = False) -> None:
        """Tell everybody who waits that there will be no answer."""
        for request_id in list(self.open):
            self.open.pop(request_id).request.on_error(error)

    def cancel_all(self) -> None:
        """Nobody waits any more for what is under way; any thread may say so."""
        for question in list(self.open.values()):
            question.request.is_cancelled = True

    def _open(self, request: AskRequest) -> None:
        """Give a request's questions to the engine; an error is the request's."""
        try:
            self._open_questions(request)
        except BaseException as error:
            request.is_cancelled = True
            request.on_error(as_exception(error))

    def _open_questions(self, request: AskRequest) -> None:
        predictor = self.predictor
        if request.constrained:
            raise InputError('vLLM does not hold answers to their choices here; ask with choices="free".')
        tokenized = request.tokenized or tokenize_questions(
            predictor.processor,
            request.questions,
            history=request.history,
            num_volumes=0 if request.scan is None else 1,
            longest=predictor.longest_text,
            system=request.system,
            prefix=request.prefix,
        )
        scan = None if request.scan is None else predictor.encode(request.scan())
        request.scan = None  # it may hold the whole volume
        longest = predictor.longest_text
        for number, one in enumerate(tokenized):
            asked = predictor.maker.join(one.question, one.prompt, [] if scan is None else [scan.item])
            room = request.max_new_tokens if longest is None else min(request.max_new_tokens, longest - len(one))
            sampling = predictor.sampling(request.options, number=request.first_number + number, max_new_tokens=room)
            request_id = f"ask-{next(self._numbers)}"
            predictor.engine.add_request(request_id, asked.for_engine, sampling)
            self.open[request_id] = EngineQuestion(
                request=request,
                number=number,
                asked=asked,
                scan=scan,
                tokenized=one,
                decoder=AnswerDecoder(one.question, self._decode(one)),
            )

    def _decode(self, one: TokenizedQuestion) -> Callable[[Sequence[int]], str]:
        """Tokens to text, with what the one who asks began the answer."""
        return lambda token_ids: self.predictor.decode([*one.prefix_ids, *token_ids])

    def _abort_cancelled(self) -> None:
        cancelled = [request_id for request_id, one in self.open.items() if one.request.is_cancelled]
        if cancelled:
            self.predictor.engine.abort_request(cancelled)
            for request_id in cancelled:
                del self.open[request_id]

    def _pass_on(self, question: EngineQuestion, token_ids: Sequence[int]) -> None:
        """The next text of an answer that goes on, if anything is wanted of it yet."""
        if not question.request.in_pieces or question.request.is_cancelled:
            return
        self._guarded(question, partial(self._piece, question, token_ids))

    def _piece(self, question: EngineQuestion, token_ids: Sequence[int]) -> AnswerPiece | None:
        text = question.decoder.next_piece(list(token_ids))
        return AnswerPiece(number=question.number, text=text) if text else None

    def _finish(self, finished: Sequence[tuple[EngineQuestion, Any]]) -> None:
        """Whole answers with their slice scores, asked of the worker together."""
        wanted = [one for one, _ in finished if one.asked.slices and not one.request.is_cancelled]
        found = self.predictor.slice_scores([one.asked.slices[0] for one in wanted])
        scores = dict(zip(map(id, wanted), found, strict=True))
        for question, output in finished:
            if not question.request.is_cancelled:
                self._guarded(question, partial(self._whole, question, output, scores.get(id(question), [])))

    def _whole(self, question: EngineQuestion, output: Any, scores: Sequence[float]) -> AnswerPiece:
        token_ids = list(output.token_ids)
        last, text = question.decoder.finish(token_ids)
        cut_at = len(token_ids) if output.finish_reason == "length" else None
        answer = make_answer(
            question.tokenized.question,
            text,
            scores,
            grid=None if question.scan is None else question.scan.grid,
            cut_at=cut_at,
            **question.request.given,
        )
        return AnswerPiece(
            number=question.number,
            text=last,
            answer=replace(answer, confidence_note=NOT_CALIBRATED),
            num_prompt_tokens=len(question.tokenized),
            num_answer_tokens=len(token_ids),
            is_truncated=cut_at is not None,
        )

    @staticmethod
    def _guarded(question: EngineQuestion, make: Callable[[], AnswerPiece | None]) -> None:
        """Pass on a piece; what goes wrong ends this request alone."""
        try:
            if (piece := make()) is not None:
                question.request.on_piece(piece)
        except BaseException as error:
            question.request.is_cancelled = True
            question.request.on_error(as_exception(error))
