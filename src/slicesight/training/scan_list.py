"""Which scans does an insight verb train on and score? A .jsonl, one scan a line, checked before anything is loaded.

    {"image": "scans/a.nii.gz", "mask": "masks/a.nii.gz", "label": "benign", "patient": "p7", "split": "train"}

Paths are relative to the .jsonl; `mask` is for segmentation, `label` for classification. A patient lies in one split.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slicesight.errors import ManifestError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, Split, Split] = ("train", "val", "test")


class _Line(BaseModel):
    """One line as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    image: str = Field(min_length=1)
    mask: str | None = None
    label: str | int | None = None
    patient: str | int
    split: Split = "train"


@dataclass(frozen=True, kw_only=True)
class ScanCase:
    """One scan: where it and its mask lie, its class, whose it is, and what it is for.

    line: its number in the .jsonl, from 1. name: short, unique and fit for a file's name.
    """

    image: Path
    mask: Path | None
    label: str | None
    patient: str
    split: Split
    line: int
    name: str


def read_cases(path: str | Path, *, needs: Literal["mask", "label"] | None = None) -> list[ScanCase]:
    """All cases of a .jsonl, in its order.

    Args:
        needs: what every line must have.

    Raises:
        ManifestError: one line that names the first bad line, or a patient who is in two splits.
    """
    place = Path(path)
    if not place.is_file():
        raise ManifestError(f"{place}: no such file; expected a .jsonl with one scan a line")
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ManifestError(f"{place.name}: not UTF-8 text; expected a .jsonl with one scan a line") from None
    cases = [_case(line, number, place, needs=needs) for number, line in enumerate(lines, start=1) if line.strip()]
    if not cases:
        raise ManifestError(f"{place.name}: no scans found; expected one JSON object a line")
    _check_splits(cases, place.name)
    return cases


def of_split(cases: list[ScanCase], split: Split, *, path: str | Path) -> list[ScanCase]:
    """The cases of one split, which must not be empty."""
    chosen = [case for case in cases if case.split == split]
    if not chosen:
        found = ", ".join(sorted({case.split for case in cases}))
        raise ManifestError(
            f"{Path(path).name}: no scan has the split {split!r} (found: {found}); set it on some lines"
        )
    return chosen


def part_of_patients(cases: list[ScanCase], share: float, *, seed: int = 0) -> list[ScanCase]:
    """The scans of a share of the patients, at least one; a smaller share is a part of every larger one.

    Patients are ordered by a digest of seed and name, so that the choice depends on nothing else.
    """

    def place(patient: str) -> str:
        return hashlib.sha256(f"{seed} {patient}".encode()).hexdigest()

    order = sorted({case.patient for case in cases}, key=place)
    chosen = set(order[: max(1, round(share * len(order)))])
    return [case for case in cases if case.patient in chosen]


def _case(line: str, number: int, place: Path, *, needs: str | None) -> ScanCase:
    where = f"{place.name} line {number}"
    try:
        found = _Line.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ManifestError(f"{where}: {key + ': ' if key else ''}{first['msg']}") from None
    if needs is not None and getattr(found, needs) is None:
        raise ManifestError(f"{where}: {needs} is missing; this verb needs one on every line")
    image = place.parent / found.image
    mask = None if found.mask is None else place.parent / found.mask
    for key, file in (("image", image), ("mask", mask)):
        if file is not None and not file.exists():
            raise ManifestError(f"{where}: {key}: no such file {file}; paths are relative to the .jsonl")
    return ScanCase(
        image=image,
        mask=mask,
        label=None if found.label is None else str(found.label),
        patient=str(found.patient),
        split=found.split,
        line=number,
        name=f"{number:05d}-{_short_name(image)}",
    )


def _check_splits(cases: list[ScanCase], name: str) -> None:
    first: dict[str, ScanCase] = {}
    for case in cases:
        before = first.setdefault(case.patient, case)
        if before.split != case.split:
            raise ManifestError(
                f"{name} line {case.line}: this patient is in {case.split} here and in {before.split} on line "
                f"{before.line}; put all scans of a patient into one split"
            )


def _short_name(image: Path) -> str:
    stem = image.name.split(".")[0]
    return "".join(character if character.isalnum() or character in "-_" else "_" for character in stem)[:40]
