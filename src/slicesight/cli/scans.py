"""Verbs about one scan: ask it, inspect it, see the demonstration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from slicesight.cli.asking import AskingOptions, Choices
from slicesight.cli.options import (
    ArchiveTokenOption,
    ChosenModelOption,
    FillOption,
    ModelOption,
    PlaneOption,
    ScanArgument,
    ScanLimitOption,
    SeriesOption,
    SpacingOption,
    TimePointOption,
    UnitOption,
    WindowOption,
    three_numbers,
    verb,
)
from slicesight.errors import InputError
from slicesight.files import checked_place
from slicesight.models.shipped import PHANTOM_MODEL

STDOUT = Path("-")


@dataclass(frozen=True, kw_only=True)
class AskOptions(AskingOptions):
    """The options of `slicesight ask`.

    scan: a path or an archive's address. store: the DICOM report goes back into that archive.
    """

    scan: ScanArgument
    questions: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUESTION", help="Left out, the model describes the findings.", show_default=False),
    ] = None
    model: ChosenModelOption = None
    series: SeriesOption = None
    truth: Annotated[
        Path | None,
        typer.Option(metavar="MANIFEST", help="Compare with a manifest; without a question, ask all of its own."),
    ] = None
    choices: Annotated[
        Choices | None,
        typer.Option(
            help="Answer closed questions freely, with their choices only, or both; left out, both with --truth.",
            show_default=False,
        ),
    ] = None
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also say how this processor is used, on the error stream.")
    ] = False
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep the encoded scan there for later questions; it shows what the scan shows."
        ),
    ] = None
    json: Annotated[Path | None, typer.Option(metavar="FILE|-", help="Write receipt and answers; - is stdout.")] = None
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a self-contained report page.")] = None
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as a picture.")] = None
    sr: Annotated[
        Path | None, typer.Option(metavar="FILE.dcm", help="Write the answers as a DICOM Structured Report.")
    ] = None
    report: Annotated[
        list[str] | None,
        typer.Option(metavar="FORMAT=FILE", help="Write a report in any format installed here; repeatable."),
    ] = None
    store: Annotated[bool, typer.Option("--store", help="Send the DICOM report to the archive the scan came from.")] = (
        False
    )
    archive_token: ArchiveTokenOption = None
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv|.jsonl|.parquet",
            help="SCAN is a folder of scans: ask each (QUESTION may be a QUESTIONS.csv) and write a row per scan and "
            "question; goes on where it was stopped.",
        ),
    ] = None
    scan_limit: ScanLimitOption = None

    def __post_init__(self) -> None:
        from slicesight.io.dicomweb.address import is_address, read_address
        from slicesight.reports import report_writer

        super().__post_init__()
        for name, _ in self.written:
            report_writer(name)
        for path in self.files:
            checked_place(path)
        if self.cache is not None and self.cache.exists() and not self.cache.is_dir():
            raise InputError(f"--cache {self.cache} is a file; name a folder.")
        if is_address(self.scan):
            read_address(self.scan)
            if self.out is not None:
                raise InputError(f"--out is for a folder of scans, and {self.scan} is a series in an archive.")
        elif self.store:
            raise InputError(
                f"--store sends the report to the archive a scan came from, but {self.scan} is a file; ask a "
                "dicomweb+https:// address or write --sr FILE.dcm."
            )
        tables = [text for text in self.questions or () if text.lower().endswith(".csv") and Path(text).is_file()]
        if self.out is None and tables:
            raise InputError(
                f"{tables[0]} is a table of questions for a folder of scans; say where answers go: --out answers.csv"
            )
        if self.wants_sr:
            from slicesight.reports.dicom_sr.document import import_highdicom

            import_highdicom()

    @property
    def written(self) -> list[tuple[str, Path]]:
        """(format, file) of what will be written beside the terminal's report, the DICOM report left out."""
        named = [("json", self.json), ("html", self.html), ("png", self.png)]
        files = [(name, path) for name, path in named if path is not None and path != STDOUT]
        return files + [name_and_file(text) for text in self.report or ()]

    @property
    def choices_mode(self) -> Choices:
        """Where the truth is known, a model that answers outside the choices is asked for its choice as well."""
        return self.choices or ("free" if self.truth is None else "both")

    @property
    def files(self) -> list[Path]:
        """All that will be written."""
        return [path for _, path in self.written] + ([] if self.sr is None else [self.sr])

    @property
    def wants_sr(self) -> bool:
        """A DICOM report is to be written or stored."""
        return self.sr is not None or self.store


@verb
def ask(options: AskOptions) -> None:
    """Answer questions about a scan, or with --out about every scan of a folder, with the slices that weigh most."""
    if options.out is not None:
        from slicesight.cli.ask_folder import run_ask_folder

        run_ask_folder(options, out=options.out)
        return
    from slicesight.cli.ask import run_ask

    run_ask(options)


def inspect(
    scan: ScanArgument,
    window: WindowOption = None,
    plane: PlaneOption = None,
    series: SeriesOption = None,
    spacing_mm: SpacingOption = None,
    time_point: TimePointOption = None,
    unit: UnitOption = None,
    fill: FillOption = None,
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
            plane=plane or "acquired",
            series_uid=series,
            spacing_mm=three_numbers(spacing_mm, "--spacing-mm"),
            time_point=time_point,
            unit=unit,
            fill=fill,
            png=png,
            as_json=json,
        )


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the scans and reports.")] = Path("demo"),
    model: ModelOption = PHANTOM_MODEL,
    seed: Annotated[int, typer.Option(min=0, help="Which synthetic scans to make.")] = 20_000,
) -> None:
    """Make two synthetic scans, ask each its eleven questions and compare with the truth."""
    from slicesight.cli.demo import run_demo

    run_demo(out, model=model, seed=seed)


def name_and_file(text: str) -> tuple[str, Path]:
    """("html", scan.html) from "html=scan.html"."""
    name, is_pair, file = text.partition("=")
    if not is_pair or not file:
        raise InputError(f"--report is {text!r}; expected FORMAT=FILE, for instance html=scan.html")
    return name, Path(file)
