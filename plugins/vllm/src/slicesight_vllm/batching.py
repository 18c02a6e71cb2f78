"""How do the questions of many callers reach vLLM's engine, and its tokens become their answers?

    take requests -> the engine, a request each -> one step of the engine -> pieces of text ... whole: slice scores

It has the methods of the package's own `ContinuousBatching`, so that the server need not know who computes. A cancelled
question is aborted; an error is its request's alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from slicesight.errors import InputError
from slicesight.inference.answers import AnswerDecoder, AnswerPiece
from slicesight.inference.batching import AskRequest, QuestionAtWork, as_exception, record_answer, watch_question
from slicesight.inference.choice_decoding import make_choice_tree
from slicesight.inference.prompts import TokenizedQuestion, tokenize_questions
from slicesight_vllm.inputs import AskInput

if TYPE_CHECKING:
    from slicesight.inference.calibration.likelihood import TokenRecord
    from slicesight_vllm.predictor import EnginePredictor


@dataclass(eq=False, kw_only=True)
class EngineQuestion(QuestionAtWork):
    """A question at work in vLLM."""

    asked: AskInput
    tokenized: TokenizedQuestion


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
        predictor, ends = self.predictor, self.predictor.ends
        if request.prefix and request.constrained:
            raise InputError("the answer is begun and held to choices; leave one of the two out.")
        num_volumes = 0 if request.scan is None else 1
        tokenized = request.tokenized or tokenize_questions(
            predictor.processor,
            request.questions,
            history=request.history,
            num_volumes=num_volumes,
            longest=predictor.longest_text,
            system=request.system,
            prefix=request.prefix,
        )
        scan = None if request.scan is None else predictor.encode(request.scan())
        request.scan = None  # it may hold the whole volume
        longest = predictor.longest_text
        for number, one in enumerate(tokenized):
            question, choices = one.question, None
            if number in request.constrained:
                choices = make_choice_tree(
                    predictor.processor, question, history=request.history, num_volumes=num_volumes, ends=ends
                )
            watch = watch_question(predictor, request, question, scan)
            record = record_answer(predictor, request, question, choices, has_scan=scan is not None, ends=ends)
            if predictor.is_too_long(record):
                record = None
            asked = predictor.maker.join(question, one.prompt, [] if scan is None else [scan.item])
            room = request.max_new_tokens if longest is None else min(request.max_new_tokens, longest - len(one))
            sampling = predictor.sampling(
                request.options,
                number=request.first_number + number,
                max_new_tokens=room,
                choices=choices,
                record=record,
            )
            request_id = f"ask-{next(self._numbers)}"
            predictor.engine.add_request(request_id, asked.for_engine, sampling, lora_request=predictor.adapter)
            self.open[request_id] = EngineQuestion(
                request=request,
                number=number,
                asked=asked,
                scan=scan,
                tokenized=one,
                decoder=AnswerDecoder(
                    question, self._decode(one), may_be_held_back=watch is not None and watch.may_hold_back
                ),
                choices=choices,
                record=record,
                watch=watch,
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
        if question.record is not None:
            note_logs(question.record, token_ids, output.logprobs, size=self.predictor.num_words)
        return question.whole(
            question.tokenized.question,
            token_ids,
            scores,
            cut_at=len(token_ids) if output.finish_reason == "length" else None,
            num_prompt_tokens=len(question.tokenized),
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


def note_logs(record: TokenRecord, token_ids: Sequence[int], logs: Sequence[Mapping[int, Any]], *, size: int) -> None:
    """Note a whole answer's tokens with the log-probabilities that were asked for; size: of the vocabulary."""
    for token, given in zip(token_ids, logs, strict=True):
        logs_W = torch.full((size,), torch.nan)  # nothing that was not asked for is read
        logs_W[list(given)] = torch.tensor([one.logprob for one in given.values()])
        record.add(token, logs_W)
