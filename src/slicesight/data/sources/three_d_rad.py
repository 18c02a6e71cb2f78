"""How does 3D-RAD become cases: six tasks of questions about CT-RATE's scans?

Facts from https://github.com/Tang-xiaoxiao/3D-RAD (its README, 3DRAD/ and M3D/Bench): tables
3DRAD/{train,test}/Task<n>_<Name>/<subtask>.csv with the columns of `COLUMNS`; QuestionType is Open (choices "-") or
Close. The folders count image observation as task 1 and anomaly detection as task 2, the README and paper the other way
round; names are used here, never numbers.

Its volumes are CT-RATE's: train_* and test_* are CT-RATE's train_* and valid_* (1,560 of 1,560 scans of the test tables
are among CT-RATE's validation reports, and 972 of 1,002 measurements stand word for word in the report of that scan). A
scan is looked for under either name, as .nii.gz, .nii or the .npy of 3D-RAD's own release. Patients keep CT-RATE's
names and source, so that a model trained on CT-RATE is caught when it is tested on its own patients.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from slicesight.data.manifest import FOUR_LETTERS, Case, Conversation, Split
from slicesight.data.sources.collected import CollectedCases
from slicesight.data.sources.ct_rate import SOURCE as CT_RATE
from slicesight.data.sources.ct_rate import first_release_doubt
from slicesight.data.sources.intake import Intake, SourceLocation, SourceRequest, UnusableError, closed_conversation
from slicesight.data.sources.tables import csv_columns, csv_rows
from slicesight.errors import InputError

COLUMNS = (
    "Task",
    "Subtask",
    "VolumeName",
    "Question",
    "Answer",
    "QuestionType",
    "AnswerChoice",
    *(f"Choice {letter}" for letter in FOUR_LETTERS),
)
TASKS = {
    "1": "image observation",
    "2": "anomaly detection",
    "3": "medical computation",
    "4": "existence detection",
    "5": "static temporal diagnosis",
    "6": "longitudinal temporal diagnosis",
}
"""By the number in the column Task, which is the folder's, not the paper's."""
SEPARATOR = ": "
NOTES = (
    "3D-RAD's volumes are CT-RATE's: CC BY-NC-SA 4.0, not for commercial use; its test_* scans are CT-RATE's valid_*",
)
_NAME = re.compile(r"^(train|test|valid)_([^_]+)_([^_]+)_([^_]+)$")
_SPLITS: dict[str, Split] = {"train": "train", "test": "test"}
_ENDINGS = (".nii.gz", ".nii", ".npy")
_NO_CHOICE = "-"


def read_3d_rad(request: SourceRequest, intake: Intake) -> list[Case]:
    """One case per scan and split, with the questions of all tables."""
    tables = [table for table in _tables(request) if _is_ours(table)]
    if not tables:
        raise InputError(f"{request.source}: no Task*/*.csv of 3D-RAD in it; point at its folder 3DRAD")
    scans = _scans_below([*([request.volumes] if request.volumes else []), request.base])
    collected = CollectedCases(source=CT_RATE, intake=intake)
    intake.notes += NOTES
    answers: dict[tuple[str, str, str], tuple[str, SourceLocation]] = {}
    repeats = 0
    for table in tables:
        split = _split_of(table)
        if not request.wants(split):
            continue
        for line, row in csv_rows(table, needed=COLUMNS):
            where = SourceLocation(request.name_of(table), line)
            if row is None:
                intake.refuse("bad row", "more or fewer cells than the header; quote the text", where)
                continue
            name = _stem(row["VolumeName"])
            key = (row["Task"].strip(), name, row["Question"].strip())
            said, first = answers.setdefault(key, (row["Answer"].strip(), where))
            if said != row["Answer"].strip():
                found = f"{row['Question'].strip()[:60]!r} about {name} has the answer {row['Answer'].strip()[:40]!r}"
                reason = f"{found}, in {first} it is {said[:40]!r}; keep one"
                intake.refuse("bad row", reason, where, case_id=name)
                continue
            repeats += first != where
            _add(row, name, split, scans, collected, where)
    if repeats:
        intake.notes.append(f"{repeats} rows ask what another row asks; kept, as 3D-RAD's own scorer counts them")
    return collected.cases


def _add(
    row: dict[str, str],
    name: str,
    split: Split,
    scans: dict[str, Path],
    collected: CollectedCases,
    where: SourceLocation,
) -> None:
    intake, parts = collected.intake, _NAME.match(name)
    if parts is None:
        reason = f"VolumeName is {row['VolumeName']!r}, expected test_<patient>_<scan>_<n>.nii.gz; correct it"
        intake.refuse("bad row", reason, where, case_id=name)
        return
    ct_rate = name.replace("test_", "valid_", 1)
    path = scans.get(name) or scans.get(ct_rate)
    if path is None:
        reason = f"neither {name} nor CT-RATE's {ct_rate} found; name the folder of the scans with --volumes"
        intake.refuse("missing volume", reason, where, case_id=name)
        return
    if path.suffix != ".npy" and (doubt := first_release_doubt(path)):
        intake.refuse("raw volume", doubt, SourceLocation(path.name), case_id=name)
        return
    try:
        asked = _conversation(row, f"{where.file.removesuffix('.csv')}:{where.line}")
    except UnusableError as reason:
        intake.refuse("bad row", f"{reason}; correct the row", where, case_id=name)
        return
    patient = f"{'valid' if parts.group(1) == 'test' else parts.group(1)}_{parts.group(2)}"
    collected.add(name, path, [asked], where, split=split, patient=patient)


def _conversation(row: dict[str, str], name: str) -> Conversation:
    """Raises UnusableError."""
    question, answer, kind = (row[column].strip() for column in ("Question", "Answer", "QuestionType"))
    if not question or not answer or answer == _NO_CHOICE:
        raise UnusableError(f"question {question[:40]!r} with answer {answer[:40]!r}")
    if row["Task"].strip() not in TASKS:
        raise UnusableError(f"Task is {row['Task'].strip()!r}, expected 1 to 6")
    _, _, subtask = name.rpartition("/")
    topic = TASKS[row["Task"].strip()] + SEPARATOR + subtask.rpartition(":")[0].replace("_", " ").strip().lower()
    if kind == "Open":
        return Conversation(id=name, task="open", topic=topic, question=question, answer=answer)
    if kind != "Close":
        raise UnusableError(f"QuestionType is {kind!r}, expected Open or Close")
    choices = [row[f"Choice {letter}"].strip() for letter in FOUR_LETTERS]
    return closed_conversation(
        name,
        topic=topic,
        question=question,
        choices=["NA" if choice == _NO_CHOICE else choice for choice in choices],
        answer=answer,
        letter=row["AnswerChoice"],
    )


def _tables(request: SourceRequest) -> list[Path]:
    return sorted(request.source.rglob("*.csv")) if request.source.is_dir() else [request.source]


def _is_ours(table: Path) -> bool:
    """A table in a Task folder must have every column; elsewhere it is known by two of them."""
    return table.parent.name.lower().startswith("task") or {"QuestionType", "VolumeName"} <= set(csv_columns(table))


def _split_of(table: Path) -> Split:
    named = [_SPLITS[part.lower()] for part in reversed(table.parts[:-1]) if part.lower() in _SPLITS]
    return named[0] if named else "test"


def _scans_below(folders: list[Path]) -> dict[str, Path]:
    """Name without ending -> file; a fixed volume before any other, .nii.gz before .npy."""
    found: dict[str, Path] = {}
    for folder in folders:
        files = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
        scans = [file for file in files if file.name.endswith(_ENDINGS)]
        raw_last = sorted(scans, key=lambda file: (file.suffix == ".npy", not _is_fixed(file), file.parts))
        found = {_stem(scan.name): scan for scan in reversed(raw_last)} | found
    return found


def _is_fixed(scan: Path) -> bool:
    return any(part.endswith("_fixed") for part in scan.parts)


def _stem(name: str) -> str:
    return name.strip().removesuffix(".gz").removesuffix(".nii").removesuffix(".npy")
