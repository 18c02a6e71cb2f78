"""How do the questions of many callers share one model? (continuous batching, the front end of the scheduler)

    take a request -> embed its prompts -> a row each, beside the rows at work -> one token for every row -> pass on ...

New requests are taken before every step, so a question waits for the step under way, never for the end of a batch. Each
row's tokens are drawn by its own request's options. A cancelled question gets a token that ends it, and its place goes
to the next one. What only the library's `generate` can do is answered beside it. R rows, W vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from slicesight.errors import InputError
from slicesight.inference.answers import AnswerDecoder, AnswerPiece, make_answer
from slicesight.inference.calibration.calibration import AnswerWatch, judged
from slicesight.inference.calibration.likelihood import TokenRecord, note_tokens
from slicesight.inference.choice_decoding import ChoiceTree, make_choice_tree, with_choice
from slicesight.inference.encoded_scan import EncodedScan
from slicesight.inference.generate_fallback import answer_by_generate
from slicesight.inference.prompts import (
    Prompt,
    TokenizedQuestion,
    embed_prompts,
    longest_text,
    split_questions,
    tokenize_questions,
)
from slicesight.inference.requests import AskRequest as AskRequest
from slicesight.inference.requests import as_exception as as_exception
from slicesight.inference.sampling import Sampler, find_end_tokens, make_sampler
from slicesight.inference.scheduler import GenerationRequest, GenerationStep, longest_prompt
from slicesight.models.fingerprint import weights_version

if TYPE_CHECKING:
    from slicesight.inference.predictor import Predictor

CANCELLED = -1
"""A token no vocabulary has: it ends a row whose answer nobody waits for."""


@dataclass(eq=False, kw_only=True)
class QuestionAtWork:
    """Whose a question is, and what becomes of its tokens once they are all there, whichever engine makes them."""

    request: AskRequest
    number: int
    scan: EncodedScan | None
    decoder: AnswerDecoder
    choices: ChoiceTree | None = None
    record: TokenRecord | None = None
    watch: AnswerWatch | None = None

    def whole(
        self,
        question: str,
        token_ids: Sequence[int],
        scores: Sequence[float],
        *,
        cut_at: int | None,
        num_prompt_tokens: int,
    ) -> AnswerPiece:
        """The answer, with what a calibration says of it, and the last of its text."""
        _, text = self.decoder.finish(token_ids)
        grid = None if self.scan is None else self.scan.grid
        answer = make_answer(question, text, scores, grid=grid, cut_at=cut_at, **self.request.given)
        answer = answer if self.choices is None else with_choice(answer)
        likelihood = None if self.record is None else self.record.finish()
        answer = judged(answer, self.watch, likelihood)
        return AnswerPiece(
            number=self.number,
            text=answer.text.removeprefix(self.decoder.sent),
            answer=answer,
            likelihood=likelihood if self.request.wants_likelihoods else None,
            num_prompt_tokens=num_prompt_tokens,
            num_answer_tokens=len(token_ids),
            is_truncated=cut_at is not None,
        )


@dataclass(eq=False, kw_only=True)
class OpenQuestion(QuestionAtWork):
    """A question at work here, and what its row needs to become an answer."""

    prompt: Prompt
    sampler: Sampler
    generator: torch.Generator
    said: list[int] = field(default_factory=list)
    has_started: bool = False

    def fail(self, error: BaseException) -> None:
        """End this row alone."""
        self.request.is_cancelled = True
        self.request.on_error(as_exception(error))

    def piece(self, step: GenerationStep) -> AnswerPiece | None:
        """What this step adds to the answer, if anything is wanted of it yet."""
        if not step.is_finished:
            text = self.decoder.next_piece(step.token_ids) if self.request.in_pieces else ""
            return AnswerPiece(number=self.number, text=text) if text else None
        cut_at = None if step.token_ids[-1] in self.sampler.ends else len(step.token_ids)
        prompt = self.prompt
        return self.whole(
            prompt.question, step.token_ids, prompt.scores, cut_at=cut_at, num_prompt_tokens=len(prompt.token_ids)
        )


class ContinuousBatching:
    """Answers requests with one model, in one thread.

    Args:
        batch_size: most questions answered together; fewer where memory is short.
    """

    def __init__(self, predictor: Predictor, *, batch_size: int = 16) -> None:
        self.predictor, self.batch_size = predictor, batch_size
        self.open: dict[int, OpenQuestion] = {}
        self._numbers = itertools.count()

    def answer(self, take: Callable[[], AskRequest | None]) -> Iterator[None]:
        """Answer what `take` gives, until it gives None while nothing is under way; stops for a moment at every step.

        `take` is called before every step. An error is its request's alone.
        """
        arrivals = self._generation_requests(take)
        sampler = _SamplerPerQuestion(self)
        while True:
            try:
                for steps in self.predictor.scheduler.answer(arrivals, sampler=sampler, batch_size=self.batch_size):
                    for step in steps:
                        question = self.open.pop(step.number) if step.is_finished else self.open[step.number]
                        if step.token_ids[-1] != CANCELLED and not question.request.is_cancelled:
                            self._pass_on(question, step)
                    yield
                return
            except InputError as error:  # a question that does not fit into memory even alone
                self.fail_all(error, only_waiting=True)

    @staticmethod
    def _pass_on(question: OpenQuestion, step: GenerationStep) -> None:
        try:
            if (piece := question.piece(step)) is not None:
                question.request.on_piece(piece)
        except BaseException as error:
            question.fail(error)

    @property
    def num_rows(self) -> int:
        """Questions at work."""
        return len(self.open)

    def fail_all(self, error: Exception, *, only_waiting: bool = False) -> None:
        """Tell everybody who waits that there will be no answer."""
        for number in [number for number, one in self.open.items() if not (only_waiting and one.has_started)]:
            self.open.pop(number).request.on_error(error)

    def cancel_all(self) -> None:
        """Nobody waits any more for what is under way; any thread may say so."""
        for question in list(self.open.values()):
            question.request.is_cancelled = True

    def _generation_requests(self, take: Callable[[], AskRequest | None]) -> Iterator[GenerationRequest | None]:
        """A request for every question; None where none waits just now."""
        while True:
            request = take()
            if request is None:
                yield None
            elif not request.is_cancelled:
                try:
                    yield from self._open_questions(request)
                except BaseException as error:  # whatever it is, it is this request's alone, and somebody waits for it
                    request.on_error(as_exception(error))

    def _open_questions(self, request: AskRequest) -> Iterator[GenerationRequest]:
        """A request's questions in batches as they are taken; none where only `generate` can answer, which then does.

        Raises:
            InputError: a question is too long for the model, or an option is wrong.
        """
        model, processor = self.predictor.model, self.predictor.processor
        sampler = request.sampler or make_sampler(model, request.options)
        longest = longest_text(model.config)
        tokenized = request.tokenized or tokenize_questions(
            processor,
            request.questions,
            history=request.history,
            num_volumes=0 if request.scan is None else 1,
            longest=longest,
            system=request.system,
            prefix=request.prefix,
        )
        request.check()
        scan = None if request.scan is None else request.scan()
        request.scan = None  # it may hold the whole volume
        trees = self._choice_trees(request, num_volumes=0 if scan is None else 1)
        watches = [watch_question(self.predictor, request, question, scan) for question in request.questions]
        limits = [
            request.max_new_tokens if longest is None else min(request.max_new_tokens, longest - len(one))
            for one in tokenized
        ]
        needed = max(len(one) + limit for one, limit in zip(tokenized, limits, strict=True))
        longest_shared = longest_prompt(model)
        if sampler is None or (longest_shared is not None and needed > longest_shared):
            self._answer_by_generate(request, tokenized, scan, trees, watches)
            return
        ends = find_end_tokens(model)
        for numbers in split_questions([len(one) for one in tokenized], batch_size=self.batch_size):
            features = None if scan is None else scan.features
            prompts = embed_prompts(model, processor, features, tokenized[numbers.start : numbers.stop])
            for number, prompt in zip(numbers, prompts, strict=True):
                watch = watches[number]
                question = OpenQuestion(
                    request=request,
                    number=number,
                    prompt=prompt,
                    scan=scan,
                    sampler=sampler,
                    generator=sampler.generator(request.first_number + number),
                    decoder=self._decoder(tokenized[number], watch),
                    choices=trees[number],
                    record=record_answer(
                        self.predictor, request, prompt.question, trees[number], has_scan=scan is not None, ends=ends
                    ),
                    watch=watch,
                )
                yield self._generation_request(question, max_new_tokens=limits[number])

    def _decoder(self, one: TokenizedQuestion, watch: AnswerWatch | None) -> AnswerDecoder:
        """What makes text of a question's tokens: the answer whole, with what the one who asks began it."""
        prefix_ids = one.prefix_ids
        return AnswerDecoder(
            one.question,
            lambda token_ids: self.predictor.decode([*prefix_ids, *token_ids]),
            may_be_held_back=watch is not None and watch.may_hold_back,
        )

    def _choice_trees(self, request: AskRequest, *, num_volumes: int) -> list[ChoiceTree | None]:
        """The choices each question is held to, if any."""
        ends = find_end_tokens(self.predictor.model)
        return [
            make_choice_tree(
                self.predictor.processor, question, history=request.history, num_volumes=num_volumes, ends=ends
            )
            if number in request.constrained
            else None
            for number, question in enumerate(request.questions)
        ]

    def _generation_request(self, question: OpenQuestion, *, max_new_tokens: int) -> GenerationRequest:
        """The question's row, its shared part taken from the scan's prefix cache or made."""
        scheduler, prompt, prefix = self.predictor.scheduler, question.prompt, None
        if shared := prompt.num_shared:
            assert question.scan is not None
            key = (prompt.token_ids[:shared], weights_version(self.predictor.model))
            prefix = question.scan.prefix_cache.get(key, lambda: scheduler.make_prefix(prompt.embeds_TD[:shared]))
        number = next(self._numbers)
        self.open[number] = question
        return GenerationRequest(
            number=number, prefix=prefix, suffix_TD=prompt.embeds_TD[shared:], max_new_tokens=max_new_tokens
        )

    def _answer_by_generate(
        self,
        request: AskRequest,
        tokenized: Sequence[TokenizedQuestion],
        scan: EncodedScan | None,
        trees: Sequence[ChoiceTree | None],
        watches: Sequence[AnswerWatch | None],
    ) -> None:
        """Pass on whole answers by `generate`."""
        found = answer_by_generate(
            self.predictor.scheduler,
            self.predictor.processor,
            None if scan is None else scan.features,
            tokenized,
            batch_size=self.batch_size,
            max_new_tokens=request.max_new_tokens,
            options=request.options,
            trees=trees,
        )
        grid, ends = None if scan is None else scan.grid, find_end_tokens(self.predictor.model)
        for number, (one, (token_ids, scores)) in enumerate(zip(tokenized, found, strict=True)):
            _, text = self._decoder(one, None).finish(token_ids)
            cut_at = len(token_ids) if ends.isdisjoint(token_ids) else None
            answer = make_answer(one.question, text, scores, grid=grid, cut_at=cut_at, **request.given)
            answer = judged(answer if trees[number] is None else with_choice(answer), watches[number], None)
            request.on_piece(
                AnswerPiece(
                    number=number,
                    text=answer.text,
                    answer=answer,
                    num_prompt_tokens=len(one),
                    num_answer_tokens=len(self.predictor.processor.tokenizer(text).input_ids),
                    is_truncated=cut_at is not None,
                )
            )


