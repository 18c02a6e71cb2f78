"""How does `slicesight ask` get from a path to answers, files and a report in the terminal?

(fetch ->) read -> grid -> encode -> ask -> write (-> store). Options and output paths are checked before the long
work, and every file appears whole or not at all.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from slicesight.cli.options import three_numbers
from slicesight.cli.scans import STDOUT, AskOptions
from slicesight.errors import InputError
from slicesight.io.assemble import checked_unit
from slicesight.io.dicom.source import SourceSeries, read_source
from slicesight.io.dicomweb.address import read_address
from slicesight.io.loading import read_volume
from slicesight.reports.ask import AnswerReport, load_quietly, print_report, print_warnings, write_files
from slicesight.reports.terminal import progress_bar, report_console
from slicesight.reports.truth import find_case, judge


def run_ask(options: AskOptions) -> None:
    """Answer, print and write; raises InputError before anything is written."""
    stderr = Console(stderr=True)
    json_to_stdout = options.json == STDOUT
    case = find_case(options.truth, scan=options.scan) if options.truth is not None else None
    questions = options.questions or None
    if case is not None and questions is None:
        questions = [pair.prompt for pair in case.conversations]
    with fetch_scan(options, stderr) as place, stderr.status("reading the scan"):
        volume = read_volume(
            place,
            series_uid=options.series,
            spacing_mm=three_numbers(options.spacing_mm, "--spacing-mm"),
            time_point=options.time_point,
            unit=checked_unit(options.unit),
        )
        source = read_source(place, volume) if options.wants_sr else None
    scan_format = volume.source.get("format", "no DICOM")
    if options.series is not None and "DICOM" not in scan_format:
        raise InputError(
            f"{options.scan}: --series chooses among DICOM series, but this is {scan_format}; leave it out."
        )
    with stderr.status(f"loading {options.model}"):
        reader = load_quietly(options.model, int8=options.int8, cache=options.cache)
    with stderr.status("encoding the scan"):
        encoded = reader.encode(reader.grid(volume, window=options.window, plane=options.plane))
    with progress_bar(stderr, "answering") as progress:
        answers = reader.ask(encoded, questions, progress=progress)
    truths = judge(answers, case, grid=encoded.grid) if case is not None else ()
    report = AnswerReport(volume=volume, grid=encoded.grid, card=reader.card, answers=answers, truths=truths)
    if json_to_stdout:
        sys.stdout.write(report.json_text())
        print_warnings(stderr, report)
    else:
        print_report(report_console(), report)
    write_files(report, options.written)
    if source is not None and options.sr is not None:
        report.write_sr(options.sr, source=source)
    for path in options.files:
        stderr.print(f"wrote {path}", highlight=False, soft_wrap=True)
    if source is not None and options.store:
        with stderr.status("storing the report"):
            stored = store_report(report, options, source=source)
        stderr.print(stored, highlight=False, soft_wrap=True)


@contextmanager
def fetch_scan(options: AskOptions, stderr: Console) -> Iterator[Path]:
    """`local_copy` with a bar that is gone when the series has come."""
    from slicesight.io.dicomweb.client import local_copy

    with ExitStack() as stack:
        with progress_bar(stderr, "fetching the series") as progress:
            scan = local_copy(options.scan, token_file=options.archive_token, progress=progress)
            place = stack.enter_context(scan)
        yield place


def store_report(report: AnswerReport, options: AskOptions, *, source: SourceSeries) -> str:
    """Send the DICOM report to the archive the scan came from; returns a line that says so."""
    from slicesight.io.dicomweb.client import read_token, store

    token = None if options.archive_token is None else read_token(options.archive_token)
    archive = read_address(options.scan).archive
    with tempfile.TemporaryDirectory(prefix="slicesight-") as folder:
        file = options.sr or Path(folder) / "report.dcm"
        if options.sr is None:
            report.write_sr(file, source=source)
        uid = store(file, archive=archive, token=token)
    return f"stored the report {uid} in {archive}; it lies in its own series of the scan's study"
