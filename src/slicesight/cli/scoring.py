"""Verbs that measure: evaluate a model, score result files, ablate, ask how faithful the slice scores are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BertScoreOption = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="BERTScore's model by name or folder; roberta-large is the papers'."),
]
LayerOption = Annotated[int | None, typer.Option(help="Which layer of it; left out, the one bert-score takes.")]


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
