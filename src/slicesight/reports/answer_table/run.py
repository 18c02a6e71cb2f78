"""How do the scans of a folder become a table of answers, once or again and again while scans arrive?

find -> (known by content? keep) -> ask in other processes -> journal -> table, bad.jsonl and index.html. Reading and
asking is done by processes that hold the model; this one only hands out scans and writes, so that a file that kills a
decoder costs its own rows and nothing else.
"""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slicesight.data.scan_questions import ScanQuestion
from slicesight.data.workers import KILLED, Processes
from slicesight.errors import InputError
from slicesight.files import write_text
from slicesight.inference.answers import Progress
from slicesight.io.scan_tree import FoundScan
from slicesight.reports.answer_table.asking import REPORTS, THUMBNAILS, AskJob, AskOutcome, AskSettings, ask_scan
from slicesight.reports.answer_table.columns import COLUMNS, write_table
from slicesight.reports.answer_table.journal import AnswerJournal, Place

BAD, INDEX = "bad.jsonl", "index.html"


def never() -> bool:
    """For a run that nobody stops."""
    return False


def killed(job: AskJob) -> AskOutcome:
    """What came of a job whose process died."""
    if job.scan is None:
        raise InputError(f"{job.settings.model}: the process that loaded it was killed; is there memory for the model?")
    limit = job.settings.limit_seconds
    late = "" if limit is None else f", or it took longer than {limit} s (--scan-limit)"
    return AskOutcome(error=f"{job.scan}: {KILLED}{late}")


def make_processes(workers: int, *, ahead: int = 2) -> Processes[AskJob, AskOutcome]:
    """The processes that read and ask; one alone uses all its threads."""
    return Processes(ask_scan, killed=killed, workers=workers, ahead=ahead, leaves_signals=True, one_thread=workers > 1)


