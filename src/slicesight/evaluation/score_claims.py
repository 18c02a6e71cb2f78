"""Is what the paper says about its slice scores so? Section 4.6 and appendix B, each claim as one number with interval.

Distance of two score distributions: total variation, 1/2 sum |s - t|, from 0 to 1. Density: exp(entropy), the effective
number of slices. Q questions, N slices. Every number is a mean over volumes, its interval a bootstrap over volumes; a
claim holds when the interval of the difference it is about lies on its side of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import numpy as np

from slicesight.data.manifest import Case
from slicesight.evaluation.likelihood import MaskableScan, score_questions
from slicesight.evaluation.statistics import Floats, effective_number, mean_interval

STANDARD = {
    "plane": "Which plane do the slices show?",
    "phase": "Which contrast phase is this?",
    "organ": "Which organ shows an abnormality?",
    "abnormality": "Which abnormality is in the liver?",
    "location": "Where is the lesion located?",
    "report": "Describe the findings.",
}
"""Asked of every volume in the same words, one per topic."""
PARAPHRASES = {
    "plane": ("In which plane was this scan acquired?", "What is the imaging plane?"),
    "phase": ("What is the contrast phase of this CT?", "Which phase does the scan show?"),
    "organ": ("In which organ is an abnormality?", "Which organ contains an abnormality?"),
    "abnormality": ("What is seen in the liver?", "What kind of lesion does the liver contain?"),
    "location": ("Where is the lesion?", "What is the location of the lesion?"),
    "report": ("Please write a report of this scan.", "What does this scan show?"),
}
CLAIMS: dict[str, tuple[str, str, bool | None]] = {
    "other_volumes_other_scores": (
        "the same question gives other scores on other volumes",
        "distance between volumes, minus that between paraphrases",
        True,
    ),
    "other_questions_other_scores": (
        "different questions give other scores on one volume",
        "distance between topics, minus that between paraphrases",
        True,
    ),
    "open_and_closed_alike": (
        "open and closed form of one content give nearly the same scores",
        "distance between the forms, minus that between topics",
        False,
    ),
    "key_slices": (
        "some slices stand out for all questions",
        "largest share of questions with one slice above 1/N, minus that with shuffled slices",
        True,
    ),
    "captions_denser_than_phase": (
        "phase questions are sparse, captions dense",
        "effective number of slices, report minus phase",
        True,
    ),
    "no_pattern_between_neighbours": (
        "no consistent pattern between neighbouring slices",
        "correlation of neighbouring slices' scores, minus that with shuffled slices",
        None,
    ),
    "paraphrases_alike": (
        "paraphrases give nearly the same scores (not a claim of the paper)",
        "distance between paraphrases, minus that between topics",
        False,
    ),
}
"""What each says, the difference it is about, and whether that must be above 0, below, or not away from it (None)."""
NUM_OTHERS = 8
NUM_SHUFFLES = 20


@dataclass(frozen=True, kw_only=True)
class AskedScores:
    """The scores of one volume: standard questions, paraphrases by topic, (open, closed) forms of one content."""

    volume: str
    standard: dict[str, Floats]
    paraphrases: dict[str, tuple[Floats, ...]]
    forms: tuple[tuple[Floats, Floats], ...]


def ask_for_claims(scan: MaskableScan, case: Case) -> AskedScores:
    """Score the standard questions, their paraphrases and both forms of the case's closed questions."""
    closed = [pair for pair in case.conversations if pair.task == "closed"]
    questions = [*STANDARD.values(), *chain.from_iterable(PARAPHRASES.values())]
    questions += [form for pair in closed for form in (pair.question, pair.prompt)]
    scores = iter(score_questions(scan, questions))
    return AskedScores(
        volume=case.id,
        standard={topic: next(scores) for topic in STANDARD},
        paraphrases={topic: tuple(next(scores) for _ in wordings) for topic, wordings in PARAPHRASES.items()},
        forms=tuple((next(scores), next(scores)) for _ in closed),
    )


