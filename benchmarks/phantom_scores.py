"""What does a model get right about phantoms it has never seen, and how much of that needs the volume?

Closed questions by letter, open ones by the exact text, reports by the (organ, abnormality, part) triples they claim,
each beside its controls. Evidence: how much score lies on the slices that truly show what is asked. N slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from slicesight.data.choices import is_right
from slicesight.data.manifest import Conversation
from slicesight.evaluation.controls import commonest, count_answers
from slicesight.evaluation.metrics.evidence import Pointed, score_evidence
from slicesight.evaluation.statistics import mean_interval
from slicesight.phantoms.anatomy import PhantomTruth
from slicesight.phantoms.rendering import make_phantom
from slicesight.phantoms.texts import conversation_rng, phantom_conversations, read_findings

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

    @property
    def is_right(self) -> bool:
        return is_right(self.prediction, self.conversation)


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
        shown = grid = predictor.grid(phantom.volume)
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
    seen = count_answers(
        conversation
        for case, (truth, num_slices) in enumerate(training)
        for conversation in phantom_conversations(truth, conversation_rng(seed, case), num_slices=num_slices)
    )
    return [
        AskedQuestion(case=row.case, conversation=row.conversation, prediction=commonest(row.conversation, seen))
        for row in asked
    ]


def score(asked: Sequence[AskedQuestion]) -> dict[str, Any]:
    """Every number of the model card, unrounded: closed accuracy, open exactness, report triples, evidence."""
    of_task = {task: [row for row in asked if row.conversation.task == task] for task in ("closed", "open", "report")}
    topics = sorted({row.conversation.topic for row in of_task["closed"]})
    shares: dict[str, Any] = {}
    for task in ("closed", "open"):
        shares[task] = _share(of_task[task])
        by_topic = {topic: [row for row in of_task[task] if row.conversation.topic == topic] for topic in topics}
        shares[f"{task}_by_topic"] = {topic: _share(rows) for topic, rows in by_topic.items()}
    return {
        **shares,
        "triples": triple_scores((row.conversation.answer, row.prediction) for row in of_task["report"]),
        "evidence": evidence([r for r in asked if r.conversation.topic in LESION_TOPICS]),
        "num_phantoms": len({row.case for row in asked}),
    }


def interval(asked: Sequence[AskedQuestion], task: str) -> tuple[float, float]:
    """Bootstrap 95 % confidence interval of the share of right answers; phantoms are drawn, not questions."""
    rows = [row for row in asked if row.conversation.task == task]
    found = mean_interval(np.array([row.is_right for row in rows], dtype=float), [str(row.case) for row in rows])
    return found.low, found.high


def triple_scores(reports: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Precision, recall and F1 of the findings named in (true report, predicted report) pairs, counted over all."""
    hits = said = true = 0
    for answer, prediction in reports:
        expected, found = read_findings(answer), read_findings(prediction)
        hits, said, true = hits + len(expected & found), said + len(found), true + len(expected)
    precision, recall = hits / max(1, said), hits / max(1, true)
    return {"precision": precision, "recall": recall, "f1": 2 * hits / max(1, said + true)}


def evidence(asked: Sequence[AskedQuestion]) -> dict[str, float] | None:
    """Mean score mass on the true slices, their share of all slices, and the excess (mass - share) / (1 - share)."""
    found = score_evidence(
        Pointed(scores=row.scores, true_slices=row.true_grid_slices, volume=str(row.case)) for row in asked
    )
    return None if found is None else {name: found[name] for name in ("mass", "share", "excess")}


def _share(rows: Sequence[AskedQuestion]) -> float:
    return sum(row.is_right for row in rows) / max(1, len(rows))
