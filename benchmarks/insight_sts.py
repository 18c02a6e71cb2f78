"""Does pre-training with 2D models help to outline soft-tissue sarcomas, with a quarter and with all of the labels?

    python benchmarks/insight_sts.py STS_FOLDER --parts PARTS_FOLDER --out runs/insight-sts

Every cell (arm x share of labels x seed) has its own folder and is skipped once it is finished, so the command goes on
where it was stopped. Pre-training sees the training patients' CT and MR without labels; one network is fine-tuned on
both; scores are per patient in the scans' own voxels. Patients 001–026 train, 027–034 test (six have CT and MR). The
row "blind" looks at no scan: since every scan is cut at a margin round its tumour, the mean training mask of its kind,
stretched to the test scan and thresholded for the best training Dice, is already good; a network has to beat it.
The table goes to OUT/results.md and stdout, the last line of stdout is JSON. PARTS_FOLDER holds vit-s14 and minilm.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from insight_arms import ARMS, Clock, encoders, pretrained, read_lines, say
from insight_lists import list_sts, write_list
from torch.nn import functional

from slicesight.evaluation.metrics.masks import overlap
from slicesight.evaluation.scan_scores import run_segmentation
from slicesight.evaluation.statistics import compare, holm
from slicesight.io.loading import read_volume
from slicesight.io.masks import read_labels
from slicesight.models.med3dinsight.preparation import prepare_mask
from slicesight.training.scan_list import ScanCase, of_split, part_of_patients, read_cases
from slicesight.training.segmentation import read_segment_recipe
from slicesight.volumes.volume import Volume

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
MAIN_ARMS = ("scratch", "image_text", "reconstruction", "shuffled", "released")
BLIND, BLIND_SIZE = "blind", (48, 48, 48)
COMPARISONS = (
    ("scratch", BLIND),
    ("image_text", BLIND),
    ("image_text", "scratch"),
    ("image_text", "reconstruction"),
    ("image_text", "shuffled"),
    ("image_text", "released"),
)
MODALITIES = {"CT": "CT_image", "MR": "MR_T1_image"}
SMOKE_PRETRAIN = (
    "training.steps=2",
    "slices_per_volume=1",
    "psat.num_layers=1",
    "psat.num_queries=4",
    "triplets.image_encoder=pixels",
    "triplets.text_encoder=words",
    "triplets.slices_per_plane=8",
    "triplets.size=[16,16,16]",
    "triplets.picture_size=32",
    "triplets.image_encoder_size=null",
)
SMOKE_SEGMENT = ("training.steps=2", "backbone.image_size=[16,16,16]", "preparation.spacing_mm=[12,12,12]")


@dataclass(frozen=True)
class Cell:
    arm: str
    share: float
    seed: int

    def folder(self, out: Path) -> Path:
        return out / "segment" / self.arm / f"share{round(100 * self.share)}" / f"seed{self.seed}"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock(out / "minutes.jsonl", budget=options.budget_minutes)
    changes = SMOKE_PRETRAIN if options.smoke else encoders(options.parts)
    smoke_segment = SMOKE_SEGMENT if options.smoke else ()
    data = list_sts(options.sts, out)
    for share in options.shares:
        for seed in options.seeds:
            guessed(out, data, Cell(BLIND, share, seed), clock)

    def scans() -> Path:
        return write_list(out / "sts-train.jsonl", [line for line in read_lines(data) if line["split"] == "train"])

    left_out: list[str] = []
    for arm in options.arms:
        if not clock.has_time_for(arm):
            left_out.append(arm)
            continue
        for seed in options.seeds:
            init = None
            if ARMS[arm] is not None:
                init = pretrained(
                    out, RECIPES / "sts-pretrain.yaml", arm, seed, scans=scans, changes=changes, clock=clock
                )
            for share in options.shares:
                fine_tuned(out, data, Cell(arm, share, seed), init, smoke_segment, clock)
    report(out, options, left_out, clock)


def fine_tuned(out: Path, data: Path, cell: Cell, init: Path | None, changes: tuple[str, ...], clock: Clock) -> None:
    """Fine-tune and score one cell unless its scores are there."""
    folder = cell.folder(out)
    if (folder / "scores.json").is_file():
        return
    own = (f"data={data}", f"output_dir={folder}", f"seed={cell.seed}", f"train_share={cell.share}",
           f"prepared_dir={out / 'prepared'}", f"init={'null' if init is None else init}")  # fmt: skip
    recipe = read_segment_recipe(RECIPES / "sts-segment.yaml", (*changes, *own))
    what = f"segment {cell.share:.0%} seed {cell.seed}"
    clock.time(what, cell.arm, lambda: run_segmentation(recipe, resume=True, progress=say))


def guessed(out: Path, data: Path, cell: Cell, clock: Clock) -> None:
    """Score the guess that looks at no scan, from the masks of the cell's training patients."""
    file = cell.folder(out) / "scores.json"
    if file.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    cases = read_cases(data, needs="mask")
    training = part_of_patients(of_split(cases, "train", path=data), cell.share, seed=cell.seed)

    def score() -> None:
        guesses = {name: mean_mask([case for case in training if is_of(case, name)]) for name in MODALITIES}
        scans = []
        for case in of_split(cases, "test", path=data):
            volume = read_volume(case.image)
            (mean, threshold) = next(guesses[name] for name in MODALITIES if is_of(case, name))
            guess = functional.interpolate(mean[None, None], size=volume.shape, mode="trilinear")[0, 0].numpy()
            dice, distance = overlap(guess > threshold, mask_of(case, volume), spacing_mm=volume.spacing_mm)
            scans.append({"case": case.name, "patient": case.patient, "dice": dice, "hd95_mm": distance})
        file.write_text(json.dumps({"scans": scans}))

    clock.time(f"guess {cell.share:.0%} seed {cell.seed}", BLIND, score)


