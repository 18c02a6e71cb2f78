"""How much faster do two Ray workers answer a test set than one, and do they say the same?

usage: python benchmarks/bulk.py [--model phantom-tiny] [--counts 8 48] [--rounds 2]

Answers phantoms (eleven questions each, the model and two controls) with one Ray worker and with two, one thread each,
in turns: a few phantoms and many. The cluster is up before the clock starts. "whole" is the ratio of the seconds for
many, a worker's start and its loading of the model included; "answering" that of the seconds which the further phantoms
took, and so what a large test set comes to. Limits: 2, and what this machine gives two processes that do the same
without Ray in the same minutes. All files must be byte for byte those of a run without Ray. The last line is JSON.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from itertools import product
from pathlib import Path

import torch

import slicesight
from slicesight.data.dataset import open_dataset
from slicesight.data.workers import connected
from slicesight.evaluation.bulk import predict_in_bulk
from slicesight.evaluation.predict import MODEL, PredictionRun, open_run, predict

SYSTEMS = (MODEL, "blank", "shuffled_slices")
SEED = 61000


def open_folder(folder, predictor, data):
    folder.mkdir()
    run = PredictionRun(folder=folder, source=open_dataset(data, prefer="test"), systems=SYSTEMS)
    open_run(run, predictor)
    return run


def answers(run):
    return [run.path(system).read_bytes() for system in SYSTEMS]


def half(model, data):
    """What one of two processes without Ray does."""
    torch.set_num_threads(1)
    predictor = slicesight.load(model)
    with tempfile.TemporaryDirectory() as place:
        predict(open_folder(Path(place) / "half", predictor, data), predictor)


def processes(model, shares):
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=half, args=(model, share)) for share in shares]
    begin = time.perf_counter()
    for process in started:
        process.start()
    for process in started:
        process.join()
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="phantom-tiny")
    parser.add_argument("--counts", type=int, nargs=2, default=(8, 48), metavar=("FEW", "MANY"))
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    few, many = args.counts
    predictor = slicesight.load(args.model)
    seconds = defaultdict(list)
    same = True
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        alone = open_folder(place / "alone", predictor, f"phantoms:{SEED}:{many}")
        predict(alone, predictor)
        with connected("local", 3):
            for number in range(args.rounds):
                for workers, count in product((1, 2), (few, many)):
                    data = f"phantoms:{SEED}:{count}"
                    run = open_folder(place / f"{number} {workers} {count}", predictor, data)
                    begin = time.perf_counter()
                    predict_in_bulk(run, load=slicesight.load, model=args.model, data=data, num_workers=workers)
                    seconds[workers, count].append(time.perf_counter() - begin)
                    same &= count == few or answers(run) == answers(alone)
                    print(f"  {workers}: {count} in {seconds[workers, count][-1]:.1f} s", file=sys.stderr, flush=True)
    shares = [f"phantoms:{SEED}:{few}", f"phantoms:{SEED + few}:{few}"]
    one = processes(args.model, [f"phantoms:{SEED}:{2 * few}"])
    two = processes(args.model, shares)
    middle = {key: statistics.median(found) for key, found in seconds.items()}
    found = {
        "benchmark": "bulk",
        "num_scans": many,
        "ratio_whole": round(middle[1, many] / middle[2, many], 2),
        "ratio_answering": round((middle[1, many] - middle[1, few]) / (middle[2, many] - middle[2, few]), 2),
        "limit_this_machine_now": round(one / two, 2),
        "limit_ideal": 2.0,
        "same_predictions": same,
        "seconds": {f"{workers} workers, {count} scans": round(value, 1) for (workers, count), value in middle.items()},
    }
    print(
        f"two Ray workers are {found['ratio_whole']} times as fast as one, {found['ratio_answering']} times once they "
        f"have started; two processes without Ray {found['limit_this_machine_now']} times (start included); "
        f"predictions {'the same' if same else 'DIFFER'}"
    )
    print(json.dumps(found))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
