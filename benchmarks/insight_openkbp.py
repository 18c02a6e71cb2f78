"""Does pre-training help to outline head-and-neck structures, with 5, 10, 25 and 100 % of the labels? OpenKBP's CT.

    python benchmarks/insight_openkbp.py SCANS --parts PARTS --out OUT                                # validation
    python benchmarks/insight_openkbp.py SCANS --parts PARTS --out OUT --rates 2e-3 4e-3 8e-3         # learning rates
    python benchmarks/insight_openkbp.py SCANS --parts PARTS --out OUT --arms dense@300 dense@600     # how long
    python benchmarks/insight_openkbp.py SCANS --parts PARTS --out OUT --split test                   # at the end

SCANS holds openkbp/pt_1/ct.nii.gz … (docs/how-to/headneck-small.md), PARTS vit-s14 and minilm. Pre-training sees the CT
of all training patients and no label. Every cell (arm x share of the labelled training patients x seed) has its own
folder and is skipped once it is scored on the split, so the command goes on where it was stopped, and several processes
may share the work by --arms or --seeds. One thread a process. "scratch-long" is scratch with five times the steps.
"dense@300" is an arm whose pre-training has 300 steps. A rate from --rates (seed 100, which no cell has; 10 % of the
labels; validation patients) becomes the arm's own; every one of these runs counts as a trial. Only drawn structures are
scored. Tests: the unit is the patient (mean over drawn structures, then seeds), sign flips, Holm over the table. Until
everything is chosen the split is val. Tables in OUT/results-SPLIT.md, curves in OUT/curves-SPLIT.png, last line JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from insight_arms import Clock, encoders, pretrained, read_lines, say
from insight_lists import write_list

from slicesight.evaluation.scan_scores import run_segmentation
from slicesight.evaluation.statistics import compare, holm, mean_interval
from slicesight.inference.cpu.processor import read_processor
from slicesight.training.segmentation import read_segment_recipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
LIST = RECIPES / "headneck-small" / "scans.jsonl"
NO_ALIGNMENT = ("image_weight=0", "text_weight=0")
ALONE = (*NO_ALIGNMENT, "reconstruction_weight=0", "mask_share=0")
SELF = ("triplets.image_encoder=self-trained", "triplets.self_training={steps: 1500}")
ARMS: dict[str, tuple[str, ...] | None] = {
    "scratch": None,
    "scratch-long": None,
    "reconstruction": NO_ALIGNMENT,
    "released": ("variant=released",),
    "corrected": (),
    "dense": ("dense_weight=1",),
    "shuffled": ("dense_weight=1", "pairing=shuffled"),
    "contrastive-3d": (*ALONE, "contrast_weight=1"),
    "dense-only": (*ALONE, "dense_weight=1"),
    "dense-masked": (*NO_ALIGNMENT, "dense_weight=1"),
    "dense-memory": (*ALONE, "dense_weight=1", "dense_reads=memory"),
    "self-taught": (*ALONE, "dense_weight=1", *SELF),
    "near": ("near_slices=true",),
    "queue": ("queue=256", "alignment=contrastive"),
}
"""What each arm changes in recipes/openkbp-pretrain.yaml; None is no pre-training. The rows behind contrastive-3d are
ablations, one setting each."""
MAIN_ARMS = tuple(ARMS)[:8]
LONGER = 5
TRIAL_SEED, TRIAL_SHARE = 100, 0.1
COMPARISONS = tuple(
    [(arm, "scratch") for arm in ARMS if arm != "scratch"]
    + [("dense", "reconstruction"), ("dense", "corrected"), ("dense", "shuffled"), ("dense", "contrastive-3d"),
       ("dense", "scratch-long"), ("dense-only", "reconstruction"), ("dense-masked", "reconstruction"),
       ("corrected", "released")]
)  # fmt: skip
SMOKE_PRETRAIN = (
    "training.steps=2", "training.bf16=false", "slices_per_volume=1", "psat.num_layers=1", "psat.num_queries=4",
    "triplets.image_encoder=pixels",
    "triplets.text_encoder=words", "triplets.crops=1", "triplets.size=[16,16,16]", "triplets.spacing_mm=[12,12,12]",
    "triplets.picture_size=32", "triplets.image_encoder_size=null", "triplets.dense_components=4",
)  # fmt: skip
"""Without bfloat16: on a CPU, weights of convolutions on maps two slices deep, as here, get no gradients in it."""
SMOKE_SEGMENT = (
    "training.steps=2", "training.bf16=false", "backbone.image_size=[16,16,16]", "preparation.spacing_mm=[12,12,12]",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """arm: with the length of its pre-training where it has one of its own (dense@300)."""

    arm: str
    share: float
    seed: int
    rate: float | None = None

    def folder(self, out: Path) -> Path:
        rate = "" if self.rate is None else f"-rate{self.rate:g}"
        return out / "segment" / self.arm / f"share{round(100 * self.share)}" / f"seed{self.seed}{rate}"

    def scores(self, out: Path, split: str) -> Path:
        return self.folder(out) / f"scores-{split}.json"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    print(f"processor: {read_processor()}, one thread", flush=True)
    clock = Clock(out / "minutes.jsonl", budget=None)
    for seed in [TRIAL_SEED] if options.rates else options.seeds:
        for arm in options.arms:
            init = backbone_of(out, arm, seed, options, clock)
            for share in [TRIAL_SHARE] if options.rates else options.shares:
                for rate in options.rates or [None]:
                    fine_tuned(out, Cell(arm, share, seed, rate), init, options, clock)
    if options.rates:
        choose_rates(out)
    report(out, options, clock)


def backbone_of(out: Path, arm: str, seed: int, options: argparse.Namespace, clock: Clock) -> Path | None:
    """The folder of the arm's pre-trained network; seeds of the pre-training repeat after --pretrain-seeds."""
    name, _, steps = arm.partition("@")
    own = ARMS[name]
    if own is None:
        return None
    own = (*own, *((f"training.steps={steps}",) if steps else ()))
    changes = (*encoders(options.parts), *(SMOKE_PRETRAIN if options.smoke else ()), *own, *options.pretrain)
    has_own = any(change.startswith("triplets.") for change in own)
    if options.smoke and has_own:
        changes = (*changes, "triplets.self_training={steps: 2, batch_size: 4, side: 32, widths: [8, 8, 8, 8]}",
                   "triplets.image_encoder=self-trained", "triplets.image_encoder_size=64")  # fmt: skip

    def scans() -> Path:
        lines = [line for line in read_lines(LIST) if line["split"] == "train"]
        listed = [
            {"image": os.path.relpath(options.scans / line["image"], out), "patient": line["patient"], "split": "train"}
            for line in lines
        ]
        return write_list(out / "unlabelled.jsonl", listed[:3] if options.smoke else listed)

    triplets = out / (f"triplets-{name}" if has_own else "triplets")
    return pretrained(
        out, RECIPES / "openkbp-pretrain.yaml", arm, seed % options.pretrain_seeds, scans=scans, changes=changes,
        clock=clock, triplets=triplets,
    )  # fmt: skip