def mean_mask(cases: Sequence[ScanCase]) -> tuple[torch.Tensor, float]:
    """The masks' mean over boxes stretched to one size, and the threshold that gives the best mean Dice on them."""
    masks = []
    for case in cases:
        labels = mask_of(case, read_volume(case.image))
        depth, height, width = labels.shape
        box = ((0, depth), (0, height), (0, width))
        masks.append(prepare_mask(labels.astype(np.int32), box=box, size=BLIND_SIZE, values=(1,)) > 0)
    mean = np.mean(masks, axis=0, dtype=np.float32)

    def dice(threshold: float) -> float:
        guess = mean > threshold
        return float(np.mean([2 * (guess & mask).sum() / (guess.sum() + mask.sum()) for mask in masks]))

    return torch.from_numpy(mean), max(np.linspace(0.05, 0.95, 37).tolist(), key=dice)


def mask_of(case: ScanCase, volume: Volume) -> np.ndarray[Any, Any]:
    assert case.mask is not None
    return read_labels(case.mask, volume) == 1


def is_of(case: ScanCase, modality: str) -> bool:
    return case.name.endswith(MODALITIES[modality])


def report(out: Path, options: argparse.Namespace, left_out: list[str], clock: Clock) -> None:
    """Write and print the tables of all finished cells."""
    scores = {
        (arm, share, seed): json.loads(file.read_text())["scans"]
        for arm in (BLIND, *options.arms)
        for share in options.shares
        for seed in options.seeds
        if (file := Cell(arm, share, seed).folder(out) / "scores.json").is_file()
    }
    arms = [arm for arm in (BLIND, *options.arms) if any(key[0] == arm for key in scores)]
    tests = tested(scores, arms, options)
    text = "\n\n".join(
        [
            table(scores, arms, options, "dice", "Dice", 3),
            table(scores, arms, options, "hd95_mm", "HD95 in mm", 1),
            tests_table(tests),
            f"Mean ± standard deviation over {len(options.seeds)} seeds of the mean over test patients. Tests: the "
            "unit is the patient (CT and MR averaged, then seeds), exact sign-flip permutation, Holm over the table."
            + least_p(tests)
            + (f" Left out for lack of time: {', '.join(left_out)}." if left_out else "")
            + f" CPU time of everything: {clock.total():.0f} minutes on {options.threads} thread(s).",
        ]
    )
    (out / "results.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    means = {f"{arm}/{share:g}": _mean(scores, arm, share, options.seeds, "dice", None)[0]
             for arm in arms for share in options.shares}  # fmt: skip
    print(json.dumps({"dice": means, "tests": tests, "cpu_minutes": round(clock.total(), 1), "left_out": left_out}))


