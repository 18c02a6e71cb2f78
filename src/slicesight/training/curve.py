"""How did training go? The training and validation losses of log.jsonl as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slicesight.files import replacing
from slicesight.training.run_folder import VAL_LOSS, read_log

NOT_CURVES = ("step", "of", "loss", VAL_LOSS, "seconds", "minutes_left", "learning_rate", "prompts_cut")
TRAINING_COLOUR, VALIDATION_COLOUR = "#0b6e99", "#c2571a"


def draw_losses(log: Path, picture: Path) -> None:
    """One panel per stage that logged a loss; a run of one stage has one for each of its loss's parts too.

    Nothing is written for a log without a loss.
    """
    from matplotlib.figure import Figure

    stages: dict[str, list[dict[str, Any]]] = {}
    for line in read_log(log):
        if "loss" in line or VAL_LOSS in line:
            stages.setdefault(line.get("stage", "training"), []).append(line)
    stages = {stage: lines for stage, lines in stages.items() if any("loss" in line for line in lines)}
    if not stages:
        return
    panels = [(stage, stage, "loss") for stage in stages]
    if len(stages) == 1:
        ((stage, lines),) = stages.items()
        last = [line for line in lines if "loss" in line][-1]
        panels += [(name.replace("_", " "), stage, name) for name, value in last.items() if _is_curve(name, value)]
    figure = Figure(figsize=(3.2 * len(panels), 2.8), layout="constrained")
    for axes, (title, stage, name) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _plot(axes, stages[stage], name, color=TRAINING_COLOUR, label="training")
        axes.set(title=title, xlabel="step")
        if name == "loss":
            axes.set(
                ylabel="loss", yscale="log" if all(line.get("loss", 1) > 0 for line in stages[stage]) else "linear"
            )
            if any(VAL_LOSS in line for line in stages[stage]):
                _plot(axes, stages[stage], VAL_LOSS, color=VALIDATION_COLOUR, label="validation", marker="o")
                axes.legend()
        axes.grid(alpha=0.3, which="both")
    with replacing(picture) as temporary:
        figure.savefig(temporary, dpi=110)


def _plot(axes: Any, lines: list[dict[str, Any]], name: str, **style: Any) -> None:
    points = [(line["step"], line[name]) for line in lines if name in line]
    axes.plot(*zip(*points, strict=True), linewidth=1.4, markersize=3, **style)


def _is_curve(name: str, value: Any) -> bool:
    return name not in NOT_CURVES and isinstance(value, int | float) and not isinstance(value, bool)