def fine_tuned(out: Path, cell: Cell, init: Path | None, options: argparse.Namespace, clock: Clock) -> None:
    """Fine-tune and score one cell unless its scores on the split are there."""
    file, folder = cell.scores(out, options.split), cell.folder(out)
    if file.is_file():
        return
    data = LIST
    if options.smoke:
        lines = read_lines(LIST)
        data = write_list(out / "few.jsonl", [*lines[:3], *[li for li in lines if li["split"] == options.split][:2]])
    rates = json.loads((out / "rates.json").read_text()) if (out / "rates.json").is_file() else {}
    rate = cell.rate or rates.get(cell.arm.partition("@")[0])
    own = [f"data={data}", f"root={options.scans}", f"output_dir={folder}", f"seed={cell.seed}",
           f"train_share={cell.share}", f"prepared_dir={out / 'prepared'}", f"score_splits=[{options.split}]",
           f"init={'null' if init is None else init}", *(SMOKE_SEGMENT if options.smoke else ()),
           *options.segment]  # fmt: skip
    if rate is not None:
        own.append(f"training.learning_rate={rate}")
    recipe = read_segment_recipe(RECIPES / "openkbp-segment.yaml", tuple(own))
    if cell.arm.startswith("scratch-long"):
        steps = LONGER * recipe.training.steps
        recipe = read_segment_recipe(RECIPES / "openkbp-segment.yaml", (*own, f"training.steps={steps}"))
    what = f"segment {cell.share:.0%} seed {cell.seed} rate {recipe.training.learning_rate:g}"
    clock.time(what, cell.arm, lambda: run_segmentation(recipe, resume=True, progress=say))
    shutil.move(folder / "scores.json", file)


