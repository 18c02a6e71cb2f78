"""How is a model calibrated on validation data? Ask it everything there, then see how likely right answers were.

encode and ask every case -> likelihoods, right or wrong -> a curve per kind; the scans' measurements -> the gauge of
strangeness; all questions, those of the training data too -> the gauge of questions. Curves are checked on scans they
were not fitted on (by patient), so the printed errors are honest.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from slicesight import __version__
from slicesight.data.answer_tolerance import Tolerance, is_near_enough
from slicesight.data.dataset import Dataset
from slicesight.data.manifest import Case
from slicesight.errors import InputError
from slicesight.inference.calibration.calibration import Calibration, EmbedQuestion, TopicGauge
from slicesight.inference.calibration.confidence import ConfidenceCurve, Floats, fit_curve, numbers_of, uncalibrated
from slicesight.inference.calibration.measured_scans import MeasuredScan, measure_case, patient_of
from slicesight.inference.calibration.questions import QuestionGauge, TaughtQuestion, fit_questions, stem_of
from slicesight.inference.calibration.strangeness import (
    FEWEST_SCANS,
    SHARE_REFUSED,
    ScanGauge,
    fit_gauge,
)
from slicesight.inference.jobs import JobRunner

if TYPE_CHECKING:
    from slicesight.inference.encoded_scan import EncodedScan
    from slicesight.inference.predictor import Predictor

FEWEST_ANSWERS = 30
"""A kind with fewer takes the curve of all closed, or all open, questions."""
ALL_PATIENTS = 0.9
"""A topic that so many of the patients were asked about is one for all scans."""
NUM_FOLDS = 5
MOST_COPIED = 240
"""Scans of which changed copies are made, twelve of each to encode."""
MAX_NEW_TOKENS = 160
T = TypeVar("T")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class JudgedAnswer:
    """One answer to a validation question. numbers: what the curves read; own: the model's own probability."""

    patient: str
    kind: str
    numbers: Floats
    own: float
    is_right: bool
    is_outside: bool

    @property
    def form(self) -> str:
        return self.kind.partition("/")[0]


@dataclass(frozen=True, kw_only=True)
class FittedCalibration:
    """The calibration and what it was made of. confidences: of every answer by curves that have not seen its patient.
    skipped: cases that could not be read."""

    calibration: Calibration
    answers: list[JudgedAnswer]
    confidences: NDArray[np.float64]
    skipped: dict[str, str] = field(default_factory=dict)


def calibrate(
    predictor: Predictor,
    validation: Dataset,
    *,
    training: Dataset | None = None,
    most_training_scans: int = 300,
    most_copied_scans: int = MOST_COPIED,
    data: str = "",
    share_refused: float = SHARE_REFUSED,
    on_bad_case: str = "stop",
    max_new_tokens: int = MAX_NEW_TOKENS,
    tolerances: Mapping[str, Tolerance] | None = None,
    progress: Progress = lambda done, total: None,
) -> FittedCalibration:
    """A calibration of the model on data it was not trained on.

    Args:
        training: what it was trained on: its questions count as taught; `most_training_scans` of it, from the first to
            the last, say what is usual.
        most_copied_scans: of so many scans, from the first to the last, changed copies are made and encoded, so that
            what is turned, noisy or of a wrong spacing is noticed; 0 leaves only flips of coarse pictures.
        data: names the data, for the record. share_refused: of good scans and of taught questions, at most so many.
        on_bad_case: "stop" at a scan that cannot be read, or "skip" it.
        tolerances: {topic: when an open answer is near enough to count as right}.

    Raises:
        InputError: too few scans or answers, one cannot be read, or a tolerance is of a topic that nobody was asked.
    """
    known_rules = dict(tolerances or {})
    _check_topics(known_rules, validation.cases)
    cases = validation.cases
    others = [] if training is None else spread_out(training.cases, most_training_scans)
    _check_patients(cases, others)
    total = len(cases) + len(others)
    skipped: dict[str, str] = {}
    copied = set(spread_out(range(total), most_copied_scans))
    measured: list[MeasuredScan] = []
    answers: list[JudgedAnswer] = []
    for done, case in enumerate(cases):
        progress(done, total)
        scan = _encode(predictor, validation, case, on_bad_case, skipped)
        if scan is not None:
            measured.append(measure_case(predictor, scan, case, is_held_out=True, with_copies=done in copied))
            answers += judge_answers(predictor, scan, case, max_new_tokens=max_new_tokens, tolerances=known_rules)
    for done, case in enumerate(others, start=len(cases)):
        progress(done, total)
        scan = None if training is None else _encode(predictor, training, case, on_bad_case, skipped)
        if scan is not None:
            measured.append(measure_case(predictor, scan, case, is_held_out=False, with_copies=done in copied))
    progress(total, total)
    num_held_out = sum(one.is_held_out for one in measured)
    if num_held_out < FEWEST_SCANS:
        raise InputError(
            f"the validation data hold {num_held_out} readable scans; expected at least {FEWEST_SCANS}, so that one in "
            "twenty can be told: name more with --data."
        )
    if len(answers) < FEWEST_ANSWERS:
        raise InputError(
            f"the validation data hold {len(answers)} questions that can be right or wrong; expected at least "
            f"{FEWEST_ANSWERS}."
        )
    curves = fit_curves(answers)
    calibration = Calibration(
        curves=curves,
        scans=_scan_gauge(measured, share_refused),
        scans_of_topics=topic_gauges(measured, [*cases, *([] if training is None else training.cases)], share_refused),
        questions=question_gauge(
            predictor, [validation, *([] if training is None else [training])], share=share_refused
        ),
        tolerances=known_rules,
        facts={
            "model": predictor.card.name,
            "data": data,
            "scans": num_held_out,
            "training_scans": len(measured) - num_held_out,
            "copied_scans": sum(bool(one.copies) for one in measured),
            "answers": len(answers),
            "share_refused": share_refused,
            "slicesight_version": __version__,
        },
    )
    return FittedCalibration(
        calibration=calibration, answers=answers, confidences=cross_fitted(answers), skipped=skipped
    )


