"""How does `slicesight ask` get from a path to answers, files and a report in the terminal?

(fetch ->) read -> grid -> encode -> ask -> write (-> store). Options and output paths are checked before the long
work, and every file appears whole or not at all.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from slicesight.cli.options import three_numbers
from slicesight.cli.scans import STDOUT, AskOptions
from slicesight.errors import InputError
from slicesight.inference.answers import Answer
from slicesight.inference.light_imports import light_imports
from slicesight.inference.loading import paused_garbage_collection
from slicesight.io.assemble import checked_unit
from slicesight.io.dicomweb.address import is_address, read_address
from slicesight.io.downloads import on_disk
from slicesight.io.loading import read_volume
from slicesight.models.shipped import model_for, shipped_models
from slicesight.reports.ask import AnswerReport, load_quietly, print_report, print_warnings, write_files
from slicesight.reports.terminal import progress_bar, report_console
from slicesight.volumes.grid import GridVolume
from slicesight.volumes.volume import Volume

if TYPE_CHECKING:
    from slicesight.data.manifest import Case
    from slicesight.inference.predictor import Predictor
    from slicesight.io.dicom.source import SourceSeries
    from slicesight.reports.evidence import KnownTruth


def run_ask(options: AskOptions) -> None:
    """Answer, print and write; raises InputError before anything is written."""
    stderr = Console(stderr=True)
    json_to_stdout = options.json == STDOUT
    case = _known_case(options)
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
            fill=options.fill,
        )
        source = _read_source(place, volume) if options.wants_sr else None
    scan_format = volume.source.get("format", "no DICOM")
    if options.series is not None and "DICOM" not in scan_format:
        raise InputError(
            f"{options.scan}: --series chooses among DICOM series, but this is {scan_format}; leave it out."
        )
    name = options.model or model_for(volume)
    with stderr.status(f"loading {name}"):
        predictor = _load(name, options)
    if options.verbose:
        for line in describe_use(predictor):
            stderr.print(line, highlight=False, soft_wrap=True)
    with stderr.status("encoding the scan"):
        encoded = predictor.encode(predictor.grid(volume, window=options.window, plane=options.plane))
    with progress_bar(stderr, "answering") as progress:
        answers = predictor.ask(
            encoded,
            questions,
            choices=options.choices_mode,
            min_confidence=options.min_confidence,
            answer_anyway=options.answer_anyway,
            progress=progress,
        )
    truths = () if case is None else _judge(answers, case, grid=encoded.grid)
    report = AnswerReport(volume=volume, grid=encoded.grid, card=predictor.card, answers=answers, truths=truths)
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


def _load(name: str, options: AskOptions) -> Predictor:
    """The model; a shipped one without what only training and compiling import."""
    with paused_garbage_collection(), light_imports() if name in shipped_models() else nullcontext():
        return load_quietly(name, int8=options.int8, cache=options.cache, **options.guest_settings)


def describe_use(predictor: Predictor) -> list[str]:
    """How a model is computed here: its kind of numbers, threads, and what was chosen by measurement."""
    if predictor.card.name.startswith("openai:"):
        return [f"{predictor.card.name} runs elsewhere"]
    import torch

    from slicesight.inference.cpu.tuning import choices_of, describe_machine, tuning_for

    lines = [f"{predictor.card.name}: {str(predictor.model.dtype).removeprefix('torch.')} on {predictor.model.device}"]
    if predictor.model.device.type == "cpu":
        tuning = tuning_for(predictor.model.language_model)
        lines[0] += f", {torch.get_num_threads()} threads"
        lines.append(", ".join(f"{name} {value}" for name, value in describe_machine().items() if value))
        lines.append("measured: " + ", ".join(choices_of(tuning)) if tuning.rates else "small: nothing is measured")
    return lines


def _known_case(options: AskOptions) -> Case | None:
    if options.truth is None:
        return None
    from slicesight.reports.truth import find_case

    return find_case(options.truth, scan=options.scan)


def _judge(answers: Sequence[Answer], case: Case, *, grid: GridVolume) -> list[KnownTruth | None]:
    from slicesight.reports.truth import judge

    return judge(answers, case, grid=grid)


def _read_source(place: Path, volume: Volume) -> SourceSeries:
    from slicesight.io.dicom.source import read_source

    return read_source(place, volume)


@contextmanager
def fetch_scan(options: AskOptions, stderr: Console) -> Iterator[Path]:
    """`local_copy` with a bar that is gone when the series has come."""
    from slicesight.io.dicomweb.client import local_copy

    if not is_address(options.scan):
        with on_disk(options.scan) as place:
            yield place
        return
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
