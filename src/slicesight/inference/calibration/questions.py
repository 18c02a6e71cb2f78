"""Is this a question of a kind that the model was taught, about things that it was taught?

Three signs. A term that neither occurs in the questions, choices and answers that were taught, nor is one of the
general words in which anybody may ask about a scan (`GENERAL_WORDS`): "is there pneumonia?". Terms that were taught,
but in no kind of question together. And the distance to the nearest question that was taught: of its words and pairs
of words (cosine of tf-idf), which may be larger where the terms belong together; where it names nothing that had to be
taught, of those or of the mean embedding of its tokens in the language model, whichever is nearer. How far another
wording lies is measured by leaving each taught question out, and by saying it with the usual phrases around it
(`PHRASES`). K known questions, D width of the embeddings.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from slicesight.data.answer_tolerance import NUMBER
from slicesight.data.choices import LIST_MARK, SCAN_PLACE, listed_choices, plain
from slicesight.inference.calibration.general_words import FUNCTION_WORDS, GENERAL_WORDS

Floats = NDArray[np.float64]
Embed = Callable[[str], Floats]
"""A question's mean token embedding (D,)."""
LIKE_WORDS = "words"
LIKE_MEANING = "embedding"
SHORTEST_ROOT, ROOT_SHARE = 5, 0.62
"""Two words are one term when they begin with as many letters alike, and with that share of the longer one."""
FAR_WORDING, GENERAL_WORDING = 0.9, 0.8
"""Distance up to which other words about terms that were taught together ask the same, and words about none."""
SAME_KIND = 0.25
"""Likeness from which on a question is taken for one of the nearest one's kind."""
PHRASES = (
    "Please tell me: {}",
    "Can you say {}",
    "In this image, {}",
    "{} Please answer briefly.",
    "Looking at this scan, {}",
    "I would like to know: {}",
)
"""What people put around a question."""
MOST_ANSWERS, ASKED_PER_ANSWER = 20, 5
"""A kind has few answers if it has no more than these, and was asked so many times as often."""
MOST_QUESTIONS = 2000
"""Known questions that are kept; templates are few, what stands in them is many."""


@dataclass(frozen=True, kw_only=True)
class TaughtQuestion:
    """A question without its choices, and its kind: "closed/organ"."""

    text: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class QuestionJudgement:
    """kind: of the nearest question that was taught. score: 1 is the limit; reason: "" where it was taught."""

    kind: str
    score: float
    reason: str = ""
    nearest: str = ""

    @property
    def is_unknown(self) -> bool:
        return bool(self.reason)


