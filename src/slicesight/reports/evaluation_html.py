"""How does one look at an evaluation: on a phone, in a meeting, in a year? One HTML file that needs nothing else.

Tables with intervals, the controls beside the model, the worst answers with filters, and a few cases as the paper's
Figures 4 to 7 show them: the slices of the scan, and for every question the score of each slice against an even spread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slicesight.data.choices import read_choice
from slicesight.data.dataset import Dataset
from slicesight.data.manifest import Case
from slicesight.errors import InputError
from slicesight.evaluation.comparing import MAIN_METRIC
from slicesight.evaluation.predictions import TASKS, Prediction
from slicesight.evaluation.run import describe_leaks
from slicesight.evaluation.sheet import Scored, metrics_of
from slicesight.evaluation.statistics import ONE_SCAN
from slicesight.files import write_text
from slicesight.reports.benchmark_table import board_rows
from slicesight.reports.case_figure import draw_case
from slicesight.reports.clinical_tables import COLUMNS, value_at
from slicesight.reports.evidence import caveat_of_rows
from slicesight.reports.figure import height_over_width, save_figure
from slicesight.reports.html import data_address, grey_image, png_address, render_template, score_bars
from slicesight.reports.score_tables import NO_FRACTIONS, blocks, ends_text, or_dash, percent, printed
from slicesight.reports.selective_figure import draw_reliability, draw_risk_coverage, measured_tasks
from slicesight.reports.selective_tables import abstention_line, evidence_rows, selective_rows
from slicesight.volumes.grid import GridVolume

if TYPE_CHECKING:
    from slicesight.inference.predictor import Predictor

MAX_ROWS = 1500
THUMBNAIL = 128
MAIN_NAMES = {"report": "report, ROUGE-1", "open": "open questions, ROUGE-1", "closed": "closed questions, accuracy"}
CONTROL_NAMES = {
    "blank": "empty volume",
    "shuffled_slices": "slices shuffled",
    "wrong_volume": "another scan",
    "majority": "commonest answer",
    "blind": "trained without scans",
}
SHOWS_THE_SCAN = ("shuffled_slices",)


@dataclass(frozen=True, kw_only=True)
class PicturedCase:
    """One case of the report's case studies."""

    case: Case
    grid: GridVolume
    rows: tuple[Prediction, ...]
    values: tuple[float, ...]


def write_report(
    path: Path, *, sheet: Mapping[str, Any], scored: Scored, source: Dataset, predictor: Predictor, num_cases: int
) -> None:
    """Write the page, and beside it its case studies into the folder cases/ and the figures about confidence."""
    pictured = _pick_cases(scored, source, predictor, count=num_cases)
    figures = write_selective_figures(path.parent, sheet)
    write_text(path, text=render_report(sheet, scored, pictured, figures=figures))
    if pictured:
        (path.parent / "cases").mkdir(exist_ok=True)
    for one in pictured:
        name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in one.case.id)
        figure = draw_case(one.grid, one.rows, title=f"{one.case.id} · answered by {sheet['system']}")
        save_figure(figure, path.parent / "cases" / f"{name}.png")


def write_selective_figures(folder: Path, sheet: Mapping[str, Any]) -> dict[str, str]:
    """Write reliability.png and risk-coverage.png -> {file: its address in a page}; nothing without confidences."""
    if not measured_tasks(sheet.get("selective")):
        return {}
    for name, draw in {"reliability.png": draw_reliability, "risk-coverage.png": draw_risk_coverage}.items():
        save_figure(draw(sheet["selective"], system=sheet["system"]), folder / name)
    return {
        "reliability.png": png_address(folder / "reliability.png"),
        "risk-coverage.png": png_address(folder / "risk-coverage.png"),
    }


