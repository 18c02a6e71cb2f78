"""How do several workers answer a large test set? Ray Data spreads blocks of cases over predictors that stay loaded.

Each worker loads the model once and answers its blocks as one process would; rows come back in the order of the cases
and are appended here, so that the files are those of a run without Ray, and a killed run goes on in the same way. Only
case ids and finished rows travel; the nodes must see model and scans under the same names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicesight.data.dataset import open_dataset
from slicesight.data.workers import connected
from slicesight.errors import InputError
from slicesight.evaluation.predict import PredictionRun, answer_cases, keep_rows, unwatched
from slicesight.evaluation.predictions import Prediction
from slicesight.inference.answers import Progress

if TYPE_CHECKING:
    from slicesight.inference.predictor import Predictor

CASES_PER_BLOCK = 4


class Answerer:
    """One worker: a predictor that answers block after block.

    load: gives the predictor of a model's name. data, split, count, fill: as for `slicesight evaluate`. All
    names mean the same everywhere.
    """

    def __init__(
        self,
        *,
        load: Callable[[str], Predictor],
        model: str,
        data: str,
        split: str | None,
        count: int | None,
        fill: str | None = None,
        systems: tuple[str, ...],
        on_bad_case: str,
        skipped: dict[str, str],
        num_threads: int = 1,
    ) -> None:
        import torch

        torch.set_num_threads(num_threads)
        self.predictor = load(model)
        source = open_dataset(data, split=split, prefer="test", count=count, fill=fill)
        # nothing is written here
        self.run = PredictionRun(
            folder=Path(), source=source, systems=systems, on_bad_case=on_bad_case, skipped=dict(skipped)
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Answer a block of {"case", "systems"}; one line of JSON for each (case, system)."""
        known = self.run.skipped
        run = replace(self.run, skipped=dict(known))
        todo = {str(case): json.loads(systems) for case, systems in zip(batch["case"], batch["systems"], strict=True)}
        answered = {
            system: {case.id for case in run.source.cases if system not in todo.get(case.id, ())}
            for system in run.systems
        }
        lines = [
            json.dumps({"system": system, "rows": [row.model_dump(mode="json") for row in rows]})
            for system, rows in answer_cases(run, self.predictor, answered=answered)
        ]
        new = {name: why for name, why in run.skipped.items() if name not in known}
        return {"line": [*lines, *(json.dumps({"skipped": {name: why}}) for name, why in new.items())]}


def predict_in_bulk(
    run: PredictionRun,
    *,
    load: Callable[[str], Predictor],
    model: str,
    data: str,
    split: str | None = None,
    count: int | None = None,
    fill: str | None = None,
    num_workers: int,
    address: str = "local",
    progress: Progress = unwatched,
) -> None:
    """As `predict.predict`, with `num_workers` predictors on the Ray cluster at `address` ("local" starts one here).

    Raises:
        InputError: no cluster there, a worker was lost, or a scan cannot be read and bad cases stop the run.
    """
    answered = run.answered()
    items = [
        {"case": case.id, "systems": json.dumps(left)}
        for case in run.source.cases
        if case.id not in run.skipped
        and (left := [system for system in run.systems if case.id not in answered[system]])
    ]
    if not items:
        return
    worker = {
        "load": load,
        "model": model,
        "data": data,
        "split": split,
        "count": count,
        "fill": fill,
        "systems": run.systems,
        "on_bad_case": run.on_bad_case,
        "skipped": dict(run.skipped),
    }
    lines = _lines(items, worker, num_workers=num_workers, address=address)
    keep_rows(run, _rows_in(lines, run), answered=answered, progress=progress)


def _rows_in(lines: Iterator[dict[str, Any]], run: PredictionRun) -> Iterator[tuple[str, list[Prediction]]]:
    """(system, rows) of every case; cases that were skipped are noted in the run."""
    for line in lines:
        if "skipped" in line:
            run.skipped.update(line["skipped"])
        else:
            yield line["system"], [Prediction.model_validate(row) for row in line["rows"]]


def _lines(
    items: Sequence[dict[str, str]], worker: dict[str, Any], *, num_workers: int, address: str
) -> Iterator[dict[str, Any]]:
    """Every worker's lines, in the order of the cases."""
    with connected(address, num_workers + 1) as ray:  # one processor is left to move blocks
        per_block = max(1, min(CASES_PER_BLOCK, len(items) // (2 * num_workers)))
        blocks = ray.data.from_items(list(items), override_num_blocks=-(-len(items) // per_block))
        context = blocks.context
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        answered = blocks.map_batches(
            Answerer,
            fn_constructor_kwargs=worker,
            batch_size=per_block,
            compute=ray.data.ActorPoolStrategy(size=num_workers),
            num_cpus=1,
        )
        try:
            for row in answered.iter_rows():
                yield json.loads(row["line"])
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"Ray at {address!r} stopped ({reason}); what is answered is kept, run the same again"
            ) from None