@dataclass(frozen=True, kw_only=True)
class QuestionGauge:
    """questions: taught ones, by their text alone. terms: {kind: every word taught in its questions, choices and
    answers}. limits: {LIKE_WORDS: largest distance, LIKE_MEANING: ...}. embeddings: (K, D), or None. answers: {kind:
    all that were taught}, of the open kinds that have few. shapes: {kind: its answers with "#" for each number}, of the
    open kinds whose answers have numbers."""

    questions: tuple[TaughtQuestion, ...]
    terms: dict[str, frozenset[str]]
    limits: dict[str, float]
    embeddings: Floats | None = None
    answers: dict[str, frozenset[str]] = field(default_factory=dict)
    shapes: dict[str, frozenset[str]] = field(default_factory=dict)
    vectors: Vectors = field(init=False, repr=False)
    every_term: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", Vectors([one.text for one in self.questions]))
        object.__setattr__(self, "every_term", frozenset().union(*self.terms.values()))

    def may_say(self, answer: str, *, kind: str) -> bool:
        """False where the kind has few answers and this is none of them, or it has words of other kinds alone."""
        if kind in self.answers:
            return plain(answer) in self.answers[kind]
        taught = [term for term in terms_of(answer) if is_known(term, self.every_term)]
        return kind not in self.terms or not taught or any(is_known(term, self.terms[kind]) for term in taught)

    def kind_of_answer(self, answer: str, *, kind: str) -> str:
        """The kind, or another one that alone has answers of this form: "slices 3 to 9" answers no "which slice is
        best?", whichever of the two questions was nearer in its words."""
        shape = shape_of(answer)
        if not kind.startswith("open/") or "#" not in shape or shape in self.shapes.get(kind, ()):
            return kind
        others = [other for other, own in self.shapes.items() if shape in own]
        return others[0] if len(others) == 1 else kind

    def judge(self, question: str, *, embed: Embed | None = None, is_follow_up: bool = False) -> QuestionJudgement:
        """Args: is_follow_up: "and where is it?" is no question of its own, so only its terms are looked at."""
        asked = stem_of(question)
        terms = special_terms(question)
        unknown = [term for term in terms if not is_known(term, self.every_term)]
        is_together = bool(terms) and any(all(is_known(term, own) for term in terms) for own in self.terms.values())
        likeness = self.vectors.likeness(asked)
        if is_together:  # a question that names the jaw is none of a kind that never did
            fitting = {kind for kind, own in self.terms.items() if all(is_known(term, own) for term in terms)}
            likeness = likeness * np.array([one.kind in fitting for one in self.questions], dtype=np.float64)
        best = int(likeness.argmax())
        distances = {LIKE_WORDS: 1 - float(likeness[best])}
        if embed is not None and self.embeddings is not None:
            distances[LIKE_MEANING] = float(embedding_distances(embed(asked)[None], self.embeddings)[0].min())
        if is_together:
            score = distances[LIKE_WORDS] / max(self.limits[LIKE_WORDS], FAR_WORDING)
        else:  # near in words or in meaning is near
            limits = (
                self.limits if terms else {**self.limits, LIKE_WORDS: max(self.limits[LIKE_WORDS], GENERAL_WORDING)}
            )
            score = min(distance / limits[name] for name, distance in distances.items())
        nearest = self.questions[best]
        kind = nearest.kind if likeness[best] >= SAME_KIND else ""
        form = "closed" if listed_choices(question) else "open"
        if form == "closed" or kind.startswith("closed/"):
            same = [
                row
                for row in np.argsort(-likeness)[:50]
                if (self.questions[row].kind[:6] == "closed") == (form == "closed")
            ]
            if same and likeness[same[0]] >= SAME_KIND:
                kind = self.questions[same[0]].kind
        reason = ""
        if unknown:
            listed = ", ".join(repr(term) for term in unknown[:3])
            reason, score = f"{listed}: not among what the model was taught", max(score, 2.0)
        elif terms and not is_together:
            listed = ", ".join(repr(term) for term in terms[:4])
            reason, score = (
                f"it is none of the kinds of question that the model was taught with {listed}",
                max(score, 1.5),
            )
        elif score > 1 and not is_follow_up:
            reason = f"it is none of the kinds of question that the model was taught (nearest: {nearest.text!r})"
        return QuestionJudgement(kind=kind, score=score, reason=reason, nearest=nearest.text)