def _pick_cases(scored: Scored, source: Dataset, predictor: Predictor, *, count: int) -> list[PicturedCase]:
    """The worst, the middling and the best case (and others between), of those that can still be read."""
    values = _main_values(scored)
    cases = {case.id: case for case in source.cases}
    by_volume: dict[str, list[int]] = {}
    for place, row in enumerate(scored.rows):
        if row.volume in cases:
            by_volume.setdefault(row.volume, []).append(place)
    ranked = sorted(by_volume, key=lambda name: (mean_known(values[by_volume[name]]), name))
    count = min(count, len(ranked))
    chosen = [ranked[round(step * (len(ranked) - 1) / max(1, count - 1))] for step in range(count)]
    found = []
    for name in dict.fromkeys(chosen):
        try:
            grid = source.grid(cases[name], predictor.grid_spec)
        except InputError:
            continue
        rows = tuple(scored.rows[place] for place in by_volume[name])
        found.append(PicturedCase(case=cases[name], grid=grid, rows=rows, values=tuple(values[by_volume[name]])))
    return found


def mean_known(values: NDArray[np.float64]) -> float:
    """The mean of the questions that have a true answer; 1 for a case without any, which is none of the worst."""
    known = values[~np.isnan(values)]
    return float(np.mean(known)) if len(known) else 1.0


def _main_values(scored: Scored) -> NDArray[np.float64]:
    """The value each row is ranked by: closed questions by accuracy, texts by ROUGE-1."""
    return np.array([scored.values[MAIN_METRIC[row.task]][place] for place, row in enumerate(scored.rows)])


def render_report(
    sheet: Mapping[str, Any],
    scored: Scored,
    pictured: Sequence[PicturedCase],
    *,
    figures: Mapping[str, str] | None = None,
) -> str:
    """The page as HTML text; figures: {file: address of the picture}, those about confidence."""
    values = _main_values(scored)
    order = np.where(np.isnan(values), np.inf, values)  # a line without a true answer is no failure
    worst = sorted(range(len(values)), key=lambda place: (order[place], place))[:MAX_ROWS]
    rows = [_answer_row(scored.rows[place], float(values[place])) for place in worst]
    return render_template(
        "evaluation.html.j2",
        caveat=caveat_of_rows(row.evidence for row in scored.rows),
        sheet=sheet,
        leaks=None if sheet["leaks"] is None else describe_leaks(sheet["leaks"]),
        tables=block_tables(sheet),
        topics=_topic_table(sheet),
        charts=[chart for chart in (_chart(sheet, task) for task in TASKS) if chart],
        controls=control_rows(sheet),
        comparisons=_comparison_rows(sheet),
        published=board_rows(sheet["benchmark"]) if "benchmark" in sheet else [],
        no_interval=ONE_SCAN if sheet["missing"].get("ci95") == ONE_SCAN else "no interval",
        excess_ends=ends_text((sheet["evidence"] or {}).get("excess_ci95"), ".2f"),
        evidence=[] if sheet["evidence"] is None else evidence_rows(sheet["evidence"]),
        selective=[
            {"task": task, "part": part, "rows": selective_rows(part), "held_back": abstention_line(part)}
            for task, part in measured_tasks(sheet.get("selective")).items()
        ],
        figures=figures or {},
        rows=rows,
        num_rows=len(scored.rows),
        row_topics=list(dict.fromkeys(row["topic"] for row in rows)),
        row_tasks=[task for task in TASKS if any(row["task"] == task for row in rows)],
        cases=[_case(one) for one in pictured],
        missing=sorted(sheet["missing"].items()),
    )


def _answer_row(row: Prediction, value: float) -> dict[str, str]:
    """An answer with what is true and how it was judged, as the list and the case studies show it."""
    return {
        "volume": row.volume or "",
        "task": row.task,
        "topic": row.topic,
        "question": row.question,
        "prediction": row.prediction or "(nothing)",
        "answer": f"{row.answer_choice}. {row.answer}" if row.answer_choice else row.answer,
        "value": "" if row.task == "closed" or np.isnan(value) else f"ROUGE-1 {value:.2f}",
        "verdict": verdict(row.task, value),
        "outcome": read_choice(row.prediction, row.choices).outcome if row.task == "closed" else "",
    }


