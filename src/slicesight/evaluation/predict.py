"""What does a model answer to every question of a test set, and what under each control? Kept line by line.

OUT/run.json says what is answered by what: digests of the model's weights and of every volume. OUT/predictions.jsonl
and OUT/controls/NAME.jsonl grow case by case; a killed run goes on after the last whole case of each, and a changed
model, question or scan is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slicesight.data.dataset import Dataset
from slicesight.data.manifest import Case
from slicesight.errors import InputError
from slicesight.evaluation.controls import MAX_NEW_TOKENS, as_prediction, disturb, labels_wanted, true_slices
from slicesight.evaluation.predictions import Prediction, read_jsonl, to_lines
from slicesight.files import write_text
from slicesight.inference.answers import Answer, Progress
from slicesight.volumes.grid import GridSpec, GridVolume

if TYPE_CHECKING:
    from slicesight.inference.predictor import Predictor

FORMAT = 1
MODEL = "predictions"
Answered = Mapping[str, Collection[str]]
"""{system: ids of the cases it has answered}."""
Bars = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress bar named after what is being done."""


def unwatched(done: int, total: int) -> None:
    """The progress of work that nobody watches."""


@contextmanager
def no_bar(doing: str) -> Iterator[Progress]:
    """For work that nobody watches."""
    yield unwatched


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

    def answered(self) -> Answered:
        """Which cases each system has answered so far."""
        return {system: {row.volume or "" for row in self.rows(system)} for system in self.systems}

    def skip(self, case: Case, error: Exception) -> None:
        """Leave out a case that cannot be read, or stop for it."""
        if self.on_bad_case == "stop":
            raise InputError(f"case {case.id}: {error}") from error
        self.skipped[case.id] = " ".join(str(error).split())


def open_run(run: PredictionRun, predictor: Predictor, *, progress: Progress = unwatched) -> None:
    """Begin in an empty folder, or go on in one whose model, questions and scans are still the same.

    Raises:
        InputError: something else answered there, or a scan changed since.
    """
    path = run.folder / "run.json"
    (run.folder / "controls").mkdir(parents=True, exist_ok=True)
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if old is None and run.path(MODEL).exists():
        raise InputError(f"{run.folder}: holds predictions of unknown origin (no run.json); name another folder.")
    stated = {"format": FORMAT, "model": digest_model(predictor), "questions": digest_questions(run.source.cases)}
    kinds = {"format": "another version", "model": "another model or its weights", "questions": "other questions"}
    for name, what in kinds.items():
        if old is not None and old[name] != stated[name]:
            raise InputError(f"{run.folder}: was begun with {what}; name another folder, or remove this one.")
    known = {} if old is None else old["volumes"]
    volumes = {}
    for done, case in enumerate(run.source.cases):
        progress(done, len(run.source.cases))
        try:
            volumes[case.id] = _volume_facts(run.source, case, known.get(case.id))
        except (InputError, OSError) as error:
            run.skip(case, error)
            continue
        if case.id in known and volumes[case.id]["content"] != known[case.id]["content"]:
            raise InputError(f"{run.folder}: the scan of case {case.id} has changed since; name another folder.")
    write_text(
        path, text=json.dumps({**stated, "model_name": predictor.card.name, "volumes": volumes}, indent=1) + "\n"
    )
    for system in run.systems:
        _drop_half_cases(run, system)


def predict(run: PredictionRun, predictor: Predictor, *, progress: Progress = unwatched) -> None:
    """Answer whatever is not answered yet, appending case by case."""
    answered = run.answered()
    keep_rows(run, answer_cases(run, predictor, answered=answered), answered=answered, progress=progress)


def keep_rows(
    run: PredictionRun,
    found: Iterable[tuple[str, Sequence[Prediction]]],
    *,
    answered: Answered,
    progress: Progress = unwatched,
) -> None:
    """Add each (system, rows of a case) to the system's file, safe from a kill."""
    num_before, num_jobs = sum(map(len, answered.values())), len(run.source.cases) * len(run.systems)
    for num_done, (system, rows) in enumerate(found, start=num_before + 1):
        _append(run.path(system), rows)
        progress(num_done, num_jobs)