def watch_question(
    predictor: Predictor, request: AskRequest, question: str, scan: EncodedScan | None
) -> AnswerWatch | None:
    """What the calibration knows of a question beforehand; None without one."""
    calibration = predictor.calibration
    if calibration is None or request.wants_likelihoods:
        return None
    asked = calibration.judge_question(question, predictor, is_follow_up=bool(request.history))
    return AnswerWatch(
        calibration=calibration,
        rule=request.rule,
        scan=calibration.judge_scan(scan, kind="" if asked is None else asked.kind),
        question=asked,
        has_scan=scan is not None,
    )


def record_answer(
    predictor: Predictor,
    request: AskRequest,
    question: str,
    tree: ChoiceTree | None,
    *,
    has_scan: bool,
    ends: frozenset[int],
) -> TokenRecord | None:
    """Where an answer's likelihood is kept, if anybody reads it. tree: the choices that it is held to, if any."""
    if predictor.calibration is None and not request.wants_likelihoods:
        return None
    if tree is None and ends:
        tree = make_choice_tree(
            predictor.processor, question, history=request.history, num_volumes=int(has_scan), ends=ends
        )
    return TokenRecord(tree=tree)


class _SamplerPerQuestion:
    """Every row by its own request's options; what the scheduler holds as a row's generator is the open question."""

    def __init__(self, batching: ContinuousBatching) -> None:
        self._open = batching.open
        self.ends = find_end_tokens(batching.predictor.model) | {CANCELLED}

    def generator(self, number: int) -> OpenQuestion:
        self._open[number].has_started = True
        return self._open[number]

    def choose(self, logits_RW: Tensor, generators: list[OpenQuestion]) -> list[int]:
        tokens = [CANCELLED] * len(generators)
        rows_of: dict[Sampler, list[int]] = {}
        free_RW = logits_RW
        if any(question.choices is not None for question in generators):
            logits_RW = torch.stack([_held(logits, one) for logits, one in zip(logits_RW, generators, strict=True)])
        for row, question in enumerate(generators):
            if not question.request.is_cancelled:
                rows_of.setdefault(question.sampler, []).append(row)
        for sampler, rows in rows_of.items():
            try:
                found = sampler.choose(logits_RW[rows], [generators[row].generator for row in rows])
            except Exception:  # of one row; the others' tokens are theirs
                found = [self._choose_alone(logits_RW[[row]], generators[row]) for row in rows]
            for row, token in zip(rows, found, strict=True):
                tokens[row] = token
                generators[row].said.append(token)
        note_tokens(free_RW, tokens, [one.record for one in generators])
        return tokens

    @staticmethod
    def _choose_alone(logits_1W: Tensor, question: OpenQuestion) -> int:
        try:
            return question.sampler.choose(logits_1W, [question.generator])[0]
        except Exception as error:
            question.fail(error)
            return CANCELLED


def _held(logits_W: Tensor, question: OpenQuestion) -> Tensor:
    """The logits of a row, those of other tokens than its choices' out of reach."""
    return logits_W if question.choices is None else question.choices.mask(logits_W, question.said)
