"""Is a product of few rows quicker the other way round, (W x^T)^T for x W^T?

usage: python benchmarks/turned.py [--threads N]

Prints how many times as fast the turned product is, by rows and by the shapes of a small and a full-size language
model's layers, float32, the best of four; each shape walks through 200 MB of weights, which no cache holds.
"""

import argparse
import time

import torch
from torch.nn import functional

from slicesight.inference.cpu.processor import count_cores
from slicesight.inference.cpu.transposed_linear import MAX_ROWS, MIN_ROWS

SHAPES = ((576, 576), (576, 1536), (1536, 576), (576, 49152), (3072, 3072), (3072, 16384), (8192, 3072))
ROWS = (1, 2, 4, 6, 8, 11, 16, 24, 32, 48, 64)
WEIGHTS = 5e7


def best_of(function, *, repeats=4):
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=count_cores())
    torch.set_num_threads(parser.parse_args().threads)
    print(f"turned for {MIN_ROWS} to {MAX_ROWS} rows\n| layer \\ rows |" + "".join(f" {rows} |" for rows in ROWS))
    print("|---" * (1 + len(ROWS)) + "|")
    for inputs, outputs in SHAPES:
        weights = [torch.randn(outputs, inputs) for _ in range(max(1, int(WEIGHTS / (inputs * outputs))))]
        cells = []
        for rows in ROWS:
            x = torch.randn(rows, inputs)
            usual = best_of(lambda x=x, weights=weights: [functional.linear(x, weight) for weight in weights])
            turned = best_of(lambda x=x, weights=weights: [(weight @ x.t()).t() for weight in weights])
            cells.append(f" {usual / turned:.2f} |")
        print(f"| {inputs} to {outputs} |" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
