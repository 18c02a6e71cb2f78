"""The verb that calibrates a model: how sure it may be of its answers, and what it should not answer at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slicesight.cli.options import FillOption, say, stderr, verb
from slicesight.cli.scoring import DataHelp
from slicesight.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from slicesight.inference.calibration.fitting import FittedCalibration, JudgedAnswer


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """The options of `slicesight calibrate`."""

    model: Annotated[
        str,
        typer.Option(metavar="DIR", help="A model folder, which the calibration is written into.", show_default=False),
    ]
    data: Annotated[
        str,
        typer.Option(metavar="DATA", help=f"Data that it was not trained on: {DataHelp}.", show_default=False),
    ]
    split: Annotated[str | None, typer.Option(help="Which split; left out, val where there are splits, else all.")] = (
        None
    )
    count: Annotated[int | None, typer.Option(min=1, help="Only the first so many cases.")] = None
    fill: FillOption = None
    train_data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="What it was trained on: its questions count as taught, its scans say what is usual."
        ),
    ] = None
    train_scans: Annotated[int, typer.Option(min=0, help="With --train-data: scans of it that are looked at.")] = 300
    copied_scans: Annotated[
        int,
        typer.Option(
            min=0,
            help="Scans of which copies are made that are turned, noisy, of a wrong spacing and so on, to learn what "
            "may be wrong with a scan: twelve to encode of each. 0: flips only.",
        ),
    ] = 240
    refuse: Annotated[
        float, typer.Option(metavar="0-1", help="Share of good scans and of taught questions that may be refused.")
    ] = 0.05
    min_confidence: Annotated[
        float, typer.Option(metavar="0-1", help="Hold back answers of less confidence unless the asker says otherwise.")
    ] = 0.0
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOPIC=RULE",
            help="When an open answer of numbers counts as right: slices=overlap:0.5 (of two ranges), count=within:2. "
            "Without a rule it must be the same text. May be given several times.",
        ),
    ] = None
    skip_bad_cases: Annotated[bool, typer.Option(help="Leave unreadable scans out and list them.")] = False

    def __post_init__(self) -> None:
        from slicesight.cli.options import share_from_0_to_1

        share_from_0_to_1(self.min_confidence, "--min-confidence")
        if not 0 < self.refuse < 0.5:
            raise InputError(f"--refuse is {self.refuse:g}; expected a share above 0 and below 0.5, such as 0.05")
        folder = Path(self.model)
        if not (folder / "config.json").is_file():
            raise InputError(
                f"--model {self.model} is no model folder here; a calibration is written beside the weights, so name "
                "the folder (of a model of the hub: download it first)"
            )


@verb
def calibrate(options: CalibrateOptions) -> None:
    """Learn from validation data how often answers are right, and which scans and questions are strange to a model.

    Writes calibration.json and calibration.safetensors into the model's folder. Afterwards its answers carry a
    confidence, and it says that it does not know where a scan is unlike those it was calibrated on, where a question is
    of no kind that it was taught, or where it is less sure than --min-confidence asks.
    """
    from dataclasses import replace

    from slicesight.data.answer_tolerance import read_tolerances
    from slicesight.data.dataset import open_dataset
    from slicesight.inference.calibration.fitting import calibrate as fit
    from slicesight.inference.calibration.storage import write_calibration
    from slicesight.reports.ask import load_quietly
    from slicesight.reports.terminal import progress_bar, report_console

    folder, tolerances = Path(options.model), read_tolerances(options.tolerance or ())
    validation = open_dataset(options.data, split=options.split, prefer="val", count=options.count, fill=options.fill)
    training = None if options.train_data is None else open_dataset(options.train_data, prefer="train")
    with stderr().status(f"loading {options.model}"):
        predictor = load_quietly(options.model, ignore_calibration=True)
    with progress_bar(stderr(), "answering") as progress:
        found = fit(
            predictor,
            validation,
            training=training,
            most_training_scans=options.train_scans,
            most_copied_scans=options.copied_scans,
            data=options.data,
            share_refused=options.refuse,
            on_bad_case="skip" if options.skip_bad_cases else "stop",
            tolerances=tolerances,
            progress=progress,
        )
    calibration = replace(found.calibration, min_confidence=options.min_confidence)
    places = write_calibration(calibration, folder)
    console = report_console()
    console.print(_table(found))
    for line in _lines(found):
        console.print(line, style="dim", soft_wrap=True)
    say(f"wrote {places[0]} and {places[1].name}; ask with --min-confidence and --answer-anyway")


def _table(found: FittedCalibration) -> Table:
    """Per kind: how often right, and how far the model's own and the calibrated probability lie from that."""
    from rich.table import Table

    table = Table(title="on scans that the curves have not seen")
    for name in ("kind", "answers", "right", "own probability", "confidence", "own error", "error after"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    rows: dict[str, list[tuple[JudgedAnswer, float]]] = {"all": []}
    for one, confidence in zip(found.answers, found.confidences.tolist(), strict=True):
        for name in ("all", one.form, one.kind):
            rows.setdefault(name, []).append((one, confidence))
    for name in sorted(rows, key=lambda name: (name != "all", name)):
        own = rows[name]
        right = [one.is_right for one, _ in own]
        before, after = [one.own for one, _ in own], [confidence for _, confidence in own]
        means = [sum(values) / len(own) for values in (right, before, after)]
        errors = [mean_gap(values, right) for values in (before, after)]
        table.add_row(name, str(len(own)), *(f"{value:.3f}" for value in (*means, *errors)))
    return table


def mean_gap(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """Expected calibration error in 15 equal bins."""
    bins: dict[int, list[float]] = {}
    for confidence, is_right in zip(confidences, right, strict=True):
        bins.setdefault(min(14, int(confidence * 15)), []).append(is_right - confidence)
    return sum(abs(sum(gaps)) for gaps in bins.values()) / max(1, len(right))


def _lines(found: FittedCalibration) -> Iterator[str]:
    calibration = found.calibration
    facts = calibration.facts
    yield (
        f"{facts['answers']} answers about {facts['scans']} scans, {facts['training_scans']} training scans beside. "
        f"At most {facts['share_refused']:.0%} of scans like these are called strange."
    )
    if calibration.scans is not None:
        for name, counts in calibration.scans.known.items():
            yield f"{name}: {', '.join(f'{value} ({count})' for value, count in sorted(counts.items()))}"
    if calibration.questions is not None:
        gauge = calibration.questions
        yield f"{len(gauge.questions)} wordings and {len(gauge.every_term)} terms were taught"
    for topic, rule in calibration.tolerances.items():
        yield f"{topic}: {rule.words}"
    for case, why in found.skipped.items():
        yield f"skipped {case}: {why}"
