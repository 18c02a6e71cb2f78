"""How do the questions of many scans become answers in order, or pieces of them as they are generated?

Scans are taken one by one, encoded when there is room for their first question; all questions share one scheduler.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slicesight.data.choices import listed_choices
from slicesight.errors import InputError
from slicesight.inference.answers import Answer, AnswerPiece, Progress
from slicesight.inference.calibration.calibration import AnswerRule
from slicesight.inference.choice_decoding import ChoicesMode, check_choices_mode
from slicesight.inference.encoded_scan import EncodedScan, Scan
from slicesight.inference.requests import AskRequest, History
from slicesight.volumes.grid import GridVolume
from slicesight.volumes.volume import Volume

if TYPE_CHECKING:
    from slicesight.inference.predictor import Predictor

Job = tuple[Scan | None, str | Sequence[str] | None]


@dataclass(frozen=True, kw_only=True)
class AskedQuestions:
    """A job's questions. again: numbers of those that are asked once more, held to their choices."""

    questions: list[str]
    again: tuple[int, ...]
    is_constrained: bool

    @property
    def all(self) -> list[str]:
        """In the order they are asked, those asked again behind the others."""
        return [*self.questions, *(self.questions[number] for number in self.again)]

    @property
    def constrained(self) -> range:
        """Places in `all` that are held to their choices."""
        return range(0 if self.is_constrained else len(self.questions), len(self.all))

    def joined(self, answers: list[Answer]) -> list[Answer]:
        """An answer each, with its choice."""
        choices = dict(zip(self.again, answers[len(self.questions) :], strict=True))
        return [
            replace(answer, choice=choices[number].choice) if number in choices and not answer.would_say else answer
            for number, answer in enumerate(answers[: len(self.questions)])
        ]


@dataclass(frozen=True, kw_only=True)
class JobRunner:
    """One call of the predictor with its settings.

    Raises:
        InputError: a setting is wrong.
    """

    predictor: Predictor
    history: History
    max_new_tokens: int
    batch_size: int
    options: dict[str, Any]
    system: str | None = None
    prefix: str = ""
    choices: ChoicesMode = "free"
    rule: AnswerRule = field(default_factory=AnswerRule)
    wants_likelihoods: bool = False

    def __post_init__(self) -> None:
        for name, value in (("max_new_tokens", self.max_new_tokens), ("batch_size", self.batch_size)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value!r}; expected at least 1, a whole number.")
        if isinstance(self.history, str) or not all(map(_is_turn, self.history)):
            raise InputError(f"history is {str(self.history)[:60]!r}; expected (question, answer) pairs of text.")
        for name, text in (("system", self.system or ""), ("prefix", self.prefix)):
            if not isinstance(text, str):
                raise InputError(f"{name} is a {type(text).__name__}; expected text.")
        check_choices_mode(self.choices)
        self.predictor.check_options(self.options)

    def _asked(self, questions: str | Sequence[str] | None) -> AskedQuestions:
        checked = check_questions(self.predictor, questions)
        if self.choices != "both":
            return AskedQuestions(questions=checked, again=(), is_constrained=self.choices == "only")
        again = tuple(number for number, question in enumerate(checked) if listed_choices(question))
        return AskedQuestions(questions=checked, again=again, is_constrained=False)

    def answers(self, jobs: Iterable[Job], *, progress: Progress | None) -> Iterator[list[Answer]]:
        """All answers of each job, in the order of the jobs."""
        num_expected: list[int] = []  # answers of each job so far taken
        asked: list[AskedQuestions] = []
        found: list[dict[int, Answer]] = []
        next_job = num_done = 0

        def note(job: Job) -> Job:
            asked.append(self._asked(job[1]))
            num_expected.append(len(asked[-1].all))
            found.append({})
            if progress is not None and len(found) == 1:
                progress(0, num_expected[0])
            return job

        for step in self.pieces((note(check_job(job)) for job in jobs), in_pieces=False):
            for job, piece in step:
                if piece.answer is not None:
                    found[job][piece.number] = piece.answer
            done = sum(map(len, found[next_job:])) + sum(num_expected[:next_job])
            if progress is not None and done > num_done:
                progress(done, sum(num_expected))
            num_done = done
            while next_job < len(found) and len(found[next_job]) == num_expected[next_job]:
                yield asked[next_job].joined([found[next_job].pop(number) for number in range(num_expected[next_job])])
                next_job += 1

    def pieces(self, jobs: Iterable[Job], *, in_pieces: bool) -> Iterator[list[tuple[int, AnswerPiece]]]:
        """What each step adds, as (job, piece); without `in_pieces` only whole answers."""
        sampler = self.predictor.make_sampler(self.options)
        pieces: list[tuple[int, AnswerPiece]] = []
        errors: list[Exception] = []
        numbered = enumerate(map(check_job, jobs))
        num_questions = 0

        def take() -> AskRequest | None:
            nonlocal num_questions
            if errors:
                return None
            try:
                job, (scan, questions) = next(numbered)
                asked = self._asked(questions)
            except StopIteration:
                return None
            except Exception as error:
                errors.append(error)
                return None
            first_number, num_questions = num_questions, num_questions + len(asked.all)
            return AskRequest(
                scan=None if scan is None else partial(self.predictor.encode, scan),
                questions=asked.all,
                on_piece=lambda piece: pieces.append((job, piece)),
                on_error=errors.append,
                history=self.history,
                system=self.system,
                prefix=self.prefix,
                max_new_tokens=self.max_new_tokens,
                options=self.options,
                sampler=sampler,
                in_pieces=in_pieces,
                first_number=first_number,
                constrained=asked.constrained,
                rule=self.rule,
                wants_likelihoods=self.wants_likelihoods,
            )

        for _ in self.predictor.batching(batch_size=self.batch_size).answer(take):
            if errors:
                break
            if pieces:
                yield pieces.copy()
                pieces.clear()
        if errors:
            raise errors[0]
        if pieces:
            yield pieces


def check_job(job: Any) -> Job:
    """Refuse what is no pair of a scan and questions.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(job, (tuple, list)) or len(job) != 2:
        raise InputError(f"a job is a {type(job).__name__}; expected a pair of a scan and its questions.")
    if not isinstance(job[0], (Volume, GridVolume, EncodedScan, str, Path, np.ndarray, type(None))):
        several = " (several scans: ask_many)" if isinstance(job[0], list | tuple) else ""
        raise InputError(
            f"the scan is a {type(job[0]).__name__}; expected one path, array (slices, rows, columns), what "
            f"slicesight.read_volume gives, or None for questions without a scan{several}."
        )
    return job[0], job[1]


def check_questions(predictor: Predictor, questions: str | Sequence[str] | None) -> list[str]:
    """The questions as a list; None asks for the findings.

    Raises:
        InputError: there is none, or one that is empty or no text.
    """
    if questions is None:
        return [predictor.card.caption_question]
    checked = [questions] if isinstance(questions, str) else list(questions)
    if not checked:
        raise InputError("no question was given; pass at least one, or None for a description of the findings.")
    for number, question in enumerate(checked, start=1):
        if not isinstance(question, str):
            raise InputError(f"question {number} is a {type(question).__name__}; expected text.")
        if not question.strip():
            raise InputError(f"question {number} is empty; write one, or leave it out.")
        if not question.isascii() and any("\ud800" <= letter <= "\udfff" for letter in question):
            raise InputError(
                f"question {number} holds bytes that are no UTF-8 text: {question[:60]!r}; write it in UTF-8."
            )
    return checked


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, (tuple, list)) and len(turn) == 2 and all(isinstance(text, str) for text in turn)
