"""What is a calibration worth: are its confidences true, and does it know what it does not know?

    slicesight calibrate --model DIR --data phantoms:8000:120
    python benchmarks/calibration.py DIR --data phantoms:9000:60 --questions phantoms --out runs/calibration \
        --far chest=/data/chest --far brain=/data/brain

Answers: ECE (15 bins), AURC and Brier of the model's own probabilities and of the calibrated, over all and by kind,
with 95 % intervals by patient; answers about scans called strange are left out and counted. Scans: for every kind of
near case made by code (strange_scans.py) and of far scans (--far NAME=FOLDER or NAME=phantoms:SEED:COUNT) the
AUROC against the good test scans and the share abstained, with everything and with measurements alone (facts such as
modality and window left out). Questions: the share abstained of a written list of unknown questions and of paraphrases
(calibration_questions.json). OUT/calibration.json, reliability.png, selective.png, strange.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from strange_scans import far_grids, near_grids

from slicesight.data.dataset import Dataset, ManifestDataset, PreparedDataset, open_dataset
from slicesight.inference.calibration.fitting import JudgedAnswer, judge_answers, spread_out
from slicesight.inference.calibration.scan_features import measure_scan
from slicesight.inference.loading import load
from slicesight.inference.predictor import Predictor
from slicesight.io.loading import read_volume
from slicesight.volumes.volume import Volume

QUESTIONS = Path(__file__).with_name("calibration_questions.json")
NUM_BINS = 15
NUM_DRAWS = 1000


def ece(confidences: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: mean |accuracy - confidence| over equal-width bins, weighted by their answers."""
    bins = np.minimum((confidences * NUM_BINS).astype(int), NUM_BINS - 1)
    return sum(abs((right - confidences)[bins == one].sum()) for one in set(bins.tolist())) / len(right)


def aurc(confidences: np.ndarray, right: np.ndarray) -> float:
    """Area under the risk-coverage curve: the mean error rate over all coverages, the surest answers first; equal
    confidences share their mean."""
    order = np.argsort(-confidences, kind="stable")
    sorted_confidences, wrong = confidences[order], 1.0 - right[order]
    for value in np.unique(sorted_confidences):
        same = sorted_confidences == value
        wrong[same] = wrong[same].mean()
    return float((np.cumsum(wrong) / np.arange(1, len(wrong) + 1)).mean())


def brier(confidences: np.ndarray, right: np.ndarray) -> float:
    return float(((confidences - right) ** 2).mean())


METRICS = {"ECE": ece, "AURC": aurc, "Brier": brier}


def auroc(strange: list[float], good: list[float]) -> float:
    """How often a strange scan's score is above a good one's, ties half."""
    left, right = np.minimum(strange, 1e9)[:, None], np.minimum(good, 1e9)[None]
    return float((left > right).mean() + 0.5 * (left == right).mean())


def scan_volume(source: Dataset, case) -> Volume:
    """The case's scan before the grid."""
    if isinstance(source, ManifestDataset):
        return read_volume(source.manifest.parent / case.volume, **case.read_options)
    if isinstance(source, PreparedDataset):
        return read_volume(source.prepared.folder / case.volume, **case.read_options)
    from slicesight.phantoms.rendering import make_phantom

    _, seed, index = case.volume.split(":")
    return make_phantom(int(seed), int(index)).volume


def gauge_for(predictor: Predictor, topic: str | None):
    """The gauge that judges a scan of which a question of the topic is asked."""
    for group in predictor.calibration.scans_of_topics:
        if topic in group.topics:
            return group.scans
    return predictor.calibration.scans


def score_scan(predictor: Predictor, grid, gauge) -> tuple[float, float, bool, str]:
    """(score, score of measurements alone, strange, reason)."""
    features = measure_scan(predictor.encode(grid))
    judged = gauge.judge(features)
    alone = max(gauge.scaled(gauge.distances(features)).values()) / gauge.limit
    return judged.score, alone, judged.is_strange, judged.reason