def judge_answers(
    predictor: Predictor,
    scan: EncodedScan,
    case: Case,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    tolerances: Mapping[str, Tolerance] | None = None,
) -> Iterator[JudgedAnswer]:
    """Every question of a case that can be right or wrong, answered freely, with its likelihood."""
    rules = tolerances or {}
    asked = [one for one in case.conversations if one.task != "report"]
    if not asked:
        return
    runner = JobRunner(
        predictor=predictor,
        history=(),
        max_new_tokens=max_new_tokens,
        batch_size=16,
        options={"do_sample": False},
        wants_likelihoods=True,
    )
    for step in runner.pieces([(scan, [one.prompt for one in asked])], in_pieces=False):
        for _, piece in step:
            if piece.answer is None or piece.likelihood is None:
                continue
            one, answer = asked[piece.number], piece.answer
            yield JudgedAnswer(
                patient=patient_of(case),
                kind=f"{one.task}/{one.topic}",
                numbers=numbers_of(piece.likelihood, is_closed=one.task == "closed"),
                own=uncalibrated(piece.likelihood),
                is_right=is_near_enough(answer.generated_text, one, rules.get(one.topic)),
                is_outside=answer.is_outside_choices,
            )


def fit_curves(answers: Sequence[JudgedAnswer]) -> dict[str, ConfidenceCurve]:
    """A curve for all closed and all open questions, and for every kind with enough of them."""
    curves: dict[str, ConfidenceCurve] = {}
    groups: dict[str, list[JudgedAnswer]] = defaultdict(list)
    for one in answers:
        if not one.is_outside:  # by rule wrong, whatever the likelihood
            groups[one.form].append(one)
            groups[one.kind].append(one)
    for name in sorted(groups, key=lambda name: ("/" in name, name)):
        own, parent = groups[name], curves.get(name.partition("/")[0])
        if parent is None or len(own) >= FEWEST_ANSWERS:
            curves[name] = fit_curve(
                np.stack([one.numbers for one in own]), [one.is_right for one in own], toward=parent
            )
    return curves


def cross_fitted(answers: Sequence[JudgedAnswer]) -> NDArray[np.float64]:
    """The confidence of every answer by curves fitted without its fold of patients -> (n,)."""
    folds = [zlib.crc32(one.patient.encode()) % NUM_FOLDS for one in answers]
    found = np.zeros(len(answers))
    for fold in range(NUM_FOLDS):
        curves = fit_curves([one for one, own in zip(answers, folds, strict=True) if own != fold])
        for number, one in enumerate(answers):
            if folds[number] == fold and not one.is_outside:
                curve = curves.get(one.kind) or curves.get(one.form)
                found[number] = one.own if curve is None else curve.confidence(one.numbers)
    return found