def least_p(tests: list[dict[str, Any]]) -> str:
    """What so few patients can show at best."""
    if not tests:
        return ""
    patients = tests[0]["patients"]
    return f" With {patients} patients no p can be below {2 / 2**patients:.3f}."


def table(
    scores: dict[Any, Any], arms: list[str], options: argparse.Namespace, field: str, title: str, digits: int
) -> str:
    columns = [(share, modality) for share in options.shares for modality in MODALITIES]
    lines = [f"| {title} | " + " | ".join(f"{modality}, {share:.0%} of labels" for share, modality in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for arm in arms:
        cells = []
        for share, modality in columns:
            mean, deviation = _mean(scores, arm, share, options.seeds, field, modality)
            cells.append("—" if mean is None else f"{mean:.{digits}f} ± {deviation:.{digits}f}")
        lines.append(f"| {arm.replace('_', ' + ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tested(scores: dict[Any, Any], arms: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Paired tests of Dice by patient, Holm-corrected together."""
    rows = []
    for share in options.shares:
        for first, second in COMPARISONS:
            seeds = [s for s in options.seeds if {(first, share, s), (second, share, s)} <= scores.keys()]
            if first not in arms or second not in arms or not seeds:
                continue
            pair = [[by_patient(scores[arm, share, seed], "dice") for seed in seeds] for arm in (first, second)]
            found = compare(*pair)
            assert found is not None
            rows.append(
                {
                    "share": share,
                    "first": first,
                    "second": second,
                    "difference": round(found.difference, 4),
                    "ci95": [round(found.low, 4), round(found.high, 4)],
                    "p": round(found.p, 4),
                    "patients": found.num_volumes,
                }
            )
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = round(corrected, 4)
    return rows


def tests_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| labels | comparison | difference in Dice (95 % interval) | p | p (Holm) |", "|---|---|---|---|---|"]
    for row in rows:
        low, high = row["ci95"]
        names = f"{row['first']} − {row['second']}".replace("_", " + ")
        lines.append(
            f"| {row['share']:.0%} | {names} | {row['difference']:+.3f} ({low:+.3f} to {high:+.3f}) "
            f"| {row['p']:.3f} | {row['p_holm']:.3f} |"
        )
    return "\n".join(lines)


def by_patient(scans: list[dict[str, Any]], field: str, modality: str | None = None) -> dict[str, float]:
    """Mean over each patient's scans, of one modality or all."""
    kept = [scan for scan in scans if modality is None or scan["case"].endswith(MODALITIES[modality])]
    patients = sorted({scan["patient"] for scan in kept})
    return {name: float(np.mean([scan[field] for scan in kept if scan["patient"] == name])) for name in patients}


def _mean(
    scores: dict[Any, Any], arm: str, share: float, seeds: Sequence[int], field: str, modality: str | None
) -> tuple[float | None, float]:
    means = [
        float(np.mean(list(by_patient(scores[arm, share, seed], field, modality).values())))
        for seed in seeds
        if (arm, share, seed) in scores
    ]
    if not means:
        return None, 0.0
    return float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else 0.0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sts", type=Path, help="folder of STS_001 …")
    parser.add_argument("--parts", type=Path, default=Path("runs/parts"), help="folder of vit-s14 and minilm")
    parser.add_argument("--out", type=Path, default=Path("runs/insight-sts"))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(MAIN_ARMS))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.25, 1.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget-minutes", type=float, help="leave out arms that would not fit any more")
    parser.add_argument("--smoke", action="store_true", help="two steps of a tiny network, to see that everything runs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
