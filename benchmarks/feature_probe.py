"""What can be read from the frozen encoders before any training of connectors? Linear probes behind each aggregation.

    python benchmarks/feature_probe.py [--count 2400] [--set init=... --set data.folder=... --set feature_cache=...]

The cells of `slicesight ablate` start from these features (recipes/phantom-ablation.yaml). Per phantom: its plane and
phase, and, of phantoms with one finding, its organ, kind and place. Inputs: the 3D tokens; the 2D tokens aggregated
over slices as in Table 4 (random weights, mean, maximum); the 2D tokens averaged over the slices that truly show the
finding, which is what perfect scores would give. Logistic regression on four fifths of the phantoms, accuracy on the
others; the interval is a bootstrap over those. About 2 CPU minutes once the features are there. Table on stdout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

from slicesight.evaluation.statistics import mean_interval
from slicesight.training.classification import solve_probe
from slicesight.training.feature_cache import fill_caches, open_caches
from slicesight.training.recipe import read_recipe
from slicesight.training.run import open_source, set_trainable
from slicesight.training.start import build_start

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "phantom-ablation.yaml"
TARGETS = ("plane", "phase", "organ", "kind", "place")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2400, help="so many phantoms of the recipe's set")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    options = parser.parse_args()
    recipe = read_recipe(RECIPE, tuple(options.changes))
    data = open_source(recipe, once=lambda facts: None).with_seed(recipe.seed)
    phantoms = data.phantoms
    model, _ = build_start(recipe, data)
    set_trainable(model, ())
    caches = {cache.part: cache for cache in open_caches(recipe.feature_cache, model, data, bf16=recipe.bf16)}
    cases = range(min(options.count, len(phantoms)))
    fill_caches(list(caches.values()), model, data, cases, device=torch.device("cpu"))
    rng = np.random.default_rng(0)
    inputs, labels = [], []
    for case in cases:
        seen_3d = caches["vision3d"].read(data, case).flatten().numpy()
        slices_NLC = caches["vision2d"].read(data, case).numpy()
        truth = phantoms.truths[case]
        finding = truth.findings[0] if len(truth.findings) == 1 else None
        pixels = np.count_nonzero(phantoms.findings[case], axis=(1, 2))
        shown = pixels > 0.3 * pixels.max() if pixels.any() else np.ones(len(pixels), bool)
        noise = np.exp(rng.normal(size=len(slices_NLC)))
        inputs.append(
            {
                "3D tokens": seen_3d,
                "2D, random weights": np.tensordot(noise / noise.sum(), slices_NLC, axes=1).ravel(),
                "2D, mean": slices_NLC.mean(axis=0).ravel(),
                "2D, maximum": slices_NLC.max(axis=0).ravel(),
                "2D, the true slices": slices_NLC[shown].mean(axis=0).ravel(),
            }
        )
        place = finding and f"{finding.organ} {finding.part}"
        labels.append((truth.plane, truth.phase, finding and finding.organ, finding and finding.abnormality, place))
    print(f"| read from | {' | '.join(TARGETS)} |\n{'|---' * (len(TARGETS) + 1)}|")
    for name in inputs[0]:
        cells = [probe([row[name] for row in inputs], [row[place] for row in labels]) for place in range(len(TARGETS))]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"| commonest | {' | '.join(commonest([row[place] for row in labels]) for place in range(len(TARGETS)))} |")


def probe(inputs: list[np.ndarray], labels: list[str | None]) -> str:
    """Held-out accuracy in percent with its interval."""
    features_BC, truth_B, num_classes = known(inputs, labels)
    cut = len(truth_B) * 4 // 5
    head = nn.Linear(features_BC.shape[1], num_classes)
    solve_probe(head, features_BC[:cut], truth_B[:cut], l2=10.0)
    with torch.no_grad():
        is_right = (head(features_BC[cut:]).argmax(dim=-1) == truth_B[cut:]).double().numpy()
    found = mean_interval(is_right)
    return f"{100 * found.value:.0f} ({100 * found.low:.0f}–{100 * found.high:.0f})"


def commonest(labels: list[str | None]) -> str:
    """What the commonest label would get."""
    given = [label for label in labels if label is not None]
    return f"{100 * max(given.count(label) for label in set(given)) / len(given):.0f}"


def known(inputs: list[np.ndarray], labels: list[str | None]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Features and class numbers of the phantoms that have the label."""
    names = sorted({label for label in labels if label is not None})
    kept = [place for place, label in enumerate(labels) if label is not None]
    features_BC = torch.from_numpy(np.stack([inputs[place] for place in kept])).float()
    return features_BC, torch.tensor([names.index(labels[place]) for place in kept]), len(names)


if __name__ == "__main__":
    main()
