"""What is known to be right about a scan, and does an answer say so?

The truth comes from a manifest line (`data.manifest.Case`); its source slices are looked up on the model's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slicesight.data.choices import is_right
from slicesight.data.manifest import Case, Conversation, read_manifest
from slicesight.errors import InputError
from slicesight.inference.answers import Answer
from slicesight.phantoms.texts import same_findings
from slicesight.reports.evidence import KnownTruth
from slicesight.volumes.grid import GridVolume


def find_case(manifest: Path, *, scan: Path) -> Case:
    """The manifest's line about this scan.

    Raises:
        ManifestError: the manifest cannot be read. InputError: it does not name the scan.
    """
    cases = read_manifest(manifest)
    for case in cases:
        if (manifest.parent / case.volume).resolve() == scan.resolve():
            return case
    raise InputError(
        f"{manifest}: none of its {len(cases)} lines names {scan}; give the manifest written with this scan."
    )


def judge(answers: Sequence[Answer], case: Case, *, grid: GridVolume) -> list[KnownTruth | None]:
    """What is known about each answer's question; None for a question the case does not hold."""
    pairs = {name: pair for pair in reversed(case.conversations) for name in (pair.question, pair.prompt)}
    return [
        KnownTruth(
            answer=pair.target, grid_slices=shown_slices(pair, grid=grid), is_right=agrees(answer.own_text, pair)
        )
        if (pair := pairs.get(answer.question))
        else None
        for answer in answers
    ]


def agrees(said: str, pair: Conversation) -> bool:
    """Whether `evaluate` would count it as right; a report, which it does not judge, must claim the true findings."""
    if pair.task == "report":
        return same_findings(said, pair.answer)
    return is_right(said, pair)


def shown_slices(pair: Conversation, *, grid: GridVolume) -> tuple[int, ...]:
    """Grid slices that show what is asked; none where every slice does, which is no place to point at.

    Of several planes only the acquired one can be known: every cut of another goes through all source slices.
    """
    if pair.source_slices is None:
        return ()
    found: list[int] = []
    for number, stack in enumerate(grid.stacks):
        shown = stack.grid_slices_of(pair.source_slices)
        if len(shown) < len(stack.slices):
            found += [number * len(stack.slices) + index for index in shown]
    return tuple(found)
