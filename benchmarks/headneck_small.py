"""What is a segmenter of head-and-neck CT worth: Dice and HD95 by organ, against place alone, on scans it never saw?

    python benchmarks/headneck_small.py gauge RUN --root SCANS --out MODEL     # half-precision weights, strangeness
    python benchmarks/headneck_small.py score MODEL --root SCANS --split val --out scores-val
    python benchmarks/headneck_small.py strange MODEL SCAN SCAN ... --out strange.json
    python benchmarks/headneck_small.py speed MODEL SCAN                        # beside MONAI's own inferer

RUN is what `slicesight insight segment recipes/headneck-small.yaml` wrote. Scores are in the scans' own voxels, of
drawn structures only, with bootstrap intervals by patient. "By place alone" looks at no grey value: the mean of the
training masks stretched to the body's box, cut at the level that is best on the training patients. Overlays are drawn
of the best, the median and the worst patient by mean Dice. Score the test patients once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from slicesight.evaluation.metrics.masks import CaseScore, overlap
from slicesight.evaluation.scan_scores import case_scores
from slicesight.evaluation.statistics import mean_interval
from slicesight.files import write_text
from slicesight.inference.calibration.calibration import Calibration
from slicesight.inference.calibration.scan_features import ScanFeatures
from slicesight.inference.calibration.storage import ARRAYS_FILE, CALIBRATION_FILE, write_calibration
from slicesight.inference.calibration.strangeness import fit_gauge
from slicesight.inference.found_structures import judge_found, measure_found, read_gauge
from slicesight.inference.scan_prediction import load_segmenter
from slicesight.inference.segmenting import count_windows, segment_scan, to_scan_voxels
from slicesight.io.loading import read_volume
from slicesight.io.masks import read_labels
from slicesight.models.folder import CONFIG_FILE, WEIGHTS_FILE, read_model_folder
from slicesight.models.med3dinsight.preparation import prepare_scan
from slicesight.reports.overlays import write_overlay
from slicesight.training.scan_list import ScanCase, read_cases
from slicesight.volumes.foreground import foreground_box, foreground_threshold
from slicesight.volumes.resize import resize
from slicesight.volumes.volume import Volume

LIST = Path(__file__).parents[1] / "recipes" / "headneck-small" / "scans.jsonl"
GAUGE_TRAINING = 6
"""Training patients that say what is usual, besides all validation patients, whose distances are the scale."""
BOX = (32, 32, 32)
LEVELS = np.linspace(0.1, 0.7, 13)


def read_list(root: Path, names: Sequence[str]) -> list[ScanCase]:
    """The cases, of whose drawn structures only those count that the model has."""
    cases = read_cases(LIST, needs="mask", root=root)
    return [replace(case, drawn={n: v for n, v in (case.drawn or {}).items() if n in names}) for case in cases]


def make_gauge(run: Path, root: Path, out: Path, drop: list[str]) -> None:
    """The model folder that ships: weights in float16 without what is dropped, config, log, the gauge."""
    out.mkdir(parents=True, exist_ok=True)
    config, weights = read_model_folder(run, kind="segmenter")
    labels = config["labels"]
    kept = [place for place, name in enumerate(labels) if name not in drop]
    for part in ("head.weight", "head.bias"):
        weights[part] = weights[part][kept]
    config["labels"] = {name: value for name, value in labels.items() if name not in drop}
    halves = {name: tensor.half().contiguous() for name, tensor in weights.items()}
    save_file(halves, out / WEIGHTS_FILE, metadata={"format": "pt"})
    write_text(out / CONFIG_FILE, text=json.dumps(config, indent=2) + "\n")
    shutil.copy(run / "log.jsonl", out / "log.jsonl")
    for name in (CALIBRATION_FILE, ARRAYS_FILE):
        (out / name).unlink(missing_ok=True)  # of other weights
    segmenter = load_segmenter(out)
    training = [case for case in read_list(root, segmenter.names) if case.split == "train"]
    chosen = training[:: max(1, len(training) // GAUGE_TRAINING)][:GAUGE_TRAINING]
    measured: dict[str, ScanFeatures] = {}
    for case in chosen:
        volume = read_volume(case.image)
        found = segment_scan(segmenter, volume, name=case.image.name, keeps_memory=True)
        measured[case.patient] = measure_found(found, segmenter, volume)
        print(f"{case.patient}: measured", flush=True)
    training_patients = set(measured)
    score(out, root, "val", out.with_name(f"{out.name}-val"), measured=measured)
    gauge = fit_gauge(
        list(measured.values()),
        patients=list(measured),
        held_out=[patient not in training_patients for patient in measured],
    )
    facts = {"scans": len(measured), "held_out": len(measured) - len(training_patients)}
    write_calibration(Calibration(curves={}, scans=gauge, facts=facts), out)
    print(f"limit {gauge.limit:.2f}, scales {gauge.scales}")


def score(model: Path, root: Path, split: str, out: Path, *, measured: dict[str, ScanFeatures] | None = None) -> None:
    """Every drawn structure of every patient of a split, the blind row, and three overlays."""
    segmenter, gauge = load_segmenter(model), read_gauge(model)
    cases = read_list(root, segmenter.names)
    own = [case for case in cases if case.split == split]
    places = {} if measured is not None else mean_places([c for c in cases if c.split == "train"][::4], segmenter)
    scores: list[CaseScore] = []
    blind: dict[str, list[float]] = {name: [] for name in segmenter.names}
    labels, strange, seconds = {}, {}, []
    for case in own:
        volume = read_volume(case.image)
        true = read_labels(case.mask, volume)
        started = time.process_time()
        found = segment_scan(segmenter, volume, name=case.image.name, keeps_memory=True)
        seconds.append(time.process_time() - started)
        if measured is not None:
            measured[case.patient] = measure_found(found, segmenter, volume)
        if gauge is not None:
            strange[case.patient] = judge_found(found, segmenter, volume, gauge).to_dict()
        labels[case.patient] = found.labels
        scores += case_scores(case, found.labels, true, segmenter, spacing_mm=volume.spacing_mm)
        if places:
            for name, dice in blind_dice(case, volume, true, segmenter, places).items():
                blind[name].append(dice)
        print(case.patient, [round(s.dice, 3) for s in scores if s.patient == case.patient], flush=True)
    rows = summarise(scores, segmenter.names, blind)
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "split": split,
        "patients": len(own),
        "rows": rows,
        "strange": strange,
        "cpu_seconds_a_scan": round(float(np.median(seconds)), 2),
        "scans": [one.to_dict() for one in scores],
    }
    write_text(out / "scores.json", text=json.dumps(content, indent=1) + "\n")
    for row in rows:
        print(row)
    draw(own, labels, scores, segmenter, out)


def summarise(scores: list[CaseScore], names: tuple[str, ...], blind: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Mean Dice and HD95 of every structure with 95 % intervals, and the mean of all structures by patient."""
    rows = []
    for name in (*names, "mean of a patient's structures"):
        if name in names:
            dice = np.array([s.dice for s in scores if s.structure == name])
            distance = np.array([s.hd95_mm for s in scores if s.structure == name])
            place = blind[name]
        else:
            patients = dict.fromkeys(s.patient for s in scores)
            dice, distance = (
                np.array([np.mean([getattr(s, field) for s in scores if s.patient == p]) for p in patients])
                for field in ("dice", "hd95_mm")
            )
            place = [value for own in blind.values() for value in own]
        middle, far = mean_interval(dice), mean_interval(distance)
        rows.append(
            {
                "structure": name,
                "patients": len(dice),
                "dice": round(middle.value, 3),
                "dice_ci95": [round(middle.low, 3), round(middle.high, 3)],
                "dice_median": round(float(np.median(dice)), 3),
                "hd95_mm": round(far.value, 1),
                "hd95_mm_ci95": [round(far.low, 1), round(far.high, 1)],
                "hd95_mm_median": round(float(np.median(distance)), 1),
                "missed": int((dice == 0).sum()),
                "dice_by_place_alone": round(float(np.mean(place)), 3) if len(place) else None,
            }
        )
    return rows


