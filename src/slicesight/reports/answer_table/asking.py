"""How is one scan of many asked all its questions, in a process that keeps its model?

read -> grid -> encode once -> ask -> a row's cells per question, a picture of the heaviest slice, a page of the scan.
What is wrong with a scan becomes its error, in one line; a fault of ours becomes one too, with its traceback, because
the other scans must go on.
"""

from __future__ import annotations

import faulthandler
import hashlib
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicesight.errors import InputError
from slicesight.files import replacing
from slicesight.inference.answers import Answer
from slicesight.io.scan_tree import FoundScan
from slicesight.reports.answer_table.columns import cells_of
from slicesight.volumes.grid import GridVolume, height_over_width

if TYPE_CHECKING:
    from slicesight.inference.predictor import Predictor

REPORTS, THUMBNAILS = "reports", "thumbnails"
THUMBNAIL_WIDTH = 160


@dataclass(frozen=True, kw_only=True)
class AskSettings:
    """Everything but scan and question that an answer depends on, and what is written beside it.

    The names are those of the options of `slicesight ask`. one_thread: of several processes that answer.
    limit_seconds: a scan that takes longer ends its process.
    """

    model: str
    int8: bool = False
    cache: Path | None = None
    preset: str | None = None
    evidence_passes: int | None = None
    window: str | None = None
    plane: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    time_point: int | None = None
    unit: str | None = None
    fill: str | None = None
    choices: str = "both"
    min_confidence: float | None = None
    answer_anyway: bool = False
    reports: bool = True
    one_thread: bool = False
    limit_seconds: int | None = None

    @property
    def reading(self) -> dict[str, Any]:
        """What the scans are read with."""
        names = ("spacing_mm", "time_point", "unit", "fill")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def decisive(self) -> dict[str, Any]:
        """What changes an answer, JSON-able."""
        left_out = ("cache", "reports", "one_thread", "limit_seconds")
        return {name: value for name, value in asdict(self).items() if name not in left_out}


@dataclass(frozen=True, kw_only=True)
class AskJob:
    """A scan and what is asked of it; no scan: say only who would answer. content: digest of the scan's files."""

    settings: AskSettings
    folder: Path
    scan: FoundScan | None = None
    content: str = ""
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AskOutcome:
    """What came of a job: cells of a row per prompt, or why there are none.

    model: {"name", "digest", "warnings"} for a job without a scan. fault: the traceback of a mistake of ours.
    """

    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    fault: str | None = None
    model: dict[str, Any] = field(default_factory=dict)


def ask_scan(job: AskJob) -> AskOutcome:
    """Do the job; the model is loaded with the first one of a process.

    Raises:
        InputError: the model cannot be loaded, or a setting is none of its own.
    """
    predictor = _predictor_of(job.settings)
    if job.scan is None:
        return AskOutcome(model=_introduced(predictor, job.settings))
    try:
        with _ended_after(job.settings.limit_seconds):
            return _answered(predictor, job, job.scan)
    except InputError as error:
        return AskOutcome(error=" ".join(str(error).split()))
    except MemoryError:
        return AskOutcome(error=f"{job.scan}: reading or asking it needs more memory than there is")
    except Exception as error:  # a fault of ours must not keep the other scans from being answered
        first = " ".join(str(error).split())[:200]
        return AskOutcome(
            error=f"{job.scan}: a fault of slicesight, please report it ({type(error).__name__}: {first})",
            fault=traceback.format_exc(),
        )


@contextmanager
def _ended_after(seconds: int | None) -> Iterator[None]:
    """End this process where the work takes longer, even inside a decoder that lets no other thread run."""
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@lru_cache(maxsize=1)
def _predictor_of(settings: AskSettings) -> Predictor:
    from contextlib import nullcontext

    from slicesight.inference.light_imports import light_imports
    from slicesight.inference.loading import paused_garbage_collection
    from slicesight.models.shipped import shipped_models
    from slicesight.reports.ask import load_quietly

    with paused_garbage_collection(), light_imports() if settings.model in shipped_models() else nullcontext():
        if settings.one_thread:
            import torch

            torch.set_num_threads(1)
        return load_quietly(
            settings.model,
            int8=settings.int8,
            cache=settings.cache,
            preset=settings.preset,
            evidence_passes=settings.evidence_passes,
        )


