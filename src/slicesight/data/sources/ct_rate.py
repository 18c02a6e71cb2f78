"""How does CT-RATE become cases: a report, and each of its 18 findings as a yes-or-no question?

Tables are known by their columns: reports (VolumeName, Findings_EN, Impressions_EN), labels (VolumeName, 18 findings as
0 or 1), metadata (VolumeName, RescaleSlope, RescaleIntercept, XYSpacing, ZSpacing). train_* is train, valid_* is val.

The metadata's slope and intercept are never applied. Volumes of the second release (train_fixed, valid_fixed) are HU
already, and a second rescale would put air at -2048; volumes of the first release are raw, with a blank header, and are
refused.
"""

from __future__ import annotations

import gzip
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from slicesight.data.manifest import Case, Split
from slicesight.data.sources.intake import (
    Intake,
    SourceLocation,
    SourceRequest,
    is_missing,
    report_conversation,
    yes_no_conversation,
)
from slicesight.data.sources.tables import csv_columns, csv_rows, read_text
from slicesight.errors import InputError

SOURCE = "ct-rate"
FINDINGS = (
    "Medical material",
    "Arterial wall calcification",
    "Cardiomegaly",
    "Pericardial effusion",
    "Coronary artery wall calcification",
    "Hiatal hernia",
    "Lymphadenopathy",
    "Emphysema",
    "Atelectasis",
    "Lung nodule",
    "Lung opacity",
    "Pulmonary fibrotic sequela",
    "Pleural effusion",
    "Mosaic attenuation pattern",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Interlobular septal thickening",
)
NOTES = (
    "CT-RATE is CC BY-NC-SA 4.0: not for commercial use, and its terms forbid passing it on",
    "RescaleSlope and RescaleIntercept of CT-RATE's metadata are not applied: its fixed volumes are HU already",
)
_SPLITS: dict[str, Split] = {"train": "train", "valid": "val"}
_NAME = re.compile(r"^(train|valid)_([^_]+)_([^_]+)_([^_]+)$")
_NO_TEXT = ("", "not given.", "not given", "nan", "none")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_HEADER_BYTES = 348


@dataclass
class _Tables:
    """What the tables say, by volume name without its ending; `named` is where a volume was first named for a text."""

    named: dict[str, SourceLocation] = field(default_factory=dict)
    reports: dict[str, str] = field(default_factory=dict)
    labels: dict[str, dict[str, bool]] = field(default_factory=dict)
    spacings_mm: dict[str, tuple[float, float, float]] = field(default_factory=dict)


def read_ct_rate(request: SourceRequest, intake: Intake) -> list[Case]:
    """One case per volume that a report or label table names and that is there."""
    base = request.base
    tables = _read_tables(request, intake)
    if not tables.named:
        raise InputError(f"{base}: no table with VolumeName and Findings_EN or labels; point at the folder of CT-RATE")
    volumes = volumes_below(request.volumes or base)
    lists = sorted(base.rglob("no_chest*.txt"))
    not_chests = {
        volume_stem(Path(name).name): request.name_of(path) for path in lists for name in read_text(path).split()
    }
    intake.notes += NOTES
    cases = []
    for name in tables.named:
        if (parts := _NAME.match(name)) and not request.wants(_SPLITS[parts.group(1)]):
            continue
        if name in not_chests:
            intake.leave_out("not a chest", f"listed in {not_chests[name]}", case_id=name)
        elif case := _case(name, tables, volumes.get(name), request, intake):
            cases.append(case)
    unnamed = () if request.only else sorted(set(volumes) - set(tables.named))
    for name in unnamed:
        where = SourceLocation(request.name_of(volumes[name]))
        intake.leave_out("no text", "no table names this volume", where, case_id=name)
    return cases


def _read_tables(request: SourceRequest, intake: Intake) -> _Tables:
    tables = _Tables()
    for path in sorted(request.base.rglob("*.csv")):
        columns = csv_columns(path)
        findings = [finding for finding in FINDINGS if finding in columns]
        if "VolumeName" not in columns or not (findings or {"Findings_EN", "ZSpacing"} & set(columns)):
            continue
        for line, row in csv_rows(path):
            where = SourceLocation(request.name_of(path), line)
            if row is None:
                intake.refuse("bad row", "more or fewer cells than the header; quote the text", where)
                continue
            name = volume_stem(row["VolumeName"])
            if "Findings_EN" in columns:
                if name in tables.reports:
                    intake.refuse("bad row", f"{name}.nii.gz has a report already; keep one", where, case_id=name)
                    continue
                texts = (" ".join(row.get(column, "").split()) for column in ("Findings_EN", "Impressions_EN"))
                tables.reports[name] = " ".join(text for text in texts if text.lower() not in _NO_TEXT)
            if findings:
                tables.labels[name] = dict(_labels(row, findings, where, intake))
            if "Findings_EN" in columns or findings:
                tables.named.setdefault(name, where)
            if spacing := _spacing(row):
                tables.spacings_mm[name] = spacing
    return tables


