"""How much of a score needs the scan, its order, or any model at all? The same questions under worse conditions.

blank: an empty volume. shuffled_slices: the slices in random order. wrong_volume: another case's scan. majority: the
commonest answer, without any model. blind: a model trained without scans, asked the text alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slicesight.data.manifest import LETTERS, Case, Conversation
from slicesight.evaluation.predictions import Prediction
from slicesight.inference.answers import Progress
from slicesight.volumes.grid import GridVolume

if TYPE_CHECKING:
    from slicesight.data.dataset import Dataset
    from slicesight.inference.predictor import Predictor

VOLUME_CONTROLS = ("blank", "shuffled_slices", "wrong_volume")
MAX_NEW_TOKENS = 160
Counts = dict[tuple[str, str], Counter[str]]


def disturb(control: str, grid: GridVolume, other: GridVolume | None, *, place: int) -> GridVolume:
    """The volume that is shown instead of `grid`; `other` is another case's, `place` the case's number."""
    if control == "blank":
        return replace(grid, voxels=np.zeros_like(grid.voxels), channels=None)
    if control == "shuffled_slices":
        order = np.random.default_rng(place).permutation(len(grid.voxels))
        channels = None if grid.channels is None else np.ascontiguousarray(grid.channels[:, order])
        return replace(grid, voxels=np.ascontiguousarray(grid.voxels[order]), channels=channels)
    assert control == "wrong_volume"
    assert other is not None
    return other


def question_id(case: Case, number: int) -> str:
    """The id of a case's question in predictions."""
    return case.conversations[number].id or f"{case.id}/{number}"


def majority(cases: Sequence[Case], training: Sequence[Case] | None) -> list[Prediction]:
    """What one would answer without any model: the commonest answer to such a question, among its choices if any.

    Args:
        training: whose answers are counted; None counts those of the other cases.
    """
    counted = cases if training is None else training
    everyone = count_answers(asked for case in counted for asked in case.conversations)
    rows = []
    for case in cases:
        own = count_answers(case.conversations) if training is None else {}
        for number, asked in enumerate(case.conversations):
            said = commonest(asked, everyone, without=own)
            rows.append(as_prediction(case, number, said, choice=said if asked.choices else None))
    return rows


def count_answers(conversations: Iterable[Conversation]) -> Counts:
    """How often each answer is given to each (task, topic)."""
    counts: Counts = defaultdict(Counter)
    for asked in conversations:
        counts[asked.task, asked.topic][asked.answer] += 1
    return counts


def commonest(asked: Conversation, counts: Counts, *, without: Counts | None = None) -> str:
    """The commonest answer to such a question (among its choices, if any), the counts in `without` taken away."""
    key = asked.task, asked.topic
    common = counts.get(key, Counter()) - (without or {}).get(key, Counter())
    if asked.choices:
        best = max(asked.choices, key=lambda choice: common[choice])
        return f"{LETTERS[asked.choices.index(best)]}. {best}"
    return common.most_common(1)[0][0] if common else ""


def true_slices(
    asked: Conversation, grid: GridVolume, *, labels_ZYX: NDArray[np.int32] | None = None
) -> tuple[int, ...] | None:
    """The grid slices that show what is asked; None where that is unknown, or every slice does.

    Args:
        labels_ZYX: the case's label map, for a question that names its `label_values`.
    """
    shown: tuple[int, ...] = ()
    if asked.source_slices is not None:
        shown = grid.grid_slices_of(asked.source_slices)
    elif asked.label_values and labels_ZYX is not None:
        shown = grid.slices_showing(np.isin(labels_ZYX, asked.label_values))
    return shown if 0 < len(shown) < len(grid.slices) else None


def labels_wanted(source: Dataset, case: Case) -> NDArray[np.int32] | None:
    """The case's label map, read only where a question needs it to say which slices show what is asked."""
    needs = any(asked.label_values and asked.source_slices is None for asked in case.conversations)
    return source.labels(case) if needs else None


def as_prediction(case: Case, number: int, said: str, *, choice: str | None = None) -> Prediction:
    """A case's question with what a system said to it, freely and held to its choices."""
    asked = case.conversations[number]
    return Prediction(
        id=question_id(case, number),
        task=asked.task,
        topic=asked.topic,
        question=asked.question,
        prediction=said,
        answer=asked.answer,
        answer_choice=asked.answer_choice,
        choice=choice,
        volume=case.id,
        patient=case.patient_key,
        choices=asked.choices,
    )


def ask_blind(
    predictor: Predictor, cases: Sequence[Case], *, progress: Progress = lambda done, total: None
) -> list[Prediction]:
    """What a model answers to the questions alone, no scan given."""
    jobs = ((None, [asked.prompt for asked in case.conversations]) for case in cases)
    rows = []
    answered = predictor.ask_many(jobs, max_new_tokens=MAX_NEW_TOKENS, choices="both")
    for done, (case, answers) in enumerate(zip(cases, answered, strict=True)):
        progress(done, len(cases))
        rows += [
            as_prediction(case, number, answer.generated_text, choice=answer.choice)
            for number, answer in enumerate(answers)
        ]
    return rows
