"""What does a person see in the terminal? The answer first, then the slices that weigh most in it, with bars.

Reports go to stdout; progress, names of files written and errors go to stderr, so that a pipe gets the report only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from slicesight.inference.answers import Answer
from slicesight.inference.answers import Progress as ProgressCallback
from slicesight.reports.evidence import (
    NO_WEIGHTS,
    Evidence,
    KnownTruth,
    confidence_line,
    doubts_about,
    others_of,
    spread_note,
    summarise,
)

BAR_CELLS = 8
UNWRAPPED = 10_000
EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(share: float, *, widest: float, cells: int = BAR_CELLS) -> str:
    """A bar of `cells` characters for the widest share, to an eighth of a character."""
    eighths = round(share / widest * cells * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(cells)


def scan_header(title: str, reading: str, *, notes: Sequence[str] = (), warnings: Sequence[str] = ()) -> RenderableType:
    """The scan in one line, what the file made doubtful, and what must stand beside any answer."""
    lines = [Text.assemble((title, "bold"), (f" · {reading}", "dim"))]
    lines += [Text(f"note: {note}", style="yellow") for note in notes]
    lines += [Text(warning, style="bold red") for warning in warnings]
    return Group(*lines)


def answer_block(answer: Answer, *, truth: KnownTruth | None = None) -> RenderableType:
    """Question, answer, what is known to be right, and the evidence of one answer."""
    parts: list[RenderableType] = [
        Text(answer.question, style="bold cyan"),
        Padding(Text(answer.text), (0, 2), expand=False),
    ]
    if sure := confidence_line(answer):
        parts.append(Padding(Text(sure, style="dim"), (0, 2), expand=False))
    parts += [Padding(Text(doubt, style="yellow"), (0, 2), expand=False) for doubt in doubts_about(answer)]
    if truth is not None:
        verdict = "✓ right" if truth.is_right else f"✗ wrong; the truth: {truth.answer}"
        parts.append(Padding(Text(verdict, style="green" if truth.is_right else "red"), (0, 2), expand=False))
    if answer.slices:
        evidence = summarise(answer)
        parts.append(Padding(_evidence_table(evidence), (0, 2), expand=False))
        parts.append(Padding(Text(spread_note(evidence), style="dim"), (0, 2), expand=False))
    if note := answer.evidence_note or ("" if answer.slices else NO_WEIGHTS):
        parts.append(Padding(Text(note, style="dim"), (0, 2), expand=False))
    return Group(*parts)


def _evidence_table(evidence: Evidence) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    even = Text(f"(even: {evidence.even_share:.2f} each)", style="dim")
    if not evidence.shown:
        table.add_row(Text("weighs", style="dim"), f"all {evidence.num_other_slices} slices about alike", even)
        return table
    num_others, others_share = others_of(evidence)
    widest = max([*(found.share for found in evidence.shown), others_share])
    for number, found in enumerate(evidence.shown):
        label = Text("weighs most" if number == 0 else "", style="dim")
        drawn = Text(bar(found.share, widest=widest), style="green" if evidence.ranges else "dim")
        table.add_row(label, found.name, found.place, drawn, f"{found.share:.2f}", "")
    if num_others:
        drawn, share = Text(bar(others_share, widest=widest), style="dim"), Text(f"{others_share:.2f}", style="dim")
        table.add_row("", Text(f"the other {num_others}", style="dim"), "", drawn, share, even)
    return table


def report_console() -> Console:
    """stdout: as wide as the terminal, and unwrapped where a pipe or file reads it."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=UNWRAPPED)


@contextmanager
def progress_bar(console: Console, doing: str) -> Iterator[ProgressCallback]:
    """A bar that is gone when the work is done, and silent where stderr is not a terminal."""
    columns = (SpinnerColumn(), TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(doing, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