def _append(path: Path, rows: Sequence[Prediction]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(to_lines(rows))
        file.flush()
        os.fsync(file.fileno())


def answer_cases(
    run: PredictionRun, predictor: Predictor, *, answered: Answered
) -> Iterator[tuple[str, list[Prediction]]]:
    """(system, rows) of every case that a system has not answered."""
    taken: deque[tuple[Case, str, GridVolume]] = deque()
    jobs = (
        (shown if taken[-1][1] == MODEL else predictor.as_control(shown), questions)
        for shown, questions in _jobs(run, predictor.grid_spec, answered, taken)
    )
    for answers in predictor.ask_many(jobs, max_new_tokens=MAX_NEW_TOKENS, choices="both", answer_anyway=True):
        case, system, grid = taken.popleft()
        labels_ZYX = labels_wanted(run.source, case) if system == MODEL else None
        yield system, _rows_of(case, answers, system=system, grid=grid, labels_ZYX=labels_ZYX)


def digest_model(predictor: Predictor) -> str:
    """SHA-256 of the weights, the configuration and the processor's settings, wherever they were loaded from."""
    return predictor.digest()


def digest_questions(cases: Sequence[Case]) -> str:
    """SHA-256 of ids, questions and answers, in order."""
    digest = hashlib.sha256()
    for case in cases:
        asks_of_labels = any(asked.label_values is not None for asked in case.conversations)
        unknown_before: Any = None if asks_of_labels else {"conversations": {"__all__": {"label_values"}}}
        written = case.model_dump_json(include={"id", "volume", "conversations"}, exclude=unknown_before)
        digest.update(written.encode() + b"\n")
    return digest.hexdigest()


def _jobs(
    run: PredictionRun, spec: GridSpec, answered: Answered, taken: deque[tuple[Case, str, GridVolume]]
) -> Iterator[tuple[GridVolume, list[str]]]:
    """The jobs for `ask_many`, each noted in `taken` when it is handed out; a case's grid is made once."""
    cases = [case for case in run.source.cases if case.id not in run.skipped]
    last: tuple[str, GridVolume | None] = "", None
    for place, case in enumerate(cases):
        wanted = [system for system in run.systems if case.id not in answered[system]]
        if not wanted or case.id in run.skipped or (grid := _grid(run, case, spec)) is None:
            continue
        other = None
        if "wrong_volume" in wanted and (neighbour := _neighbour(cases, place)) is not None:
            other = last[1] if last[0] == neighbour.id else _grid(run, neighbour, spec)
        for system in wanted:
            if system != "wrong_volume" or other is not None:
                taken.append((case, system, grid))
                shown = grid if system == MODEL else disturb(system, grid, other, place=place)
                yield shown, [asked.prompt for asked in case.conversations]
        last = case.id, grid


def _grid(run: PredictionRun, case: Case, spec: GridSpec) -> GridVolume | None:
    try:
        return run.source.grid(case, spec)
    except InputError as error:
        run.skip(case, error)
        return None


def _neighbour(cases: Sequence[Case], place: int) -> Case | None:
    """The nearest case before this one, round the end, of another patient."""
    case = cases[place]
    for step in range(1, len(cases)):
        other = cases[place - step]
        if case.patient is None or other.patient != case.patient:
            return other
    return None


def _rows_of(
    case: Case,
    answers: Sequence[Answer],
    *,
    system: str,
    grid: GridVolume,
    labels_ZYX: NDArray[np.int32] | None = None,
) -> list[Prediction]:
    rows = []
    for number, (asked, answer) in enumerate(zip(case.conversations, answers, strict=True)):
        is_one_plane = len(answer.scores) in (0, len(grid.slices))  # what shows it in the other planes is not known
        shown = true_slices(asked, grid, labels_ZYX=labels_ZYX) if system == MODEL and is_one_plane else None
        extra: dict[str, Any] = {
            "scores": answer.scores or None,
            "true_slices": shown,
            "slice_places_mm": slice_places_mm(grid) if shown is not None and answer.scores else None,
            "evidence": None if answer.evidence == "scores" else answer.evidence,
            "confidence": answer.confidence,
            "abstained": answer.abstained,
            "would_say": answer.would_say,
        }
        row = as_prediction(case, number, answer.generated_text, choice=answer.choice)
        rows.append(row.model_copy(update=extra))
    return rows


def slice_places_mm(grid: GridVolume) -> tuple[float, ...] | None:
    """How far each grid slice's centre lies from the first one's, in mm; None without geometry."""
    positions = [piece.position_mm for piece in grid.slices if piece.position_mm is not None]
    if len(positions) < len(grid.slices):
        return None
    away = np.linalg.norm(np.asarray(positions) - positions[0], axis=1)
    return tuple(np.round(away, 3).tolist())


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
