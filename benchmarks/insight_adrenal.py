"""Normal or hyperplastic adrenal gland from its shape: probe and fine-tuning, with and without pre-training.

    python benchmarks/insight_adrenal.py adrenalmnist3d_64.npz --parts PARTS_FOLDER --out runs/insight-adrenal

AdrenalMNIST3D at 64³ (MedMNIST+), official split, stored as signed distances in mm (insight_lists.py). Every cell
(arm x mode x seed) has its own folder and is skipped once it is finished. Pre-training sees a part of the training
shapes without labels. Beside the networks stands a logistic regression on twelve measurements of the shape (volume,
thickness, surface), whose penalty is chosen on the validation split. Ensembles are means of probabilities: over the
seeds of an arm, and of these with the regression; both were fixed before the networks were trained. What was looked at
earlier: the AUC of single measurements on all three splits, which led to the distance maps.
The table goes to OUT/results.md and stdout, the last line of stdout is JSON. PARTS_FOLDER holds vit-s14 and minilm.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from insight_arms import ARMS, Clock, encoders, pretrained, read_lines, say
from insight_lists import CLASSES, list_adrenal, write_list
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.stats import rankdata
from torch import nn

from slicesight.evaluation.scan_scores import measure, run_classification
from slicesight.evaluation.statistics import holm
from slicesight.io.loading import read_volume
from slicesight.training.classification import read_classify_recipe, solve_probe
from slicesight.training.scan_list import read_cases

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
MAIN_ARMS = ("scratch", "image_text", "reconstruction")
MODES = ("probe", "finetune")
NUM_PRETRAINING_SHAPES = 150
PENALTIES = (0.1, 1.0, 10.0, 100.0)
DRAWS = 4999
SMOKE_PRETRAIN = (
    "training.steps=2",
    "slices_per_volume=1",
    "psat.num_layers=1",
    "psat.num_queries=4",
    "triplets.image_encoder=pixels",
    "triplets.text_encoder=words",
    "triplets.size=[16,16,16]",
    "triplets.picture_size=32",
    "triplets.image_encoder_size=null",
)
SMOKE_CLASSIFY = ("training.steps=2", "backbone.image_size=[16,16,16]", "preparation.spacing_mm=[4,4,4]")
SMOKE_MOST = {"train": 24, "val": 16, "test": 24}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock(out / "minutes.jsonl", budget=options.budget_minutes)
    data = list_adrenal(options.archive, out, distance=True, most=SMOKE_MOST if options.smoke else None)
    shape = out / "shape.json"
    if not shape.is_file():
        clock.time("shape measurements", "shape", lambda: shape.write_text(json.dumps(regress_shapes(data))))
    changes = SMOKE_PRETRAIN if options.smoke else encoders(options.parts)

    def scans() -> Path:
        training = [line for line in read_lines(data) if line["split"] == "train"]
        step = max(1, len(training) // NUM_PRETRAINING_SHAPES)
        return write_list(out / "pretraining.jsonl", training[::step][:NUM_PRETRAINING_SHAPES])

    left_out: list[str] = []
    for arm in options.arms:
        if not clock.has_time_for(arm):
            left_out.append(arm)
            continue
        for seed in options.seeds:
            init = None
            if ARMS[arm] is not None:
                init = pretrained(
                    out, RECIPES / "adrenal-pretrain.yaml", arm, seed, scans=scans, changes=changes, clock=clock
                )
            for mode in MODES:
                trained(out, data, arm, mode, seed, init, options, clock)
    report(out, data, options, left_out, clock)


def trained(
    out: Path, data: Path, arm: str, mode: str, seed: int, init: Path | None, options: argparse.Namespace, clock: Clock
) -> None:
    folder = cell(out, arm, mode, seed)
    if (folder / "scores.json").is_file():
        return
    own = (f"data={data}", f"output_dir={folder}", f"seed={seed}", f"mode={mode}", f"prepared_dir={out / 'prepared'}",
           f"init={'null' if init is None else init}")  # fmt: skip
    recipe = read_classify_recipe(RECIPES / "adrenal-classify.yaml", (*(SMOKE_CLASSIFY if options.smoke else ()), *own))
    clock.time(f"{mode} seed {seed}", arm, lambda: run_classification(recipe, resume=True, progress=say))


def cell(out: Path, arm: str, mode: str, seed: int) -> Path:
    return out / "classify" / arm / mode / f"seed{seed}"


def measurements(distance_ZYX: np.ndarray[Any, Any]) -> list[float]:
    """Twelve numbers of a shape given by its signed distance, voxels of 1 mm: size, thickness, surface, elongation."""
    shape = distance_ZYX > 0
    box = tuple(slice(int(held[0]), int(held[-1]) + 1) for held in map(np.flatnonzero, _profiles(shape)))
    inside = np.pad(shape[box], 1)
    depth = distance_transform_edt(inside)[inside]
    surface = int((inside & ~binary_erosion(inside)).sum())
    spread = np.linalg.eigvalsh(np.cov(np.argwhere(inside).T))
    return [
        float(np.log(depth.size)),
        float(depth.max()),
        float(depth.mean()),
        *np.percentile(depth, [50, 75, 90]).tolist(),
        surface / depth.size,
        surface / depth.size ** (2 / 3),
        *np.log(spread + 1e-3).tolist(),
        float((depth > 2.5).mean()),
    ]


def regress_shapes(data: Path) -> dict[str, list[float]]:
    """Probability of hyperplasia by logistic regression on the measurements, for every val and test shape."""
    cases = read_cases(data, needs="label")
    rows = {split: [case for case in cases if case.split == split] for split in ("train", "val", "test")}
    values = {
        split: torch.tensor(np.array([measurements(read_volume(case.image).voxels) for case in members]))
        for split, members in rows.items()
    }
    truth = {split: torch.tensor([CLASSES.index(str(case.label)) for case in rows[split]]) for split in rows}
    best: tuple[float, nn.Linear] | None = None
    for penalty in PENALTIES:
        head = nn.Linear(values["train"].shape[1], len(CLASSES)).double()
        solve_probe(head, values["train"], truth["train"], l2=penalty)
        found = area(head(values["val"]).softmax(dim=1)[:, 1].detach().numpy(), truth["val"].numpy())
        if best is None or found > best[0]:
            best = found, head
    assert best is not None
    return {split: best[1](values[split]).softmax(dim=1)[:, 1].tolist() for split in ("val", "test")}


def report(out: Path, data: Path, options: argparse.Namespace, left_out: list[str], clock: Clock) -> None:
    """Write and print the table of all finished cells."""
    cases = read_cases(data, needs="label")
    truth = {
        split: np.array([CLASSES.index(str(case.label)) for case in cases if case.split == split])
        for split in ("val", "test")
    }
    shape = {split: np.array(found) for split, found in json.loads((out / "shape.json").read_text()).items()}
    found = {
        (arm, mode): [probabilities(file) for seed in options.seeds
                      if (file := cell(out, arm, mode, seed) / "predictions.jsonl").is_file()]
        for arm in options.arms for mode in MODES
    }  # fmt: skip
    found = {key: seeds for key, seeds in found.items() if seeds}
    lines = ["| model | AUC val | AUC test | accuracy test | F1 test |", "|---|---|---|---|---|",
             "| " + " | ".join(["shape measurements, regression", *_ensemble_cells(shape, truth)]) + " |"]  # fmt: skip
    summary: dict[str, float] = {"shape": area(shape["test"], truth["test"])}
    for (arm, mode), seeds in found.items():
        name = f"{arm.replace('_', ' + ')}, {mode}"
        lines.append("| " + " | ".join([name, *_seed_cells(seeds, truth)]) + " |")
        mean = {split: np.mean([seed[split] for seed in seeds], axis=0) for split in truth}
        both = {split: (mean[split] + shape[split]) / 2 for split in truth}
        if mode == "finetune":
            lines.append("| " + " | ".join([f"— mean of {len(seeds)} seeds", *_ensemble_cells(mean, truth)]) + " |")
            lines.append("| " + " | ".join(["— and of the regression", *_ensemble_cells(both, truth)]) + " |")
        summary |= {f"{arm}/{mode}": area(mean["test"], truth["test"])}
        summary |= {f"{arm}/{mode}+shape": area(both["test"], truth["test"])}
    tests = tested(found, truth["test"])
    notes = (
        f"Mean ± standard deviation over {len(options.seeds)} seeds; an ensemble is the mean of their probabilities. "
        "Tests: mean over seeds of each arm's probabilities (as ranks), arms exchanged shape by shape at random, AUC, "
        "Holm over the table. MedMNIST v2's best at 28³, from memory: ResNet-18 + ACS .839."
        + (f" Left out for lack of time: {', '.join(left_out)}." if left_out else "")
        + f" CPU time of everything: {clock.total():.0f} minutes on {options.threads} thread(s)."
    )
    text = "\n\n".join(["\n".join(lines), tests_table(tests), notes])
    (out / "results.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    rounded = {key: round(value, 4) for key, value in summary.items()}
    print(
        json.dumps({"auc_test": rounded, "tests": tests, "cpu_minutes": round(clock.total(), 1), "left_out": left_out})
    )


def probabilities(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Probability of hyperplasia by split."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {
        split: np.array([line["probabilities"][CLASSES[1]] for line in lines if line["split"] == split])
        for split in ("val", "test")
    }


def tested(found: dict[Any, Any], truth: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Every pre-trained arm against scratch and against reconstruction alone, by mode: AUC of the seeds' mean."""
    ranks = {key: _ranks(np.mean([seed["test"] for seed in seeds], axis=0)) for key, seeds in found.items()}
    rows = []
    for (first, mode), second in product(ranks, ("scratch", "reconstruction")):
        if first in ("scratch", second) or (second, mode) not in ranks:
            continue
        difference, p = exchange_test(ranks[first, mode], ranks[second, mode], truth)
        rows.append({"first": f"{first}, {mode}", "second": f"{second}, {mode}", "difference": round(difference, 4),
                     "p": round(p, 4), "shapes": len(truth)})  # fmt: skip
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = round(corrected, 4)
    return rows


