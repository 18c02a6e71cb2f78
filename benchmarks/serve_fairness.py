"""How much longer do good clients wait while others flood, stall and fuzz the same server? Does memory stay flat?

usage: python benchmarks/serve_fairness.py [--minutes 2] [--askers 200] [--model phantom-tiny] [--json]
       python benchmarks/serve_fairness.py --minutes 30 --json > fairness.jsonl        # the long run

A server of its own is started on this machine. First one good client asks alone, again and again. Then it goes on with
others who ask twice a minute (--rest seconds between two of a client's questions change that), and at last hostile ones
come too (serve_hostile.py, a process of its own), each from a loopback address of its own, by which the server tells
clients apart. --each-kind brings them one kind at a time, to see which of them costs what.

Printed of every phase: the good clients' seconds (median, 95 %, longest); those of a request that needs no model
(/healthz); the processor time of the server's threads, of the processes that read scans, and of the clients here; how
long the model's thread was ready to run and had no core; how late this program itself was. Then the ratio to alone
and, at the same offered load, of the crowd to the good ones by themselves; the share of its time that the server needs
for the good ones' questions alone (above 1 nobody can be served in time, whoever else is there); what the hostile were
told, by status; the server's memory with its slope. Any 5xx but 503 and 507 is a failure, and ends with status 1.
Addresses other than 127.0.0.0/8 are never spoken to.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median, quantiles

import httpx
from serve_hostile import KINDS, body, client_at
from serve_load import TOGETHER, make_scans, memory_facts, sample, say, started

TICKS = os.sysconf("SC_CLK_TCK")
LONGEST_BY_THEMSELVES = 5
"""Minutes: the good ones need not be measured by themselves as long as with the hostile."""


@dataclass
class Phase:
    """What the good ones saw. late: how much later than it wanted this program ran."""

    seconds: list[float] = field(default_factory=list)
    without_model: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    sent_away: int = 0
    used: dict[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, object]:
        return {
            **figures(self.seconds),
            "429": self.sent_away,
            "healthz": figures(self.without_model),
            "late": figures(self.late),
            "used": self.used,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--askers", type=int, default=200, help="addresses, the hostile among them")
    parser.add_argument("--hostile", type=int, default=20)
    parser.add_argument("--rest", type=float, default=30, help="seconds between two questions of one good client")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--each-kind", action="store_true")
    parser.add_argument("--model", default="phantom-tiny")
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scans = make_scans(Path(folder), 1)
        with started(arguments, TOGETHER) as (address, process_id):
            found = asyncio.run(measure(arguments, address, process_id, scans[0]))
    say(json.dumps(found, indent=2))
    if arguments.json:
        print(json.dumps(found))
    told = {status: count for one in found["others"].values() for status, count in one.items()}
    bad = {status: count for status, count in told.items() if status.startswith("5") and status not in "503 507"}
    sys.exit(f"server errors: {bad}" if bad else 0)


async def measure(arguments: argparse.Namespace, address: str, process_id: int, scan: Path) -> dict[str, dict]:
    memory: list[tuple[float, float]] = []
    async with client_at("127.0.0.1", address) as good:
        with scan.open("rb") as opened:
            volume = (await good.post("/v1/volumes", files={"file": ("scan.nii.gz", opened)})).json()["id"]
        everybody = Everybody(arguments, good, address, volume, process_id)
        await everybody.phase(minutes=0.05, count=0)
        sampling = asyncio.create_task(sample(process_id, memory))
        num_good = arguments.askers - arguments.hostile
        phases = {
            "alone": await everybody.phase(minutes=min(0.25, arguments.minutes), count=0),
            "themselves": await everybody.phase(minutes=min(arguments.minutes, LONGEST_BY_THEMSELVES), count=num_good),
        }
        others = {}
        crowds = {kind: [kind] for kind in arguments.kinds} if arguments.each_kind else {"crowd": arguments.kinds}
        for name, kinds in crowds.items():
            with hostile(arguments, address, volume, scan, kinds) as told:
                phases[name] = await everybody.phase(minutes=arguments.minutes, count=num_good)
            others[name] = told
        sampling.cancel()
    found = {name: one.figures() for name, one in phases.items()}
    pairs = [(name, "alone") for name in ("themselves", *crowds)] + [(name, "themselves") for name in crowds]
    return {
        "seconds": found,
        "ratio": {
            f"{name} / {other}": {
                point: round(found[name][point] / found[other][point], 2) for point in ("median", "p95", "longest")
            }
            for name, other in pairs
        },
        "needed_share": round(num_good * median(phases["alone"].seconds) / arguments.rest, 2),
        "others": others,
        "memory": memory_facts(memory),
    }


@dataclass
class Everybody:
    """The good clients of one server."""

    arguments: argparse.Namespace
    good: httpx.AsyncClient
    address: str
    volume: str
    process_id: int

    async def phase(self, *, minutes: float, count: int) -> Phase:
        """One who asks again and again, one who only knocks, and `count` who ask now and then."""
        found, end, before = Phase(), time.monotonic() + 60 * minutes, processor_seconds(self.process_id)
        began = time.monotonic()
        now_and_then = [
            self._ask_now_and_then(f"127.0.9.{1 + number}", end, found) for number in range(min(250, count))
        ]
        await asyncio.gather(self._ask_on(self.good, end, found), self._knock(end, found), *now_and_then)
        elapsed, after = time.monotonic() - began, processor_seconds(self.process_id)
        found.used = shares(before, after, elapsed)
        return found

    async def _ask_on(self, client: httpx.AsyncClient, end: float, found: Phase) -> None:
        while time.monotonic() < end:
            await self._ask(client, found)
            await asyncio.sleep(0.2)

    async def _ask(self, client: httpx.AsyncClient, found: Phase) -> None:
        """How long an answer took, 429 and waiting as told included."""
        began = time.monotonic()
        asked = body(self.volume, self.arguments.model)
        while (answer := await client.post("/v1/chat/completions", json=asked)).status_code != 200:
            assert answer.status_code in (429, 503), answer.text
            found.sent_away += 1
            await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
        found.seconds.append(time.monotonic() - began)

    async def _ask_now_and_then(self, local: str, end: float, found: Phase) -> None:
        """As a person would, about every --rest seconds."""
        dice, rest = random.Random(local), self.arguments.rest
        async with client_at(local, self.address) as client:
            await asyncio.sleep(rest * dice.random())
            while time.monotonic() < end:
                await self._ask(client, found)
                await asyncio.sleep(rest * (0.67 + 0.67 * dice.random()))

    async def _knock(self, end: float, found: Phase) -> None:
        async with client_at("127.0.8.1", self.address) as client:
            while time.monotonic() < end:
                began = time.monotonic()
                await asyncio.sleep(0.1)
                woken = time.monotonic()
                found.late.append(woken - began - 0.1)
                await client.get("/healthz")
                found.without_model.append(time.monotonic() - woken)


@contextmanager
def hostile(arguments: argparse.Namespace, address: str, volume: str, scan: Path, kinds: list[str]):
    """They misbehave meanwhile; what is yielded holds at the end what they were told."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("serve_hostile.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    order = {"address": address, "volume": volume, "scan": str(scan), "model": arguments.model}
    assert process.stdin is not None
    process.stdin.write(json.dumps({**order, "kinds": kinds, "count": arguments.hostile}) + "\n")
    process.stdin.flush()
    told: dict[str, int] = {}
    try:
        yield told
    finally:
        written, _ = process.communicate()
        told.update(json.loads(written or "{}"))


