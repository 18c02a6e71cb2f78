"""The verb that answers about scans as they arrive in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from slicesight.cli.options import (
    AnswerAnywayOption,
    EvidenceOption,
    FillOption,
    MinConfidenceOption,
    ModelOption,
    PagesOption,
    PassesOption,
    PlaneOption,
    PresetOption,
    SpacingOption,
    TimePointOption,
    UnitOption,
    WindowOption,
    WorkersOption,
    guest_settings,
    share_from_0_to_1,
    three_numbers,
    verb,
)
from slicesight.cli.scans import Choices
from slicesight.models.shipped import DEFAULT_MODEL

Format = Literal["csv", "jsonl", "parquet"]


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """The options of `slicesight watch`; those that `slicesight ask` has too mean the same."""

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
    window: WindowOption = None
    plane: PlaneOption = None
    spacing_mm: SpacingOption = None
    time_point: TimePointOption = None
    unit: UnitOption = None
    fill: FillOption = None
    choices: Annotated[
        Choices | None,
        typer.Option(help="Answer closed questions freely, with their choices only, or both (the rule)."),
    ] = None
    preset: PresetOption = None
    evidence: EvidenceOption = True
    evidence_passes: PassesOption = None
    min_confidence: MinConfidenceOption = None
    answer_anyway: AnswerAnywayOption = False
    int8: Annotated[
        bool, typer.Option("--int8", help="Round the model to 8 bits where that makes it quicker here.")
    ] = False
    workers: WorkersOption = 1
    pages: PagesOption = True
    scan_limit: Annotated[
        int, typer.Option(metavar="SECONDS", min=1, help="Give a scan up that takes longer, and list it.")
    ] = 1800
    cache = None  # encoded scans are not kept: every scan is asked once

    def __post_init__(self) -> None:
        from slicesight.volumes.grid import GridSpec

        three_numbers(self.spacing_mm, "--spacing-mm")
        share_from_0_to_1(self.min_confidence, "--min-confidence")
        _ = self.guest_settings
        GridSpec(window=self.window or "auto", plane=self.plane or "acquired")  # refuses what does not exist

    @property
    def guest_settings(self) -> dict[str, Any]:
        """What a guest is loaded with."""
        return guest_settings(preset=self.preset, evidence=self.evidence, passes=self.evidence_passes)


@verb
def watch(options: WatchOptions) -> None:
    """Answer the questions about every scan that arrives in a folder, each once, until it is stopped."""
    from slicesight.cli.watch import run_watch

    run_watch(options)
