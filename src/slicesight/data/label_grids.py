"""What does a case's label map show on the case's own prepared grid, and where is that not known?

A case says in `truth` which structures were drawn in its scan, and under which value of its label map:
{"kind": "masks", "structures": {"brainstem": 1}, "unknown": {"brainstem": [[0, 11]]}, "facts": {"modality": "CT"},
"synonyms": {"brainstem": ["brain stem"]}}
structures: those drawn; one that only other cases have is unknown here, not absent. unknown: first and last stored
slice of ranges in which the truth about a drawn structure is not known. facts: what is true of the whole scan.
synonyms: other names, where there are any. Without `labels` only the facts are known.
N slices, H rows, W columns, Y structures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slicesight.data.manifest import Case
from slicesight.data.store import PreparedVolumes
from slicesight.errors import InputError
from slicesight.io.masks import read_mask, whole_labels
from slicesight.volumes.grid import labels_to_grid

KIND = "masks"
MOST_STRUCTURES = 255


class MaskTruth(BaseModel):
    """What a case's `truth` says of its label map."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    structures: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    unknown: dict[str, list[tuple[int, int]]] = Field(default_factory=dict)
    facts: dict[str, str] = Field(default_factory=dict)
    synonyms: dict[str, list[str]] = Field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LabelGrid:
    """The label map of one case on its grid.

    labels: (N, H, W) uint8, 1 + a structure's place in the list asked for, 0 elsewhere and where the truth is unknown.
    known: (N, Y) whether the truth about a structure is known in a slice.
    """

    labels: NDArray[np.uint8]
    known: NDArray[np.bool_]


def mask_truth(case: Case) -> MaskTruth | None:
    """What the case says of its label map; None where its truth is of another kind.

    Raises:
        InputError: it says it is of this kind, but is not.
    """
    if case.truth is None or case.truth.get("kind") != KIND:
        return None
    try:
        truth = MaskTruth.model_validate(case.truth)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"case {case.id}: truth.{where}: {first['msg']}; mend the manifest") from None
    values = list(truth.structures.values())
    if twice := {value for value in values if values.count(value) > 1}:
        names = [name for name, value in truth.structures.items() if value in twice]
        raise InputError(f"case {case.id}: truth.structures: {' and '.join(names)} have one value; give each its own")
    return truth


def read_label_grids(
    prepared: PreparedVolumes, cases: Sequence[Case], structures: Sequence[str]
) -> Iterator[tuple[int, LabelGrid]]:
    """(number of the case in `cases`, its labels on its grid), ordered by file so that each is read once.

    Raises:
        InputError: more structures than fit, a label map that is missing, cannot be read or lies on another grid.
    """
    if len(structures) > MOST_STRUCTURES:
        raise InputError(f"{len(structures)} structures; expected at most {MOST_STRUCTURES}, leave some out")
    column = {name: number for number, name in enumerate(structures)}
    last: tuple[tuple[str, str, bool], NDArray[np.integer]] | None = None
    for number in sorted(range(len(cases)), key=lambda number: (cases[number].labels or "", number)):
        case = cases[number]
        truth, receipt = mask_truth(case), prepared.receipt(case.id)
        shape = receipt["grid"]
        size = (shape["num_slices"], shape["height"], shape["width"])
        known = np.zeros((size[0], len(structures)), dtype=bool)
        if truth is None or case.labels is None:
            yield number, LabelGrid(np.zeros(size, dtype=np.uint8), known)
            continue
        read_as = (case.labels, str(receipt["source"].get("stored_orientation", "")), bool(receipt["has_positions"]))
        if last is None or last[0] != read_as:
            last = read_as, _read(prepared.folder / case.labels, case, read_as)
        labels = _on_grid(last[1], case, receipt, size)
        values = {value: 1 + column[name] for name, value in truth.structures.items() if name in column}
        numbers = _renumbered(labels, values)
        known[:, [column[name] for name in truth.structures if name in column]] = True
        _forget(numbers, known, truth, prepared.source_slices(case.id), column)
        yield number, LabelGrid(numbers, known)


def _read(path: Path, case: Case, read_as: tuple[str, str, bool]) -> NDArray[np.integer]:
    if not path.exists():
        raise InputError(f"case {case.id}: no such label map {path}; mend the manifest")
    _, voxels = read_mask(path, orientation=read_as[1], has_place=read_as[2])
    labels = whole_labels(voxels, path.name)
    return labels.astype(np.uint16) if labels.max(initial=0) < 2**16 else labels


def _on_grid(
    whole_ZYX: NDArray[np.integer], case: Case, receipt: Mapping[str, Any], size: tuple[int, int, int]
) -> NDArray[np.integer]:
    """The part of the whole scan's label map that the case's volume is, at the grid's pixel centres."""
    expected = tuple(receipt["shape_zyx"])
    labels = whole_ZYX
    if box := receipt["source"].get("box_zyx"):
        labels = labels[tuple(slice(start, stop) for start, stop in box)]
    if labels.shape != expected:
        raise InputError(
            f"case {case.id}: its label map is {labels.shape}, its scan {expected} (z, y, x); expected one grid, "
            "resample the label map"
        )
    on_grid: NDArray[np.integer] = labels_to_grid(
        labels, box=receipt["crop_zyx"], plane=receipt["grid"]["plane"], size=size
    )
    return on_grid


def _renumbered(labels: NDArray[np.integer], values: Mapping[int, int]) -> NDArray[np.uint8]:
    """Each value as its number, every other as 0."""
    table = np.zeros(max(int(labels.max(initial=0)), *values, 0) + 1, dtype=np.uint8)
    for value, number in values.items():
        table[value] = number
    numbers: NDArray[np.uint8] = table[labels]
    return numbers


def _forget(
    numbers: NDArray[np.uint8],
    known: NDArray[np.bool_],
    truth: MaskTruth,
    source_slices: Sequence[range],
    column: Mapping[str, int],
) -> None:
    """Mark the grid slices that hold any stored slice of an unknown range, and take the structure out of them."""
    for name, ranges in truth.unknown.items():
        if name not in column:
            continue
        hidden = np.array(
            [any(shown[0] <= last and first <= shown[-1] for first, last in ranges) for shown in source_slices]
        )
        known[hidden, column[name]] = False
        part = numbers[hidden]
        part[part == 1 + column[name]] = 0
        numbers[hidden] = part
