"""Do a system's predictions belong to this test set? Every one must be of a question there, with the same answer.

Scores of answers to other questions, or against another release's labels, look like any others; so they are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from slicesight.data.choices import plain
from slicesight.data.manifest import Case
from slicesight.errors import InputError
from slicesight.evaluation.controls import as_prediction, question_id
from slicesight.evaluation.predictions import Prediction, PredictionFile


def checked_against(file: PredictionFile, cases: Sequence[Case], *, data: str) -> tuple[PredictionFile, int]:
    """The predictions with the test set's own topics, choices and volumes, and how many of its questions have none.

    Args:
        data: what messages call the test set.

    Raises:
        InputError: a prediction of no case or question there, or with another answer; names the file and row.
    """
    truths = {
        question_id(case, n): as_prediction(case, n, "") for case in cases for n in range(len(case.conversations))
    }
    volumes = {case.id for case in cases}
    rows = [
        _checked(row, truths, volumes, where=_place(file, number), data=data) for number, row in enumerate(file.rows)
    ]
    answered = {row.id for row in rows}
    checked = PredictionFile(rows=tuple(rows), format=file.format, missing=_still_missing(file), places=file.places)
    return checked, sum(name not in answered for name in truths)


def _checked(row: Prediction, truths: dict[str, Prediction], volumes: set[str], *, where: str, data: str) -> Prediction:
    if row.volume is not None and row.volume not in volumes:
        raise InputError(f"{where}: no case {row.volume!r} in {data}; score it against the data it was made from")
    true = truths.get(row.id)
    if true is None:
        raise InputError(f"{where}: no question {row.id!r} in {data}; score it against the data it was made from")
    if row.task != true.task:
        raise InputError(
            f"{where}: {row.id!r} is a {row.task} question, in {data} a {true.task} one; correct one of them"
        )
    if row.volume is not None and row.volume != true.volume:
        raise InputError(f"{where}: {row.id!r} is about {row.volume!r}, in {data} about {true.volume!r}; correct it")
    said, known = (row.answer_choice, true.answer_choice) if row.task == "closed" else (row.answer, true.answer)
    if plain(said or "") != plain(known or ""):
        raise InputError(
            f"{where}: the answer of {row.id!r} is {said!r}, in {data} it is {known!r}; correct one of them"
        )
    kept = {"prediction": row.prediction, "choice": row.choice, "scores": row.scores, "true_slices": row.true_slices}
    return true.model_copy(update=kept)


def _place(file: PredictionFile, number: int) -> str:
    return file.places[number] if file.places else f"row {number + 1}"


def _still_missing(file: PredictionFile) -> dict[str, str]:
    """Volumes are known from the test set now."""
    return {name: reason for name, reason in file.missing.items() if name != "volume"}