def exchange_test(
    first: np.ndarray[Any, Any], second: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], *, seed: int = 0
) -> tuple[float, float]:
    """Difference in AUC and its two-sided p when the two models' scores change places at random, shape by shape."""
    observed = area(first, truth) - area(second, truth)
    rng = np.random.default_rng(seed)
    extreme = 0
    for _ in range(DRAWS):
        swap = rng.random(len(truth)) < 0.5
        drawn = area(np.where(swap, second, first), truth) - area(np.where(swap, first, second), truth)
        extreme += abs(drawn) >= abs(observed) - 1e-12
    return observed, (1 + extreme) / (1 + DRAWS)


def area(scores: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    """Area under the ROC curve by ranks."""
    ranks, positive = rankdata(scores), truth == 1
    count = int(positive.sum())
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(truth) - count)))


def tests_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| comparison | difference in AUC | p | p (Holm) |", "|---|---|---|---|"]
    for row in rows:
        names = f"{row['first']} − {row['second']}".replace("_", " + ")
        lines.append(f"| {names} | {row['difference']:+.3f} | {row['p']:.4f} | {row['p_holm']:.4f} |")
    return "\n".join(lines)


def _seed_cells(seeds: Sequence[dict[str, Any]], truth: dict[str, Any]) -> list[str]:
    columns = [[area(seed["val"], truth["val"]) for seed in seeds]]
    rows = [_measured(seed["test"], truth["test"]) for seed in seeds]
    columns += [[row[key] for row in rows] for key in ("auc", "accuracy", "f1")]
    return [f"{np.mean(c):.3f}" + (f" ± {np.std(c, ddof=1):.3f}" if len(c) > 1 else "") for c in columns]


def _ensemble_cells(found: dict[str, Any], truth: dict[str, Any]) -> list[str]:
    row = _measured(found["test"], truth["test"])
    return [f"{area(found['val'], truth['val']):.3f}", *(f"{row[key]:.3f}" for key in ("auc", "accuracy", "f1"))]


def _measured(scores: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> dict[str, Any]:
    return measure(np.stack([1 - scores, scores], axis=1), truth)


def _ranks(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return rankdata(scores) / len(scores)


def _profiles(shape: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return [shape.any(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="adrenalmnist3d_64.npz")
    parser.add_argument("--parts", type=Path, default=Path("runs/parts"), help="folder of vit-s14 and minilm")
    parser.add_argument("--out", type=Path, default=Path("runs/insight-adrenal"))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(MAIN_ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget-minutes", type=float, help="leave out arms that would not fit any more")
    parser.add_argument("--smoke", action="store_true", help="two steps on 24 shapes, to see that everything runs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