@dataclass(kw_only=True)
class AnswerRun:
    """One folder of answers and its table.

    num_asked: scans asked in this run; num_kept: those whose answers were there. bad: {place: why} of this run's scans.
    """

    folder: Path
    table: Path
    questions: Sequence[ScanQuestion]
    settings: AskSettings
    processes: Processes[AskJob, AskOutcome]
    num_asked: int = 0
    num_kept: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    _journal: AnswerJournal | None = None

    @property
    def journal(self) -> AnswerJournal:
        """What is known of earlier runs; known from `begin` on."""
        assert self._journal is not None
        return self._journal

    def load(self) -> None:
        """Have a process load the model and say whose answers these will be; nothing is written yet.

        Raises:
            InputError: no such model, or a setting that it does not have.
        """
        (outcome,) = self.processes.outcomes([AskJob(settings=self.settings, folder=self.folder)])
        self.model = outcome.model

    def begin(self) -> None:
        """Begin the folder, or go on in it.

        Raises:
            InputError: it was begun with another model or other settings.
        """
        for place in (self.folder / REPORTS, self.folder / THUMBNAILS):
            place.mkdir(parents=True, exist_ok=True)
        self._journal = AnswerJournal(self.folder)
        self._journal.check_run(self.model, self.settings)

    def prompts_for(self, place: Place) -> dict[str, ScanQuestion]:
        """What is asked of a scan, by the text the model reads."""
        return {asked.prompt: asked for asked in self.questions if asked.is_for(*place)}

    def answer(
        self,
        scans: Sequence[FoundScan],
        *,
        retry: bool = False,
        progress: Progress | None = None,
        is_stopped: Callable[[], bool] = never,
        on_done: Callable[[FoundScan, AskOutcome], None] | None = None,
    ) -> None:
        """Ask every scan what it has not been asked yet.

        Args:
            retry: ask again what was refused before. progress: called with (scans done, scans to ask).
            is_stopped: no further scan is begun once it says so. on_done: called for every scan that was asked.
        """
        under_way: deque[tuple[FoundScan, str]] = deque()
        counts = Counter(total=len(scans))

        def note(scan: FoundScan, content: str, outcome: AskOutcome) -> None:
            self.journal.keep(content, outcome)
            counts["done"] += 1
            if progress is not None:
                progress(counts["done"], counts["total"])
            if on_done is not None:
                on_done(scan, outcome)

        def jobs() -> Iterator[AskJob]:
            begun: dict[str, set[str]] = {}
            for scan in scans:
                if is_stopped():
                    return
                content = self.journal.content_of(scan)
                prompts = [
                    prompt
                    for prompt in self.prompts_for(scan.key)
                    if prompt not in begun.get(content, ())
                    and not self.journal.is_answered(content, prompt, retry=retry)
                ]
                is_copy = bool(begun.get(content))
                begun.setdefault(content, set()).update(prompts)
                if not prompts:
                    counts["total"] -= 1
                    self.num_kept += not is_copy
                elif scan.problem is not None:
                    note(scan, content, AskOutcome(error=scan.problem))
                else:
                    under_way.append((scan, content))
                    yield AskJob(
                        settings=self.settings, folder=self.folder, scan=scan, content=content, prompts=tuple(prompts)
                    )

        for outcome in self.processes.outcomes(jobs()):
            scan, content = under_way.popleft()
            self.num_asked += 1
            note(scan, content, outcome)

    def rows(self, places: Iterable[Place]) -> Iterator[dict[str, Any]]:
        """A row per scan and question, in their order, those without an answer with the reason."""
        for place in places:
            content = self.journal.places[place]
            cells, errors = self.journal.cells.get(content, {}), self.journal.errors.get(content, {})
            for asked in self.questions:
                if not asked.is_for(*place):
                    continue
                found: dict[str, Any] = dict(cells.get(asked.prompt, {}))
                if not found:
                    found["error"] = errors.get(asked.prompt) or self.journal.bad.get(content) or "not asked yet"
                yield {
                    **dict.fromkeys(COLUMNS),
                    "scan": place[0],
                    "series": place[1] or None,
                    "id": asked.id,
                    "question": asked.question,
                    "choices": list(asked.choices) or None,
                    **found,
                }

    def bad(self, places: Iterable[Place]) -> list[dict[str, Any]]:
        """The scans that could not be asked something, each once, with the first reason."""
        found = []
        for place in places:
            content = self.journal.places[place]
            wanted = self.prompts_for(place)
            errors = {prompt: why for prompt, why in self.journal.errors.get(content, {}).items() if prompt in wanted}
            why = self.journal.bad.get(content) or next(iter(errors.values()), None)
            if wanted and why is not None:
                entry = {"scan": place[0], "series": place[1] or None, "content": content, "error": why}
                if content in self.journal.faults:
                    entry["fault"] = self.journal.faults[content]
                found.append(entry)
        return found

    def places_by_content(self) -> list[Place]:
        """Where every scan that was ever found lies or lay, each content once, in the order of the names."""
        place_of = {content: place for place, content in self.journal.places.items()}
        return sorted(place_of.values())

    def warnings(self, places: Iterable[Place]) -> list[str]:
        """What the model's card says must stand beside these answers: nothing where every scan is synthetic."""
        notes = {row["notes"] for row in self.rows(places) if row["notes"]}
        return [warning for warning in self.model["warnings"] if any(warning in note for note in notes)]

    def write(self, places: Sequence[Place]) -> list[dict[str, Any]]:
        """Write table, list of bad scans and page; returns the bad ones."""
        rows, bad = list(self.rows(places)), self.bad(places)
        write_text(self.folder / BAD, text="".join(json.dumps(one, ensure_ascii=True) + "\n" for one in bad))
        table = os.path.relpath(self.table, self.folder)
        write_text(self.folder / INDEX, text=self._page(rows, table, places))
        folder = os.path.relpath(self.folder, self.table.parent)
        write_table(self.table, (_seen_from_table(row, folder) for row in rows))
        return bad

    def _page(self, rows: list[dict[str, Any]], table: str, places: Sequence[Place]) -> str:
        from slicesight.reports.answer_table.index import render_index

        return render_index(rows, table=table, model=self.model["name"], warnings=self.warnings(places))


def _seen_from_table(row: dict[str, Any], folder: str) -> dict[str, Any]:
    """The row with its files' paths as they are from the table's own folder."""
    files = {name: (Path(folder) / row[name]).as_posix() for name in ("report", "thumbnail") if row.get(name)}
    return {**row, "report": None, "thumbnail": None, **files}
