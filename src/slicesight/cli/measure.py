"""How do the verbs that measure go from options to numbers, tables and pages? evaluation computes, reports draw."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from slicesight.cli.label_choice import compare_labels, label_tables, labels_of_evaluate, labels_of_score
from slicesight.cli.options import guest_settings, made_folder, say, stderr
from slicesight.cli.scans import STDOUT
from slicesight.cli.scoring import AblateOptions, CompareOptions, EvaluateOptions, FaithfulnessOptions, ScoreOptions
from slicesight.data.dataset import Dataset, open_dataset
from slicesight.errors import InputError
from slicesight.evaluation.benchmarks import Benchmark, benchmark
from slicesight.evaluation.benchmarks.board import make_board
from slicesight.evaluation.benchmarks.running import (
    SUBMISSION,
    OpenedBenchmark,
    add_board,
    benchmark_cases,
    open_benchmark,
)
from slicesight.evaluation.comparing import Comparison, compare_files
from slicesight.evaluation.controls import VOLUME_CONTROLS
from slicesight.evaluation.external import read_systems
from slicesight.evaluation.predict import MODEL, PredictionRun
from slicesight.evaluation.predictions import TASKS, PredictionFile, own_file
from slicesight.evaluation.report_labels import LabelOptions
from slicesight.evaluation.run import CONTROLS, describe_leaks, evaluate, training_cases
from slicesight.evaluation.sheet import average_sheets, compare_systems, make_sheet, score_file, to_json
from slicesight.evaluation.truths import checked_against
from slicesight.files import write_text
from slicesight.inference.answers import Progress
from slicesight.inference.loading import GUEST_PREFIXES
from slicesight.inference.predictor import Predictor
from slicesight.io.mirror import folder_for
from slicesight.io.object_store import is_remote, remote_url
from slicesight.reports.ablation_tables import results_page, write_table
from slicesight.reports.ask import load_quietly
from slicesight.reports.benchmark_table import board_notes, board_table
from slicesight.reports.clinical_tables import clinical_tables
from slicesight.reports.compare_html import write_comparison
from slicesight.reports.evaluation_html import write_report
from slicesight.reports.faithfulness import draw_faithfulness, faithfulness_tables, verdict_line
from slicesight.reports.figure import save_figure
from slicesight.reports.score_tables import comparison_table, notes_of, tables_of, why_not_compared
from slicesight.reports.selective_tables import evidence_tables, selective_tables
from slicesight.reports.terminal import progress_bar

Load = Callable[..., Predictor]
NO_FILES = "its own scorer takes nothing that such answers hold"


def run_evaluate(options: EvaluateOptions, *, load: Load = load_quietly) -> None:
    """Answer, score and write; goes on where an earlier run was stopped."""
    labels = labels_of_evaluate(options)
    opened = None if options.benchmark is None else _open_benchmark(options)
    if opened is None:
        source = open_dataset(options.data, split=options.split, prefer="test", count=options.count, fill=options.fill)
    else:
        source = opened.source
    training = training_cases(options.train_data)
    with folder_for(options.folder) as folder:
        _evaluate(options, folder, source, opened, training, labels, load=load)


def _evaluate(
    options: EvaluateOptions,
    folder: Path,
    source: Dataset,
    opened: OpenedBenchmark | None,
    training: Dataset | None,
    labels: LabelOptions | None,
    *,
    load: Load,
) -> None:
    """Everything that is written goes into `folder`."""
    settings = guest_settings(preset=options.preset, evidence=options.evidence, passes=options.evidence_passes)
    made_folder(folder)
    shown = remote_url(options.folder) if is_remote(options.folder) else options.folder
    with stderr().status(f"loading {options.model}"):
        predictor = load(options.model, **settings)
    run = PredictionRun(
        folder=folder,
        source=source,
        systems=(MODEL, *(VOLUME_CONTROLS if options.controls else ())),
        on_bad_case="skip" if options.skip_bad_cases else "stop",
    )
    sheet, scored = evaluate(
        run,
        predictor,
        data={"source": options.data, "split": options.split if opened is None else opened.split},
        training=training,
        blind=None if options.blind_model is None else partial(load, options.blind_model),
        bertscore=options.bertscore,
        layer=options.bertscore_layer,
        labels=labels,
        answer=None
        if options.ray is None
        else partial(_predict_in_bulk, run, options, partial(load, **settings) if settings else load, opened),
        bars=partial(progress_bar, stderr()),
    )
    board, submission = (None, ()) if opened is None else add_board(opened, run.folder, sheet, scored)
    page = run.folder / "report.html"
    write_report(page, sheet=sheet, scored=scored[MODEL], source=source, predictor=predictor, num_cases=options.figures)
    console = Console(highlight=False)
    _print_sheet(sheet, console)
    if board is not None:
        _print_board(board, console)
        files = f"{len(submission)} files for its own scorer in {shown}/{SUBMISSION}" if submission else NO_FILES
        say(f"{board['title']}: {files}")
    say(
        f"wrote {shown}/predictions.jsonl, sheet.json and {page.name}; open {shown}/{page.name} in a browser, or "
        f"compare: slicesight score {shown} OTHER"
    )


def run_score(options: ScoreOptions) -> None:
    """Print the table, or write JSON; raises InputError before anything is written."""
    tables, files = label_tables(options.predictions)
    systems = read_systems(files, answers=options.answers or ()) if files else {}
    facts = None if options.benchmark is None else benchmark(options.benchmark)
    notes = [] if options.data is None else _hold_against_data(systems, options.data, facts)
    answered = list(systems)
    if facts is not None and not answered:
        raise InputError(f"--benchmark {facts.name} is about answers; a csv of labels has none, leave it out")
    labels = labels_of_score(options, systems, tables)
    systems |= {name: [PredictionFile(rows=(), format="labels-csv")] for name in tables}
    with stderr().status("scoring"):
        scored = {
            name: [score_file(run, bertscore=options.bertscore, layer=options.bertscore_layer) for run in runs]
            for name, runs in systems.items()
        }
        sheets = [
            average_sheets([make_sheet(run, system=name, labels=labels[name]) for run in runs])
            for name, runs in scored.items()
        ]
        comparisons = compare_systems(scored) + compare_labels(scored, labels) if len(scored) > 1 else []
        board = None if facts is None else make_board(facts, {name: scored[name][0] for name in answered})
    beneath = _controls_of(options) if options.controls else {}
    for sheet in sheets:
        if sheet["system"] in beneath:
            sheet["controls"] = beneath[sheet["system"]]
            sheet["missing"].pop("controls", None)
    found = sheets[0] if len(sheets) == 1 else {"systems": sheets, "comparisons": comparisons}
    document = {"schema": 1, **found, **({} if board is None else {"benchmark": board})}
    if options.json == STDOUT:
        sys.stdout.write(to_json(document))
        return
    console = Console(highlight=False)
    for table in (
        *tables_of([row for sheet in sheets for row in (sheet, *_control_rows(sheet))]),
        *evidence_tables(sheets),
        *selective_tables(sheets),
        *clinical_tables(sheets),
    ):
        console.print(table)
    if any(entry["p"] is not None for entry in comparisons):
        console.print(comparison_table(comparisons))
    unpaired = dict.fromkeys(why_not_compared(entry) for entry in comparisons if entry["p"] is None)
    if board is not None:
        _print_board(board, console)
    for line in (*notes, *notes_of(sheets), *unpaired):
        console.print(line, style="dim", soft_wrap=True)
    if options.json is not None:
        write_text(options.json, text=to_json(document))
        say(f"wrote {options.json}")


def run_compare(options: CompareOptions) -> None:
    """Print the tables; write the page and JSON where they are wanted."""
    with stderr().status("scoring"):
        comparison = compare_files(
            options.runs, answers=options.answers or (), bertscore=options.bertscore, layer=options.bertscore_layer
        )
        facts = _benchmark_of(comparison, options.benchmark)
        board = None if facts is None else make_board(facts, {one.name: one.first for one in comparison.systems})
    sheets = [one.sheet for one in comparison.systems]
    document = {"schema": 1, "systems": sheets, "comparisons": comparison.tests, "benchmark": board}
    if options.json == STDOUT:
        sys.stdout.write(to_json(document))
    else:
        _print_comparison(comparison, board, Console(highlight=False))
        if options.json is not None:
            write_text(options.json, text=to_json(document))
            say(f"wrote {options.json}")
    if options.html is not None:
        with stderr().status("cutting slices"):
            write_comparison(options.html, comparison, num_cases=options.cases, data=options.data, board=board)
        say(f"wrote {options.html}; open it in a browser")
    elif options.json is None:
        say("the page with the worst cases: --html FILE")


def _controls_of(options: ScoreOptions) -> dict[str, dict[str, Any]]:
    """{system: {control: its numbers by task}} of every folder that `evaluate` wrote.

    Raises:
        InputError: none of the arguments is such a folder.
    """
    found: dict[str, dict[str, Any]] = {}
    for argument in options.predictions:
        folder = Path(argument if Path(argument).is_dir() else argument.partition("=")[2])
        files = {name: folder / "controls" / f"{name}.jsonl" for name in CONTROLS}
        present = {name: file for name, file in files.items() if file.is_file()}
        if not folder.is_dir() or not present:
            continue
        (system,) = read_systems([argument])
        scored = {name: score_file(own_file(file)) for name, file in present.items()}
        found[system] = {
            name: {task: sheet[task] for task in TASKS}
            for name, one in scored.items()
            if one.rows and (sheet := make_sheet(one, system=name))
        }
    if not found:
        raise InputError("--controls: none of these is a folder of slicesight evaluate with controls/; leave it out.")
    return found


def _control_rows(sheet: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows for the tables, named after their system."""
    controls = sheet.get("controls") or {}
    return [{"system": f"  {name}", **parts} for name, parts in controls.items() if parts is not None]


