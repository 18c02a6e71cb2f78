"""How long does each stage of a scan take on this machine, by CPU time? What benchmarks/fleet.py is held against.

usage: python benchmarks/fleet_measure.py [--count 200] [--workers 1] [--model phantom-tiny]
       python benchmarks/fleet_measure.py --full-read

Phantoms are painted once and linked under as many names as are wanted. Each worker is a process with one thread that
loads the model and then reads, encodes, asks and writes its scans, one after the other: worker w of W takes every W-th.
Seconds are of CPU time (`time.process_time`), since others may compute here meanwhile; wall seconds are told beside.
--full-read times the reading of one scan of 512 x 512 x 300 voxels: its digest, unpacked, brought to the grid.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

QUESTIONS = (
    "Which phase is this? Choices: A. non-contrast B. arterial C. portal venous D. delayed",
    "Is there a lesion in the liver?",
    "Which plane do the slices show?",
)
STAGES = ("read_cpu_s", "encode_s", "ask_s", "write_cpu_s")
PAINTED = 10


@dataclass(frozen=True, kw_only=True)
class Measured:
    """stages: mean CPU seconds of a scan, of the first fifth. cpu_s: of the worker that took longest, its start too."""

    stages: dict[str, float]
    start_s: float
    spread: float
    cpu_s: float
    wall_s: float


def work(model: str, scans: list[str], out: str) -> None:
    """One worker: [start, [stage times of each scan], all] as JSON in `out`."""
    import torch

    import slicesight

    torch.set_num_threads(1)
    predictor = slicesight.load(model)
    start = time.process_time()
    rows = []
    with open(f"{out}.jsonl", "w", encoding="utf-8") as file:
        for scan in scans:
            marks = [time.process_time()]
            grid = predictor.as_grid(scan)
            marks.append(time.process_time())
            encoded = predictor.encode(grid)
            marks.append(time.process_time())
            answers = predictor.ask(encoded, list(QUESTIONS))
            marks.append(time.process_time())
            file.write(json.dumps([[answer.text, answer.scores] for answer in answers]) + "\n")
            file.flush()
            os.fsync(file.fileno())
            marks.append(time.process_time())
            rows.append([after - before for before, after in pairwise(marks)])
    Path(out).write_text(json.dumps([start, rows, time.process_time()]), encoding="utf-8")


def run_workers(*, count: int, workers: int, model: str = "phantom-tiny") -> Measured:
    """Paint, answer, and add up."""
    from slicesight.phantoms.folder import write_phantoms

    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        painted = min(PAINTED, count)
        write_phantoms(place / "painted", count=painted, seed=77000)
        files = sorted((place / "painted").rglob("*.nii.gz"))[:painted]
        scans = []
        for number in range(count):
            link = place / f"{number}.nii.gz"
            os.link(files[number % painted], link)
            scans.append(str(link))
        outs = [str(place / f"worker-{number}") for number in range(workers)]
        begin = time.perf_counter()
        started = [
            context.Process(target=work, args=(model, scans[number::workers], outs[number]))
            for number in range(workers)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
        wall_s = time.perf_counter() - begin
        found = [json.loads(Path(out).read_text(encoding="utf-8")) for out in outs]
    first = np.array([row for _, rows, _ in found for row in rows[: max(1, len(rows) // 5)]])
    whole = first.sum(axis=1)
    spread = math.sqrt(math.log1p((whole.std() / whole.mean()) ** 2))
    return Measured(
        stages=dict(zip(STAGES, first.mean(axis=0).tolist(), strict=True)),
        start_s=statistics.mean(start for start, _, _ in found),
        spread=spread,
        cpu_s=max(end for _, _, end in found),
        wall_s=wall_s,
    )


def full_read() -> dict[str, float]:
    """One scan as large as a chest CT: noise on a ball, packed as NIfTI files are."""
    from slicesight.data.fingerprints import content_digest
    from slicesight.io.loading import read_volume
    from slicesight.io.writers import write_nifti
    from slicesight.volumes.grid import GridSpec, to_grid
    from slicesight.volumes.volume import Volume

    draw = np.random.default_rng(0)
    z, y, x = np.ogrid[-1:1:300j, -1:1:512j, -1:1:512j]
    inside = (x**2 / 0.7 + y**2 / 0.5 + 0 * z) < 1
    voxels = np.where(inside, draw.normal(40, 12, size=inside.shape), -1000).round().astype(np.float32)
    affine = np.array([[0, 0, 0.7, 0], [0, 0.7, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "scan.nii.gz"
        write_nifti(Volume(voxels=voxels, spacing_mm=(1, 0.7, 0.7), affine_lps=affine, unit="HU"), file)
        del voxels, inside
        seconds = []
        for _ in range(3):
            begin = time.process_time()
            content_digest(file)
            to_grid(read_volume(file), GridSpec(num_slices=32, height=256, width=256))
            seconds.append(time.process_time() - begin)
        return {"read_cpu_s": round(statistics.median(seconds), 3), "scan_mb": round(file.stat().st_size / 1e6, 1)}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--model", default="phantom-tiny")
    parser.add_argument("--full-read", action="store_true")
    args = parser.parse_args()
    if args.full_read:
        print(json.dumps(full_read()))
        return 0
    print(json.dumps(vars(run_workers(count=args.count, workers=args.workers, model=args.model))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