def _labels(
    row: dict[str, str], findings: list[str], where: SourceLocation, intake: Intake
) -> Iterator[tuple[str, bool]]:
    name = volume_stem(row["VolumeName"])
    for finding in findings:
        cell = row[finding].strip()
        if cell in ("0", "1", "0.0", "1.0"):
            yield finding.lower(), cell.startswith("1")
        elif is_missing(cell):
            intake.leave_out("no label", f"{finding}: the cell is empty", where, case_id=name)
        else:
            intake.refuse("bad row", f"{finding} is {cell!r}, expected 0 or 1", where, case_id=name)


def _spacing(row: dict[str, str]) -> tuple[float, float, float] | None:
    """(x, y, z) mm of the metadata, whose XYSpacing is written "[0.75, 0.75]"."""
    sizes = [float(size) for column in ("XYSpacing", "ZSpacing") for size in _NUMBER.findall(row.get(column, ""))]
    return (sizes[0], sizes[1], sizes[2]) if len(sizes) == 3 else None


def _case(name: str, tables: _Tables, path: Path | None, request: SourceRequest, intake: Intake) -> Case | None:
    where, parts = tables.named[name], _NAME.match(name)
    report, labels = tables.reports.get(name), tables.labels.get(name, {})
    asked = [report_conversation(name, report)] if report else []
    asked += [yes_no_conversation(name, finding, is_present=present) for finding, present in labels.items()]
    if parts is None:
        reason = f"VolumeName is '{name}.nii.gz', expected train_<patient>_<scan>_<n> or valid_...; correct it"
        intake.refuse("bad row", reason, where, case_id=name)
    elif not asked:
        intake.leave_out("no text", "neither findings, impression nor labels", where, case_id=name)
    elif path is None:
        reason = f"{name}.nii.gz: not found; name the folder of train_fixed and valid_fixed with --volumes"
        intake.refuse("missing volume", reason, where, case_id=name)
    elif doubt := first_release_doubt(path, tables.spacings_mm.get(name)):
        intake.refuse("raw volume", doubt, SourceLocation(request.name_of(path)), case_id=name)
    else:
        split, patient = _SPLITS[parts.group(1)], f"{parts.group(1)}_{parts.group(2)}"
        volume, conversations = str(path), tuple(asked)
        return Case(id=name, volume=volume, split=split, patient=patient, source=SOURCE, conversations=conversations)
    return None


def first_release_doubt(path: Path, spacing_mm: tuple[float, float, float] | None = None) -> str:
    """Why the file looks like a raw volume of the first release; empty if it does not.

    Those have voxels of 1 x 1 x 1 mm in the header, whatever the metadata say, and values before the rescale.
    """
    header_mm = _header_spacing(path)
    if header_mm is None or any(abs(size - 1.0) > 1e-6 for size in header_mm):
        return ""
    if spacing_mm is not None and all(abs(size - 1.0) <= 0.01 for size in spacing_mm):
        return ""
    stated = "no metadata say" if spacing_mm is None else f"metadata {'×'.join(f'{size:g}' for size in spacing_mm)} mm"
    return (
        f"header says 1×1×1 mm, {stated}: a first-release volume without geometry and before the rescale to HU; "
        "take it from train_fixed or valid_fixed"
    )


def _header_spacing(path: Path) -> list[float] | None:
    """Voxel size of a NIfTI-1 header; None where there is none, which reading the scan will explain."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            header = stream.read(_HEADER_BYTES)
    except (OSError, EOFError, zlib.error):
        return None
    order = "<" if header[:4] == b"\x5c\x01\0\0" else ">"
    is_whole = len(header) == _HEADER_BYTES
    return [abs(size) for size in struct.unpack_from(f"{order}3f", header, 80)] if is_whole else None


def volumes_below(folder: Path, *, leave_out: Path | None = None) -> dict[str, Path]:
    """Volume name -> file, the first in the order of paths; where both releases are there, the fixed one.

    leave_out: a folder whose files are no scans, such as masks of the same names.
    """
    files = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    scans = [file for file in files if file.name.endswith((".nii.gz", ".nii")) and file.parent != leave_out]
    is_raw = {scan: not any(part.endswith("_fixed") for part in scan.parent.parts) for scan in scans}
    best_last = sorted(scans, key=lambda scan: (is_raw[scan], scan.parts), reverse=True)
    return {volume_stem(scan.name): scan for scan in best_last}


def volume_stem(name: str) -> str:
    """A volume's name without .nii or .nii.gz."""
    return name.strip().removesuffix(".gz").removesuffix(".nii")
