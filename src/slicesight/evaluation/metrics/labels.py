"""Which findings has each scan, according to whom? Tables of labels, from csv files of any classifier or from texts.

A csv has a row per scan: its name under VolumeName (or volume, case, id), then a column per finding with 1, 0, a
probability between them, -1 for uncertain (CheXpert's way) or nothing for unknown. `FINDING: side` and
`FINDING: location` may say where, several joined by ";". V scans, F findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slicesight.data.sources.tables import csv_columns, csv_rows, read_text
from slicesight.errors import InputError

Floats = NDArray[np.float64]
Uncertain = Literal["present", "absent"]
NAME_COLUMNS = ("volumename", "volume", "case", "id", "study", "accession")
TEXT_COLUMNS = ("question", "prediction", "pred", "answer", "ground truth", "findings_en", "impressions_en")
THRESHOLD = 0.5
DETAILS = ("side", "location")
SIDES = {"left": ("left",), "right": ("right",), "bilateral": ("left", "right"), "both": ("left", "right")}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a finding is said to be: sides of left and right, locations such as "upper lobe"; empty for unsaid."""

    side: frozenset[str] = frozenset()
    location: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Findings of scans.

    present: 1, 0 or NaN where nobody knows, (V, F). probability: (V, F), None where only yes and no are known.
    places: by scan and finding. about: who labelled, for the sheet.
    """

    volumes: tuple[str, ...]
    findings: tuple[str, ...]
    present: Floats
    probability: Floats | None = None
    places: Mapping[tuple[str, str], Place] = field(default_factory=dict)
    about: Mapping[str, object] = field(default_factory=dict)

    def rows(self, volumes: Sequence[str], findings: Sequence[str]) -> Labels:
        """The same for these scans and findings, in this order."""
        at = {name: place for place, name in enumerate(self.volumes)}
        column = {normal(name): place for place, name in enumerate(self.findings)}
        rows, columns = [at[name] for name in volumes], [column[normal(name)] for name in findings]
        renamed = {normal(name): name for name in findings}
        return Labels(
            volumes=tuple(volumes),
            findings=tuple(findings),
            present=self.present[np.ix_(rows, columns)],
            probability=None if self.probability is None else self.probability[np.ix_(rows, columns)],
            places={
                (volume, renamed[normal(finding)]): place
                for (volume, finding), place in self.places.items()
                if normal(finding) in renamed
            },
            about=self.about,
        )


def normal(name: str) -> str:
    """A column's or finding's name as it is compared: "Lung_nodule" is "lung nodule"."""
    return " ".join(name.replace("_", " ").replace("-", " ").lower().split())


def volume_name(name: str) -> str:
    """A scan's name without the ending of its file."""
    return name.strip().removesuffix(".gz").removesuffix(".nii")


