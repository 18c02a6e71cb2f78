"""What does the report of one asking hold, and how is it written: terminal, JSON, page, picture, DICOM?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from slicesight.data.choices import listed_choices
from slicesight.files import write_text
from slicesight.inference.answers import Answer
from slicesight.inference.loading import INT8_IF_FASTER, SERVER_PREFIX, load
from slicesight.inference.predictor import Predictor
from slicesight.io.dicom.source import SourceSeries
from slicesight.models.card import RESEARCH_NOTICE, ModelCard
from slicesight.reports import report_writer
from slicesight.reports.evidence import KnownTruth, caveat_of, caveats_of, describe_answer, reading_line, summarise
from slicesight.reports.terminal import answer_block, scan_header
from slicesight.volumes.grid import GridVolume
from slicesight.volumes.receipt import scan_line
from slicesight.volumes.volume import Volume

STDOUT = Path("-")


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

    @property
    def judged(self) -> list[tuple[Answer, KnownTruth | None]]:
        """Each answer with what is known to be right about its question."""
        return list(zip(self.answers, self.truths or [None] * len(self.answers), strict=True))

    def document(self) -> dict[str, Any]:
        """The JSON form, as schemas/ask.schema.json says: {"schema", "scan", "model", "answers"}."""
        return {
            "schema": 1,
            "scan": self.grid.receipt,
            "model": {**self.card.to_dict(), "warnings": list(self.warnings), "use": RESEARCH_NOTICE},
            "answers": [
                {
                    "question": answer.question,
                    "system": answer.system,
                    "prefix": answer.prefix or None,
                    "answer": answer.text,
                    "finish_reason": answer.finish_reason,
                    "cut_at": answer.cut_at,
                    "choice": answer.choice,
                    "confidence": answer.confidence,
                    "confidence_note": answer.confidence_note,
                    "abstained": answer.abstained,
                    "would_say": answer.would_say,
                    "within_choices": None if not listed_choices(answer.question) else not answer.is_outside_choices,
                    "evidence": _evidence(answer),
                    "scores": answer.scores,
                    "slices": [
                        {name: value for name, value in asdict(found).items() if name != "plane" or value is not None}
                        for found in answer.slices
                    ],
                }
                for answer in self.answers
            ],
        }

    def json_text(self) -> str:
        return json.dumps(self.document(), indent=2, allow_nan=False) + "\n"

    def write_json(self, path: Path) -> None:
        write_text(path, text=self.json_text())

    def write_html(self, path: Path) -> None:
        from slicesight.reports.html import render_page

        write_text(path, text=render_page(self))

    def write_png(self, path: Path) -> None:
        from slicesight.reports.figure import draw_report, save_figure

        save_figure(draw_report(self), path)

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


def _evidence(answer: Answer) -> dict[str, Any]:
    """What weighs most, in words and numbers, beside what that does not say."""
    found = summarise(answer)
    return {
        "measured_by": answer.evidence,
        "note": answer.evidence_note,
        "summary": describe_answer(answer),
        "caveat": caveat_of(answer),
        "effective_slices": found.effective_slices or None,
        "even_share": found.even_share,
        "other_share": found.other_share,
        "ranges": [asdict(one) for one in found.ranges],
    }


def load_quietly(
    model: str,
    *,
    int8: bool = False,
    cache: Path | None = None,
    preset: str | None = None,
    evidence_passes: int | None = None,
    ignore_calibration: bool = False,
) -> Predictor:
    """Load a model without the library's own progress bars and advice on the terminal; arguments as for `load`."""
    if find_spec("transformers") is not None and not model.startswith(SERVER_PREFIX):
        from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]  # its manual has it
        from huggingface_hub.utils import logging as hub_logging
        from transformers.utils import logging

        hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        enable_progress_bars()  # the hub's alone: a guest of gigabytes does not come without a sign of life
    return load(
        model,
        quantize=INT8_IF_FASTER if int8 else None,
        cache_folder=cache,
        preset=preset,
        evidence_passes=evidence_passes,
        ignore_calibration=ignore_calibration,
    )


def write_files(report: AnswerReport, files: Iterable[tuple[str, Path]]) -> None:
    """Write the report as every (format, file)."""
    for name, path in files:
        report_writer(name)(report, path)


def print_report(console: Console, report: AnswerReport) -> None:
    """Header, one block per answer, and what must be read with them."""
    notes, warnings = report.volume.warnings, report.warnings
    console.print(scan_header(report.title, report.reading, notes=notes, warnings=warnings))
    for answer, truth in report.judged:
        console.print()
        console.print(answer_block(answer, truth=truth))
    console.print()
    for line in (*caveats_of(report.answers), RESEARCH_NOTICE):
        console.print(line, style="dim", highlight=False)


def print_warnings(console: Console, report: AnswerReport) -> None:
    """What must be seen even where stdout is a file."""
    for warning in (*report.volume.warnings, *report.warnings):
        console.print(warning, style="yellow", highlight=False, soft_wrap=True)
