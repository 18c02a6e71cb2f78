"""How does `slicesight ask` get from a path to answers, files and a report in the terminal?

(fetch ->) read -> grid -> encode -> ask -> write (-> store). Options and output paths are checked before the long
work, and every file appears whole or not at all.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from slicesight.errors import InputError
from slicesight.files import checked_place, write_text
from slicesight.inference.answers import Answer
from slicesight.inference.loading import load
from slicesight.inference.predictor import Predictor
from slicesight.io.dicom.source import SourceSeries, read_source
from slicesight.io.dicomweb.address import is_address, read_address
from slicesight.io.loading import read_volume
from slicesight.io.options import checked_unit
from slicesight.models.card import RESEARCH_NOTICE, ModelCard
from slicesight.reports.evidence import KnownTruth, reading_line
from slicesight.reports.terminal import answer_block, progress_bar, report_console, scan_header
from slicesight.reports.truth import find_case, judge
from slicesight.volumes.grid import GridSpec, GridVolume
from slicesight.volumes.receipt import scan_line
from slicesight.volumes.volume import Volume

STDOUT = Path("-")


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """The arguments of `slicesight ask`, after parsing.

    scan: a path or an archive's address. store: the DICOM report goes back into that archive.
    """

    scan: Path
    questions: list[str] | None
    model: str = "phantom-tiny"
    window: str | None = None
    plane: str | None = None
    series_uid: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    time_point: int | None = None
    unit: str | None = None
    truth: Path | None = None
    int8: bool = False
    cache: Path | None = None
    json: Path | None = None
    html: Path | None = None
    png: Path | None = None
    sr: Path | None = None
    store: bool = False
    archive_token: Path | None = None

    def __post_init__(self) -> None:
        GridSpec(window=self.window or "auto", plane=self.plane or "acquired")  # refuses what does not exist
        for path in self.files:
            checked_place(path)
        if self.cache is not None and not self.cache.is_dir():
            raise InputError(f"--cache {self.cache} is no folder; create it first.")
        if is_address(self.scan):
            read_address(self.scan)
        elif self.store:
            raise InputError(
                f"--store sends the report to the archive a scan came from, but {self.scan} is a file; ask a "
                "dicomweb+https:// address or write --sr FILE.dcm."
            )
        if self.wants_sr:
            from slicesight.reports.dicom_sr.document import import_highdicom

            import_highdicom()

    @property
    def files(self) -> list[Path]:
        """What will be written beside the terminal's report."""
        return [path for path in (self.json, self.html, self.png, self.sr) if path is not None and path != STDOUT]

    @property
    def wants_sr(self) -> bool:
        """A DICOM report is to be written or stored."""
        return self.sr is not None or self.store