def with_interval(metric, confidences, right, patients) -> str:
    """The metric with its 95 % interval, patients drawn with replacement."""
    names = sorted(set(patients))
    rows = {name: [row for row, own in enumerate(patients) if own == name] for name in names}
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(NUM_DRAWS if len(names) > 1 else 1):
        picked = np.concatenate([rows[names[place]] for place in rng.integers(len(names), size=len(names))])
        drawn.append(metric(confidences[picked], right[picked]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{metric(confidences, right):.4f} [{low:.4f}, {high:.4f}]"


def measure_answers(predictor: Predictor, answers: list[JudgedAnswer]) -> dict:
    """Before and after, overall and per kind."""
    curves = predictor.calibration.curves
    rows = {"all": answers}
    for one in answers:
        rows.setdefault(one.form, []).append(one)
        rows.setdefault(one.kind, []).append(one)
    table = {}
    for name, own in rows.items():
        right = np.array([one.is_right for one in own], dtype=float)
        before = np.array([one.own for one in own])
        after = np.array(
            [
                0.0 if one.is_outside else (curves.get(one.kind) or curves[one.form]).confidence(one.numbers)
                for one in own
            ]
        )
        table[name] = {"answers": len(own), "accuracy": float(right.mean())}
        for metric, function in METRICS.items():
            table[name][metric] = {
                when: with_interval(function, found, right, [one.patient for one in own])
                for when, found in (("before", before), ("after", after))
            }
        if name in ("all", "open", "closed"):
            table[name]["_arrays"] = (before, after, right)
    return table


def measure_questions(predictor: Predictor, name: str) -> dict:
    """Shares abstained, and which."""
    lists = json.loads(QUESTIONS.read_text(encoding="utf-8"))[name]
    found = {}
    for kind, asked in lists.items():
        judged = {one: predictor.calibration.judge_question(one, predictor) for one in asked}
        unknown = [one for one, judgement in judged.items() if judgement.is_unknown]
        found[kind] = {
            "questions": len(asked),
            "abstained": len(unknown) / len(asked),
            "wrongly": unknown if kind == "paraphrases" else [one for one in asked if one not in unknown],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a calibrated model")
    parser.add_argument("--data", required=True, help="test data: a manifest, or phantoms:SEED:COUNT")
    parser.add_argument("--split", help="which split; left out, test where there are splits")
    parser.add_argument("--count", type=int, help="only so many cases, from the first to the last")
    near_help = "good scans of which near cases are made, from the first to the last"
    parser.add_argument("--near", type=int, default=20, help=near_help)
    parser.add_argument("--far", action="append", default=[], metavar="NAME=FOLDER|phantoms:SEED:COUNT")
    parser.add_argument("--most-far", type=int, default=20, help="scans of each folder")
    parser.add_argument(
        "--topic", help="judge scans as for questions of this topic; the good ones are those asked of it"
    )
    parser.add_argument("--questions", help="phantoms or anatomy: which written list")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    predictor = load(options.model)
    if predictor.calibration is None:
        raise SystemExit(f"{options.model} has no calibration; run slicesight calibrate first")
    source = open_dataset(options.data, split=options.split, prefer="test")
    cases = source.cases if options.count is None else spread_out(source.cases, options.count)
    gauge = gauge_for(predictor, options.topic)
    usual = [case for case in cases if options.topic in (None, *(one.topic for one in case.conversations))]
    known = gauge.known
    synthetic = "yes" in known["synthetic"]

    good, good_alone, answers, kept, num_strange, reasons = [], [], [], [], 0, defaultdict(int)
    seconds = {"strangeness": 0.0, "answers": 0.0}
    for number, case in enumerate(cases):
        say(f"good scan {number + 1} of {len(cases)}")
        scan = predictor.encode(source.grid(case, predictor.grid_spec))
        start = time.process_time()
        score, alone, is_strange, reason = score_scan(predictor, scan, gauge)
        seconds["strangeness"] += time.process_time() - start
        if case in usual:
            good.append(score)
            good_alone.append(alone)
            num_strange += is_strange
            reasons[reason] += is_strange
        start = time.process_time()
        own = list(judge_answers(predictor, scan, case, tolerances=predictor.calibration.tolerances))
        seconds["answers"] += time.process_time() - start
        answers += own
        if not is_strange:
            kept += own
    report: dict = {
        "model": predictor.card.name,
        "data": options.data,
        "good scans": len(good),
        "good scans abstained": num_strange / len(good),
        "why": {reason: count for reason, count in reasons.items() if count},
        "seconds each": {"strangeness": seconds["strangeness"] / len(good), "answers": seconds["answers"] / len(good)},
    }
    table = measure_answers(predictor, answers)
    arrays = {name: row.pop("_arrays") for name, row in table.items() if "_arrays" in row}
    report["answers"] = table
    report["answers about scans not called strange"] = {
        name: row for name, row in measure_answers(predictor, kept).items() if name in ("all", "open", "closed")
    }
    for row in report["answers about scans not called strange"].values():
        row.pop("_arrays", None)

    found: dict[str, list[tuple[float, float, bool, str]]] = defaultdict(list)
    for number, case in enumerate(spread_out(usual, options.near)):
        say(f"near cases of scan {number + 1}")
        volume = replace(scan_volume(source, case), is_synthetic=synthetic)
        for kind, grid in near_grids(volume, predictor, number=number):
            found[f"near: {kind}"].append(score_scan(predictor, grid, gauge))
    for text in options.far:
        name, _, place = text.partition("=")
        say(f"far scans: {name}")
        if place.startswith("phantoms:"):
            far = open_dataset(place)
            grids = (
                predictor.grid(replace(scan_volume(far, case), is_synthetic=synthetic))
                for case in far.cases[: options.most_far]
            )
        else:
            grids = far_grids(Path(place), predictor, most=options.most_far, synthetic=synthetic)
        found[f"far: {name}"] += [score_scan(predictor, grid, gauge) for grid in grids]
    report["strange"] = {}
    for kind, rows in found.items():
        if rows:
            counts: dict[str, int] = defaultdict(int)
            for *_, reason in rows:
                counts[reason] += 1
            report["strange"][kind] = {
                "scans": len(rows),
                "AUROC": auroc([row[0] for row in rows], good),
                "AUROC by measurements alone": auroc([row[1] for row in rows], good_alone),
                "abstained": float(np.mean([row[2] for row in rows])),
                "abstained by measurements alone": float(np.mean([row[1] > 1 for row in rows])),
                "why": dict(counts),
            }
    if options.questions:
        report["questions"] = measure_questions(predictor, options.questions)
    (options.out / "calibration.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    print_report(report)
    draw(
        options.out,
        arrays,
        report,
        {"good": good_alone, **{kind: [row[1] for row in rows] for kind, rows in found.items()}},
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def print_report(report: dict) -> None:
    print(f"{report['good scans']} good scans, {report['good scans abstained']:.3f} called strange {report['why']}")
    print({name: round(value, 4) for name, value in report["seconds each"].items()}, "seconds a scan")
    for title in ("answers", "answers about scans not called strange"):
        print(f"\n{title}\n| kind | n | accuracy | " + " | ".join(f"{name} before | after" for name in METRICS) + " |")
        for name, row in report[title].items():
            cells = [f"{row[metric][when]}" for metric in METRICS for when in ("before", "after")]
            print(f"| {name} | {row['answers']} | {row['accuracy']:.3f} | " + " | ".join(cells) + " |")
    print("\n| strange scans | n | AUROC | abstained | AUROC by measurements alone | abstained |")
    for kind, row in report["strange"].items():
        print(
            f"| {kind} | {row['scans']} | {row['AUROC']:.3f} | {row['abstained']:.2f} | "
            f"{row['AUROC by measurements alone']:.3f} | {row['abstained by measurements alone']:.2f} |"
        )
    for kind, row in report.get("questions", {}).items():
        print(f"\n{kind}: {row['questions']}, abstained {row['abstained']:.3f}; wrongly: {row['wrongly']}")


def draw(out: Path, arrays: dict, report: dict, scores: dict[str, list[float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(arrays), 4.2), layout="constrained")
    for place, (name, (before, after, right)) in enumerate(arrays.items(), start=1):
        axes = figure.add_subplot(1, len(arrays), place)
        axes.plot([0, 1], [0, 1], color="#99a2ad", linestyle="--", linewidth=1)
        for label, found, colour in (("before", before, "#c8372d"), ("after", after, "#1f5fae")):
            bins = np.minimum((found * NUM_BINS).astype(int), NUM_BINS - 1)
            points = [(found[bins == one].mean(), right[bins == one].mean(), (bins == one).sum()) for one in set(bins)]
            x, y, count = zip(*sorted(points), strict=True)
            axes.plot(x, y, color=colour, linewidth=1, label=f"{label}, ECE {ece(found, right):.3f}")
            axes.scatter(x, y, s=8 + 220 * np.array(count) / len(found), color=colour, alpha=0.7)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="share right", title=f"{name} ({len(right)})")
        axes.legend(loc="upper left", fontsize=8)
    figure.savefig(out / "reliability.png", dpi=110)

    figure = Figure(figsize=(4.2 * len(arrays), 3.6), layout="constrained")
    for place, (name, (before, after, right)) in enumerate(arrays.items(), start=1):
        axes = figure.add_subplot(1, len(arrays), place)
        for label, found, colour in (("before", before, "#c8372d"), ("after", after, "#1f5fae")):
            wrong = 1 - right[np.argsort(-found, kind="stable")]
            share = np.arange(1, len(wrong) + 1) / len(wrong)
            axes.plot(
                share, np.cumsum(wrong) / np.arange(1, len(wrong) + 1), color=colour,
                label=f"{label}, AURC {aurc(found, right):.3f}",
            )  # fmt: skip
        axes.set(xlabel="coverage", ylabel="share wrong", title=name, ylim=(0, None))
        axes.legend(fontsize=8)
    figure.savefig(out / "selective.png", dpi=110)

    figure = Figure(figsize=(9, 0.6 + 0.27 * len(scores)), layout="constrained")
    axes = figure.add_subplot()
    for place, (kind, found) in enumerate(scores.items()):
        colour = "#0d8a6a" if kind == "good" else "#c8372d"
        axes.scatter(np.minimum(found, 30), np.full(len(found), -place), s=9, color=colour, alpha=0.6)
    axes.axvline(1, color="#1c2430", linestyle="--", linewidth=1)
    axes.set_yticks([-place for place in range(len(scores))], list(scores), fontsize=8)
    axes.set_xscale("symlog", linthresh=2)
    axes.set_xlabel("strangeness by measurements alone (1 is the limit)")
    figure.savefig(out / "strange.png", dpi=110)


if __name__ == "__main__":
    main()