def run_ablate(options: AblateOptions, *, load: Load = load_quietly) -> None:
    """Train and score every cell that is not done, then write the tables."""
    from slicesight.evaluation.ablation import ablate
    from slicesight.training.recipe import read_recipe

    recipe = read_recipe(options.recipe, tuple(options.changes or ()))
    if recipe.init is None:
        raise InputError(f"{options.recipe.name}: init is missing; cells start from one folder with trained encoders.")
    source = open_dataset(options.data, prefer="test")
    tables = ablate(
        recipe,
        tables=options.table or (3, 4, 5),
        out=options.out,
        source=source,
        seeds=options.seeds,
        load=load,
        bertscore=options.bertscore,
        layer=options.bertscore_layer,
        announce=lambda line: stderr().print(line, style="bold", highlight=False),
        bars=partial(progress_bar, stderr()),
    )
    (options.out / "tables").mkdir(exist_ok=True)
    for table in tables:
        write_table(table, options.out / "tables")
    page = results_page(tables, num_volumes=len(source.cases), num_seeds=options.seeds)
    write_text(options.out / "results.md", text=page)
    say(f"wrote {options.out}/tables and ablation.json; put {options.out}/results.md into the manual")


def run_faithfulness(options: FaithfulnessOptions, *, load: Load = load_quietly) -> None:
    """Measure every model on the same scans, writing what is there after each; print at the end."""
    from slicesight.evaluation.faithfulness import measure

    source = open_dataset(options.data, split=options.split, prefer="test", count=options.count)
    settings = guest_settings(preset=options.preset, evidence=True, passes=options.evidence_passes)
    names = options.model or ["phantom-tiny"]
    if settings and not any(name.startswith(GUEST_PREFIXES) for name in names):
        raise InputError("--preset and --evidence-passes are for guests (hf:… or openai:…); leave them out.")
    made_folder(options.out)
    found = []
    for name in names:
        with stderr().status(f"loading {name}"):
            predictor = load(name, **(settings if name.startswith(GUEST_PREFIXES) else {}))
        with progress_bar(stderr(), f"measuring {predictor.card.name}") as progress:
            found.append(measure(predictor, source, progress=progress))
        write_text(options.out / "faithfulness.json", text=to_json({"data": options.data, "models": found}))
        save_figure(draw_faithfulness(found), options.out / "faithfulness.png")
    console = Console(highlight=False)
    for one in found:
        for table in (*faithfulness_tables(one), *evidence_tables([one])):
            console.print(table)
        console.print(verdict_line(one), style="bold", soft_wrap=True)
    say(f"wrote {options.out}/faithfulness.json and faithfulness.png; look at the picture")


