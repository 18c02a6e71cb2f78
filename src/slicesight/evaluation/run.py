"""How good is a model on a test set, and how much of that is worth anything? `slicesight evaluate`, data to report.

predict -> controls -> score -> compare -> leaks -> sheet.json, report.html. Honest by default: the controls are
answered too unless they are turned off, every interval is by volume, and what could not be checked is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from slicesight.data.dataset import Dataset, open_dataset, select
from slicesight.errors import InputError
from slicesight.evaluation.controls import VOLUME_CONTROLS, ask_blind, majority
from slicesight.evaluation.leaks import describe_leaks, find_leaks
from slicesight.evaluation.predict import MODEL, PredictionRun, digest_model, open_run, predict
from slicesight.evaluation.predictions import TASKS, Prediction, PredictionFile, read_jsonl, to_lines
from slicesight.evaluation.scoring import notes_of, tables_of, to_json
from slicesight.evaluation.sheet import Scored, compare_systems, make_sheet, score_file
from slicesight.files import write_text
from slicesight.inference.predictor import Predictor
from slicesight.reports.terminal import progress_bar

Load = Callable[[str], Predictor]
NO_BLIND = "no model named that was trained without scans; --blind-model FOLDER"
NO_TRAINING = "no training data named; --train-data DATA"


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """The arguments of `slicesight evaluate`, after parsing."""

    model: str
    data: str
    out: Path
    split: str | None = None
    count: int | None = None
    controls: bool = True
    blind_model: str | None = None
    train_data: str | None = None
    bertscore: str | None = None
    layer: int | None = None
    on_bad_case: str = "stop"
    num_figures: int = 3
    ray: str | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        if self.out.is_file():
            raise InputError(f"{self.out} is a file; name a folder with --out.")


def run_evaluate(request: EvaluateRequest, *, load: Load) -> None:
    """Answer, score and write; goes on where an earlier run was stopped. `load` gives the reader of a model's name."""
    stderr = Console(stderr=True)
    source = open_dataset(request.data, split=request.split, prefer="test", count=request.count)
    training = _training(request)
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{request.out}: cannot be made ({error.strerror}); name another folder.") from error
    with stderr.status(f"loading {request.model}"):
        reader = load(request.model)
    systems = (MODEL, *(VOLUME_CONTROLS if request.controls else ()))
    run = PredictionRun(folder=request.out, source=source, systems=systems, on_bad_case=request.on_bad_case)
    with progress_bar(stderr, "looking at the scans") as progress:
        open_run(run, reader, progress=progress)
    with progress_bar(stderr, "answering") as progress:
        if request.ray is None:
            predict(run, reader, progress=progress)
        else:
            _predict_in_bulk(run, request, load, progress)
    _answer_without_scans(run, request, training, load, stderr)
    sheet, scored = _sheet(run, request, reader)
    with progress_bar(stderr, "looking for leaks") as progress:
        _add_leaks(sheet, scored[MODEL], training, source, progress)
    write_text(run.folder / "sheet.json", text=to_json(sheet))
    report = _write_report(run, request, reader, sheet, scored)
    _print(sheet, Console(highlight=False))
    stderr.print(
        f"wrote {run.folder}/predictions.jsonl, sheet.json and {report.name}; open {report} in a browser, or compare: "
        f"slicesight score {run.folder} OTHER",
        highlight=False,
        soft_wrap=True,
    )


def _predict_in_bulk(run: PredictionRun, request: EvaluateRequest, load: Load, progress: Any) -> None:
    from slicesight.evaluation.bulk import predict_in_bulk

    assert request.ray is not None
    predict_in_bulk(
        run,
        load=load,
        model=request.model,
        data=request.data,
        split=request.split,
        count=request.count,
        num_workers=request.workers,
        address=request.ray,
        progress=progress,
    )


def _training(request: EvaluateRequest) -> Dataset | None:
    if request.train_data is None:
        return None
    source = open_dataset(request.train_data)
    has_splits = any(case.split is not None for case in source.cases)
    return select(source, split="train") if has_splits else source


def _answer_without_scans(
    run: PredictionRun, request: EvaluateRequest, training: Dataset | None, load: Load, stderr: Console
) -> None:
    """The majority's answers and the blind model's; both cost little and are written whole."""
    if not request.controls and request.blind_model is None:
        return
    cases = [case for case in run.source.cases if case.id not in run.skipped]
    rows = majority(cases, None if training is None else training.cases)
    write_text(run.path("majority"), text=to_lines(rows))
    if request.blind_model is None:
        return
    blind = load(request.blind_model)
    mark = run.folder / "controls" / "blind.digest"
    digest = digest_model(blind)
    if run.path("blind").exists() and mark.exists() and mark.read_text() == digest:
        return
    with progress_bar(stderr, "asking the blind model") as progress:
        write_text(run.path("blind"), text=to_lines(ask_blind(blind, cases, progress=progress)))
    write_text(mark, text=digest)