def choose_rates(out: Path) -> None:
    """The best learning rate of every arm by mean Dice of the validation patients -> OUT/rates.json."""
    best: dict[str, tuple[float, float]] = {}
    for file in sorted(
        (out / "segment").glob(f"*/share{round(100 * TRIAL_SHARE)}/seed{TRIAL_SEED}-rate*/scores-val.json")
    ):
        arm, rate = file.parts[-4], float(file.parts[-2].partition("-rate")[2])
        dice = float(np.mean(list(by_patient(json.loads(file.read_text())["scans"], "dice").values())))
        print(f"trial {arm} {rate:g}: Dice {dice:.4f}", flush=True)
        best[arm] = max(best.get(arm, (0.0, rate)), (dice, rate))
    (out / "rates.json").write_text(json.dumps({arm: rate for arm, (_, rate) in best.items()}, indent=1) + "\n")


def report(out: Path, options: argparse.Namespace, clock: Clock) -> None:
    """Write and print the tables, the tests and the curves of all finished cells of the split."""
    scores: dict[tuple[str, float, int], list[dict[str, Any]]] = {}
    for file in sorted((out / "segment").glob(f"*/share*/seed*/scores-{options.split}.json")):
        arm, share, seed = file.parts[-4], int(file.parts[-3][5:]) / 100, file.parts[-2][4:]
        if seed.isdigit():
            scores[arm, share, int(seed)] = json.loads(file.read_text())["scans"]
    if not scores:
        print(json.dumps({"split": options.split, "cells": 0}))
        return
    tests = tested(scores)
    trials = len(list((out / "segment").glob("*/share*/seed*-rate*")))
    text = "\n\n".join(
        [
            whole_table(scores),
            *(organ_table(scores, share) for share in sorted({share for _, share, _ in scores})),
            tests_table(tests),
            notes(options.split, trials, clock),
        ]
    )
    (out / f"results-{options.split}.md").write_text(text + "\n", encoding="utf-8")
    draw_curves(scores, out / f"curves-{options.split}.png", options.split)
    print(text)
    dice = {f"{arm}/{share:g}": round(row[0], 4) for (arm, share), row in means(scores, "dice").items()}
    print(json.dumps({"split": options.split, "dice": dice, "tests": tests, "trials": trials}))


def notes(split: str, trials: int, clock: Clock) -> str:
    """What a reader of the tables has to know."""
    return (
        f"Split {split}; of a patient's drawn structures the mean, then of patients, then of seeds (in brackets their "
        f"number), 95 % intervals by patient. Learning rates were chosen on validation patients in {trials} runs. CPU "
        f"time of everything: {clock.total():.0f} minutes, one thread a process, {read_processor()}."
    )


def by_patient(scans: Sequence[dict[str, Any]], field: str, structure: str | None = None) -> dict[str, float]:
    """The mean over each patient's drawn structures, or of one of them."""
    found: dict[str, list[float]] = {}
    for scan in scans:
        if structure is None or scan["structure"] == structure:
            found.setdefault(scan["patient"], []).append(scan[field])
    return {patient: float(np.mean(values)) for patient, values in found.items()}


def over_seeds(
    scores: dict[Any, Any], arm: str, share: float, field: str, structure: str | None = None
) -> tuple[dict[str, float], int]:
    """By patient the mean over seeds, and how many there are."""
    seeds = [by_patient(scans, field, structure) for (a, s, _), scans in scores.items() if (a, s) == (arm, share)]
    patients = seeds[0].keys() if seeds else ()
    return {name: float(np.mean([seed[name] for seed in seeds])) for name in patients}, len(seeds)


def means(scores: dict[Any, Any], field: str) -> dict[tuple[str, float], tuple[float, float, float, int]]:
    """Mean, its interval by patient, and the number of seeds, of every arm and share."""
    found = {}
    for arm, share in dict.fromkeys((arm, share) for arm, share, _ in scores):
        patients, seeds = over_seeds(scores, arm, share, field)
        interval = mean_interval(np.array(list(patients.values())))
        found[arm, share] = (interval.value, interval.low, interval.high, seeds)
    return found


