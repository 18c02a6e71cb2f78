"""How do result files, ours and anyone's, become one table? `slicesight score`: read, score, compare, print or write.

Files of one run hold different kinds of questions (reports, open, closed) and are merged; runs of one name are seeds.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from slicesight.errors import InputError
from slicesight.evaluation.external import merge, read_predictions
from slicesight.evaluation.predictions import PredictionFile
from slicesight.evaluation.sheet import average_sheets, compare_systems, make_sheet, score_file
from slicesight.files import checked_place, write_text

STDOUT = Path("-")
TEXT_COLUMNS = (("bleu1", "B@1"), ("rouge1", "R@1"), ("meteor", "M"), ("bertscore_f1", "BERT"), ("exact", "exact"))
CLOSED_COLUMNS = (("accuracy", "closed acc."), ("accuracy_legacy", "(legacy rule)"))
BLOCKS = (
    ("reports", "micro", (("report", TEXT_COLUMNS),)),
    ("VQA, macro over topics", "macro", (("open", TEXT_COLUMNS), ("closed", CLOSED_COLUMNS))),
    ("VQA, micro over questions", "micro", (("open", TEXT_COLUMNS), ("closed", CLOSED_COLUMNS))),
)
"""(title, average, columns) in the order of the papers' tables."""


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """The arguments of `slicesight score`: FILE or NAME=FILE[,FILE...], one per run."""

    predictions: Sequence[str]
    answers: Sequence[Path] = ()
    json: Path | None = None
    bertscore: str | None = None
    layer: int | None = None

    def __post_init__(self) -> None:
        if self.json is not None and self.json != STDOUT:
            checked_place(self.json)


def run_score(request: ScoreRequest) -> None:
    """Print the table, or write JSON; raises InputError before anything is written."""
    stderr = Console(stderr=True)
    systems = read_systems(request.predictions, answers=request.answers)
    with stderr.status("scoring"):
        scored = {
            name: [score_file(run, bertscore=request.bertscore, layer=request.layer) for run in runs]
            for name, runs in systems.items()
        }
        sheets = [average_sheets([make_sheet(run, system=name) for run in runs]) for name, runs in scored.items()]
        comparisons = compare_systems(scored) if len(scored) > 1 else []
    document = sheets[0] if len(sheets) == 1 else {"systems": sheets, "comparisons": comparisons}
    if request.json == STDOUT:
        sys.stdout.write(to_json(document))
    else:
        console = Console(highlight=False)
        for table in tables_of(sheets):
            console.print(table)
        if any(entry["p"] is not None for entry in comparisons):
            console.print(comparison_table(comparisons))
        for line in notes_of(sheets):
            console.print(line, style="dim", soft_wrap=True)
        for line in dict.fromkeys(_why_not_compared(entry) for entry in comparisons if entry["p"] is None):
            console.print(line, style="dim", soft_wrap=True)
        if request.json is not None:
            write_text(request.json, text=to_json(document))
            stderr.print(f"wrote {request.json}", highlight=False, soft_wrap=True)


def read_systems(arguments: Sequence[str], *, answers: Sequence[Path] = ()) -> dict[str, list[PredictionFile]]:
    """{system's name: its runs}; nameless files that hold different kinds of questions are one run of one system."""
    left = list(answers)
    runs: list[tuple[str | None, Path, PredictionFile]] = []
    for argument in arguments:
        name, equals, paths = argument.partition("=")
        if not equals or Path(argument).exists():
            name, paths = "", argument
        parts = [Path(path) for path in (paths.split(",") if equals and name else [paths])]
        files = []
        for part in parts:
            needs_answers = part.suffix.lower() == ".json" and bool(left)
            files.append(read_predictions(part, answers=left.pop(0) if needs_answers else None))
        runs.append((name or None, parts[0], merge(files)))
    if left:
        raise InputError(f"--answers {left[0]}: there is no official .json output left for it; leave it out.")
    nameless = [run for run in runs if run[0] is None]
    kinds = [task for _, _, file in nameless for task in file.tasks]
    systems: dict[str, list[PredictionFile]] = {}
    if len(nameless) > 1 and len(kinds) == len(set(kinds)):
        systems[name_of(nameless[0][1].parent / "run")] = [merge([file for _, _, file in nameless])]
        runs = [run for run in runs if run[0] is not None]
    for name, path, file in runs:
        systems.setdefault(name or _fresh(name_of(path), systems), []).append(file)
    return systems


def name_of(path: Path) -> str:
    """A system's name from its file: the folder's where the file is called predictions, else the file's own."""
    stem = path.resolve().stem if path.suffix else path.resolve().name
    return path.resolve().parent.name if stem in ("predictions", "run") else stem


def tables_of(sheets: Sequence[dict[str, Any]]) -> list[Table]:
    """The systems under one another, in percent as the papers print them: reports, VQA macro, VQA micro."""
    tables = []
    for title, average, parts in BLOCKS:
        columns = [(task, metric, heading) for task, names in parts for metric, heading in names]
        used = [
            column for column in columns if any(_value(sheet, average, *column[:2]) is not None for sheet in sheets)
        ]
        if not used:
            continue
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("system")
        for _, _, heading in used:
            table.add_column(heading, justify="right")
        for sheet in sheets:
            table.add_row(sheet["system"], *(percent(_value(sheet, average, *column[:2])) for column in used))
        tables.append(table)
    return tables


def comparison_table(comparisons: Sequence[dict[str, Any]]) -> Table:
    """The paired tests, a row per metric."""
    table = Table(
        title="paired by volume", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for heading in ("systems", "metric", "difference (95 % CI)", "p, Holm", "d"):
        table.add_column(heading)
    for entry in comparisons:
        if entry["p"] is not None:
            (low, high), size = entry["ci95"], entry["effect_size_d"]
            table.add_row(
                f"{entry['first']} - {entry['second']}",
                f"{entry['task']} {entry['metric']}",
                f"{100 * entry['difference']:+.2f} ({100 * low:+.2f}…{100 * high:+.2f})",
                f"{entry['p_holm']:.4f}",
                "–" if size is None else f"{size:.2f}",
            )
    return table


def notes_of(sheets: Sequence[dict[str, Any]]) -> list[str]:
    """What is null and why, and what may not be compared."""
    notes = []
    for sheet in sheets:
        about = sheet["metrics"].get("bertscore_f1", {})
        if about and not about["comparable_with_published"]:
            notes.append(f"{sheet['system']}: BERTScore by {about['model']}, layer {about['layer']}: {about['note']}")
        skipped = {"controls", "leaks"}
        notes += [f"{sheet['system']}: no {key}: {why}" for key, why in sheet["missing"].items() if key not in skipped]
    return notes


def _value(sheet: Mapping[str, Any], average: str, task: str, metric: str) -> float | None:
    return None if sheet[task] is None else sheet[task][average][metric]


def percent(number: float | None) -> str:
    """53.63 for 0.5363, – for none."""
    return "–" if number is None else f"{100 * number:.2f}"


def to_json(document: Any) -> str:
    """Unrounded JSON; what is not a number is null."""
    return json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _why_not_compared(entry: Mapping[str, Any]) -> str:
    return f"{entry['first']} and {entry['second']} not compared: {entry['missing']}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fresh(name: str, taken: Mapping[str, Any]) -> str:
    """The name itself, or with a number where another nameless file has it."""
    number, fresh = 2, name
    while fresh in taken:
        fresh, number = f"{name} {number}", number + 1
    return fresh
