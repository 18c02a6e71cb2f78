"""Does occlusion find the slices that a model with slice scores points at, and those that truly show what is asked?

On phantoms a shipped model answers every open and closed question; beside its own slice scores (TG-IS) stands what
`inference/occlusion.py` measures by blanking slices in both encoders, with the same budget as for a guest. Printed,
with intervals by volume: Spearman's rank correlation of the two over all slices and over those that occlusion gives any
weight, Pearson's, how often the heaviest slices are the same or neighbours, and the excess mass on the true slices of
each, (mass - share) / (1 - share). Blind control: the occlusion of another phantom's question of the same topic.

    python benchmarks/occlusion.py --count 100 --out runs/occlusion      # goes on where it was stopped
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from slicesight import load
from slicesight.data.dataset import open_dataset
from slicesight.evaluation.controls import MAX_NEW_TOKENS, true_slices
from slicesight.evaluation.likelihood import as_generated, log_likelihoods, open_scan, score_questions
from slicesight.evaluation.statistics import mean_interval
from slicesight.inference.answers import NO_WORDS
from slicesight.inference.occlusion import occlude


def measure(predictor, source, case, *, widths, branch):
    """One line of JSON per question: TG-IS scores, occlusion shares per width, the true slices."""
    grid = source.grid(case, predictor.grid_spec)
    scan = open_scan(predictor, grid)
    asked = [pair for pair in case.conversations if pair.task in ("open", "closed")]
    scores_QN = score_questions(scan, [pair.prompt for pair in asked])
    answers = predictor.ask(grid, [pair.prompt for pair in asked], max_new_tokens=MAX_NEW_TOKENS)
    for pair, scores_N, answer in zip(asked, scores_QN, answers, strict=True):
        if answer.text == NO_WORDS:
            continue
        said = as_generated(scan, pair.prompt, answer.text)

        def likely(kept_VN, prompt=pair.prompt, said=said):
            return log_likelihoods(scan, prompt, said, kept_VN, branch=branch)

        found = {str(width): occlude(likely, len(scores_N), width=width) for width in widths}
        yield {
            "volume": case.id,
            "topic": pair.topic,
            "task": pair.task,
            "true": true_slices(pair, grid),
            "scores": scores_N.tolist(),
            "occlusion": {width: one.shares for width, one in found.items()},
            "passes": {width: one.num_passes for width, one in found.items()},
            "fall": {width: one.fall for width, one in found.items()},
            "flat": {width: one.is_flat for width, one in found.items()},
        }


def excess(shares, true):
    share = len(true) / len(shares)
    return (float(np.asarray(shares)[list(true)].sum()) - share) / (1 - share)


def report(rows, width):
    """Every number with its interval by volume."""
    volumes = [row["volume"] for row in rows]
    used = [row for row in rows if not row["flat"][width]]
    pairs = [(np.array(row["scores"]), np.array(row["occlusion"][width])) for row in used]
    some = [place for place, (_, shares) in enumerate(pairs) if np.unique(shares[shares > 0]).size > 2]
    names = [row["volume"] for row in used]
    shown = [row for row in rows if row["true"] and len(row["true"]) < len(row["scores"]) / 2]
    others = {}
    for row in shown:
        others.setdefault(row["topic"], []).append(row)
    blind = [
        others[row["topic"]][(others[row["topic"]].index(row) + 1) % len(others[row["topic"]])]["occlusion"][width]
        for row in shown
    ]
    where = [row["volume"] for row in shown]
    numbers = {
        "rank correlation with TG-IS": ([spearmanr(*pair).statistic for pair in pairs], names),
        "rank correlation where occlusion gives weight": (
            [spearmanr(pairs[n][0][pairs[n][1] > 0], pairs[n][1][pairs[n][1] > 0]).statistic for n in some],
            [names[n] for n in some],
        ),
        "correlation (Pearson)": ([np.corrcoef(*pair)[0, 1] for pair in pairs], names),
        "heaviest slice the same or its neighbour": ([abs(a.argmax() - b.argmax()) <= 1 for a, b in pairs], names),
        "excess mass, TG-IS": ([excess(row["scores"], row["true"]) for row in shown], where),
        "excess mass, occlusion": ([excess(row["occlusion"][width], row["true"]) for row in shown], where),
        "excess mass, occlusion of another phantom": (
            [excess(shares, row["true"]) for shares, row in zip(blind, shown, strict=True)],
            where,
        ),
        "passes": ([row["passes"][width] for row in rows], volumes),
    }
    print(
        f"\nwidth {width}: {len(set(volumes))} volumes, {len(rows)} questions, {len(rows) - len(used)} rest on no slice"
    )
    for name, (values, names) in numbers.items():
        found = mean_interval(np.array(values, dtype=float), names)
        print(f"{name:46}{found.value:8.3f}  ({found.low:.3f}…{found.high:.3f})  n = {len(values)}")
    return {name: mean_interval(np.array(v, dtype=float), n).to_dict() for name, (v, n) in numbers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="phantom-tiny")
    parser.add_argument("--seed", type=int, default=9000)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--widths", type=int, nargs="+", default=[4])
    parser.add_argument("--branch", choices=("whole", "slices"), default="whole")
    parser.add_argument("--out", type=Path, default=Path("runs/occlusion"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{options.model}-{options.seed}-{options.branch}-{'-'.join(map(str, options.widths))}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {row["volume"] for row in rows}
    source = open_dataset(f"phantoms:{options.seed}:{options.count}")
    predictor = load(options.model)
    began = time.monotonic()
    for number, case in enumerate(source.cases):
        if case.id in done:
            continue
        new = list(measure(predictor, source, case, widths=options.widths, branch=options.branch))
        with file.open("a") as out:  # a case at a time, whole
            out.write("".join(json.dumps(row) + "\n" for row in new))
        rows += new
        print(f"{number + 1}/{options.count} {time.monotonic() - began:.0f} s", flush=True)
    found = {str(width): report(rows, str(width)) for width in options.widths}
    file.with_suffix(".summary.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
