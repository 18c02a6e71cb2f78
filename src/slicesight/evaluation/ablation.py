"""Which part of the method earns what? `slicesight ablate`: every cell of Tables 3, 4 and 5, with several seeds.

A cell is a few options of the model's configuration. All cells start from one folder whose encoders were trained
without TG-IS, keep them frozen and share their features on disk; a cell that is done is never trained again, a killed
one goes on. OUT/cells/NAME/seedK/{model, predictions.jsonl, sheet.json, cell.json} and OUT/ablation.json;
reports.ablation_tables writes OUT/tables/tableN.{md,csv,tex,png} and OUT/results.md.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from slicesight.data.dataset import Dataset
from slicesight.data.manifest import Case
from slicesight.errors import InputError
from slicesight.evaluation.ablation_tables import AblationTable, make_table
from slicesight.evaluation.predict import MODEL, Bars, PredictionRun, no_bar, open_run, predict
from slicesight.evaluation.predictions import own_file
from slicesight.evaluation.sheet import Scored, make_sheet, score_file, to_json
from slicesight.files import write_text
from slicesight.inference.predictor import Predictor
from slicesight.training.recipe import Recipe
from slicesight.volumes.grid import GridSpec, GridVolume

FULL: dict[str, Any] = {"fusion": "3d+2d", "aggregation": "text_guided", "scoring_inputs": ["text", "3d", "2d"]}
PARTS_OF_2D = ("vision2d", "projector_2d", "scorer", "plane_embedding")
PARTS_OF_3D = ("vision3d", "projector_3d")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of a table. Rows of several tables that are the same model have the same name and are trained once."""

    name: str
    row: str
    options: dict[str, Any] = field(hash=False)


def _cell(row: str, name: str, **options: Any) -> Cell:
    return Cell(name=name, row=row, options={**FULL, **options})


CELLS: dict[int, tuple[Cell, ...]] = {
    3: (
        _cell("3D", "fusion-3d", fusion="3d"),
        _cell("2D", "fusion-2d", fusion="2d", scoring_inputs=["text", "2d"]),
        _cell("3D + 2D", "full"),
    ),
    4: (
        _cell("random", "aggregate-random", aggregation="random"),
        _cell("max", "aggregate-max", aggregation="max"),
        _cell("mean", "aggregate-mean", aggregation="mean"),
        _cell("TG-IS", "full"),
    ),
    5: (
        _cell("3D", "score-3d", scoring_inputs=["3d"]),
        _cell("2D", "score-2d", scoring_inputs=["2d"]),
        _cell("3D + 2D", "score-3d-2d", scoring_inputs=["3d", "2d"]),
        _cell("text + 3D", "score-text-3d", scoring_inputs=["text", "3d"]),
        _cell("text + 2D", "score-text-2d", scoring_inputs=["text", "2d"]),
        _cell("text + 3D + 2D", "full"),
    ),
}


def ablate(
    recipe: Recipe,
    *,
    tables: Sequence[int],
    out: Path,
    source: Dataset,
    seeds: int,
    load: Callable[[str], Predictor],
    bertscore: str | None = None,
    layer: int | None = None,
    announce: Callable[[str], None] = lambda line: None,
    bars: Bars = no_bar,
) -> list[AblationTable]:
    """Train and score every cell that is not done; writes every cell's sheet and ablation.json.

    Raises:
        InputError: the paper has no such table, or a folder holds a cell of another recipe.
    """
    for number in tables:
        if number not in CELLS:
            raise InputError(f"--table {number}: the ablations are Tables {', '.join(map(str, CELLS))}.")
    source = CachedGrids(source)
    cells = {cell.name: cell for number in tables for cell in CELLS[number]}
    jobs = [(cell, seed) for seed in range(seeds) for cell in cells.values()]
    scored: dict[str, list[Scored]] = defaultdict(list)
    minutes: dict[str, list[float]] = defaultdict(list)
    for place, (cell, seed) in enumerate(jobs, start=1):
        announce(f"cell {place} of {len(jobs)}: {cell.name}, seed {seed}")
        folder = out / "cells" / cell.name / f"seed{seed}"
        spent = run_cell(recipe, cell, seed=seed, folder=folder, source=source, load=load, bars=bars)
        minutes[cell.name].append(spent)
        scored[cell.name].append(score_file(own_file(folder / "predictions.jsonl"), bertscore=bertscore, layer=layer))
        sheet = make_sheet(scored[cell.name][-1], system=cell.name)
        write_text(folder / "sheet.json", text=to_json(sheet))
    made = [make_table(number, [(cell.row, scored[cell.name]) for cell in CELLS[number]]) for number in tables]
    document = {"num_volumes": len(source.cases), "seeds": seeds, "minutes": minutes}
    write_text(out / "ablation.json", text=to_json({**document, "tables": [table.to_dict() for table in made]}))
    return made


