"""Which questions does the page offer before anybody has asked one? Only such as this model was taught."""

from __future__ import annotations

from collections import defaultdict

from slicesight.inference.predictor import Predictor

MOST_READY = 4
OF_PHANTOMS = (
    "Which contrast phase is this?",
    "Which organ shows an abnormality?",
    "What is seen in the liver?",
    "What is seen in the right lung?",
)
_SHORTEST = 20
"""Characters of a question that says what it asks; "larynx: slices?" does not."""


def ready_questions(predictor: Predictor) -> list[str]:
    """At most `MOST_READY`: of a calibrated model one of each kind of open question, most taught first; none of others.

    What the card lists under "ready_questions" goes before.
    """
    listed = predictor.card.facts.get("ready_questions")
    if isinstance(listed, list) and all(isinstance(one, str) for one in listed):
        return listed[:MOST_READY]
    if predictor.card.is_synthetic:
        return list(OF_PHANTOMS)
    gauge = None if predictor.calibration is None else predictor.calibration.questions
    by_kind: defaultdict[str, list[str]] = defaultdict(list)
    for one in () if gauge is None else gauge.questions:
        if one.kind.startswith("open/"):
            by_kind[one.kind].append(one.text)
    found: list[str] = []
    for texts in sorted(by_kind.values(), key=len, reverse=True):
        whole = [text for text in texts if text[0].isupper() and text.endswith("?") and len(text) >= _SHORTEST]
        if whole:
            found.append(min(whole, key=len))
    return found[:MOST_READY]