def mean_places(cases: list[ScanCase], segmenter: Any) -> dict[str, tuple[np.ndarray, float]]:
    """For every structure the share of training patients that have it at a place of the box, and the best level."""
    shares: dict[str, list[np.ndarray]] = {name: [] for name in segmenter.names}
    numbers = dict(zip(segmenter.names, segmenter.values, strict=True))
    for case in cases:
        volume = read_volume(case.image)
        true = read_labels(case.mask, volume)
        box = foreground_box(volume.voxels, foreground_threshold(volume))
        inside = true[tuple(slice(*part) for part in box)]
        for name, value in zip(segmenter.names, case.values(numbers), strict=True):
            if value is not None:
                shares[name].append(resize((inside == value).astype(np.float32), BOX, to_grey=lambda block: block))
    found = {}
    for name, own in shares.items():
        mean = np.mean(own, axis=0)
        truths = [one > 0.5 for one in own]
        dice = [
            np.mean([overlap(mean > level * mean.max(), one, spacing_mm=None)[0] for one in truths]) for level in LEVELS
        ]
        found[name] = (mean, float(LEVELS[int(np.argmax(dice))] * mean.max()))
    return found


def blind_dice(
    case: ScanCase, volume: Volume, true: np.ndarray, segmenter: Any, places: dict[str, Any]
) -> dict[str, float]:
    """Dice of the mean place of every drawn structure, stretched to this scan's body."""
    box = foreground_box(volume.voxels, foreground_threshold(volume))
    inside = tuple(slice(*part) for part in box)
    size = tuple(stop - start for start, stop in box)
    numbers, found = dict(zip(segmenter.names, segmenter.values, strict=True)), {}
    for name, value in zip(segmenter.names, case.values(numbers), strict=True):
        if value is not None:
            mean, level = places[name]
            stretched = resize(mean.astype(np.float32), size, to_grey=lambda block: block)
            guess = np.zeros(true.shape, bool)
            guess[inside] = stretched > level
            found[name] = overlap(guess, true == value, spacing_mm=None)[0]
    return found