def weigh_claims(asked: Sequence[AskedScores]) -> dict[str, Any]:
    """Every claim: what it says, the number, its interval, what it is compared with, and whether it holds here."""
    rng = np.random.default_rng(0)
    volumes = _between_volumes(asked, rng)
    questions = np.array([_spread(combinations(one.standard.values(), 2)) for one in asked])
    wordings = np.array([_spread(_wordings(one)) for one in asked])
    forms = np.array([_spread(one.forms) if one.forms else np.nan for one in asked])
    dense = _density_of("report", asked) - _density_of("phase", asked)
    neighbours = np.array([_mean(_neighbour_correlation, one) for one in asked])
    shuffled = np.array([_mean(lambda s: _neighbour_correlation(rng.permutation(s)), one) for one in asked])
    keys = np.array([_key_slices(one) for one in asked])
    by_chance = np.array([np.mean([_key_slices(_shuffle(one, rng)) for _ in range(NUM_SHUFFLES)]) for one in asked])
    numbers = {
        "other_volumes_other_scores": (volumes, volumes - wordings),
        "other_questions_other_scores": (questions, questions - wordings),
        "open_and_closed_alike": (forms, forms - questions),
        "key_slices": (keys, keys - by_chance),
        "captions_denser_than_phase": (dense, dense),
        "no_pattern_between_neighbours": (neighbours, neighbours - shuffled),
        "paraphrases_alike": (wordings, wordings - questions),
    }
    claims = {name: _claim(*CLAIMS[name], *found) for name, found in numbers.items()}
    densities = {topic: mean_interval(_density_of(topic, asked)).to_dict() for topic in STANDARD}
    return {**claims, "effective_slices": densities}


def distance(scores_N: Floats, others_N: Floats) -> float:
    """Total variation of two distributions."""
    return float(np.abs(scores_N - others_N).sum() / 2)


def _claim(says: str, compared: str, above: bool | None, values: Floats, differences: Floats) -> dict[str, Any]:
    if np.isnan(values).all():
        return {"says": says, "value": None, "ci95": None, "compared": compared, "holds": None}
    value, difference = mean_interval(values), mean_interval(differences)
    is_above, is_below = difference.low > 0, difference.high < 0
    holds = is_above if above else is_below if above is False else not (is_above or is_below)
    is_known = difference.ends is not None
    return {
        "says": says,
        **value.to_dict(),
        "compared": compared,
        "difference": difference.value,
        "difference_ci95": difference.ends,
        "holds": bool(holds) if is_known else None,
    }


def _between_volumes(asked: Sequence[AskedScores], rng: np.random.Generator) -> Floats:
    """Mean distance of each volume's standard scores to those of a few others."""
    if len(asked) < 2:
        return np.full(len(asked), np.nan)
    found = []
    for place, one in enumerate(asked):
        others = rng.permutation([other for other in range(len(asked)) if other != place])[:NUM_OTHERS]
        found.append(_spread((one.standard[t], asked[other].standard[t]) for other in others for t in STANDARD))
    return np.array(found)


def _wordings(one: AskedScores) -> Iterator[tuple[Floats, Floats]]:
    """Every pair of wordings of one topic."""
    for topic, others in one.paraphrases.items():
        yield from combinations((one.standard[topic], *others), 2)


def _spread(pairs: Iterable[tuple[Floats, Floats]]) -> float:
    return float(np.mean([distance(*pair) for pair in pairs]))


def _density_of(topic: str, asked: Sequence[AskedScores]) -> Floats:
    return np.array([effective_number(one.standard[topic]) for one in asked])


def _mean(measure: Callable[[Floats], float], one: AskedScores) -> float:
    return float(np.mean([measure(scores) for scores in one.standard.values()]))


def _neighbour_correlation(scores_N: Floats) -> float:
    """Correlation of each slice's score with the next one's; 0 where they do not vary."""
    first, second = scores_N[:-1], scores_N[1:]
    spread = float(np.std(first) * np.std(second))
    return float(np.mean((first - first.mean()) * (second - second.mean())) / spread) if spread > 0 else 0.0


def _key_slices(one: AskedScores) -> float:
    """The largest share of questions in which one and the same slice weighs more than an even spread."""
    scores_QN = np.stack(list(one.standard.values()))
    return float((scores_QN > 1 / scores_QN.shape[1]).mean(axis=0).max())


def _shuffle(one: AskedScores, rng: np.random.Generator) -> AskedScores:
    shuffled = {topic: rng.permutation(scores) for topic, scores in one.standard.items()}
    return AskedScores(volume=one.volume, standard=shuffled, paraphrases={}, forms=())
