"""How is a large test set answered by several workers? Ray Data spreads blocks of cases over readers that stay loaded.

Each worker loads the model once and answers its blocks as one process would; rows come back in the order of the cases
and are appended here, so that the files are those of a run without Ray, and a killed run goes on in the same way. Only
case ids and finished rows travel; the nodes must see model and scans under the same names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from slicesight.data.dataset import open_dataset
from slicesight.data.workers import connected
from slicesight.errors import InputError
from slicesight.evaluation.controls import MAX_NEW_TOKENS
from slicesight.evaluation.predict import PredictionRun, Progress, _append, _Jobs, _rows_of
from slicesight.evaluation.predictions import Prediction

if TYPE_CHECKING:
    from slicesight.inference.predictor import Predictor

CASES_PER_BLOCK = 4


@dataclass(frozen=True, kw_only=True)
class Bulk:
    """What a worker needs to know: names that mean the same everywhere, and the threads it may use.

    load: gives the reader of a model's name. data, split, count: as for `slicesight evaluate`.
    """

    load: Callable[[str], Predictor]
    model: str
    data: str
    split: str | None
    count: int | None
    systems: tuple[str, ...]
    on_bad_case: str
    skipped: dict[str, str]
    num_threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Block(PredictionRun):
    """A run of some cases only: the others count as answered."""

    wanted: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def rows(self, system: str) -> list[Any]:
        done = (case.id for case in self.source.cases if case.id not in self.wanted[system])
        return [SimpleNamespace(volume=name) for name in done]


class Answerer:
    """One worker: a reader that answers block after block."""

    def __init__(self, bulk: Bulk) -> None:
        import torch

        torch.set_num_threads(bulk.num_threads)
        self.bulk = bulk
        self.reader = bulk.load(bulk.model)
        self.source = open_dataset(bulk.data, split=bulk.split, prefer="test", count=bulk.count)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Answer a block of {"case", "systems"}; one line of JSON for each (case, system)."""
        todo = {str(case): json.loads(systems) for case, systems in zip(batch["case"], batch["systems"], strict=True)}
        block = Block(
            folder=SimpleNamespace(),  # type: ignore[arg-type]  # nothing is written here
            source=self.source,
            systems=self.bulk.systems,
            on_bad_case=self.bulk.on_bad_case,
            skipped=dict(self.bulk.skipped),
            wanted={
                system: frozenset(case for case, systems in todo.items() if system in systems)
                for system in self.bulk.systems
            },
        )
        jobs = _Jobs(block, self.reader)
        lines = []
        for answers in self.reader.ask_many(iter(jobs), max_new_tokens=MAX_NEW_TOKENS):
            case, system, grid = jobs.taken.pop(0)
            rows = _rows_of(case, answers, system=system, grid=grid)
            lines.append(json.dumps({"system": system, "rows": [row.model_dump(mode="json") for row in rows]}))
        new = {name: why for name, why in block.skipped.items() if name not in self.bulk.skipped}
        lines += [json.dumps({"skipped": {name: why}}) for name, why in new.items()]
        return {"line": lines}


def predict_in_bulk(
    run: PredictionRun,
    *,
    load: Callable[[str], Predictor],
    model: str,
    data: str,
    split: str | None = None,
    count: int | None = None,
    num_workers: int,
    address: str = "local",
    progress: Progress | None = None,
) -> None:
    """As `predict.predict`, with `num_workers` readers on the Ray cluster at `address` ("local" starts one here).

    Raises:
        InputError: no cluster there, a worker was lost, or a scan cannot be read and bad cases stop the run.
    """
    done = {system: {row.volume for row in run.rows(system)} for system in run.systems}
    cases = [case for case in run.source.cases if case.id not in run.skipped]
    items = [
        {"case": case.id, "systems": json.dumps(left)}
        for case in cases
        if (left := [system for system in run.systems if case.id not in done[system]])
    ]
    if not items:
        return
    bulk = Bulk(
        load=load,
        model=model,
        data=data,
        split=split,
        count=count,
        systems=run.systems,
        on_bad_case=run.on_bad_case,
        skipped=dict(run.skipped),
    )
    num_done, num_jobs = sum(map(len, done.values())), len(run.source.cases) * len(run.systems)
    for line in _lines(items, bulk, num_workers=num_workers, address=address):
        if "skipped" in line:
            run.skipped.update(line["skipped"])
            continue
        _append(run.path(line["system"]), [Prediction.model_validate(row) for row in line["rows"]])
        num_done += 1
        if progress is not None:
            progress(num_done, num_jobs)


def _lines(items: list[dict[str, str]], bulk: Bulk, *, num_workers: int, address: str) -> Any:
    """Every worker's lines, in the order of the cases."""
    with connected(address, num_workers + 1) as ray:  # one processor is left to move blocks
        per_block = max(1, min(CASES_PER_BLOCK, len(items) // (2 * num_workers)))
        blocks = ray.data.from_items(items, override_num_blocks=-(-len(items) // per_block))
        context = blocks.context
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        answered = blocks.map_batches(
            Answerer,
            fn_constructor_args=(bulk,),
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