class Vectors:
    """tf-idf of words and pairs of neighbouring words of the known questions; K x T, sparse by hand."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.counts = [_pieces(text) for text in texts]
        documents = Counter(piece for counts in self.counts for piece in counts)
        self.weights = {piece: math.log((1 + len(texts)) / (1 + count)) + 1 for piece, count in documents.items()}
        self.rarest = math.log(1 + len(texts)) + 1
        self.places: dict[str, list[tuple[int, float]]] = {}
        for row, counts in enumerate(self.counts):
            length = self._length(counts)
            for piece, count in counts.items():
                self.places.setdefault(piece, []).append((row, count * self.weights[piece] / length))

    def likeness(self, text: str) -> Floats:
        """Cosine with every known question -> (K,)."""
        counts = _pieces(text)
        length = self._length(counts)
        found = np.zeros(max(1, len(self.counts)))
        for piece, count in counts.items():
            share = count * self.weights.get(piece, self.rarest) / length
            for row, own in self.places.get(piece, ()):
                found[row] += share * own
        return found

    def _length(self, counts: Counter[str]) -> float:
        squares = ((count * self.weights.get(piece, self.rarest)) ** 2 for piece, count in counts.items())
        return math.sqrt(sum(squares)) or 1.0


def fit_questions(
    questions: Iterable[TaughtQuestion],
    *,
    taught: Mapping[str, Iterable[str]],
    answers: Mapping[str, Sequence[str]] | None = None,
    embed: Embed | None = None,
    share: float = 0.05,
) -> QuestionGauge:
    """The gauge of the questions that were taught; their limits by leaving each wording out.

    Args:
        taught: {kind: further texts, answers and choices}. answers: {kind: every open question's answer}.
    """
    terms: dict[str, set[str]] = {kind: set().union(*map(terms_of, texts)) for kind, texts in taught.items()}
    known: dict[str, TaughtQuestion] = {}
    for one in questions:
        known.setdefault(one.text.lower(), one)
        terms.setdefault(one.kind, set()).update(terms_of(one.text))
    unique = list(known.values())
    if len(unique) > MOST_QUESTIONS:
        unique = [unique[row] for row in np.linspace(0, len(unique) - 1, MOST_QUESTIONS).astype(int)]
    vectors = Vectors([one.text for one in unique])
    left_out = [_nearest_other(1 - vectors.likeness(one.text), row) for row, one in enumerate(unique)]
    rephrased = [PHRASES[row % len(PHRASES)].format(one.text) for row, one in enumerate(unique)]
    said_else = [1 - float(vectors.likeness(text).max()) for text in rephrased]
    limits = {LIKE_WORDS: max(_limit(left_out, share), _limit(said_else, share))}
    embeddings = None
    if embed is not None and unique:
        embeddings = np.stack([embed(one.text) for one in unique])
        distances = embedding_distances(embeddings, embeddings)
        left_out = [_nearest_other(distances[row], row) for row in range(len(unique))]
        said_else = embedding_distances(np.stack([embed(text) for text in rephrased]), embeddings).min(axis=1).tolist()
        limits[LIKE_MEANING] = max(_limit(left_out, share), _limit(said_else, share))
    return QuestionGauge(
        questions=tuple(unique),
        terms={kind: frozenset(own) for kind, own in sorted(terms.items())},
        limits=limits,
        embeddings=embeddings,
        answers=_few_answers(answers or {}),
        shapes=answer_shapes(answers or {}),
    )


def _few_answers(answers: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    """Of the kinds whose answers are a short list."""
    lists = {kind: frozenset(map(plain, said)) for kind, said in sorted(answers.items())}
    return {
        kind: known
        for kind, known in lists.items()
        if len(known) <= MOST_ANSWERS and len(answers[kind]) >= ASKED_PER_ANSWER * len(known)
    }


def answer_shapes(answers: Mapping[str, Iterable[str]]) -> dict[str, frozenset[str]]:
    """Of the kinds whose answers have numbers and few forms."""
    found = {kind: frozenset(filter(lambda shape: "#" in shape, map(shape_of, said))) for kind, said in answers.items()}
    return {kind: shapes for kind, shapes in sorted(found.items()) if 0 < len(shapes) <= MOST_ANSWERS}


def shape_of(answer: str) -> str:
    """An answer with "#" for each number."""
    return NUMBER.sub("#", plain(answer))


def embedding_distances(one_nD: Floats, other_KD: Floats) -> Floats:
    """1 - cosine, both centred on the known ones' mean -> (n, K)."""
    middle = other_KD.mean(axis=0)
    left, right = one_nD - middle, other_KD - middle
    left = left / np.maximum(np.linalg.norm(left, axis=1, keepdims=True), 1e-9)
    right = right / np.maximum(np.linalg.norm(right, axis=1, keepdims=True), 1e-9)
    found: Floats = 1 - left @ right.T
    return found


def stem_of(question: str) -> str:
    """The question without its choices and the place of a scan, numbers as "#"."""
    bare = question.replace(SCAN_PLACE, " ").partition(LIST_MARK)[0]
    return " ".join(re.sub(r"\d+(?:[.,]\d+)?", "#", bare).split())


def special_terms(question: str) -> list[str]:
    """Words of a question and its choices that must have been taught, in their order."""
    return list(terms_of(" ".join([stem_of(question), *listed_choices(question).values()])))


def terms_of(text: str) -> dict[str, None]:
    """Words that are not general, without numbers; a dict for their order."""
    words = words_of(text)
    return dict.fromkeys(w for w in words if w not in GENERAL_WORDS and w != "#" and not any(map(str.isdigit, w)))


def words_of(text: str) -> list[str]:
    """Lower-case words, hyphens apart, a genitive's and a plural's s off."""
    found = re.findall(r"[^\W_]+(?:['’][^\W_]+)?|#", text.lower())
    return [_singular(re.sub(r"['’].*", "", word)) for word in found]


def is_known(word: str, terms: frozenset[str]) -> bool:
    """Whether a word, or one of the same root, was taught."""
    if word in terms:
        return True
    if len(word) < SHORTEST_ROOT:
        return False
    return any(_same_root(word, term) for term in terms)


def _same_root(one: str, other: str) -> bool:
    alike = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        alike += 1
    return alike >= SHORTEST_ROOT and alike >= ROOT_SHARE * max(len(one), len(other))


def _singular(word: str) -> str:
    if word in GENERAL_WORDS:
        return word
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "as")):
        return word[:-1]
    return word


def _pieces(text: str) -> Counter[str]:
    """Words that mean something, and pairs of neighbours; the small words count half."""
    words = words_of(text)
    return Counter([*(word for word in words if word not in FUNCTION_WORDS), *map(" ".join, pairwise(words))])


def _nearest_other(distances: Floats, row: int) -> float:
    others = np.delete(distances, row)
    return float(others.min()) if others.size else 1.0


def _limit(distances: Sequence[float], share: float) -> float:
    """What all but a share of the other wordings stay below."""
    return float(min(0.999, max(0.5, np.quantile(np.asarray(distances or [1.0], dtype=np.float64), 1 - share))))
