"""Verbs that measure: evaluate a model, score result files, ablate, ask how faithful the slice scores are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slicesight.cli.options import ChangesOption, ModelOption
from slicesight.errors import InputError

BertScoreOption = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="BERTScore's model by name or folder; roberta-large is the papers'."),
]
LayerOption = Annotated[int | None, typer.Option(help="Which layer of it; left out, the one bert-score takes.")]


DataHelp = "manifest.jsonl or its folder, a prepared folder, or phantoms:SEED:COUNT"


def evaluate(
    data: Annotated[str, typer.Option(metavar="DATA", help=f"Test data: {DataHelp}.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for answers, sheet and report.", show_default=False)],
    model: ModelOption = "phantom-tiny",
    split: Annotated[
        str | None, typer.Option(help="Which split; left out, test where the manifest has splits, else all.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Only the first so many cases.")] = None,
    controls: Annotated[
        bool, typer.Option(help="Also answer with a blank volume, shuffled slices and a wrong volume.")
    ] = True,
    blind_model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A model trained without scans, as a control.")
    ] = None,
    train_data: Annotated[
        str | None, typer.Option(metavar="DATA", help="What the model was trained on: leak check, majority answers.")
    ] = None,
    bertscore: BertScoreOption = None,
    bertscore_layer: LayerOption = None,
    skip_bad_cases: Annotated[bool, typer.Option(help="Leave unreadable scans out and list them.")] = False,
    figures: Annotated[int, typer.Option(min=0, help="How many cases the report pictures.")] = 3,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Answer on a Ray cluster: local, auto, ray://...")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="With --ray: how many readers answer side by side.")] = 2,
) -> None:
    """Answer a test set with all controls, score it, and write a report page; goes on where it was stopped."""
    from slicesight.evaluation.run import EvaluateRequest, run_evaluate
    from slicesight.reports.ask import load_quietly

    run_evaluate(
        EvaluateRequest(
            model=model,
            data=data,
            out=out,
            split=split,
            count=count,
            controls=controls,
            blind_model=blind_model,
            train_data=train_data,
            bertscore=bertscore,
            layer=bertscore_layer,
            on_bad_case="skip" if skip_bad_cases else "stop",
            num_figures=figures,
            ray=ray,
            workers=workers,
        ),
        load=load_quietly,
    )


def score(
    predictions: Annotated[
        list[str],
        typer.Argument(
            metavar="PREDICTIONS",
            help="FILE, FOLDER or NAME=FILE[,FILE...]: our predictions.jsonl, M3D's result csv's, official Med-2E3 "
            "outputs. Runs of the same NAME are seeds of one system.",
            show_default=False,
        ),
    ],
    answers: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="The answers json of official outputs; repeatable.")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE|-", help="Write the sheet; - is stdout.")] = None,
    bertscore: BertScoreOption = None,
    bertscore_layer: LayerOption = None,
) -> None:
    """Score what any system answered: BLEU-1, ROUGE-1, METEOR, BERTScore, closed accuracy, paired tests."""
    from slicesight.evaluation.scoring import ScoreRequest, run_score

    run_score(
        ScoreRequest(
            predictions=predictions,
            answers=answers or (),
            json=json,
            bertscore=bertscore,
            layer=bertscore_layer,
        )
    )


def ablate(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="One cell's training; recipes/phantom-ablation.yaml.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for cells and tables.", show_default=False)],
    table: Annotated[
        list[int] | None, typer.Option(metavar="3|4|5", help="Which table; repeatable, all if left out.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds each cell is trained with.")] = 3,
    data: Annotated[str, typer.Option(metavar="DATA", help=f"Test data: {DataHelp}.")] = "phantoms:9000:150",
    changes: ChangesOption = None,
    bertscore: BertScoreOption = None,
    bertscore_layer: LayerOption = None,
) -> None:
    """Train and score every cell of the paper's ablation tables; goes on cell by cell where it was stopped."""
    from importlib.util import find_spec

    from slicesight.evaluation.ablation import AblateRequest, run_ablate
    from slicesight.reports.ask import load_quietly

    if find_spec("accelerate") is None:
        raise InputError(
            "ablations train; that needs accelerate, which is not installed: pip install 'slicesight[train]'"
        )
    request = AblateRequest(
        recipe=recipe,
        tables=table or (3, 4, 5),
        out=out,
        data=data,
        seeds=seeds,
        changes=tuple(changes or ()),
        bertscore=bertscore,
        layer=bertscore_layer,
    )
    run_ablate(request, load=load_quietly)


def faithfulness(
    data: Annotated[str, typer.Option(metavar="DATA", help=f"Scans with questions: {DataHelp}.", show_default=False)],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the figure and the numbers.", show_default=False)
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL", help="A shipped model, a model folder or a hub name; repeat it to compare several."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Which split; left out, test where there are splits.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Only the first so many scans.")] = None,
) -> None:
    """Ask how far answers rest on the slices they point at: deletion and insertion curves, the paper's claims."""
    from slicesight.evaluation.faithfulness_run import FaithfulnessRequest, run_faithfulness
    from slicesight.reports.ask import load_quietly

    request = FaithfulnessRequest(models=model or ["phantom-tiny"], data=data, out=out, split=split, count=count)
    run_faithfulness(request, load=load_quietly)
