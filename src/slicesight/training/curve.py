"""How did training go? The loss of every stage as one picture, from log.jsonl."""

from __future__ import annotations

import json
import os
from pathlib import Path


def draw_losses(log: Path, picture: Path) -> None:
    """Write one panel per stage that logged a loss, in the order they ran."""
    from matplotlib.figure import Figure

    stages: dict[str, list[tuple[int, float]]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        facts = json.loads(line)
        if "loss" in facts:
            stages.setdefault(facts["stage"], []).append((facts["step"], facts["loss"]))
    if not stages:
        return
    figure = Figure(figsize=(3.2 * len(stages), 2.8), layout="constrained")
    for axes, (stage, points) in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages.items(), strict=True):
        axes.plot(*zip(*points, strict=True), color="#0b6e99", linewidth=1.4)
        axes.set(title=stage, xlabel="step", yscale="log")
        axes.grid(alpha=0.3, which="both")
    figure.axes[0].set_ylabel("loss")
    partial = picture.with_suffix(".partial.png")
    figure.savefig(partial, dpi=110)
    os.replace(partial, picture)