def _sheet(run: PredictionRun, request: EvaluateRequest, reader: Predictor) -> tuple[dict[str, Any], dict[str, Scored]]:
    """The model's sheet with its controls, and everything scored."""
    names = [MODEL, *VOLUME_CONTROLS, "majority", "blind"]
    scored: dict[str, Scored] = {}
    for name in names:
        if run.path(name).exists() and (name == MODEL or request.controls or name == "blind"):
            file = PredictionFile(rows=tuple(read_jsonl(run.path(name))), format="slicesight-jsonl")
            scored[name] = score_file(file, bertscore=request.bertscore, layer=request.layer)
    if not scored or not scored[MODEL].rows:
        raise InputError(f"{run.folder}: none of the {len(run.source.cases)} cases could be read; see --on-bad-case.")
    sheet = make_sheet(scored[MODEL], system=reader.card.name)
    del sheet["missing"]["controls"]
    sheet["controls"] = {}
    for name in names[1:]:
        if name not in scored or not scored[name].rows:
            sheet["missing"][f"controls.{name}"] = _why_no_control(name, request)
            sheet["controls"][name] = None
            continue
        control = make_sheet(scored[name], system=name)
        sheet["controls"][name] = {task: control[task] for task in TASKS}
    sheet["comparisons"] = _against_controls(scored)
    sheet["skipped_cases"] = dict(run.skipped)
    sheet["data"] = {"source": request.data, "split": request.split, "num_cases": len(run.source.cases)}
    sheet["model"] = reader.card.to_dict()
    return sheet, scored


def _against_controls(scored: Mapping[str, Scored]) -> list[dict[str, Any]]:
    """The model against each control, one family for Holm's correction."""
    return compare_systems({name: [one] for name, one in scored.items()}, against=MODEL)


def _why_no_control(name: str, request: EvaluateRequest) -> str:
    if name == "blind":
        return NO_BLIND
    if not request.controls:
        return "turned off with --no-controls"
    return "it needs at least two cases, of two patients" if name == "wrong_volume" else "no case was answered"


def _add_leaks(sheet: dict[str, Any], scored: Scored, training: Dataset | None, source: Dataset, progress: Any) -> None:
    """What training and test share, and the scores without the cases that leak."""
    if training is None:
        sheet["missing"]["leaks"] = NO_TRAINING
        return
    del sheet["missing"]["leaks"]
    leaks = find_leaks(training, source, progress=progress)
    leaking = set(leaks["leaking_cases"])
    left: tuple[Prediction, ...] = tuple(row for row in scored.rows if row.volume not in leaking)
    leaks["scores_without_them"] = None
    if leaking and left:
        keep = [place for place, row in enumerate(scored.rows) if row.volume not in leaking]
        clean = Scored(
            file=PredictionFile(rows=left, format=scored.file.format),
            values={name: values[keep] for name, values in scored.values.items()},
            missing=scored.missing,
            about=scored.about,
        )
        found = make_sheet(clean, system="without leaks")
        leaks["scores_without_them"] = {task: found[task] for task in TASKS}
    sheet["leaks"] = leaks


def _write_report(
    run: PredictionRun, request: EvaluateRequest, reader: Predictor, sheet: dict[str, Any], scored: Mapping[str, Scored]
) -> Path:
    from slicesight.reports.evaluation_html import write_report

    path = run.folder / "report.html"
    write_report(
        path, sheet=sheet, scored=scored[MODEL], source=run.source, reader=reader, num_cases=request.num_figures
    )
    return path


def _print(sheet: dict[str, Any], console: Console) -> None:
    rows: Sequence[dict[str, Any]] = [sheet]
    rows = [sheet, *({"system": name, **part} for name, part in sheet["controls"].items() if part is not None)]
    for table in tables_of(rows):
        console.print(table)
    for line in notes_of([sheet]):
        console.print(line, style="dim", soft_wrap=True)
    if sheet["leaks"] is not None:
        style = "bold red" if sheet["leaks"]["num_leaking"] else "dim"
        console.print(describe_leaks(sheet["leaks"]), style=style, soft_wrap=True)
