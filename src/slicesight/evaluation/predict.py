"""What does a model answer to every question of a test set, and what under each control? Kept line by line.

OUT/run.json says what is answered by what: digests of the model's weights and of every volume. OUT/predictions.jsonl
and OUT/controls/NAME.jsonl grow case by case; a killed run goes on after the last whole case of each, and a changed
model, question or scan is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicesight.data.dataset import Dataset
from slicesight.data.manifest import Case
from slicesight.errors import InputError
from slicesight.evaluation.controls import MAX_NEW_TOKENS, as_prediction, disturb
from slicesight.evaluation.predictions import Prediction, read_jsonl, to_lines
from slicesight.files import write_text
from slicesight.volumes.grid import GridVolume

if TYPE_CHECKING:
    from slicesight.inference.answers import Answer
    from slicesight.inference.predictor import Predictor

FORMAT = 1
MODEL = "predictions"
Progress = Callable[[int, int], None]
Bars = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress bar named after what is being done."""


@contextmanager
def no_bar(doing: str) -> Iterator[Progress]:
    """For work that nobody watches."""
    yield lambda done, total: None


@dataclass(frozen=True, kw_only=True)
class PredictionRun:
    """One evaluation's folder: which systems answer which cases.

    systems: MODEL and the controls that show a disturbed volume.
    """

    folder: Path
    source: Dataset
    systems: tuple[str, ...]
    on_bad_case: str = "stop"
    skipped: dict[str, str] = field(default_factory=dict)

    def path(self, system: str) -> Path:
        """The file of a system's predictions."""
        return self.folder / f"{MODEL}.jsonl" if system == MODEL else self.folder / "controls" / f"{system}.jsonl"

    def rows(self, system: str) -> list[Prediction]:
        """What was answered so far."""
        return read_jsonl(self.path(system)) if self.path(system).exists() else []


def open_run(run: PredictionRun, reader: Predictor, *, progress: Progress | None = None) -> None:
    """Begin in an empty folder, or go on in one whose model, questions and scans are still the same.

    Raises:
        InputError: something else answered there, or a scan changed since.
    """
    path = run.folder / "run.json"
    (run.folder / "controls").mkdir(parents=True, exist_ok=True)
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if old is None and run.path(MODEL).exists():
        raise InputError(f"{run.folder}: holds predictions of unknown origin (no run.json); name another folder.")
    stated = {"format": FORMAT, "model": digest_model(reader), "questions": digest_questions(run.source.cases)}
    for name, found in stated.items():
        if old is not None and old[name] != found:
            what = {"model": "another model or its weights", "questions": "other questions"}.get(
                name, "another version"
            )
            raise InputError(f"{run.folder}: was begun with {what}; name another folder, or remove this one.")
    known = {} if old is None else old["volumes"]
    volumes = {}
    for done, case in enumerate(run.source.cases):
        if progress is not None:
            progress(done, len(run.source.cases))
        try:
            volumes[case.id] = _volume_facts(run.source, case, known.get(case.id))
        except (InputError, OSError) as error:
            if run.on_bad_case == "stop":
                raise InputError(f"case {case.id}: {error}") from error
            run.skipped[case.id] = " ".join(str(error).split())
            continue
        if case.id in known and volumes[case.id]["content"] != known[case.id]["content"]:
            raise InputError(f"{run.folder}: the scan of case {case.id} has changed since; name another folder.")
    write_text(path, text=json.dumps({**stated, "model_name": reader.card.name, "volumes": volumes}, indent=1) + "\n")
    for system in run.systems:
        _drop_half_cases(run, system)


def predict(run: PredictionRun, reader: Predictor, *, progress: Progress | None = None) -> None:
    """Answer whatever is not answered yet, appending case by case."""
    num_jobs = len(run.source.cases) * len(run.systems)
    jobs = _Jobs(run, reader)
    for done, answers in enumerate(reader.ask_many(iter(jobs), max_new_tokens=MAX_NEW_TOKENS), start=1):
        case, system, grid = jobs.taken.pop(0)
        _append(run.path(system), _rows_of(case, answers, system=system, grid=grid))
        if progress is not None:
            progress(jobs.num_done_before + done, num_jobs)


def digest_model(reader: Predictor) -> str:
    """SHA-256 of the weights, the configuration and the processor's settings, wherever they were loaded from."""
    from slicesight.models.fingerprint import digest_weights, plain

    settings = [plain(reader.model.config), reader.processor.to_dict()]
    return digest_weights(reader.model.state_dict(), settings=settings)


