"""How do the verbs that measure go from options to numbers, tables and pages? evaluation computes, reports draw."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rich.console import Console

from slicesight.cli.label_choice import compare_labels, label_tables, labels_of_evaluate, labels_of_score
from slicesight.cli.options import made_folder, say, stderr
from slicesight.cli.scans import STDOUT
from slicesight.cli.scoring import AblateOptions, EvaluateOptions, FaithfulnessOptions, ScoreOptions
from slicesight.data.dataset import open_dataset
from slicesight.errors import InputError
from slicesight.evaluation.ablation import ablate
from slicesight.evaluation.controls import VOLUME_CONTROLS
from slicesight.evaluation.external import read_systems
from slicesight.evaluation.faithfulness import measure
from slicesight.evaluation.predict import MODEL, PredictionRun
from slicesight.evaluation.predictions import PredictionFile
from slicesight.evaluation.run import describe_leaks, evaluate, training_cases
from slicesight.evaluation.sheet import average_sheets, compare_systems, make_sheet, score_file, to_json
from slicesight.files import write_text
from slicesight.inference.answers import Progress
from slicesight.inference.predictor import Predictor
from slicesight.reports.ablation_tables import results_page, write_table
from slicesight.reports.ask import load_quietly
from slicesight.reports.clinical_tables import clinical_tables
from slicesight.reports.evaluation_html import write_report
from slicesight.reports.faithfulness import draw_faithfulness, faithfulness_tables, verdict_line
from slicesight.reports.figure import save_figure
from slicesight.reports.score_tables import comparison_table, notes_of, tables_of, why_not_compared
from slicesight.reports.terminal import progress_bar
from slicesight.training.recipe import read_recipe

Load = Callable[[str], Predictor]


def run_evaluate(options: EvaluateOptions, *, load: Load = load_quietly) -> None:
    """Answer, score and write; goes on where an earlier run was stopped."""
    labels = labels_of_evaluate(options)
    source = open_dataset(options.data, split=options.split, prefer="test", count=options.count, fill=options.fill)
    training = training_cases(options.train_data)
    made_folder(options.out)
    with stderr().status(f"loading {options.model}"):
        predictor = load(options.model)
    run = PredictionRun(
        folder=options.out,
        source=source,
        systems=(MODEL, *(VOLUME_CONTROLS if options.controls else ())),
        on_bad_case="skip" if options.skip_bad_cases else "stop",
    )
    sheet, scored = evaluate(
        run,
        predictor,
        data={"source": options.data, "split": options.split},
        training=training,
        blind=None if options.blind_model is None else partial(load, options.blind_model),
        bertscore=options.bertscore,
        layer=options.bertscore_layer,
        labels=labels,
        answer=None if options.ray is None else partial(_predict_in_bulk, run, options, load),
        bars=partial(progress_bar, stderr()),
    )
    page = run.folder / "report.html"
    write_report(page, sheet=sheet, scored=scored[MODEL], source=source, predictor=predictor, num_cases=options.figures)
    _print_sheet(sheet, Console(highlight=False))
    say(
        f"wrote {run.folder}/predictions.jsonl, sheet.json and {page.name}; open {page} in a browser, or compare: "
        f"slicesight score {run.folder} OTHER"
    )


def run_score(options: ScoreOptions) -> None:
    """Print the table, or write JSON; raises InputError before anything is written."""
    tables, files = label_tables(options.predictions)
    systems = read_systems(files, answers=options.answers or ()) if files else {}
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
    found = sheets[0] if len(sheets) == 1 else {"systems": sheets, "comparisons": comparisons}
    document = {"schema": 1, **found}
    if options.json == STDOUT:
        sys.stdout.write(to_json(document))
        return
    console = Console(highlight=False)
    for table in (*tables_of(sheets), *clinical_tables(sheets)):
        console.print(table)
    if any(entry["p"] is not None for entry in comparisons):
        console.print(comparison_table(comparisons))
    unpaired = dict.fromkeys(why_not_compared(entry) for entry in comparisons if entry["p"] is None)
    for line in (*notes_of(sheets), *unpaired):
        console.print(line, style="dim", soft_wrap=True)
    if options.json is not None:
        write_text(options.json, text=to_json(document))
        say(f"wrote {options.json}")


def run_ablate(options: AblateOptions, *, load: Load = load_quietly) -> None:
    """Train and score every cell that is not done, then write the tables."""
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
    source = open_dataset(options.data, split=options.split, prefer="test", count=options.count)
    made_folder(options.out)
    found = []
    for name in options.model or ["phantom-tiny"]:
        with stderr().status(f"loading {name}"):
            predictor = load(name)
        with progress_bar(stderr(), f"measuring {predictor.card.name}") as progress:
            found.append(measure(predictor, source, progress=progress))
        write_text(options.out / "faithfulness.json", text=to_json({"data": options.data, "models": found}))
        save_figure(draw_faithfulness(found), options.out / "faithfulness.png")
    console = Console(highlight=False)
    for one in found:
        for table in faithfulness_tables(one):
            console.print(table)
        console.print(verdict_line(one), style="bold", soft_wrap=True)
    say(f"wrote {options.out}/faithfulness.json and faithfulness.png; look at the picture")


def _predict_in_bulk(run: PredictionRun, options: EvaluateOptions, load: Load, progress: Progress) -> None:
    from slicesight.evaluation.bulk import predict_in_bulk

    assert options.ray is not None
    predict_in_bulk(
        run,
        load=load,
        model=options.model,
        data=options.data,
        split=options.split,
        count=options.count,
        fill=options.fill,
        num_workers=options.workers,
        address=options.ray,
        progress=progress,
    )


def _print_sheet(sheet: Mapping[str, Any], console: Console) -> None:
    controls = [{"system": name, **part} for name, part in sheet["controls"].items() if part is not None]
    for table in tables_of([dict(sheet), *controls]):
        console.print(table)
    for table in clinical_tables([dict(sheet), *controls]) if sheet["clinical"] else ():
        console.print(table)
    for line in notes_of([dict(sheet)]):
        console.print(line, style="dim", soft_wrap=True)
    if sheet["leaks"] is not None:
        style = "bold red" if sheet["leaks"]["num_leaking"] else "dim"
        console.print(describe_leaks(sheet["leaks"]), style=style, soft_wrap=True)