def run_cell(
    recipe: Recipe,
    cell: Cell,
    *,
    seed: int,
    folder: Path,
    source: Dataset,
    load: Callable[[str], Predictor],
    bars: Bars = no_bar,
) -> float:
    """Train one cell and answer the test set with it, unless that was done; returns its minutes of training.

    Raises:
        InputError: the folder holds a cell of another recipe.
    """
    from slicesight.training.run import run_recipe
    from slicesight.training.run_folder import can_resume

    planned = plan_cell(recipe, cell, seed=seed, folder=folder)
    key = {"recipe": _digest(planned), "cell": cell.name, "words": cell.options, "seed": seed}
    mark = folder / "cell.json"
    known = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else None
    if known is not None and any(known[name] != value for name, value in key.items()):
        raise InputError(f"{folder}: was trained by another recipe; name another folder with --out, or remove it.")
    if known is None:
        folder.mkdir(parents=True, exist_ok=True)
        known = {**key, "minutes": None}
        write_text(mark, text=to_json(known))
    if known["minutes"] is None:
        started = time.monotonic()
        with bars(f"training {cell.name}") as progress:
            goes_on = can_resume(folder / "run")
            silent = Console(stderr=True, quiet=True)
            trained = run_recipe(planned, console=silent, resume=goes_on, overwrite=not goes_on, progress=progress)
        target = folder / "model"
        if trained != target:
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(trained, target)
        known["minutes"] = (time.monotonic() - started) / 60
        write_text(mark, text=to_json(known))
        shutil.rmtree(folder / "run", ignore_errors=True)
    predictor = load(str(folder / "model"))
    run = PredictionRun(folder=folder, source=source, systems=(MODEL,))
    open_run(run, predictor)
    with bars(f"asking {cell.name}") as progress:
        predict(run, predictor, progress=progress)
    return float(known["minutes"])


def plan_cell(recipe: Recipe, cell: Cell, *, seed: int, folder: Path) -> Recipe:
    """The recipe of one cell: its options, its seed, and only those trainable parts that it has."""
    fusion, inputs = cell.options["fusion"], cell.options["scoring_inputs"]
    has_2d = "2d" in fusion.split("+")
    scores = has_2d and cell.options["aggregation"] == "text_guided"
    has_3d = "3d" in fusion.split("+") or (scores and "3d" in inputs)
    absent = {*(PARTS_OF_2D if not has_2d else ()), *(PARTS_OF_3D if not has_3d else ())}
    kept = [tuple(part for part in stage.trainable if part not in absent) for stage in recipe.stages]
    return replace(
        recipe,
        name=f"{recipe.name}-{cell.name}-seed{seed}",
        output_dir=str(folder / "run"),
        model={**recipe.model, **cell.options},
        stages=tuple(replace(stage, trainable=parts) for stage, parts in zip(recipe.stages, kept, strict=True)),
        seed=recipe.seed + seed,
    )


class CachedGrids(Dataset):
    """A case source that keeps every grid it made: all cells look at the same scans."""

    def __init__(self, source: Dataset) -> None:
        self.source, self.cases = source, source.cases
        self._grids: dict[tuple[str, GridSpec], GridVolume] = {}

    def grid(self, case: Case, spec: GridSpec) -> GridVolume:
        key = case.id, spec
        if key not in self._grids:
            self._grids[key] = self.source.grid(case, spec)
        return self._grids[key]

    def stamp(self, case: Case) -> str:
        return self.source.stamp(case)

    def content(self, case: Case) -> str:
        return self.source.content(case)


def _digest(recipe: Recipe) -> str:
    """Changes with anything that changes the trained weights; the folder's place does not."""
    facts = {name: value for name, value in recipe.to_dict().items() if name not in ("output_dir", "feature_cache")}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