def verdict(task: str, value: float) -> str:
    """ "right", "wrong" or neither: a report, an open answer in part or without a truth is judged by its reader."""
    if task == "report" or np.isnan(value) or 0.5 <= value < 1.0 - 1e-9:
        return ""
    return "right" if value >= 1.0 - 1e-9 else "wrong"


def block_tables(sheet: Mapping[str, Any]) -> list[dict[str, Any]]:
    """{title, cells} of every table that the sheet has figures for: reports, VQA, findings."""
    return [table for table in (*(_block_table(sheet, *block) for block in blocks()), _findings(sheet)) if table]


def _block_table(sheet: Mapping[str, Any], title: str, average: str, parts: Any) -> dict[str, Any] | None:
    cells = [
        {"heading": heading, **_cell(sheet[task], average, metric)}
        for task, names in parts
        if sheet[task] is not None
        for metric, heading in names
        if sheet[task][average][metric] is not None
    ]
    return {"title": title, "cells": cells} if cells else None


def _findings(sheet: Mapping[str, Any]) -> dict[str, Any] | None:
    """CRG, F1 and the like of the findings that the reports claim, where they were labelled."""
    part = sheet.get("clinical")
    if not part:
        return None
    cells = []
    for heading, path in COLUMNS:
        if (value := value_at(part, path)) is None:
            continue
        where = part if path[0] in ("crg", "macro", "micro") else part[path[0]]
        ends = value_at_ends(where["ci95"], path)
        cells.append({"heading": heading, "value": percent(value), "ends": ends})
    return {"title": f"findings, labels by {part['labels']['said'].get('from', '?')}", "cells": cells}


def value_at_ends(ci95: Any, path: Sequence[str]) -> str:
    """The interval of a clinical figure, in percent."""
    found: Any = ci95
    for key in path if path[0] in ("crg", "macro", "micro") else path[1:]:
        found = None if found is None else found.get(key)
    return f"{100 * found[0]:.1f}–{100 * found[1]:.1f}" if found else ""


def _cell(part: Mapping[str, Any], average: str, metric: str) -> dict[str, str]:
    ends = part["ci95"][average][metric] if part["ci95"] else None
    scale = 1 if metric in NO_FRACTIONS else 100
    return {
        "value": printed(metric, part[average][metric]),
        "ends": f"{scale * ends[0]:.1f}–{scale * ends[1]:.1f}" if ends and ends[0] is not None else "",
    }