def digest_questions(cases: Sequence[Case]) -> str:
    """SHA-256 of ids, questions and answers, in order."""
    digest = hashlib.sha256()
    for case in cases:
        digest.update(case.model_dump_json(include={"id", "volume", "conversations"}).encode() + b"\n")
    return digest.hexdigest()


class _Jobs:
    """The jobs for `ask_many`, each taken note of when it is handed out; a case's grid is made once for all systems."""

    def __init__(self, run: PredictionRun, reader: Predictor) -> None:
        self.run, self.reader = run, reader
        self.taken: list[tuple[Case, str, GridVolume]] = []
        self.num_done_before = 0

    def __iter__(self) -> Iterator[tuple[GridVolume, list[str]]]:
        run = self.run
        done = {system: {row.volume for row in run.rows(system)} for system in run.systems}
        cases = [case for case in run.source.cases if case.id not in run.skipped]
        self.num_done_before = sum(len(volumes) for volumes in done.values())
        last: tuple[str, GridVolume] | None = None
        for place, case in enumerate(cases):
            wanted = [system for system in run.systems if case.id not in done[system]]
            if not wanted or case.id in run.skipped:
                continue
            grid = self._grid(case)
            if grid is None:
                continue
            other = None
            if "wrong_volume" in wanted and (neighbour := _neighbour(cases, place)) is not None:
                other = last[1] if last is not None and last[0] == neighbour.id else self._grid(neighbour)
            for system in wanted:
                if system == "wrong_volume" and other is None:
                    continue
                shown = grid if system == MODEL else disturb(system, grid, other, place=place)
                self.taken.append((case, system, grid))
                yield shown, [asked.prompt for asked in case.conversations]
            last = (case.id, grid)

    def _grid(self, case: Case) -> GridVolume | None:
        try:
            return self.run.source.grid(case, self.reader.grid_spec)
        except InputError as error:
            if self.run.on_bad_case == "stop":
                raise InputError(f"case {case.id}: {error}") from error
            self.run.skipped[case.id] = " ".join(str(error).split())
            return None


def _neighbour(cases: Sequence[Case], place: int) -> Case | None:
    """The nearest case before this one, round the end, of another patient."""
    case = cases[place]
    for step in range(1, len(cases)):
        other = cases[place - step]
        if case.patient is None or other.patient != case.patient:
            return other
    return None


def _rows_of(case: Case, answers: Sequence[Answer], *, system: str, grid: GridVolume) -> list[Prediction]:
    from slicesight.inference.answers import NO_WORDS

    rows = []
    for number, answer in enumerate(answers):
        said = "" if answer.text == NO_WORDS else answer.text
        asked = case.conversations[number]
        shown = grid.grid_slices_of(asked.source_slices) if asked.source_slices is not None else ()
        extra: dict[str, Any] = {"scores": answer.scores or None}
        is_one_plane = len(answer.scores) in (0, len(grid.slices))  # what shows it in the other planes is not known
        if system == MODEL and is_one_plane and 0 < len(shown) < len(grid.slices):
            extra["true_slices"] = shown
        rows.append(as_prediction(case, number, said).model_copy(update=extra))
    return rows


def _append(path: Path, rows: Sequence[Prediction]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(to_lines(rows))
        file.flush()
        os.fsync(file.fileno())


def _drop_half_cases(run: PredictionRun, system: str) -> None:
    """Keep the lines of whole cases only: a kill may have cut the last one short."""
    path = run.path(system)
    if not path.exists():
        return
    whole, _, rest = path.read_text(encoding="utf-8").rpartition("\n")
    lines = [line for line in whole.split("\n") if line]
    expected = {case.id: len(case.conversations) for case in run.source.cases}
    volumes = [json.loads(line)["volume"] for line in lines]
    found = Counter(volumes)
    kept = [line for line, name in zip(lines, volumes, strict=True) if found[name] == expected.get(name)]
    if rest or len(kept) != len(lines):
        write_text(path, text="".join(line + "\n" for line in kept))


def _volume_facts(source: Dataset, case: Case, known: dict[str, str] | None) -> dict[str, str]:
    """When the files' stamp is the same their content is not read again."""
    stamp = source.stamp(case)
    if known is not None and known["stamp"] == stamp:
        return known
    return {"stamp": stamp, "content": source.content(case)}
