"""How many CPU seconds does the first answer of the shipped model take, and where do they go?

    python benchmarks/first_answer.py scan.nii.gz [--against ANOTHER_CHECKOUT] [--repeats 3]

`slicesight ask` in a process of its own, one thread; user and system seconds, the least of the repeats, in turn with
the other checkout's, because wall time on a shared machine says little. The parts are timed in one more process:
imports, load, read, encode, decode.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[1]
QUESTION = "Which phase is this?"
PARTS = """
import sys, time
from contextlib import nullcontext
marks = [("start", time.process_time())]
def mark(name): marks.append((name, time.process_time()))
try:
    from slicesight.inference.light_imports import light_imports
except ImportError:
    light_imports = nullcontext
from slicesight.inference.loading import load
from slicesight.io.loading import read_volume
with light_imports():
    import slicesight.inference.cpu.upcast_linear, slicesight.inference.feature_cache, slicesight.models.med2e3
    mark("imports")
    predictor = load()
mark("load")
volume = read_volume(sys.argv[1])
mark("read")
encoded = predictor.encode(volume)
mark("encode")
predictor.ask(encoded, sys.argv[2])
mark("decode")
for (_, before), (name, after) in zip(marks, marks[1:]):
    print(f"{name} {after - before:.2f}", end="  ")
print()
"""


def cpu_seconds(command: list[str], checkout: Path) -> tuple[float, str]:
    """User and system seconds of one process, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, done.stdout


def main() -> None:
    """Print a line for every checkout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    checkouts = [HERE] if options.against is None else [HERE, options.against]
    command = ["-m", "slicesight", "ask", options.scan, QUESTION]
    totals: dict[Path, list[float]] = {checkout: [] for checkout in checkouts}
    for _ in range(options.repeats):
        for checkout in checkouts:
            totals[checkout].append(cpu_seconds(command, checkout)[0])
    for checkout in checkouts:
        _, parts = cpu_seconds(["-c", PARTS, options.scan, QUESTION], checkout)
        print(f"{checkout}: total {min(totals[checkout]):.2f} s  {parts.strip()}")


if __name__ == "__main__":
    main()
