"""The verb that answers about scans as they arrive in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from slicesight.cli.asking import AskingOptions, Choices
from slicesight.cli.options import ModelOption, verb
from slicesight.models.shipped import DEFAULT_MODEL

Format = Literal["csv", "jsonl", "parquet"]


@dataclass(frozen=True, kw_only=True)
class WatchOptions(AskingOptions):
    """The options of `slicesight watch`."""

    inbox: Annotated[
        Path, typer.Argument(metavar="INBOX", help="The folder that scans are written to.", show_default=False)
    ]
    questions: Annotated[
        Path,
        typer.Option(
            metavar="QUESTIONS.csv", help="Column question; if wanted id, choices (a|b|c), scan.", show_default=False
        ),
    ]
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the table, its page and reports go.", show_default=False)
    ]
    table: Annotated[Format, typer.Option("--as", help="The table's format: DIR/answers.csv, ....")] = "csv"
    settle: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="A scan is whole when none of its files changed for so long."),
    ] = 15.0
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.01, help="How often to look.")] = 5.0
    once: Annotated[bool, typer.Option("--once", help="End when everything that lies there is answered.")] = False
    model: ModelOption = DEFAULT_MODEL
    choices: Annotated[
        Choices | None,
        typer.Option(help="Answer closed questions freely, with their choices only, or both (the rule)."),
    ] = None
    scan_limit: Annotated[
        int, typer.Option(metavar="SECONDS", min=1, help="Give a scan up that takes longer, and list it.")
    ] = 1800
    cache = None  # encoded scans are not kept: every scan is asked once


@verb
def watch(options: WatchOptions) -> None:
    """Answer the questions about every scan that arrives in a folder, each once, until it is stopped."""
    from slicesight.cli.watch import run_watch

    run_watch(options)