def _open_benchmark(options: EvaluateOptions) -> OpenedBenchmark:
    assert options.benchmark is not None
    if not Path(options.data).exists():
        raise InputError(f"{options.data}: no such folder; --data names the benchmark's own folder")
    made_folder(options.folder)
    with stderr().status(f"reading {options.data}"):
        return open_benchmark(
            benchmark(options.benchmark),
            Path(options.data),
            out=options.folder,
            volumes=options.volumes,
            split=options.split,
            count=options.count,
            skip_bad_cases=options.skip_bad_cases,
        )


def _hold_against_data(systems: dict[str, list[PredictionFile]], data: str, facts: Benchmark | None) -> list[str]:
    """Replace every file by one whose rows are questions of DATA; returns what was not answered."""
    if facts is None:
        cases = open_dataset(data, prefer="test").cases
    else:
        cases = benchmark_cases(facts, Path(data))
    notes = []
    for name, files in systems.items():
        for number, file in enumerate(files):
            files[number], unanswered = checked_against(file, cases, data=data)
            if unanswered:
                notes.append(f"{name}: {unanswered} questions of {data} are not answered; the scores are of the others")
    return notes


def _predict_in_bulk(
    run: PredictionRun, options: EvaluateOptions, load: Load, opened: OpenedBenchmark | None, progress: Progress
) -> None:
    from slicesight.evaluation.bulk import predict_in_bulk

    assert options.ray is not None
    predict_in_bulk(
        run,
        load=load,
        model=options.model,
        data=options.data if opened is None else str(opened.manifest.resolve()),
        split=options.split if opened is None else opened.split,
        count=options.count,
        fill=options.fill,
        num_workers=options.workers,
        address=options.ray,
        progress=progress,
    )