def is_label_table(path: Path) -> bool:
    """Whether a csv's columns are a scan's name and findings, not questions and answers."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    columns = [normal(name) for name in csv_columns(path)]
    texts = {normal(name) for name in TEXT_COLUMNS}
    return len(columns) > 1 and any(name in NAME_COLUMNS for name in columns) and not texts & set(columns)


def read_labels(path: Path, *, uncertain: Uncertain = "present", threshold: float = THRESHOLD) -> Labels:
    """Read a csv of labels.

    Args:
        uncertain: what -1 counts as. threshold: probabilities from here on are yes.

    Raises:
        InputError: file and line of what cannot be used: no name column, a scan twice, a cell that is no label.
    """
    read_text(path)  # an InputError where it is not there, or not UTF-8
    columns = csv_columns(path)
    name_column = next((name for wanted in NAME_COLUMNS for name in columns if normal(name) == wanted), None)
    if name_column is None:
        found = ", ".join(columns) or "nothing"
        raise InputError(f"{path.name} line 1: no column VolumeName among {found}; expected VolumeName, then findings")
    details = {name: parts for name in columns if (parts := _detail(name)) is not None}
    findings = [name for name in columns if name and name != name_column and name not in details]
    if not findings:
        raise InputError(f"{path.name} line 1: no finding beside {name_column}; expected a column for each, 0 or 1")
    doubles = {normal(name) for name in findings if sum(normal(name) == normal(other) for other in findings) > 1}
    if doubles:
        raise InputError(f"{path.name} line 1: the column {min(doubles)!r} comes twice; keep one")
    for column, (finding, _) in details.items():
        if normal(finding) not in {normal(name) for name in findings}:
            raise InputError(f"{path.name} line 1: {column!r} belongs to no finding's column; add {finding!r}")
    values: dict[str, list[float]] = {}
    line_of: dict[str, int] = {}
    places: dict[tuple[str, str], Place] = {}
    for line, row in csv_rows(path):
        if row is None:
            raise InputError(f"{path.name} line {line}: more or fewer cells than the header; quote the text")
        volume = volume_name(row[name_column])
        if not volume:
            raise InputError(f"{path.name} line {line}: {name_column} is empty; name the scan")
        cells = [_cell(row[name], where=f"{path.name} line {line}: {name}") for name in findings]
        if volume in values:
            same = np.array_equal(values[volume], cells, equal_nan=True)
            why = "is" if same else "has other labels"
            raise InputError(f"{path.name} line {line}: {volume} {why} on line {line_of[volume]} too; keep one")
        values[volume], line_of[volume] = cells, line
        for finding in findings:
            place = {kind: row[name].strip() for name, (of, kind) in details.items() if normal(of) == normal(finding)}
            if any(place.values()):
                where = f"{path.name} line {line}: {finding}"
                places[volume, finding] = _place(place, where=where)
    if not values:
        raise InputError(f"{path.name}: no row below the header; expected one for each scan")
    cells_VF = np.array(list(values.values()), dtype=np.float64)
    is_uncertain = cells_VF == -1
    given_VF = np.where(is_uncertain, 1.0 if uncertain == "present" else 0.0, cells_VF)
    has_probabilities = bool(((given_VF > 0) & (given_VF < 1)).any())
    present_VF = np.where(np.isnan(given_VF), np.nan, (given_VF >= threshold).astype(np.float64))
    about = {"from": path.name, "num_uncertain": int(is_uncertain.sum())}
    return Labels(
        volumes=tuple(values),
        findings=tuple(findings),
        present=present_VF,
        probability=given_VF if has_probabilities else None,
        places=places,
        about=about | ({"threshold": threshold} if has_probabilities else {}),
    )


def matched(said: Labels, true: Labels, *, said_name: str, true_name: str) -> tuple[Labels, Labels, int]:
    """Both for the scans that were said something of, in the truth's findings -> (said, true, truths left over).

    Raises:
        InputError: a scan that the truth does not know, or a finding that only one of them has.
    """
    known = set(true.volumes)
    strange = [name for name in said.volumes if name not in known]
    if strange:
        raise InputError(
            f"{said_name}: scan {strange[0]!r} ({len(strange)} of {len(said.volumes)}) is not in {true_name}; "
            "give the truth of the same scans"
        )
    told = {normal(name) for name in said.findings}
    lacking = [name for name in true.findings if normal(name) not in told]
    if lacking:
        raise InputError(
            f"{said_name}: no label for {lacking[0]!r} ({len(lacking)} of {len(true.findings)} findings), which "
            f"{true_name} has; remove the column there or add it here"
        )
    volumes = [name for name in true.volumes if name in set(said.volumes)]
    if not volumes:
        raise InputError(f"{said_name} and {true_name} have no scan in common; see the names of their scans")
    return said.rows(volumes, true.findings), true.rows(volumes, true.findings), len(true.volumes) - len(volumes)


def _detail(column: str) -> tuple[str, str] | None:
    finding, colon, kind = column.rpartition(":")
    return (finding.strip(), kind.strip().lower()) if colon and kind.strip().lower() in DETAILS else None


def _cell(text: str, *, where: str) -> float:
    text = text.strip()
    if text.lower() in ("", "nan", "none", "na", "n/a"):
        return float("nan")
    try:
        value = float({"true": "1", "false": "0", "yes": "1", "no": "0"}.get(text.lower(), text))
    except ValueError:
        value = float("inf")
    if value != -1 and not 0 <= value <= 1:
        raise InputError(f"{where} is {text!r}; expected 0, 1, a probability between, -1 for uncertain or nothing")
    return value


def _place(given: Mapping[str, str], *, where: str) -> Place:
    sides = [side.strip().lower() for side in given.get("side", "").split(";") if side.strip()]
    unknown = [side for side in sides if side not in SIDES]
    if unknown:
        raise InputError(f"{where}: side is {unknown[0]!r}; expected left, right, bilateral or nothing")
    locations = (normal(place) for place in given.get("location", "").split(";"))
    return Place(
        side=frozenset(one for side in sides for one in SIDES[side]),
        location=frozenset(place for place in locations if place),
    )


def write_rows(labels: Labels) -> Iterator[list[str]]:
    """The rows of a csv of these labels, the header first, as `read_labels` takes them."""
    details = [kind for kind in DETAILS if any(getattr(place, kind) for place in labels.places.values())]
    yield ["VolumeName", *labels.findings, *(f"{name}: {kind}" for name in labels.findings for kind in details)]
    given_VF = labels.present if labels.probability is None else labels.probability
    for volume, cells in zip(labels.volumes, given_VF, strict=True):
        places = [labels.places.get((volume, name), Place()) for name in labels.findings]
        told = [";".join(sorted(getattr(place, kind))) for place in places for kind in details]
        yield [volume, *("" if np.isnan(cell) else f"{cell:g}" for cell in cells), *told]
