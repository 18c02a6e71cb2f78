"""How much faster do two Ray workers answer a test set than one, and do they say the same?

usage: python benchmarks/bulk.py [--model phantom-tiny] [--count 60] [--rounds 2]

Answers COUNT phantoms (eleven questions each, the model and two controls) with one Ray worker and with two, one thread
each, in turns, and once in this process without Ray. The cluster is up before the clock starts; a worker's start and
its loading of the model are counted. Limits: 2, and what this machine gives two processes that do the same arithmetic
without Ray in the same minutes. Prints the ratio, whether all files are byte for byte the same, and one line of JSON.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

import slicesight
from slicesight.conversations.ray_workers import connected
from slicesight.evaluation.bulk import predict_in_bulk
from slicesight.evaluation.cases import choose, open_cases
from slicesight.evaluation.predict import MODEL, Run, open_run, predict

SYSTEMS = (MODEL, "blank", "shuffled_slices")
SEED = 61000


def open_folder(folder, reader, data):
    folder.mkdir()
    run = Run(folder=folder, source=choose(open_cases(data), split=None, count=None), systems=SYSTEMS)
    open_run(run, reader)
    return run


def answers(run):
    return [run.path(system).read_bytes() for system in SYSTEMS]


def half(model, data):
    """What one of two processes without Ray does."""
    torch.set_num_threads(1)
    reader = slicesight.load(model)
    with tempfile.TemporaryDirectory() as place:
        predict(open_folder(Path(place) / "half", reader, data), reader)


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
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = f"phantoms:{SEED}:{args.count}"
    middle = args.count // 2
    halves = [f"phantoms:{SEED}:{middle}", f"phantoms:{SEED + middle}:{args.count - middle}"]
    reader = slicesight.load(args.model)
    seconds = {"ray, one": [], "ray, two": [], "processes, one": [], "processes, two": []}
    with tempfile.TemporaryDirectory() as place:
        alone = open_folder(Path(place) / "alone", reader, data)
        begin = time.perf_counter()
        predict(alone, reader)
        seconds["no ray"] = [time.perf_counter() - begin]
        same = True
        with connected("local", 3):
            for number in range(args.rounds):
                for workers, name in ((1, "ray, one"), (2, "ray, two")):
                    run = open_folder(Path(place) / f"{name} {number}", reader, data)
                    begin = time.perf_counter()
                    predict_in_bulk(run, load=slicesight.load, model=args.model, data=data, num_workers=workers)
                    seconds[name].append(time.perf_counter() - begin)
                    same &= answers(run) == answers(alone)
                    print(f"  {name}: {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
        for _ in range(args.rounds):
            seconds["processes, one"].append(processes(args.model, [data]))
            seconds["processes, two"].append(processes(args.model, halves))
    middle_of = {name: statistics.median(found) for name, found in seconds.items()}
    found = {
        "benchmark": "bulk",
        "num_scans": args.count,
        "ratio_two_over_one": round(middle_of["ray, one"] / middle_of["ray, two"], 2),
        "limit_this_machine_now": round(middle_of["processes, one"] / middle_of["processes, two"], 2),
        "limit_ideal": 2.0,
        "same_predictions": same,
        "seconds": {name: round(value, 1) for name, value in middle_of.items()},
    }
    print(
        f"two Ray workers are {found['ratio_two_over_one']} times as fast as one; two processes without Ray "
        f"{found['limit_this_machine_now']} times; predictions {'the same' if same else 'DIFFER'}"
    )
    print(json.dumps(found))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
