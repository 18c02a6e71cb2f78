"""Verbs about one scan: ask it, inspect it, see the demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slicesight.cli.options import (
    ArchiveTokenOption,
    ModelOption,
    PlaneOption,
    ScanArgument,
    SeriesOption,
    SpacingOption,
    TimePointOption,
    UnitOption,
    WindowOption,
    three_numbers,
)


def ask(
    scan: ScanArgument,
    questions: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUESTION", help="Left out, the model describes the findings.", show_default=False),
    ] = None,
    model: ModelOption = "phantom-tiny",
    window: WindowOption = None,
    plane: PlaneOption = None,
    series: SeriesOption = None,
    spacing_mm: SpacingOption = None,
    time_point: TimePointOption = None,
    unit: UnitOption = None,
    truth: Annotated[
        Path | None,
        typer.Option(metavar="MANIFEST", help="Compare with a manifest; without a question, ask all of its own."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Round the model to 8 bits: quicker and smaller on an x86 CPU.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep the encoded scan there for later questions; it shows what the scan shows."
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE|-", help="Write receipt and answers; - is stdout.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a self-contained report page.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as a picture.")] = None,
    sr: Annotated[
        Path | None, typer.Option(metavar="FILE.dcm", help="Write the answers as a DICOM Structured Report.")
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Send the DICOM report to the archive the scan came from.")
    ] = False,
    archive_token: ArchiveTokenOption = None,
) -> None:
    """Answer questions about a scan, with the slices each answer rests on."""
    from slicesight.reports.ask import AskOptions, run_ask

    run_ask(
        AskOptions(
            scan=scan,
            questions=questions or None,
            model=model,
            window=window,
            plane=plane.value if plane else None,
            series_uid=series,
            spacing_mm=three_numbers(spacing_mm, "--spacing-mm"),
            time_point=time_point,
            unit=unit,
            truth=truth,
            int8=int8,
            cache=cache,
            json=json,
            html=html,
            png=png,
            sr=sr,
            store=store,
            archive_token=archive_token,
        )
    )


def inspect(
    scan: ScanArgument,
    window: WindowOption = None,
    plane: PlaneOption = None,
    series: SeriesOption = None,
    spacing_mm: SpacingOption = None,
    time_point: TimePointOption = None,
    unit: UnitOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print the receipt as JSON.")] = False,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a contact sheet.")] = None,
    archive_token: ArchiveTokenOption = None,
) -> None:
    """Say how a scan is read: geometry, window, crop, and what about it is doubtful."""
    from slicesight.io.dicomweb.client import local_copy
    from slicesight.reports.inspection import print_receipt

    with local_copy(scan, token_file=archive_token) as place:
        print_receipt(
            place,
            window=window or "auto",
            plane=plane.value if plane else "acquired",
            series_uid=series,
            spacing_mm=three_numbers(spacing_mm, "--spacing-mm"),
            time_point=time_point,
            unit=unit,
            png=png,
            as_json=json,
        )


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the scans and reports.")] = Path("demo"),
    model: ModelOption = "phantom-tiny",
    seed: Annotated[int, typer.Option(min=0, help="Which synthetic scans to make.")] = 20_000,
) -> None:
    """Make two synthetic scans, ask each its eleven questions and compare with the truth."""
    from slicesight.cli.demo import run_demo

    run_demo(out, model=model, seed=seed)