def whole_table(scores: dict[Any, Any]) -> str:
    shares = sorted({share for _, share, _ in scores})
    lines = []
    for field, title, digits in (("dice", "Dice", 3), ("hd95_mm", "HD95, mm", 1)):
        rows = means(scores, field)
        lines += [
            f"| {title} | " + " | ".join(f"{share:.0%} of labels" for share in shares) + " |",
            "|---" * (len(shares) + 1) + "|",
        ]
        for arm in dict.fromkeys(arm for arm, _ in rows):
            cells = [
                f"{row[0]:.{digits}f} ({row[1]:.{digits}f}–{row[2]:.{digits}f}) [{row[3]}]"
                if (row := rows.get((arm, share)))
                else "—"
                for share in shares
            ]
            lines.append(f"| {arm} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines[:-1])


def organ_table(scores: dict[Any, Any], share: float) -> str:
    arms = list(dict.fromkeys(arm for arm, own, _ in scores if own == share))
    structures = list(dict.fromkeys(scan["structure"] for scans in scores.values() for scan in scans))
    lines = [
        f"| Dice / HD95 in mm, {share:.0%} of labels | patients | " + " | ".join(arms) + " |",
        "|---" * (len(arms) + 2) + "|",
    ]
    for structure in structures:
        cells, number = [], 0
        for arm in arms:
            dice, _ = over_seeds(scores, arm, share, "dice", structure)
            distance, _ = over_seeds(scores, arm, share, "hd95_mm", structure)
            number = len(dice)
            cells.append(f"{np.mean(list(dice.values())):.3f} / {np.mean(list(distance.values())):.1f}")
        lines.append(f"| {structure} | {number} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tested(scores: dict[Any, Any]) -> list[dict[str, Any]]:
    """Paired tests by patient, over the seeds that both have, Holm-corrected together."""
    rows = []
    for share in sorted({share for _, share, _ in scores}):
        for first, second in COMPARISONS:
            seeds = sorted(s for a, own, s in scores if (a, own) == (first, share) and (second, share, s) in scores)
            if not seeds:
                continue
            found = compare(
                *([by_patient(scores[arm, share, seed], "dice") for seed in seeds] for arm in (first, second))
            )
            assert found is not None
            rows.append({"share": share, "first": first, "second": second, "seeds": len(seeds), "p": round(found.p, 5),
                         "difference": round(found.difference, 4), "ci95": [round(found.low, 4), round(found.high, 4)],
                         "patients": found.num_volumes})  # fmt: skip
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = round(corrected, 4)
    return rows


def tests_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| labels | comparison | difference in Dice (95 % interval) | p | p (Holm) | patients, seeds |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["ci95"]
        names = f"{row['first']} − {row['second']}"
        lines.append(
            f"| {row['share']:.0%} | {names} | {row['difference']:+.3f} ({low:+.3f} to {high:+.3f}) "
            f"| {row['p']:.4f} | {row['p_holm']:.4f} | {row['patients']}, {row['seeds']} |"
        )
    return "\n".join(lines)


def draw_curves(scores: dict[Any, Any], file: Path, split: str) -> None:
    """Mean Dice against the share of the labels, a line an arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    rows = means(scores, "dice")
    for arm in dict.fromkeys(arm for arm, _ in rows):
        shares = sorted(share for own, share in rows if own == arm)
        axes.plot([100 * share for share in shares], [rows[arm, share][0] for share in shares], marker="o", label=arm)
    axes.set_xscale("log")
    ticks = sorted({100 * share for _, share in rows})
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("labelled training patients")
    axes.set_ylabel(f"mean Dice, {split} patients")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, help="folder that holds openkbp/")
    parser.add_argument("--parts", type=Path, default=Path("runs/parts"), help="folder of vit-s14 and minilm")
    parser.add_argument("--out", type=Path, default=Path("runs/insight-openkbp"))
    parser.add_argument(
        "--arms", nargs="+", default=list(MAIN_ARMS), metavar="ARM", help=f"of {', '.join(ARMS)}; ARM@STEPS"
    )
    parser.add_argument("--shares", nargs="+", type=float, default=[0.1, 0.05, 0.25, 1.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--pretrain-seeds", type=int, default=1, help="different pre-trainings; seeds of cells share them"
    )
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--rates", nargs="+", type=float, default=[], help="try these learning rates, on val only")
    parser.add_argument("--pretrain", action="append", default=[], metavar="KEY=VALUE", help="of every pre-training")
    parser.add_argument("--segment", action="append", default=[], metavar="KEY=VALUE", help="of every fine-tuning")
    parser.add_argument("--smoke", action="store_true", help="two steps of a tiny network, to see that everything runs")
    options = parser.parse_args(arguments)
    if unknown := [arm for arm in options.arms if arm.partition("@")[0] not in ARMS]:
        parser.error(f"no arm is called {unknown[0]}; there are {', '.join(ARMS)}")
    if options.rates and options.split != "val":
        parser.error("learning rates are chosen on val")
    return options


if __name__ == "__main__":
    main()
