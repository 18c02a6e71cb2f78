"""What does a calibrated model say of its own answer: how sure it is, and whether it should answer at all?

In this order: a strange scan, a question of a kind that was not taught, too little confidence. Held back is only the
text; what would have been said stands beside it, marked.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from slicesight.data.answer_tolerance import Tolerance
from slicesight.data.choices import listed_choices
from slicesight.errors import InputError
from slicesight.inference.answers import Abstained, Answer
from slicesight.inference.calibration.confidence import ConfidenceCurve, numbers_of
from slicesight.inference.calibration.likelihood import AnswerLikelihood
from slicesight.inference.calibration.questions import Floats, QuestionGauge, QuestionJudgement
from slicesight.inference.calibration.scan_features import measure_scan
from slicesight.inference.calibration.strangeness import ScanGauge, ScanJudgement
from slicesight.inference.encoded_scan import EncodedScan

if TYPE_CHECKING:
    from slicesight.inference.predictor import Predictor

NOT_CALIBRATED = "this model has no calibration; see slicesight calibrate"
NO_SCAN = "it was asked without a scan"
NO_RULE = "a report is not right or wrong as a whole"
NOT_ALONE = "a system message or the beginning of an answer was given, and no such question was calibrated"
NO_LIKELIHOOD = "answers of beams and of unusual language models keep no likelihood"
OUTSIDE = "the answer names none of the question's choices, so by the package's rule it is wrong"
NO_SUCH_ANSWER = "no question of this kind was ever answered like this"
DO_NOT_KNOW = "I do not know"
REPORT = "report/"
KEPT_QUESTIONS = 4096


@dataclass(frozen=True, kw_only=True)
class AnswerRule:
    """When an answer is held back. min_confidence: None takes the calibration's own. answer_anyway: never."""

    min_confidence: float | None = None
    answer_anyway: bool = False

    def __post_init__(self) -> None:
        found = self.min_confidence
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        if found is not None and not (is_number and 0 <= found <= 1):
            raise InputError(f"min_confidence is {found!r}; expected a number from 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class TopicGauge:
    """Topics that were asked of some patients only, and what the scans of those are like.

    Whoever was taught where the jaw lies in CT of the head knows nothing of it in a PET of the leg.
    """

    topics: frozenset[str]
    scans: ScanGauge


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What validation data said about a model.

    curves: by kind ("closed/organ"), and "closed" and "open" for all of each. scans, questions: None where it was made
    without. scans_of_topics: for topics that were not asked of all. min_confidence: below it an answer is held back
    unless the asker names another. tolerances: {topic: when an open answer counted as right}; the same text where there
    is none. facts: what it was made of.
    """

    curves: dict[str, ConfidenceCurve]
    scans: ScanGauge | None = None
    questions: QuestionGauge | None = None
    scans_of_topics: tuple[TopicGauge, ...] = ()
    min_confidence: float = 0.0
    tolerances: dict[str, Tolerance] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    _judged: OrderedDict[tuple[str, bool], QuestionJudgement] = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )

    def judge_scan(self, scan: EncodedScan | None, *, kind: str = "") -> ScanJudgement | None:
        """Whether the scan is like the others, or, for a topic of some scans only, like those that were asked of it.

        Computed once for each encoded scan. kind: of the question, "closed/organ"; "" leaves it out.
        """
        if scan is None or self.scans is None:
            return None
        topic = kind.partition("/")[2]
        for number, group in enumerate(self.scans_of_topics):
            if topic in group.topics:
                among = self._judge(scan, group.scans, f"topics {number}")
                return replace(among, others="of which the model was taught such questions")
        return self._judge(scan, self.scans, "all")

    def _judge(self, scan: EncodedScan, gauge: ScanGauge, name: str) -> ScanJudgement:
        return scan.judgement.get(self, name, lambda: gauge.judge(measure_scan(scan)))

    def judge_question(
        self, question: str, predictor: Predictor, *, is_follow_up: bool = False
    ) -> QuestionJudgement | None:
        """Computed once for each text."""
        if self.questions is None:
            return None
        key = question, is_follow_up
        if key not in self._judged:
            embed = EmbedQuestion(predictor=predictor)
            while len(self._judged) >= KEPT_QUESTIONS:
                self._judged.popitem(last=False)
            self._judged[key] = self.questions.judge(question, embed=embed, is_follow_up=is_follow_up)
        return self._judged[key]

    def confidence(self, likelihood: AnswerLikelihood, *, question: str, kind: str) -> float | None:
        """The probability that the answer is right; None where no curve says so.

        A topic that is asked with choices and without has a curve for each, whichever wording is the nearest taught.
        """
        is_closed = bool(listed_choices(question))
        form = "closed" if is_closed else "open"
        curve = self.curves.get(f"{form}/{kind.partition('/')[2]}") or self.curves.get(form)
        return None if curve is None else round(curve.confidence(numbers_of(likelihood, is_closed=is_closed)), 4)


@dataclass(frozen=True, kw_only=True)
class EmbedQuestion:
    """The mean embedding of a question's tokens in the language model."""

    predictor: Predictor

    def __call__(self, question: str) -> Floats:
        import torch

        predictor = self.predictor
        ids = predictor.processor.tokenizer(question, add_special_tokens=False).input_ids or [0]
        with torch.inference_mode():
            tokens = predictor.model.embed_tokens(torch.tensor([ids], device=predictor.model.device))
        return tokens[0].float().mean(dim=0).cpu().numpy().astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class AnswerWatch:
    """What is known of a question before it is answered, and what becomes of its answer."""

    calibration: Calibration
    rule: AnswerRule
    scan: ScanJudgement | None
    question: QuestionJudgement | None
    has_scan: bool = True

    @property
    def may_hold_back(self) -> bool:
        """Whether the text must not be passed on before the answer is whole."""
        return not self.rule.answer_anyway and (self._known_reason() is not None or self.min_confidence > 0)

    @property
    def min_confidence(self) -> float:
        own = self.rule.min_confidence
        return self.calibration.min_confidence if own is None else own

    def finish(self, answer: Answer, likelihood: AnswerLikelihood | None) -> Answer:
        """The answer with its confidence, or the reason why there is none; held back where it should be."""
        if not self.has_scan:
            return replace(answer, confidence_note=NO_SCAN)
        confidence, note = self._confidence(answer, likelihood)
        found = self._known_reason()
        if found is not None:
            confidence, note = None, f"it should not be answered: {found[1]}"
        elif self.min_confidence > 0 and confidence is not None and confidence < self.min_confidence:
            asked = f"asked for at least {self.min_confidence:g}"
            why = f"the model is not sure enough (confidence {confidence:.2f}, {asked})"
            found = "low_confidence", why
        weighed = replace(answer, confidence=confidence, confidence_note=note)
        if found is None:
            return weighed
        if self.rule.answer_anyway:
            return replace(weighed, abstained=found[0])
        text = f"{DO_NOT_KNOW}: {found[1]}."
        return replace(weighed, abstained=found[0], text=text, would_say=answer.text, choice=None)

    def _known_reason(self) -> tuple[Abstained, str] | None:
        """Why it should not be answered, as far as that is known beforehand."""
        if not self.has_scan:
            return None
        if self.scan is not None and self.scan.is_strange:
            return "strange_scan", f"this scan is unlike those {self.scan.others}; {self.scan.reason}"
        if self.question is not None and self.question.is_unknown:
            return "unknown_question", self.question.reason
        return None

    def _confidence(self, answer: Answer, likelihood: AnswerLikelihood | None) -> tuple[float | None, str | None]:
        if answer.is_outside_choices:
            return 0.0, OUTSIDE
        kind = "" if self.question is None else self.question.kind
        if self.calibration.questions is not None and not listed_choices(answer.question):
            kind = self.calibration.questions.kind_of_answer(answer.text, kind=kind)
        if kind.startswith(REPORT) and not listed_choices(answer.question):
            return None, NO_RULE
        if answer.prefix or answer.system:
            return None, NOT_ALONE
        if likelihood is None:
            return None, NO_LIKELIHOOD
        if self.calibration.questions is not None and not self.calibration.questions.may_say(answer.text, kind=kind):
            return 0.0, NO_SUCH_ANSWER
        found = self.calibration.confidence(likelihood, question=answer.question, kind=kind)
        if found is None:
            return None, "no such question was in the validation data"
        rule = None if listed_choices(answer.question) else self.calibration.tolerances.get(kind.partition("/")[2])
        return found, None if rule is None else rule.words


def judged(answer: Answer, watch: AnswerWatch | None, likelihood: AnswerLikelihood | None) -> Answer:
    """The answer with what the model's calibration says of it; without one, with the reason for its silence."""
    return replace(answer, confidence_note=NOT_CALIBRATED) if watch is None else watch.finish(answer, likelihood)