def _topic_table(sheet: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row per topic: every metric that could be had."""
    known = {metric: heading for _, _, parts in blocks()[1:] for _, names in parts for metric, heading in names}
    columns = [
        (task, metric)
        for task in ("open", "closed")
        if sheet[task] is not None
        for metric in metrics_of(task)
        if metric in known and sheet[task]["micro"][metric] is not None
    ]
    topics = list(dict.fromkeys(topic for task, _ in columns for topic in sheet[task]["by_topic"]))
    rows = [
        [topic, *(percent(sheet[task]["by_topic"].get(topic, {}).get(metric)) for task, metric in columns)]
        for topic in topics
    ]
    headings = [known[metric] if task == "closed" else f"{task} {known[metric]}" for task, metric in columns]
    return {"columns": headings, "rows": rows} if rows else None


def _chart(sheet: Mapping[str, Any], task: str) -> dict[str, Any] | None:
    """Bars of the task's main metric: all, then by topic, with intervals and each control as a mark; 0 to 1 across."""
    part, metric = sheet[task], MAIN_METRIC[task]
    if part is None or part["micro"][metric] is None:
        return None
    controls = [(name, control[task]) for name, control in (sheet["controls"] or {}).items() if control]

    def values(given: Mapping[str, Any], topic: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = given["micro"] if topic == "all" else given["by_topic"].get(topic, {})
        return found

    bars = []
    for topic in ("all", *(part["by_topic"] if len(part["by_topic"]) > 1 else ())):
        marks = [
            {"name": name, "x": 100 * theirs[metric], "shows_the_scan": name in SHOWS_THE_SCAN}
            for name, control in controls
            if control and (theirs := values(control, topic)).get(metric) is not None
        ]
        if values(part, topic)[metric] is None:
            continue
        ends = part["ci95"] and values(part["ci95"], topic)[metric]
        bars.append({**_bar(topic, values(part, topic)[metric], ends), "marks": marks})
    return {"title": MAIN_NAMES[task], "bars": bars}


def _bar(name: str, value: float, ends: Sequence[float | None] | None) -> dict[str, Any]:
    has_ends = ends is not None and ends[0] is not None
    return {
        "name": name,
        "value": 100 * value,
        "label": percent(value),
        "low": 100 * ends[0] if has_ends else None,  # type: ignore[operator, index]
        "high": 100 * ends[1] if has_ends else None,  # type: ignore[operator, index]
    }


def control_rows(sheet: Mapping[str, Any]) -> dict[str, Any] | None:
    """The main metric of the model and of every control; None without controls."""
    if not sheet["controls"]:
        return None
    used = [task for task in TASKS if sheet[task] is not None]

    def numbers(parts: Mapping[str, Any]) -> list[str]:
        return [percent(parts[task]["micro"][MAIN_METRIC[task]]) if parts[task] else "–" for task in used]

    rows = [{"name": sheet["system"], "what": "the model", "numbers": numbers(sheet)}]
    rows += [
        {"name": name, "what": CONTROL_NAMES.get(name, ""), "numbers": numbers(parts)}
        for name, parts in sheet["controls"].items()
        if parts is not None
    ]
    return {"columns": [MAIN_NAMES[task] for task in used], "rows": rows}


def _comparison_rows(sheet: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for entry in sheet.get("comparisons") or ():
        if entry["p"] is None or entry["metric"] != MAIN_METRIC[entry["task"]]:
            continue
        rows.append(
            {
                "second": entry["second"],
                "task": entry["task"],
                "difference": f"{100 * entry['difference']:+.1f}",
                "ends": ends_text(entry["ci95"], "+.1f", scale=100),
                "p": f"{entry['p_holm']:.4f}",
                "size": or_dash(entry["effect_size_d"]),
            }
        )
    return rows


def _case(one: PicturedCase) -> dict[str, Any]:
    """A case study: one strip with all grid slices, and a chart per question."""
    num_slices = len(one.grid.voxels)
    columns = min(num_slices, 8)
    height = round(THUMBNAIL * min(2.0, height_over_width(one.grid)))
    questions = [
        {
            **_answer_row(row, value),
            "choices": row.choices or (),
            "bars": _score_bars(row),
            "num_slices": len(row.scores or ()),
        }
        for row, value in zip(one.rows, one.values, strict=True)
    ]
    return {
        "id": one.case.id,
        "mean": f"{mean_known(np.array(one.values)):.2f}",
        "plane": one.grid.plane,
        "picture": _contact_sheet(one.grid, columns=columns, height=height),
        "num_slices": num_slices,
        "width": columns * THUMBNAIL,
        "height": -(-num_slices // columns) * height,
        "questions": questions,
    }


def _score_bars(row: Prediction) -> dict[str, Any] | None:
    if not row.scores:
        return None
    even_y, bars = score_bars(row.scores, height=40)
    true = set(row.true_slices or ())
    return {"even": even_y, "slices": [{**bar, "is_true": place in true} for place, bar in enumerate(bars)]}


def _contact_sheet(grid: GridVolume, *, columns: int, height: int) -> str:
    """All slices in grid order, row by row, as one JPEG."""
    from PIL import Image

    rows = -(-len(grid.voxels) // columns)
    sheet = Image.new("L", (columns * THUMBNAIL, rows * height))
    for place, voxels_HW in enumerate(grid.voxels):
        at = (place % columns * THUMBNAIL, place // columns * height)
        sheet.paste(grey_image(voxels_HW, width=THUMBNAIL, height=height), at)
    return data_address(sheet)
