"""Has the model seen the test? Cases, patients and volumes that training and test data share.

A volume is compared by the content of its files, so that a copy under another name is found; the same scan stored in
another format is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicesight.data.dataset import Dataset

EXAMPLES = 5


def find_leaks(
    training: Dataset, test: Dataset, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """What both share: counts, the leaking test cases, and a few examples of copied volumes.

    A patient's name is never given: only that of the case.
    """
    known_ids = {case.id for case in training.cases}
    known_patients = {(case.source, case.patient) for case in training.cases if case.patient is not None}
    total = len(training.cases) + len(test.cases)
    contents: dict[str, str] = {}
    for done, case in enumerate(training.cases):
        if progress is not None:
            progress(done, total)
        contents.setdefault(training.content(case), case.id)
    ids, patients, copies = [], [], []
    for done, case in enumerate(test.cases, start=len(training.cases)):
        if progress is not None:
            progress(done, total)
        if case.id in known_ids:
            ids.append(case.id)
        if case.patient is not None and (case.source, case.patient) in known_patients:
            patients.append(case.id)
        twin = contents.get(test.content(case))
        if twin is not None:
            copies.append({"test": case.id, "training": twin})
    leaking = dict.fromkeys([*ids, *patients, *(copy["test"] for copy in copies)])
    return {
        "num_training": len(training.cases),
        "num_test": len(test.cases),
        "num_shared_ids": len(ids),
        "num_shared_patients": len(patients),
        "num_shared_volumes": len(copies),
        "num_leaking": len(leaking),
        "leaking_cases": list(leaking),
        "examples": copies[:EXAMPLES],
    }


def describe_leaks(leaks: dict[str, Any]) -> str:
    """One line for the report."""
    if not leaks["num_leaking"]:
        return (
            f"no case, patient or volume of the {leaks['num_test']} is among the {leaks['num_training']} for training"
        )
    return (
        f"{leaks['num_leaking']} of {leaks['num_test']} test cases leak: {leaks['num_shared_ids']} by id, "
        f"{leaks['num_shared_patients']} by patient, {leaks['num_shared_volumes']} by the content of their volume"
    )