@dataclass(frozen=True, kw_only=True)
class AnswerReport:
    """Everything a report shows: the scan, how it was read, who answered, and the answers."""

    volume: Volume
    grid: GridVolume
    card: ModelCard
    answers: Sequence[Answer]
    truths: Sequence[KnownTruth | None] = ()

    @property
    def title(self) -> str:
        return scan_line(self.volume)

    @property
    def reading(self) -> str:
        return reading_line(self.grid)

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.card.warnings_about(self.volume)

    def document(self) -> dict[str, Any]:
        """The JSON form: {"scan", "model", "answers"}."""
        return {
            "scan": self.grid.receipt,
            "model": {**self.card.to_dict(), "warnings": list(self.warnings), "use": RESEARCH_NOTICE},
            "answers": [
                {
                    "question": answer.question,
                    "answer": answer.text,
                    "scores": list(answer.scores),
                    "slices": [
                        {
                            "rank": found.rank,
                            "grid_slice": found.grid_slice,
                            **({} if found.plane is None else {"plane": found.plane}),
                            "score": found.score,
                            "source_slices": list(found.source_slices),
                            "position_mm": None if found.position_mm is None else list(found.position_mm),
                            "sop_instance_uids": list(found.sop_instance_uids),
                        }
                        for found in answer.slices
                    ],
                }
                for answer in self.answers
            ],
        }

    def json_text(self) -> str:
        return json.dumps(self.document(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write_html(self, path: Path) -> None:
        from slicesight.reports.html import render_page

        page = render_page(
            self.grid,
            self.answers,
            card=self.card,
            title=self.title,
            reading=self.reading,
            notes=self.volume.warnings,
            warnings=self.warnings,
            truths=self.truths,
        )
        write_text(path, text=page)

    def write_png(self, path: Path) -> None:
        from slicesight.reports.figure import draw_report, save_report

        figure = draw_report(
            self.grid,
            self.answers,
            title=f"{self.title} · answered by {self.card.name}",
            notes=self.volume.warnings,
            warnings=self.warnings,
            footer=f"{self.reading} · {RESEARCH_NOTICE}",
            truths=self.truths,
        )
        save_report(figure, path)

    def write_sr(self, path: Path, *, source: SourceSeries) -> str:
        """Write the DICOM report; returns its SOP instance UID."""
        from slicesight.reports.dicom_sr.document import write_report

        return write_report(
            path,
            self.answers,
            grid=self.grid,
            source=source,
            card=self.card,
            title=self.title,
            reading=self.reading,
            notes=self.volume.warnings,
            warnings=self.warnings,
        )


def run_ask(request: AskOptions) -> None:
    """Answer, print and write; raises InputError before anything is written."""
    stderr = Console(stderr=True)
    json_to_stdout = request.json == STDOUT
    case = find_case(request.truth, scan=request.scan) if request.truth is not None else None
    questions = request.questions
    if case is not None and questions is None:
        questions = [pair.prompt for pair in case.conversations]
    with fetch_scan(request, stderr) as place, stderr.status("reading the scan"):
        volume = read_volume(
            place,
            series_uid=request.series_uid,
            spacing_mm=request.spacing_mm,
            time_point=request.time_point,
            unit=checked_unit(request.unit),
        )
        source = read_source(place, volume) if request.wants_sr else None
    scan_format = volume.source.get("format", "no DICOM")
    if request.series_uid is not None and "DICOM" not in scan_format:
        raise InputError(
            f"{request.scan}: --series chooses among DICOM series, but this is {scan_format}; leave it out."
        )
    with stderr.status(f"loading {request.model}"):
        reader = load_quietly(request.model, int8=request.int8, cache=request.cache)
    with stderr.status("encoding the scan"):
        encoded = reader.encode(reader.grid(volume, window=request.window, plane=request.plane))
    with progress_bar(stderr, "answering") as progress:
        answers = reader.ask(encoded, questions, progress=progress)
    truths = judge(answers, case, grid=encoded.grid) if case is not None else ()
    consultation = AnswerReport(volume=volume, grid=encoded.grid, card=reader.card, answers=answers, truths=truths)
    if json_to_stdout:
        sys.stdout.write(consultation.json_text())
        print_warnings(stderr, consultation)
    else:
        print_report(report_console(), consultation)
    write_files(consultation, json_path=None if json_to_stdout else request.json, html=request.html, png=request.png)
    if source is not None and request.sr is not None:
        consultation.write_sr(request.sr, source=source)
    for path in request.files:
        stderr.print(f"wrote {path}", highlight=False, soft_wrap=True)
    if source is not None and request.store:
        with stderr.status("storing the report"):
            stored = store_report(consultation, request, source=source)
        stderr.print(stored, highlight=False, soft_wrap=True)


@contextmanager
def fetch_scan(request: AskOptions, stderr: Console) -> Iterator[Path]:
    """`local_copy` with a bar that is gone when the series has come."""
    from slicesight.io.dicomweb.client import local_copy

    with ExitStack() as stack:
        with progress_bar(stderr, "fetching the series") as progress:
            scan = local_copy(request.scan, token_file=request.archive_token, progress=progress)
            place = stack.enter_context(scan)
        yield place


def store_report(consultation: AnswerReport, request: AskOptions, *, source: SourceSeries) -> str:
    """Send the DICOM report to the archive the scan came from; returns a line that says so."""
    from slicesight.io.dicomweb.client import read_token, store

    token = None if request.archive_token is None else read_token(request.archive_token)
    archive = read_address(request.scan).archive
    with tempfile.TemporaryDirectory(prefix="slicesight-") as folder:
        report = request.sr or Path(folder) / "report.dcm"
        if request.sr is None:
            consultation.write_sr(report, source=source)
        uid = store(report, archive=archive, token=token)
    return f"stored the report {uid} in {archive}; it lies in its own series of the scan's study"


def load_quietly(model: str, *, int8: bool = False, cache: Path | None = None) -> Predictor:
    """Load a model without the library's own progress bars and advice on the terminal."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return load(model, quantize="int8" if int8 else None, cache_folder=cache)


def write_files(consultation: AnswerReport, *, json_path: Path | None, html: Path | None, png: Path | None) -> None:
    """Write the reports that were asked for."""
    if json_path is not None:
        write_text(json_path, text=consultation.json_text())
    if html is not None:
        consultation.write_html(html)
    if png is not None:
        consultation.write_png(png)


def print_report(console: Console, consultation: AnswerReport) -> None:
    """Header and one block per answer."""
    console.print(
        scan_header(
            consultation.title,
            consultation.reading,
            notes=consultation.volume.warnings,
            warnings=consultation.warnings,
        )
    )
    truths = consultation.truths or [None] * len(consultation.answers)
    for answer, truth in zip(consultation.answers, truths, strict=True):
        console.print()
        console.print(answer_block(answer, truth=truth))


def print_warnings(console: Console, consultation: AnswerReport) -> None:
    """What must be seen even where stdout is a file."""
    for warning in (*consultation.volume.warnings, *consultation.warnings):
        console.print(warning, style="yellow", highlight=False, soft_wrap=True)
