"""What can be read from the frozen encoders of recipes/branches-stage0.yaml? Linear probes on phantoms they never saw.

    python benchmarks/branch_probe.py [--model runs/branches-stage0/stage0] [--data branches:3000:500]

The 3D encoder should read what runs across slices (COURSES) and none of the details, the 2D encoder the other way
round. Details are read where a scan has one mass. Inputs: the 3D tokens; the 2D tokens of all slices as mean and as
maximum, and their mean over the slices that truly show what is asked, which is what perfect scores would give. Beside
them the pixels themselves: each slice's mean and spread, sorted, which is what single slices give away. Logistic
regression on four fifths, accuracy on the others in percent, bootstrap interval; chance is 50. Table on stdout.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from slicesight.data.dataset import open_dataset
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration
from slicesight.phantoms.branches import COURSES, VALUES
from slicesight.volumes.grid import GridSpec

sys.path.insert(0, str(Path(__file__).resolve().parent))
from feature_probe import probe

GRID = GridSpec(num_slices=32, height=64, width=64, window="-160,240", crop_foreground=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/branches-stage0/stage0", help="folder of stage 0")
    parser.add_argument("--data", default="branches:3000:500", help="phantoms that stage 0 did not see")
    options = parser.parse_args()
    model = Med2E3ForConditionalGeneration.from_pretrained(options.model, dtype=torch.float32).eval()
    data = open_dataset(options.data, grid=GRID)
    inputs: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in VALUES}
    labels: dict[str, list[str | None]] = {name: [] for name in VALUES}
    for case in data.cases:
        volume = data.voxels(case)
        with torch.no_grad():
            seen_3d = model.encode_3d(torch.from_numpy(volume)[None, None])[0].flatten().numpy()
            slices_NLC = model.encode_2d(torch.from_numpy(volume)[None, None])[0].numpy()
        pixels = np.concatenate([np.sort(volume.mean(axis=(1, 2))), np.sort(volume.std(axis=(1, 2)))])
        pieces = case.truth["pieces"]
        for name in VALUES:
            own = [piece for piece in pieces if name in piece["values"]]
            if len(own) != 1:
                continue
            labels[name].append(own[0]["values"][name])
            found = {
                "3D tokens": seen_3d,
                "2D, mean": slices_NLC.mean(axis=0).ravel(),
                "2D, maximum": slices_NLC.max(axis=0).ravel(),
                "2D, the true slices": slices_NLC[list(own[0]["slices"])].mean(axis=0).ravel(),
                "statistics of single slices": pixels,
            }
            for row, features in found.items():
                inputs[name].setdefault(row, []).append(features)
    print(f"| read from | {' | '.join(VALUES)} |\n{'|---' * (len(VALUES) + 1)}|")
    for row in inputs[next(iter(COURSES))]:
        cells = [probe(scaled(inputs[name][row]), labels[name]) for name in VALUES]
        print(f"| {row} | {' | '.join(cells)} |", flush=True)
    print(f"phantoms: {', '.join(f'{name} {len(labels[name])}' for name in VALUES)}")


def scaled(features: list[np.ndarray]) -> list[np.ndarray]:
    """With mean 0 and spread 1 in every column."""
    stacked = np.stack(features)
    return list((stacked - stacked.mean(axis=0)) / (stacked.std(axis=0) + 1e-6))


if __name__ == "__main__":
    main()
