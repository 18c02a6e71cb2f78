"""How many GPUs and CPUs answer a million scans in time, what holds them up, what does a scan cost, what breaks first?

usage: python benchmarks/fleet.py [--inputs benchmarks/fleet.yaml] [--set deadline_hours=24 store.gets_per_s=500 ...]
                                  [--gpus N --readers N] [--breaks] [--json]
       python benchmarks/fleet.py --check [--count 200]

A discrete-event simulation (simpy) of object store -> readers (CPU) -> GPUs -> object store. A block of scans is
fetched over one of a bounded number of connections, read, answered and written; what is written is done, again if a
worker dies before. The store refuses requests beyond its rate: they come again after a doubling pause, as
`slicesight.io.object_store` does it. Without --gpus and --readers the smallest numbers that meet the deadline are
searched. --breaks makes one thing at a time worse, in steps of two, until the deadline is missed by a tenth.

--check holds the simulation against a real run on this machine (fleet_measure.py): COUNT small scans with one worker
and with two. The machine may be shared, so seconds are seconds of CPU time, and the times of the stages come from the
first fifth of the same run; it passes within 15 %. The last line is JSON. Needs simpy (`pip install simpy`).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Generator, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import simpy
import yaml

INPUTS = Path(__file__).with_name("fleet.yaml")
TOLERANCE = 0.15
FACTORS = {
    "the store answers slower": ("store.latency_s", 2.0),
    "the network is narrower": ("store.mb_per_s", 0.5),
    "the store takes fewer reads a second": ("store.gets_per_s", 0.5),
    "scans are larger": ("sizes.scan_mb", 2.0),
    "reading takes longer": ("stages.read_cpu_s", 2.0),
    "answering takes longer": ("stages.ask_s", 2.0),
    "GPUs die more often": ("failures.gpu_hours_between_deaths", 0.5),
    "readers die more often": ("failures.reader_hours_between_deaths", 0.5),
    "a restart takes longer": ("failures.restart_s", 2.0),
}
"""What is made worse: a sentence -> (the input, by what it is multiplied)."""
Inputs = dict[str, Any]
Steps = Generator[simpy.Event, Any, Any]


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """gpus 0: every reader answers too, on its own CPU (`stages` are then CPU seconds)."""

    readers: int
    gpus: int = 0


@dataclass
class Tally:
    """What happened, in seconds and counts."""

    end_s: float = 0.0
    busy_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("readers", "gpus", "network"), 0.0))
    done: int = 0
    failed: int = 0
    deaths: int = 0
    redone: int = 0
    gets: int = 0
    puts: int = 0
    refused: int = 0


class Store:
    """An object store: latency, bandwidth by connection and in all, a bounded rate of requests."""

    def __init__(self, env: simpy.Environment, inputs: Inputs, draw: random.Random, tally: Tally) -> None:
        self.env, self.facts, self.draw, self.tally = env, inputs["store"], draw, tally
        capacity = max(1, int(self.facts["mb_per_s"] / self.facts["mb_per_s_connection"]))
        self.connections = simpy.Resource(env, capacity=capacity)
        self._free_at = {"gets": 0.0, "puts": 0.0}

    def move(self, kind: str, *, count: int, megabytes: float) -> Steps:
        """So many requests one after the other over one connection; raises OSError where the store gives none."""
        yield from self._admitted(kind, count)
        latency = sum(self.draw.expovariate(1 / self.facts["latency_s"]) for _ in range(count))
        with self.connections.request() as connection:
            yield connection
            seconds = megabytes / self.facts["mb_per_s_connection"]
            self.tally.busy_s["network"] += seconds
            yield self.env.timeout(latency + seconds)

    def _admitted(self, kind: str, count: int) -> Steps:
        """The store refuses what comes while more than a second of requests is waiting."""
        for number in range(self.facts["tries"]):
            now = self.env.now
            if self._free_at[kind] - now <= 1.0:
                self._free_at[kind] = max(self._free_at[kind], now) + count / self.facts[f"{kind}_per_s"]
                setattr(self.tally, kind, getattr(self.tally, kind) + count)
                if self._free_at[kind] > now:
                    yield self.env.timeout(self._free_at[kind] - now)
                return
            self.tally.refused += 1
            yield self.env.timeout(self.facts["first_pause_s"] * 2**number * self.draw.uniform(0.5, 1.5))
        raise OSError("SlowDown")


def simulate(inputs: Inputs, fleet: Fleet, *, seed: int = 0) -> Tally:
    """Until every scan is done or given up."""
    env, draw, tally = simpy.Environment(), random.Random(seed), Tally()
    store = Store(env, inputs, draw, tally)
    stages, failures, block = inputs["stages"], inputs["failures"], inputs["block"]
    todo: list[tuple[int, int]] = [(size, 0) for size in _sizes(inputs["scans"], block)]
    todo.reverse()
    num_blocks = len(todo)
    read = simpy.Store(env, capacity=2 * max(1, fleet.gpus))
    finished = env.event()
    settled = 0

    def times(mean: float, count: int) -> float:
        """Seconds for a block: a sum of log-normal times whose mean is `mean`."""
        sigma = inputs["spread"]
        if count > 8:  # their sum is normal enough
            deviation = mean * math.sqrt(count * (math.exp(sigma**2) - 1))
            return max(0.0, draw.gauss(mean * count, deviation))
        return sum(mean * draw.lognormvariate(-(sigma**2) / 2, sigma) for _ in range(count))

    def settle() -> None:
        nonlocal settled
        settled += 1
        if settled == num_blocks:
            finished.succeed()

    def give_back(job: tuple[int, int]) -> None:
        size, tries = job
        if tries + 1 < failures["tries"]:
            tally.redone += size
            todo.append((size, tries + 1))
        else:
            tally.failed += size
            settle()

    def work(kind: str, seconds: float, hours: float) -> Steps:
        """Compute; False where the worker dies meanwhile and another has taken its place."""
        until_death = draw.expovariate(1 / (hours * 3600))
        tally.busy_s[kind] += min(seconds, until_death)
        if until_death >= seconds:
            yield env.timeout(seconds)
            return True
        tally.deaths += 1
        yield env.timeout(until_death + failures["restart_s"] + stages["start_s"])
        return False

    def answered(job: tuple[int, int], kind: str, hours: float) -> Steps:
        size, _ = job
        seconds = times(stages["encode_s"] + stages["ask_s"] + stages["write_cpu_s"], size)
        if not (yield from work(kind, seconds, hours)):
            give_back(job)
            return
        try:
            yield from store.move("puts", count=1, megabytes=size * inputs["sizes"]["output_kb"] / 1000)
        except OSError:
            give_back(job)
            return
        tally.done += size
        settle()

    def reader() -> Steps:
        hours = failures["reader_hours_between_deaths"]
        yield env.timeout(stages["start_s"])
        while True:
            if not todo:
                yield env.timeout(1.0)  # a block may come back
                continue
            job = todo.pop()
            try:
                yield from store.move("gets", count=job[0], megabytes=times(inputs["sizes"]["scan_mb"], job[0]))
            except OSError:
                give_back(job)
                continue
            if not (yield from work("readers", times(stages["read_cpu_s"], job[0]), hours)):
                give_back(job)
            elif fleet.gpus:
                yield read.put(job)
            else:
                yield from answered(job, "readers", hours)

    def gpu() -> Steps:
        yield env.timeout(stages["start_s"])
        while True:
            job = yield read.get()
            yield from answered(job, "gpus", failures["gpu_hours_between_deaths"])

    for _ in range(fleet.readers):
        env.process(reader())
    for _ in range(fleet.gpus):
        env.process(gpu())
    env.run(until=finished)
    tally.end_s = env.now
    return tally


def _sizes(scans: int, block: int) -> Iterator[int]:
    yield from [block] * (scans // block)
    if scans % block:
        yield scans % block


def smallest_fleet(inputs: Inputs) -> tuple[Fleet, Tally]:
    """The fewest GPUs, then the fewest readers that keep them busy, within the deadline."""
    stages, seconds = inputs["stages"], inputs["deadline_hours"] * 3600 - inputs["stages"]["start_s"]
    one_gpu = stages["encode_s"] + stages["ask_s"] + stages["write_cpu_s"]
    fetch = inputs["store"]["latency_s"] + inputs["sizes"]["scan_mb"] / inputs["store"]["mb_per_s_connection"]
    gpus = max(1, math.ceil(inputs["scans"] * one_gpu / seconds))
    readers = max(1, math.ceil(inputs["scans"] * (stages["read_cpu_s"] + fetch) / seconds))
    for _ in range(40):
        fleet = Fleet(readers=readers, gpus=gpus)
        tally = simulate(inputs, fleet)
        if tally.end_s <= inputs["deadline_hours"] * 3600 and not tally.failed:
            return fleet, tally
        shares = used(inputs, fleet, tally)
        if max(shares["network"], shares["store's reads"]) > 0.98:
            break
        if shares["gpus"] >= shares["readers"]:
            gpus += max(1, gpus // 50)
        else:
            readers += max(1, readers // 50)
    sys.exit(
        f"no fleet meets {inputs['deadline_hours']} hours: {bottleneck(inputs, fleet, tally)} holds it up at "
        f"{fleet.gpus} GPUs and {fleet.readers} readers ({tally.end_s / 3600:.1f} h); change that, or the deadline"
    )


def used(inputs: Inputs, fleet: Fleet, tally: Tally) -> dict[str, float]:
    """Of each part the share of the time in which it was at work; readers are at work while they fetch, too."""
    fetched = tally.gets * inputs["store"]["latency_s"] + tally.busy_s["network"]
    connections = inputs["store"]["mb_per_s"] / inputs["store"]["mb_per_s_connection"]
    return {
        "readers": (tally.busy_s["readers"] + fetched) / (fleet.readers * tally.end_s),
        "gpus": tally.busy_s["gpus"] / (max(1, fleet.gpus) * tally.end_s),
        "network": tally.busy_s["network"] / (connections * tally.end_s),
        "store's reads": tally.gets / (inputs["store"]["gets_per_s"] * tally.end_s),
    }


def bottleneck(inputs: Inputs, fleet: Fleet, tally: Tally) -> str:
    """What is nearest to being always at work."""
    shares = used(inputs, fleet, tally)
    return max(shares, key=lambda name: shares[name])


def cost(inputs: Inputs, fleet: Fleet, tally: Tally) -> dict[str, float]:
    """Dollars by kind; the output is kept for a month."""
    prices, hours = inputs["prices"], tally.end_s / 3600
    return {
        "GPUs": fleet.gpus * hours * prices["gpu_hour"],
        "CPUs": fleet.readers * hours * prices["cpu_hour"],
        "requests": tally.gets / 1000 * prices["thousand_gets"] + tally.puts / 1000 * prices["thousand_puts"],
        "output, a month": tally.done * inputs["sizes"]["output_kb"] / 1e6 * prices["gb_month"],
    }


def what_breaks(inputs: Inputs, fleet: Fleet, *, most: int = 10) -> list[tuple[str, float | None]]:
    """(what, how many times worse until the deadline is missed by a tenth or a scan is lost; None: not by 2^most)."""
    found: list[tuple[str, float | None]] = []
    for what, (name, factor) in FACTORS.items():
        times: float | None = None
        for power in range(1, most + 1):
            worse = changed(inputs, name, value_of(inputs, name) * factor**power)
            if name == "store.mb_per_s" and value_of(worse, name) < worse["store"]["mb_per_s_connection"]:
                break
            tally = simulate(worse, fleet)
            if tally.end_s > 1.1 * inputs["deadline_hours"] * 3600 or tally.failed:
                times = 2.0**power
                break
        found.append((what, times))
        print(f"  {what}: {'no' if times is None else f'{times:g} times'}", file=sys.stderr, flush=True)
    return sorted(found, key=lambda pair: pair[1] or math.inf)


def value_of(inputs: Inputs, name: str) -> Any:
    """An input by its dotted name."""
    held: Any = inputs
    for part in name.split("."):
        if not isinstance(held, dict) or part not in held:
            sys.exit(f"--set {name}: no such input; fleet.yaml has {', '.join(inputs)}")
        held = held[part]
    return held


def changed(inputs: Inputs, name: str, value: Any) -> Inputs:
    """A copy with one input changed."""
    value_of(inputs, name)
    copy = deepcopy(inputs)
    *parents, last = name.split(".")
    held = copy
    for part in parents:
        held = held[part]
    held[last] = value
    return copy


def check(count: int) -> dict[str, Any]:
    """The simulation beside real runs of one worker and of two."""
    from fleet_measure import run_workers

    lines = []
    for workers in (1, 2):
        run = run_workers(count=count, workers=workers)
        inputs = yaml.safe_load(INPUTS.read_text(encoding="utf-8"))
        inputs |= {"scans": count, "block": 1, "spread": run.spread}
        inputs["stages"] = {**run.stages, "start_s": run.start_s}
        inputs["store"] |= {"latency_s": 1e-9, "mb_per_s": 1e9, "mb_per_s_connection": 1e9, "gets_per_s": 1e9}
        inputs["store"] |= {"puts_per_s": 1e9}
        inputs["failures"] |= {"reader_hours_between_deaths": 1e9}
        predicted = simulate(inputs, Fleet(readers=workers)).end_s
        off = predicted / run.cpu_s - 1
        lines.append(
            {
                "workers": workers,
                "scans": count,
                "predicted_s": round(predicted, 2),
                "measured_cpu_s": round(run.cpu_s, 2),
                "off": round(off, 4),
                "wall_s": round(run.wall_s, 1),
                "stages_s": {name: round(value, 5) for name, value in run.stages.items()},
            }
        )
        print(f"{workers} workers: predicted {predicted:.1f} s, measured {run.cpu_s:.1f} s of CPU ({off:+.1%})")
    return {"benchmark": "fleet-check", "passed": all(abs(line["off"]) <= TOLERANCE for line in lines), "runs": lines}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=Path, default=INPUTS)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--readers", type=int)
    parser.add_argument("--breaks", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    if args.check:
        found = check(args.count)
        print(json.dumps(found))
        return 0 if found["passed"] else 1
    inputs = yaml.safe_load(args.inputs.read_text(encoding="utf-8"))
    for text in args.set:
        name, _, value = text.partition("=")
        inputs = changed(inputs, name, yaml.safe_load(value))
    if args.gpus is not None and args.readers is not None:
        fleet = Fleet(readers=args.readers, gpus=args.gpus)
        tally = simulate(inputs, fleet)
    else:
        fleet, tally = smallest_fleet(inputs)
    dollars = cost(inputs, fleet, tally)
    shares = used(inputs, fleet, tally)
    print(f"{fleet.gpus} GPUs and {fleet.readers} CPUs for reading: {tally.end_s / 3600:.1f} h")
    print("at work: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    print(f"what holds it up: {bottleneck(inputs, fleet, tally)}")
    print(f"{tally.deaths} workers died, {tally.redone} scans were done again, {tally.failed} given up")
    total = sum(dollars.values())
    print("cost: " + ", ".join(f"{name} ${value:,.0f}" for name, value in dollars.items()))
    print(f"      ${total / max(1, tally.done):.5f} a scan, ${total:,.0f} in all (prices: {args.inputs.name})")
    breaks = what_breaks(inputs, fleet) if args.breaks else []
    for what, times in breaks:
        print(f"  {what}: " + ("holds a thousandfold" if times is None else f"breaks at {times:g} times"))
    line = {"benchmark": "fleet", "gpus": fleet.gpus, "readers": fleet.readers, "hours": round(tally.end_s / 3600, 2)}
    line |= {"used": {name: round(share, 3) for name, share in shares.items()}, "dollars": round(total, 2)}
    line |= {"deaths": tally.deaths, "redone": tally.redone, "failed": tally.failed, "refused": tally.refused}
    print(json.dumps({**line, "breaks": dict(breaks)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
