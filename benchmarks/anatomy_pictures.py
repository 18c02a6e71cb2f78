"""What do answers about real scans look like: right ones, wrong ones, and those held back?

    python benchmarks/anatomy_pictures.py PREPARED --model FOLDER --out DIR

Of the test split's questions, drawn with a seed, the first of each topic that is answered rightly, wrongly, or not at
all: `right-1.png` to `abstained-4.png`, each a report with one question, its truth beside it, to be looked at. They
show scans, so they stay where the scans are. `scores.png` shows four answers without any scan: scores and true slices.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
import numpy as np

import slicesight
from slicesight.data.dataset import ManifestDataset, open_dataset
from slicesight.data.manifest import Case
from slicesight.inference.answers import Answer
from slicesight.inference.predictor import Predictor
from slicesight.reports.ask import AnswerReport
from slicesight.reports.evidence import KnownTruth
from slicesight.reports.truth import judge

EACH = 4
MOST_LETTERS = 110
DRAWN = ("presence", "third", "in view", "near")
Found = tuple[Answer, KnownTruth, AnswerReport, Case]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=150, help="scans that are asked at most")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    mpl.use("Agg")
    options.out.mkdir(parents=True, exist_ok=True)
    predictor = slicesight.load(options.model)
    source = open_dataset(options.prepared / "manifest.jsonl", split=options.split)
    assert isinstance(source, ManifestDataset)
    cases = source.cases
    found: dict[str, dict[str, Found]] = defaultdict(dict)
    drawn: dict[str, Found] = {}
    rng = np.random.default_rng(options.seed)
    for number in rng.permutation(len(cases))[: options.most]:
        case = cases[number]
        for one in ask(predictor, source, case):
            kind = "abstained" if one[0].abstained else "right" if one[1].is_right else "wrong"
            topic = next(asked.topic for asked in case.conversations if asked.prompt == one[0].question)
            found[kind].setdefault(topic, one)
            if kind == "right" and one[1].grid_slices and len(one[0].question) < MOST_LETTERS:
                drawn.setdefault(topic, one)
    for kind, by_topic in found.items():
        for place, (topic, (answer, truth, report, case)) in enumerate(list(by_topic.items())[:EACH], start=1):
            name = f"{kind}-{place}"
            one = AnswerReport(
                volume=report.volume, grid=report.grid, card=report.card, answers=[answer], truths=[truth]
            )
            one.write_png(options.out / f"{name}.png")
            print(f"{name}: {case.id} {topic}: {answer.question!r} -> {answer.text!r} (truth {truth.answer!r})")
    draw(drawn, options.out / "scores.png")


def ask(predictor: Predictor, source: ManifestDataset, case: Case) -> list[Found]:
    """All questions of a case that can be right or wrong."""
    volume = source.volume(case)
    encoded = predictor.encode(volume)
    asked = [one.prompt for one in case.conversations if one.task != "report"]
    if not asked:
        return []
    answers = predictor.ask(encoded, asked)
    report = AnswerReport(volume=volume, grid=encoded.grid, card=predictor.card, answers=answers)
    truths = judge(answers, case, grid=encoded.grid)
    return [(one, truth, report, case) for one, truth in zip(answers, truths, strict=True) if truth is not None]


def draw(right: dict[str, Found], path: Path) -> None:
    """Scores of four right answers, with the slices that truly show what was asked."""
    import matplotlib.pyplot as plt

    chosen = [right[topic] for topic in DRAWN if topic in right]
    if not chosen:
        return
    figure, axes = plt.subplots(len(chosen), 1, figsize=(8, 1.9 * len(chosen)), squeeze=False, layout="constrained")
    for axis, (answer, truth, _, _) in zip(axes[:, 0], chosen, strict=True):
        scores = np.array(answer.scores)
        places = np.arange(1, len(scores) + 1)
        for place in truth.grid_slices:
            axis.axvspan(place + 0.5, place + 1.5, color="#e8d9a8", lw=0)
        axis.bar(places, scores, color="#1f5fae")
        axis.axhline(1 / len(scores), color="#c0392b", ls="--", lw=1)
        sure = "" if answer.confidence is None else f"   (confidence {answer.confidence:.2f})"
        axis.set_title(f"{answer.question}\n{answer.text}{sure}", fontsize=9, loc="left")
        axis.set_xlim(0.5, len(scores) + 0.5)
        axis.tick_params(labelsize=7)
        axis.set_ylabel("score", fontsize=8)
    axes[-1, 0].set_xlabel("slice of the grid, from the feet up; shaded: it truly shows what was asked", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
