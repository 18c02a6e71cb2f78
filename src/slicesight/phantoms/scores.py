"""What does a model get right about phantoms it has never seen, and how much of that needs the volume?

Closed questions by letter, open ones by the exact text, reports by the (organ, abnormality, part) triples they claim,
each beside its controls. Evidence: how much score lies on the slices that truly show what is asked. N slices.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from slicesight.data.manifest import Conversation
from slicesight.phantoms.rendering import PhantomTruth, make_phantom
from slicesight.phantoms.texts import Triple, conversation_rng, phantom_conversations, read_findings

if TYPE_CHECKING:
    from slicesight.inference.predictor import Predictor

LESION_TOPICS = ("organ", "abnormality", "location")


@dataclass(frozen=True, kw_only=True)
class AskedQuestion:
    """One question of one phantom with the answer a system gave and its slice scores (empty where it has none)."""

    case: int
    conversation: Conversation
    prediction: str
    scores: tuple[float, ...] = ()
    true_grid_slices: tuple[int, ...] = ()


def ask_phantoms(
    predictor: Predictor,
    *,
    seed: int,
    count: int,
    control: str = "none",
    progress: Callable[[int, int], None] | None = None,
) -> list[AskedQuestion]:
    """Ask every phantom of an unseen seed its eleven questions.

    Args:
        control: "none"; "blank" gives the same weights an empty volume; "other" the next phantom's volume;
            "text" no volume at all (for a model trained without).
    """
    assert control in ("none", "blank", "other", "text")
    rows = []
    for case in range(count):
        phantom = make_phantom(seed, case)
        conversations = phantom_conversations(
            phantom.truth, conversation_rng(seed, case), num_slices=phantom.volume.num_source_slices
        )
        grid = predictor.grid(phantom.volume)
        shown = grid
        if control == "other":
            shown = predictor.grid(make_phantom(seed, (case + 1) % count).volume)
        elif control == "blank":
            shown = replace(grid, voxels=np.zeros_like(grid.voxels))
        prompts = [conversation.prompt for conversation in conversations]
        answers = predictor.ask(None if control == "text" else shown, prompts)
        for conversation, answer in zip(conversations, answers, strict=True):
            rows.append(
                AskedQuestion(
                    case=case,
                    conversation=conversation,
                    prediction=answer.text,
                    scores=answer.scores,
                    true_grid_slices=() if grid.planes else grid.grid_slices_of(conversation.source_slices or ()),
                )
            )
        if progress:
            progress(case + 1, count)
    return rows


def majority_answers(
    training: Iterable[tuple[PhantomTruth, int]], asked: Sequence[AskedQuestion], *, seed: int
) -> list[AskedQuestion]:
    """What one would answer without any model: the commonest training answer (among the choices, if there are any)."""
    seen: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for case, (truth, num_slices) in enumerate(training):
        for conversation in phantom_conversations(truth, conversation_rng(seed, case), num_slices=num_slices):
            seen[conversation.task, conversation.topic][conversation.answer] += 1
    rows = []
    for row in asked:
        common = seen[row.conversation.task, row.conversation.topic]
        if row.conversation.choices:
            best = max(range(len(row.conversation.choices)), key=lambda i: common[row.conversation.choices[i]])  # type: ignore[index]
            text = f"{'ABCD'[best]}. {row.conversation.choices[best]}"
        else:
            text = common.most_common(1)[0][0]
        rows.append(AskedQuestion(case=row.case, conversation=row.conversation, prediction=text))
    return rows


def score(asked: Sequence[AskedQuestion]) -> dict[str, Any]:
    """Every number of the model card, unrounded: closed accuracy, open exactness, report triples, evidence."""
    closed = [row for row in asked if row.conversation.task == "closed"]
    opened = [row for row in asked if row.conversation.task == "open"]
    reports = [row for row in asked if row.conversation.task == "report"]
    topics = sorted({row.conversation.topic for row in closed})
    return {
        "closed": _share(closed),
        "closed_by_topic": {topic: _share([r for r in closed if r.conversation.topic == topic]) for topic in topics},
        "open": _share(opened),
        "open_by_topic": {topic: _share([r for r in opened if r.conversation.topic == topic]) for topic in topics},
        "triples": triple_scores([(r.conversation.answer, r.prediction) for r in reports]),
        "evidence": evidence([r for r in asked if r.conversation.topic in LESION_TOPICS]),
        "num_phantoms": len({row.case for row in asked}),
    }


def interval(asked: Sequence[AskedQuestion], task: str, *, draws: int = 2000) -> tuple[float, float]:
    """Bootstrap 95 % confidence interval of the share of right answers; phantoms are drawn, not questions."""
    by_case: dict[int, list[bool]] = defaultdict(list)
    for row in asked:
        if row.conversation.task == task:
            by_case[row.case].append(is_right(row))
    right = np.array([sum(values) for values in by_case.values()])
    count = np.array([len(values) for values in by_case.values()])
    picked = np.random.default_rng(0).integers(len(right), size=(draws, len(right)))
    shares = right[picked].sum(axis=1) / count[picked].sum(axis=1)
    low, high = np.percentile(shares, (2.5, 97.5))
    return float(low), float(high)


def is_right(row: AskedQuestion) -> bool:
    """Closed: the answer begins with the right letter. Open: the same words, whatever the case and the full stop."""
    if row.conversation.task == "closed":
        found = re.match(r"\s*\(?([A-D])\b", row.prediction)
        return found is not None and found.group(1) == row.conversation.answer_choice
    return _plain(row.prediction) == _plain(row.conversation.answer)


def triple_scores(reports: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Precision, recall and F1 of the findings named in (true report, predicted report) pairs, counted over all."""
    hits = said = true = 0
    for answer, prediction in reports:
        expected: set[Triple] = read_findings(answer)
        found = read_findings(prediction)
        hits, said, true = hits + len(expected & found), said + len(found), true + len(expected)
    precision, recall = hits / max(1, said), hits / max(1, true)
    return {"precision": precision, "recall": recall, "f1": 2 * hits / max(1, said + true)}


def evidence(asked: Sequence[AskedQuestion]) -> dict[str, float] | None:
    """Mean score mass on the true slices, their share of all slices, and the excess (mass - share) / (1 - share)."""
    masses, shares = [], []
    for row in asked:
        share = len(row.true_grid_slices) / len(row.scores) if row.scores else 1.0
        if 0 < share < 0.5:
            masses.append(float(np.sum(np.asarray(row.scores)[list(row.true_grid_slices)])))
            shares.append(share)
    if not masses:
        return None
    mass, share_array = np.array(masses), np.array(shares)
    excess = (mass - share_array) / (1 - share_array)
    return {"mass": float(mass.mean()), "share": float(share_array.mean()), "excess": float(excess.mean())}


def _share(rows: Sequence[AskedQuestion]) -> float:
    return sum(is_right(row) for row in rows) / max(1, len(rows))


def _plain(text: str) -> str:
    return " ".join(text.lower().strip(" .").split())