def _benchmark_of(comparison: Comparison, name: str | None) -> Benchmark | None:
    """The benchmark that is named, else the one that all runs were of."""
    if name is None:
        names = {(one.stated.get("benchmark") or {}).get("name") for one in comparison.systems}
        name = names.pop() if len(names) == 1 else None
    return None if name is None else benchmark(name)


def _print_comparison(comparison: Comparison, board: Mapping[str, Any] | None, console: Console) -> None:
    sheets = [one.sheet for one in comparison.systems]
    for table in tables_of(sheets):
        console.print(table)
    if any(test["p"] is not None for test in comparison.tests):
        console.print(comparison_table(comparison.tests))
    if board is not None:
        _print_board(board, console)
    counts = ", ".join(f"{name} {number}" for name, number in comparison.num_questions.items())
    lines = [] if comparison.is_one_test else [f"questions: {counts}; {len(comparison.shared)} answered by all"]
    lines += dict.fromkeys(why_not_compared(test) for test in comparison.tests if test["p"] is None)
    for line in (*lines, *notes_of(sheets)):
        console.print(line, style="dim", soft_wrap=True)


def _print_board(board: Mapping[str, Any], console: Console) -> None:
    console.print(board_table(board))
    for line in board_notes(board):
        console.print(line, style="dim", soft_wrap=True)


def _print_sheet(sheet: Mapping[str, Any], console: Console) -> None:
    controls = [{"system": name, **part} for name, part in sheet["controls"].items() if part is not None]
    shown = [dict(sheet)]
    for table in (*tables_of([*shown, *controls]), *evidence_tables(shown), *selective_tables(shown)):
        console.print(table)
    for table in clinical_tables([dict(sheet), *controls]) if sheet["clinical"] else ():
        console.print(table)
    for line in notes_of([dict(sheet)]):
        console.print(line, style="dim", soft_wrap=True)
    if sheet["leaks"] is not None:
        style = "bold red" if sheet["leaks"]["num_leaking"] else "dim"
        console.print(describe_leaks(sheet["leaks"]), style=style, soft_wrap=True)