def processor_seconds(process_id: int) -> dict[str, float]:
    """Used so far: by the server's main thread (HTTP), its others, its children, us, the machine."""
    used = {}
    for task in Path(f"/proc/{process_id}/task").iterdir():
        on_core, had_none, _ = (int(number) / 1e9 for number in (task / "schedstat").read_text().split())
        kind = "http" if task.name == str(process_id) else task.name
        used |= {f"{kind} thread": on_core, f"{kind} thread without a core": had_none}
    stat = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    machine = Path("/proc/stat").read_text().split()[1:8]
    used["readers"] = (int(stat[13]) + int(stat[14])) / TICKS
    used["good clients"] = sum(os.times()[:2])
    used["machine"] = sum(int(machine[place]) for place in (0, 1, 2, 5, 6)) / TICKS
    return used


def shares(before: dict[str, float], after: dict[str, float], elapsed: float) -> dict[str, float]:
    """Of one core; of the server's other threads the busiest, which is the model's."""
    used = {name: (after[name] - before.get(name, 0.0)) / elapsed for name in after}
    numbered = {name: share for name, share in used.items() if name[0].isdigit()}
    model = max((name for name in numbered if name.endswith("thread")), key=numbered.__getitem__)
    found = {"model thread": used[model], "model thread without a core": used[f"{model} without a core"]}
    found |= {name: share for name, share in used.items() if name not in numbered}
    return {name: round(share, 3) for name, share in found.items()}


def figures(seconds: list[float]) -> dict[str, float]:
    every = sorted(seconds)
    p95 = quantiles(every, n=20)[-1] if len(every) > 1 else every[0]
    return {
        "count": len(every),
        "mean": round(mean(every), 3),
        "median": round(median(every), 3),
        "p95": round(p95, 3),
        "longest": round(every[-1], 3),
    }


if __name__ == "__main__":
    main()
