"""How do M3D-LaMed, RadFM, the official Med-2E3 or anyone stand in the same table? Their result files, read as ours.

M3D's csv's: caption `Question, Ground Truth, pred, …`, closed `Question Type, Question, Answer, Answer Choice, Pred,
Correct`, open `Question Type, Question, Answer, Pred, …`; 3D-RAD's are the same with Question Aspect. Official
Med-2E3: outputs [{"idx", "outputs"}] beside answers [{"id", "answer", "answer_choice", "question_type"}], matched by
position as its own scripts do. DeepTumorVQA's results: benchmarks/submissions.py. JSONL: predictions.py. What such a
file cannot give is named with the reason, never guessed. Files of one run hold different kinds of questions and are
merged; runs of one name are seeds.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from slicesight.data.choices import LIST_MARK, listed_choices
from slicesight.data.manifest import LETTERS
from slicesight.errors import InputError
from slicesight.evaluation.benchmarks.submissions import read_deeptumorvqa_results
from slicesight.evaluation.predictions import Prediction, PredictionFile, prediction, read_placed_lines

TOPIC_NAMES = {"1": "plane", "2": "phase", "3": "organ", "4": "abnormality", "5": "location"}
REPORT_TOPIC = "report"
CSV_FORMATS = {
    "m3d-caption-csv": ("report", {"question", "ground truth", "pred"}),
    "m3d-closed-csv": ("closed", {"question type", "question", "answer", "answer choice", "pred"}),
    "m3d-open-csv": ("open", {"question type", "question", "answer", "pred"}),
}
NO_VOLUME = "{} names no volume, so nothing can be drawn or paired by volume; give JSONL with the field volume"


def read_systems(arguments: Sequence[str], *, answers: Sequence[Path] = ()) -> dict[str, list[PredictionFile]]:
    """{system's name: its runs}; nameless files that hold different kinds of questions are one run of one system."""
    left = list(answers)
    runs: list[tuple[str | None, Path, PredictionFile]] = []
    for argument in arguments:
        name, equals, paths = argument.partition("=")
        if not equals or Path(argument).exists():
            name, paths = "", argument
        parts = [Path(path) for path in (paths.split(",") if equals and name else [paths])]
        files = [
            read_predictions(part, answers=left.pop(0) if left and part.suffix.lower() == ".json" else None)
            for part in parts
        ]
        runs.append((name or None, parts[0], _merge(files)))
    if left:
        raise InputError(f"--answers {left[0]}: there is no official .json output left for it; leave it out.")
    nameless = [run for run in runs if run[0] is None]
    kinds = [task for _, _, file in nameless for task in file.tasks]
    systems: dict[str, list[PredictionFile]] = {}
    if len(nameless) > 1 and len(kinds) == len(set(kinds)):
        systems[_name_of(nameless[0][1].parent / "run")] = [_merge([file for _, _, file in nameless])]
        runs = [run for run in runs if run[0] is not None]
    for given, path, file in runs:
        systems.setdefault(given or _fresh(_name_of(path), systems), []).append(file)
    return systems


def _name_of(path: Path) -> str:
    """A system's name from its file: the folder's where the file is called predictions, else the file's own."""
    stem = path.resolve().stem if path.suffix else path.resolve().name
    return path.resolve().parent.name if stem in ("predictions", "run") else stem


def read_predictions(path: Path, *, answers: Path | None = None) -> PredictionFile:
    """Read one result file of any known kind, or a folder of M3D's csv's.

    Args:
        answers: the answers json that belongs to official Med-2E3 outputs.

    Raises:
        InputError: there is no such file, its kind is unknown, or a row lacks something.
    """
    if path.is_dir():
        return _read_folder(path, answers)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected predictions as .jsonl, M3D's .csv or official .json outputs.")
    suffix = path.suffix.lower()
    if answers is not None and suffix != ".json":
        raise InputError(f"{path}: --answers belongs to official .json outputs; leave it out for {suffix or 'this'}.")
    kinds: dict[str, Callable[[Path], PredictionFile]] = {
        ".csv": _read_csv,
        ".jsonl": _read_plain,
        ".json": partial(_read_official, answers=answers),
    }
    if suffix not in kinds:
        raise InputError(f"{path}: unknown kind {suffix or '(no suffix)'}; expected .jsonl, .csv or .json.")
    try:
        found = kinds[suffix](path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    if not found.rows:
        raise InputError(f"{path}: holds no predictions; expected one per line or row.")
    return found


def _merge(files: Sequence[PredictionFile]) -> PredictionFile:
    """Files of one run (reports, open, closed) as one."""
    if len(files) == 1:
        return files[0]
    missing = {name: reason for file in files for name, reason in file.missing.items()}
    places = tuple(place for file in files for place in file.places)
    kinds = " + ".join(dict.fromkeys(file.format for file in files))
    rows = tuple(row for file in files for row in file.rows)
    return PredictionFile(rows=rows, format=kinds, missing=missing, places=places if len(places) == len(rows) else ())


def _read_folder(folder: Path, answers: Path | None) -> PredictionFile:
    """A run's folder: predictions.jsonl as `evaluate` writes it, else every csv in it."""
    own = folder / "predictions.jsonl"
    if own.is_file():
        return read_predictions(own, answers=answers)
    tables = sorted(folder.glob("*.csv"))
    if not tables:
        raise InputError(f"{folder}: holds neither predictions.jsonl nor M3D's csv's; name the file itself.")
    files = [read_predictions(table) for table in tables]
    if sum(len(file.tasks) for file in files) > len(frozenset().union(*(file.tasks for file in files))):
        raise InputError(f"{folder}: several csv's hold the same kind of question; name the files one by one.")
    return _merge(files)


def _read_plain(path: Path) -> PredictionFile:
    placed = read_placed_lines(path)
    rows = [row for row, _ in placed]
    _check_ids(placed)
    nameless = sum(row.volume is None for row in rows)
    why = f"{nameless} of {len(rows)} lines have no field volume, so nothing can be drawn by volume"
    missing = {"volume": why} if nameless else {}
    places = tuple(place for _, place in placed)
    listed = tuple(_with_listed_choices(row) for row in rows)
    return PredictionFile(rows=listed, format="jsonl", missing=missing, places=places)


def _check_ids(placed: Sequence[tuple[Prediction, str]]) -> None:
    """A question answered twice in one file would count twice."""
    first: dict[str, str] = {}
    for row, place in placed:
        if row.id in first:
            raise InputError(f"{place}: id {row.id!r} is in {first[row.id]} already; keep one of the two")
        first[row.id] = place


def _read_csv(path: Path) -> PredictionFile:
    csv.field_size_limit(2**24)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        header = {_column(name) for name in reader.fieldnames or ()}
        kind = next((name for name, (_, columns) in CSV_FORMATS.items() if columns <= header), None)
        if kind is None:
            raise InputError(
                f"{path}: columns {', '.join(sorted(header)) or '(none)'} are none of M3D's three tables; expected "
                "Question + Ground Truth + pred, or Question Type + Question + Answer (+ Answer Choice) + Pred."
            )
        placed = [(_csv_row(raw, kind=kind, number=number, path=path), number) for number, raw in enumerate(reader, 2)]
    return PredictionFile(
        rows=tuple(row for row, _ in placed),
        format=kind,
        missing={"volume": NO_VOLUME.format("M3D's csv")},
        places=tuple(f"{path.name} line {number}" for _, number in placed),
    )


def _column(name: str) -> str:
    """A column's name as it is looked for; 3D-RAD calls M3D's question type its aspect."""
    plain = name.strip().lower()
    return "question type" if plain == "question aspect" else plain


def _csv_row(raw: dict[str, Any], *, kind: str, number: int, path: Path) -> Prediction:
    task = CSV_FORMATS[kind][0]
    row = {_column(key or ""): value for key, value in raw.items()}
    lacking = [key for key in CSV_FORMATS[kind][1] if row.get(key) is None]
    if lacking:
        raise InputError(
            f"{path.name} line {number}: fewer cells than the header, none for {lacking[0]!r}; mend the row"
        )
    fields = {
        "id": f"{path.stem}:{number - 2}",
        "task": task,
        "topic": REPORT_TOPIC if task == "report" else topic_name(row["question type"]),
        "question": row["question"],
        "prediction": row["pred"] or "",
        "answer": row["ground truth" if task == "report" else "answer"] or "",
        "answer_choice": (row.get("answer choice") or "").strip() or None,
    }
    return _with_listed_choices(prediction(fields, where=f"{path.name} line {number}"))


def _read_official(path: Path, answers: Path | None) -> PredictionFile:
    if (document := _json_of(path)) is not None and isinstance(document, dict) and "results" in document:
        if answers is not None:
            raise InputError(f"{path}: holds its own answers; leave --answers out")
        return read_deeptumorvqa_results(path, document)
    outputs = _json_list(path)
    if outputs and "outputs" not in outputs[0]:
        raise InputError(f"{path}: its entries have no key outputs; expected official outputs [{{idx, outputs}}].")
    if answers is None:
        raise InputError(f"{path}: official outputs hold no answers; name their answers json with --answers.")
    known = _json_list(answers)
    if len(known) != len(outputs):
        raise InputError(f"{path}: {len(outputs)} outputs for {len(known)} answers in {answers}; they go by position.")
    rows = []
    for place, (said, true) in enumerate(zip(outputs, known, strict=True)):
        if said.get("idx", place) != place:
            raise InputError(f"{path}: entry {place} has idx {said['idx']}; outputs and answers go by position.")
        letter, kind = true.get("answer_choice") or None, true.get("question_type")
        fields = {
            "id": str(true.get("id", place)),
            "task": "closed" if letter else "report" if kind is None else "open",
            "topic": REPORT_TOPIC if kind is None else topic_name(kind),
            "question": true.get("question", ""),
            "prediction": said["outputs"],
            "answer": true.get("answer"),
            "answer_choice": letter,
        }
        rows.append(_with_listed_choices(prediction(fields, where=f"{answers.name} entry {place}")))
    missing = {"volume": NO_VOLUME.format("the official output")}
    return PredictionFile(rows=tuple(rows), format="med2e3-official-json", missing=missing)


def _json_list(path: Path) -> list[dict[str, Any]]:
    content = _json_of(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise InputError(f"{path}: expected a JSON list of objects, found {type(content).__name__}.")
    return content


def _json_of(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a JSON list.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); expected a list of objects.") from None


def topic_name(kind: Any) -> str:
    """M3D's question type (1 to 5, however written) as a word; any other as it is."""
    plain = str(kind).strip().removesuffix(".0")
    return TOPIC_NAMES.get(plain, plain or "unknown")


def _with_listed_choices(row: Prediction) -> Prediction:
    """Choices from the question's own text where the file has no field for them."""
    if row.task != "closed" or row.choices or LIST_MARK not in row.question:
        return row
    listed = listed_choices(row.question)
    is_whole = "".join(listed) == LETTERS[: len(listed)]  # else no place can be trusted
    return row.model_copy(update={"choices": tuple(listed.values())}) if listed and is_whole else row


def _fresh(name: str, taken: Mapping[str, Any]) -> str:
    """The name itself, or with a number where another nameless file has it."""
    number, fresh = 2, name
    while fresh in taken:
        fresh, number = f"{name} {number}", number + 1
    return fresh
