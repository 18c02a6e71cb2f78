"""What do the two insight experiments share? Arms of pre-training, their runs on first use, a clock with a budget."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slicesight.training.pretraining import run_pretraining
from slicesight.training.pretraining_recipe import read_pretrain_recipe, read_triplet_settings
from slicesight.training.triplets.making import make_triplets

ARMS: dict[str, tuple[str, ...] | None] = {
    "scratch": None,
    "image_text": (),
    "reconstruction": ("image_weight=0", "text_weight=0"),
    "shuffled": ("pairing=shuffled",),
    "released": ("variant=released",),
    "image": ("text_weight=0",),
    "contrastive": ("alignment=contrastive",),
}
"""What each arm changes in the pre-training recipe, the most wanted first; None is no pre-training."""


def pretrained(
    out: Path,
    recipe_file: Path,
    arm: str,
    seed: int,
    *,
    scans: Callable[[], Path],
    changes: tuple[str, ...],
    clock: Clock,
    triplets: Path | None = None,
) -> Path:
    """The folder of the arm's backbone, made on first use; all arms share the triplets of `scans`.

    Args:
        changes: the arm's own, where it is none of ARMS. triplets: where an arm has its own.
    """
    folder, triplets = out / "pretrain" / arm / f"seed{seed}", triplets or out / "triplets"
    if not (triplets / "scans.jsonl").is_file():
        listed, settings = scans(), read_triplet_settings(recipe_file, of_triplets(changes))
        clock.time("triplets", "triplets", lambda: make_triplets(listed, triplets, settings, progress=say))
    own = (
        *not_of_triplets(changes),
        *(ARMS.get(arm) or ()),
        f"seed={seed}",
        f"data={triplets}",
        f"output_dir={folder}",
    )
    recipe = read_pretrain_recipe(recipe_file, own)
    if not (folder / "config.json").is_file():
        clock.time(f"pretrain seed {seed}", arm, lambda: run_pretraining(recipe, resume=True, progress=say))
    return folder


class Clock:
    """CPU minutes of every piece of work, kept in a file; says whether one more arm fits the budget."""

    def __init__(self, file: Path, *, budget: float | None) -> None:
        self.file, self.budget = file, budget

    def time(self, what: str, arm: str, work: Callable[[], Any]) -> None:
        started, wall = time.process_time(), time.monotonic()
        work()
        line = {"what": what, "arm": arm, "cpu_minutes": round((time.process_time() - started) / 60, 3),
                "wall_minutes": round((time.monotonic() - wall) / 60, 3)}  # fmt: skip
        with self.file.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        print(json.dumps(line), file=sys.stderr, flush=True)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []

    def has_time_for(self, arm: str) -> bool:
        """Whether the dearest arm so far would fit once more; an arm that was begun is always finished."""
        by_arm: dict[str, float] = {}
        for line in self.lines():
            by_arm[line["arm"]] = by_arm.get(line["arm"], 0.0) + line["cpu_minutes"]
        if self.budget is None or arm in by_arm or not by_arm:
            return True
        return sum(by_arm.values()) + max(by_arm.values()) <= self.budget

    def total(self) -> float:
        return sum(line["cpu_minutes"] for line in self.lines())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def encoders(parts: Path) -> tuple[str, ...]:
    return (f"triplets.image_encoder={parts / 'vit-s14'}", f"triplets.text_encoder={parts / 'minilm'}")


def of_triplets(changes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(change.removeprefix("triplets.") for change in changes if change.startswith("triplets."))


def not_of_triplets(changes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(change for change in changes if not change.startswith("triplets."))


def say(doing: str, done: int, total: int) -> None:
    """A line on stderr at every tenth of the work."""
    if done == total or done * 10 // total > (done - 1) * 10 // total:
        print(f"{doing} {done}/{total}", file=sys.stderr, flush=True)