def question_gauge(predictor: Predictor, sources: Iterable[Dataset], *, share: float) -> QuestionGauge:
    """What was asked, chosen from and answered in these data."""
    questions = [TaughtQuestion(text=stem_of(predictor.card.caption_question), kind="report/report")]
    taught: dict[str, set[str]] = defaultdict(set)
    answers: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        for case in source.cases:
            for one in case.conversations:
                questions.append(TaughtQuestion(text=stem_of(one.question), kind=f"{one.task}/{one.topic}"))
                taught[questions[-1].kind].update([one.answer, *(one.choices or ())])
                if one.task == "open":
                    answers[questions[-1].kind].append(one.answer)
    return fit_questions(
        questions, taught=taught, answers=answers, embed=EmbedQuestion(predictor=predictor), share=share
    )


def _check_patients(cases: Sequence[Case], others: Sequence[Case]) -> None:
    known = {patient_of(case) for case in cases}
    for case in others:
        if patient_of(case) in known:
            raise InputError(
                f"case {case.id}: its patient {patient_of(case)} is in the training data and in the validation "
                "data; leave the patient out of one of them."
            )


def _check_topics(tolerances: Mapping[str, Tolerance], cases: Sequence[Case]) -> None:
    asked = sorted({one.topic for case in cases for one in case.conversations if one.task == "open"})
    for topic in tolerances:
        if topic not in asked:
            raise InputError(
                f"a tolerance is given for the topic {topic!r}, of which the data ask no open question; "
                f"expected one of {', '.join(asked) or 'none'}."
            )


def _scan_gauge(measured: Sequence[MeasuredScan], share: float) -> ScanGauge:
    return fit_gauge(
        [one.features for one in measured],
        patients=[one.patient for one in measured],
        held_out=[one.is_held_out for one in measured],
        share=share,
        copies={number: one.copies for number, one in enumerate(measured) if one.copies},
    )


def topic_gauges(measured: Sequence[MeasuredScan], cases: Sequence[Case], share: float) -> tuple[TopicGauge, ...]:
    """A gauge for each set of topics that some of the patients were never asked about; a topic of fewer patients than
    another counts to that one's set where they are among its patients."""
    asked: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        for one in case.conversations:
            asked[one.topic].add(patient_of(case))
    everyone = {patient_of(case) for case in cases}
    groups: list[tuple[set[str], set[str]]] = []
    for topic in sorted(asked, key=lambda topic: (-len(asked[topic]), topic)):
        patients = asked[topic]
        if len(patients) >= ALL_PATIENTS * len(everyone):
            continue
        for topics, known in groups:
            if len(patients & known) >= ALL_PATIENTS * len(patients):
                topics.add(topic)
                break
        else:
            groups.append(({topic}, patients))
    found = []
    for topics, patients in groups:
        own = [one for one in measured if one.patient in patients]
        if sum(one.is_held_out for one in own) >= FEWEST_SCANS:
            found.append(TopicGauge(topics=frozenset(topics), scans=_scan_gauge(own, share)))
    return tuple(found)


def spread_out(cases: Sequence[T], most: int) -> list[T]:
    """So many of them, evenly from the first to the last: neighbours may be parts of one scan."""
    if len(cases) <= most:
        return list(cases)
    return [cases[number] for number in np.linspace(0, len(cases) - 1, most).astype(int)] if most else []


def _encode(
    predictor: Predictor, source: Dataset, case: Case, on_bad_case: str, skipped: dict[str, str]
) -> EncodedScan | None:
    try:
        return predictor.encode(source.grid(case, predictor.grid_spec))
    except InputError as error:
        if on_bad_case == "stop":
            raise InputError(f"case {case.id}: {error}") from error
        skipped[case.id] = " ".join(str(error).split())
        return None


def facts_line(facts: dict[str, Any]) -> str:
    """What a calibration was made of, in a line."""
    return (
        f"{facts['answers']} answers about {facts['scans']} scans"
        + (f", {facts['training_scans']} training scans beside them" if facts["training_scans"] else "")
        + (f", of {facts['data']}" if facts["data"] else "")
    )