def _introduced(predictor: Predictor, settings: AskSettings) -> dict[str, Any]:
    """Who answers; settings that no scan could be asked with are refused here, once."""
    predictor.answer_rule(settings.min_confidence, settings.answer_anyway)
    predictor.grid_spec_with(window=settings.window, plane=settings.plane)
    return {
        "name": predictor.card.name,
        "digest": predictor.digest(),
        "warnings": list(predictor.card.warnings),
    }


def _answered(predictor: Predictor, job: AskJob, scan: FoundScan) -> AskOutcome:
    settings, started = job.settings, time.perf_counter()
    volume = scan.read(**settings.reading)
    if scan.has_changed():
        raise InputError(f"{scan}: its files changed while they were read; run again when they are whole")
    encoded = predictor.encode(predictor.grid(volume, window=settings.window, plane=settings.plane))
    answers, errors = _ask_all(predictor, encoded, job)
    seconds = (time.perf_counter() - started) / len(job.prompts)
    report = _write_report(predictor, volume, encoded.grid, answers, job) if answers else ""
    notes = [*scan.notes, *volume.warnings, *predictor.card.warnings_about(volume)]
    cells = {}
    for number, (prompt, answer) in enumerate(answers.items()):
        thumbnail = f"{THUMBNAILS}/{_name_of(job, prompt)}.jpg" if settings.reports else ""
        if thumbnail:
            draw_thumbnail(job.folder / thumbnail, encoded.grid, answer)
        more = {"notes": " ".join(notes), "report": report and f"{report}#answer{number + 1}", "thumbnail": thumbnail}
        cells[prompt] = {**cells_of(answer), **more, "model": predictor.card.name, "seconds": round(seconds, 3)}
    return AskOutcome(cells=cells, errors=errors)


def _ask_all(predictor: Predictor, encoded: Any, job: AskJob) -> tuple[dict[str, Answer], dict[str, str]]:
    """Every prompt's answer together; where one is refused, such as one that is too long, the others one by one."""
    options: dict[str, Any] = {
        "choices": job.settings.choices,
        "min_confidence": job.settings.min_confidence,
        "answer_anyway": job.settings.answer_anyway,
    }
    try:
        return dict(zip(job.prompts, predictor.ask(encoded, job.prompts, **options), strict=True)), {}
    except InputError as error:
        if len(job.prompts) == 1:
            return {}, {job.prompts[0]: " ".join(str(error).split())}
    answers, errors = {}, {}
    for prompt in job.prompts:
        try:
            (answers[prompt],) = predictor.ask(encoded, [prompt], **options)
        except InputError as error:
            errors[prompt] = " ".join(str(error).split())
    return answers, errors


def _write_report(predictor: Predictor, volume: Any, grid: GridVolume, answers: dict[str, Answer], job: AskJob) -> str:
    """The scan's page, named after what it holds; "" where none is wanted."""
    if not job.settings.reports:
        return ""
    from slicesight.reports.ask import AnswerReport

    report = AnswerReport(volume=volume, grid=grid, card=predictor.card, answers=list(answers.values()))
    file = f"{REPORTS}/{_name_of(job, *answers)}.html"
    report.write_html(job.folder / file)
    return file


def draw_thumbnail(path: Path, grid: GridVolume, answer: Answer) -> None:
    """The slice that weighs most in the answer, the middle one where none does."""
    from slicesight.reports.html import grey_image

    number = answer.slices[0].grid_slice if answer.slices else len(grid.slices) // 2
    stack, own_index = grid.scored_slice(number)
    height = max(1, round(THUMBNAIL_WIDTH * height_over_width(stack)))
    image = grey_image(stack.voxels[own_index], width=THUMBNAIL_WIDTH, height=height)
    with replacing(path) as temporary:
        image.save(temporary, "JPEG", quality=80)


def _name_of(job: AskJob, *prompts: str) -> str:
    """A file's name that only these prompts about this scan, so answered, have; nothing in it names a patient."""
    return hashlib.sha256("\n".join((job.content, *prompts)).encode("utf-8", "surrogateescape")).hexdigest()[:24]