def draw(cases: list[ScanCase], labels: dict[str, Any], scores: list[CaseScore], segmenter: Any, out: Path) -> None:
    """Overlays of the best, the median and the worst patient by mean Dice."""
    mean = {case.patient: np.mean([s.dice for s in scores if s.patient == case.patient]) for case in cases}
    order = sorted(cases, key=lambda case: -mean[case.patient])
    for word, case in (("best", order[0]), ("median", order[len(order) // 2]), ("worst", order[-1])):
        volume = read_volume(case.image)
        true = read_labels(case.mask, volume)
        drawn = [v for v in case.values(dict(zip(segmenter.names, segmenter.values, strict=True))) if v is not None]
        dice = ", ".join(f"{s.structure} {s.dice:.2f}" for s in scores if s.patient == case.patient)
        write_overlay(
            volume,
            labels[case.patient],
            out / f"{word}.png",
            names=segmenter.names,
            values=segmenter.values,
            true_ZYX=np.where(np.isin(true, drawn), true, 0),
            window=segmenter.preparation.window,
            title=f"{word}: {case.patient}, Dice {dice}",
        )


def judge_strangers(model: Path, scans: list[Path], out: Path) -> None:
    """How each of these scans would be judged."""
    segmenter, gauge = load_segmenter(model), read_gauge(model)
    assert gauge is not None
    rows = []
    for path in scans:
        volume = read_volume(path)
        found = segment_scan(segmenter, volume, name=path.name, keeps_memory=True)
        judged = judge_found(found, segmenter, volume, gauge)
        parts = gauge.scaled(gauge.distances(measure_found(found, segmenter, volume)))
        millilitres = {
            name: round(float((found.labels == value).sum() * np.prod(volume.spacing_mm)) / 1000, 1)
            for name, value in zip(segmenter.names, segmenter.values, strict=True)
        }
        row = {"scan": "/".join(path.parts[-2:]), "unit": volume.unit, **judged.to_dict(), "refused": judged.is_refused}
        row |= {"parts": {name: round(part, 1) for name, part in parts.items()}, "ml": millilitres}
        rows.append({**row, "likely": found.likely})
        print(rows[-1], flush=True)
    write_text(out, text=json.dumps(rows, indent=1) + "\n")


def compare_speed(model: Path, scan: Path) -> None:
    """Seconds, and how alike the labels are: MONAI's inferer as its tutorials call it, and this package's way."""
    from monai.inferers import SlidingWindowInferer

    volume, segmenter = read_volume(scan), load_segmenter(model)
    size, share = segmenter.backbone.spec.image_size, segmenter.config.overlap
    plain = load_segmenter(model).to(memory_format=torch.contiguous_format)
    flips = 2 if segmenter.config.mirror_average else 1
    inferer = SlidingWindowInferer(size, 1, overlap=share, mode="gaussian")
    prepared = prepare_scan(volume, plain.preparation, image_size=size, name="scan")

    @torch.inference_mode()
    def monai() -> np.ndarray:
        voxels = torch.from_numpy(prepare_scan(volume, plain.preparation, image_size=size, name="scan").voxels)
        logits = inferer(voxels[None, None], plain)[0]
        if flips == 2:
            mirrored = inferer(voxels[None, None].flip(4), plain)[0].flip(3)
            logits = (logits + mirrored[list(plain.mirrored_classes)]) / 2
        return to_scan_voxels(logits, plain.values, box=prepared.box, shape=volume.shape)

    def own() -> np.ndarray:
        return segment_scan(segmenter, volume, name="scan").labels

    found, seconds = {}, {"own": [], "monai": []}
    for name, way in (("own", own), ("monai", monai), ("own", own), ("monai", monai)):
        wall, cpu = time.perf_counter(), time.process_time()
        found[name] = way()
        seconds[name].append((round(time.perf_counter() - wall, 2), round(time.process_time() - cpu, 2)))
    dice = {
        name: round(overlap(found["own"] == value, found["monai"] == value, spacing_mm=None)[0], 4)
        for name, value in zip(plain.names, plain.values, strict=True)
    }
    cpu = {name: min(one[1] for one in own_seconds) for name, own_seconds in seconds.items()}
    windows = flips * count_windows(prepared.voxels.shape, size, share)
    result = {"windows": windows, "threads": torch.get_num_threads(), "wall_and_cpu_seconds": seconds}
    print(json.dumps({**result, "ratio_cpu": round(cpu["monai"] / cpu["own"], 2), "dice_of_both": dice}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("gauge", "score", "strange", "speed"))
    parser.add_argument("model", type=Path)
    parser.add_argument("scans", type=Path, nargs="*")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--drop", nargs="*", default=[], help="structures that the model does not find well enough")
    options = parser.parse_args()
    if options.task == "gauge":
        make_gauge(options.model, options.root, options.out, options.drop)
    elif options.task == "score":
        score(options.model, options.root, options.split, options.out)
    elif options.task == "strange":
        judge_strangers(options.model, options.scans, options.out)
    else:
        compare_speed(options.model, options.scans[0])


if __name__ == "__main__":
    main()
