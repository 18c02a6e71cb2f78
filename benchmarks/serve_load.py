"""Two hundred ask one server at once: how long do they wait, is anything refused but by 429, is a scan encoded once?

usage: python benchmarks/serve_load.py [--askers 200] [--questions 5] [--volumes 3] [--model phantom-tiny] [--json]
                                       [--soak MINUTES]

A server of its own is started on this machine, and phantoms are uploaded. Every asker puts its questions one after the
other, half of them streamed, and comes again after a 429 when Retry-After says. The same is done with a server that
answers one question at a time (the named alternative), the ratio of both is printed. Errors other than 429 must be 0.

--soak: askers keep asking while others upload, ask and delete, for so many minutes; the server's memory is sampled
every 5 s and its slope over the last two thirds printed. --json leaves one line on stdout; all else goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import httpx
import numpy as np

QUESTIONS = (
    "Which phase is this?",
    "Is there a lesion in the liver?",
    "Which plane do the slices show?",
    "Which organ contains an abnormality?",
    "Please write a report of this scan.",
)
SAMPLE_EVERY_S = 5.0
ONE_AT_A_TIME, TOGETHER = 1, 16


@dataclass
class Tally:
    """What the askers saw. seconds: of answered requests; whole_seconds: with the waiting after 429."""

    seconds: list[float] = field(default_factory=list)
    whole_seconds: list[float] = field(default_factory=list)
    first_words: list[float] = field(default_factory=list)
    num_429: int = 0
    errors: Counter = field(default_factory=Counter)


def main() -> None:
    arguments = parse()
    if arguments.server is not None:
        serve(arguments.model, at_once=arguments.server)
        return
    with tempfile.TemporaryDirectory() as folder:
        scans = make_scans(Path(folder), arguments.volumes)
        if arguments.soak:
            found = {"soak": run(arguments, scans, at_once=TOGETHER, minutes=arguments.soak)}
        else:
            found = {
                "together": run(arguments, scans, at_once=TOGETHER),
                "one at a time": run(arguments, scans, at_once=ONE_AT_A_TIME),
            }
            rates = [one["answers_per_s"] for one in found.values()]
            found["ratio"] = round(rates[0] / rates[1], 2)
            say(f"answers per second, together : one at a time = {found['ratio']}")
    if arguments.json:
        print(json.dumps(found))
    failed = [one["errors"] for one in found.values() if isinstance(one, dict) and one["errors"]]
    sys.exit(f"errors other than 429: {failed}" if failed else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--askers", type=int, default=200)
    parser.add_argument("--questions", type=int, default=5, help="of each asker")
    parser.add_argument("--volumes", type=int, default=3)
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--model", default="phantom-tiny")
    parser.add_argument("--soak", type=float, metavar="MINUTES", default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--server", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def serve(model: str, *, at_once: int) -> None:
    """The server under load, in a process of its own; the queue's length comes on stdin, whose end is ours."""
    from slicesight.serving.options import ServeOptions
    from slicesight.serving.running import run_server

    max_waiting = int(sys.stdin.readline())

    def end_with_benchmark() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=end_with_benchmark, daemon=True).start()
    run_server(ServeOptions(model=model, port=0, batch_size=at_once, max_waiting=max_waiting))


@contextmanager
def started(arguments: argparse.Namespace, at_once: int):
    """(address, process id) of a server; its log must hold no failure."""
    command = [sys.executable, __file__, "--server", str(at_once), "--model", arguments.model]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdin.write(f"{arguments.queue}\n")
    process.stdin.flush()
    log = []
    for line in process.stderr:
        log.append(line)
        if found := re.search(r"open (http://\S+?)/ ", line):
            break
    else:
        sys.exit("".join(log))
    rest = threading.Thread(
        target=lambda: log.extend(line for line in process.stderr if " INFO " not in line), daemon=True
    )
    rest.start()
    try:
        yield found[1], process.pid
    finally:
        if process.poll() is not None:
            say(f"the server has ended by itself, status {process.returncode}:", *log)
        process.send_signal(signal.SIGINT)
        process.wait(300)
        rest.join(5)
        if any(" ERROR " in line for line in log):
            say("the server's log holds failures:", *log)


def make_scans(folder: Path, count: int) -> list[Path]:
    from slicesight.io.writers import write_nifti
    from slicesight.phantoms.rendering import make_phantom

    files = []
    for number in range(count):
        files.append(folder / f"{number}.nii.gz")
        write_nifti(make_phantom(9000, number, pixel_mm=(2.0, 2.5)).volume, files[-1])
    return files


def run(arguments: argparse.Namespace, scans: list[Path], *, at_once: int, minutes: float = 0) -> dict:
    with started(arguments, at_once) as (address, pid):
        found = asyncio.run(load(arguments, address, pid, scans, minutes=minutes))
    found = {"at_once": at_once, **found}
    say("\n".join(f"  {name}: {value}" for name, value in found.items()))
    return found


async def load(arguments: argparse.Namespace, address: str, pid: int, scans: list[Path], *, minutes: float) -> dict:
    limits = httpx.Limits(max_connections=arguments.askers + 10, max_keepalive_connections=arguments.askers + 10)
    tally, memory = Tally(), []
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        volumes = [await upload(client, file) for file in scans]
        model = (await client.get("/v1/settings")).json()["model"]
        began = time.monotonic()
        until = began + 60 * minutes if minutes else None
        say(f"{arguments.askers} askers, {at_most(arguments, minutes)}, {len(volumes)} volumes")
        askers = [
            asyncio.create_task(ask_on(client, model, volumes, tally, random.Random(seed), arguments.questions, until))
            for seed in range(arguments.askers)
        ]
        others = [asyncio.create_task(sample(pid, memory))]
        if minutes:
            others.append(asyncio.create_task(come_and_go(client, model, scans, tally, until)))
        await asyncio.gather(*askers)
        elapsed = time.monotonic() - began
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        figures = (await client.get("/metrics")).text
    return {
        "answers": len(tally.seconds),
        "errors": dict(tally.errors),
        "num_429": tally.num_429,
        "answers_per_s": round(len(tally.seconds) / elapsed, 2),
        "request_p50_s": round(median(tally.seconds), 3),
        "request_p95_s": round(quantiles(tally.seconds, n=20)[-1], 3),
        "with_retries_p50_s": round(median(tally.whole_seconds), 3),
        "with_retries_p95_s": round(quantiles(tally.whole_seconds, n=20)[-1], 3),
        "first_words_p50_s": round(median(tally.first_words), 3),
        "questions": int(figure(figures, 'questions_total{end="answered"}')),
        "encodes": int(figure(figures, "encodes_total")),
        "cache_hits": int(figure(figures, "encode_cache_hits_total")),
        "seconds": round(elapsed, 1),
        **memory_facts(memory),
    }


def at_most(arguments: argparse.Namespace, minutes: float) -> str:
    return f"for {minutes:g} minutes" if minutes else f"{arguments.questions} questions each"


async def upload(client: httpx.AsyncClient, file: Path) -> str:
    response = await client.post("/v1/volumes", files={"file": (file.name, file.read_bytes())})
    response.raise_for_status()
    return response.json()["id"]


async def ask_on(client, model, volumes, tally: Tally, chance: random.Random, count: int, until: float | None) -> None:
    number = 0
    while (time.monotonic() < until) if until is not None else (number < count):
        await ask(client, model, chance.choice(volumes), tally, chance)
        number += 1


async def ask(client, model: str, volume: str, tally: Tally, chance: random.Random) -> None:
    """One question until it is answered or fails."""
    text = {"type": "text", "text": chance.choice(QUESTIONS)}
    content = [text, {"type": "file", "file": {"file_id": volume}}]
    body = {"model": model, "messages": [{"role": "user", "content": content}], "stream": chance.random() < 0.5}
    began = time.monotonic()
    while True:
        tried, has_no_words = time.monotonic(), True
        try:
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                pieces = []
                async for piece in response.aiter_bytes():
                    if has_no_words and b'"delta": {"content"' in piece:
                        tally.first_words.append(time.monotonic() - tried)
                        has_no_words = False
                    pieces.append(piece)
        except httpx.HTTPError as error:
            tally.errors[type(error).__name__] += 1
            return
        said = b"".join(pieces)
        if response.status_code == 429:
            tally.num_429 += 1
            await asyncio.sleep(int(response.headers["Retry-After"]) * (1 + chance.random()))
            continue
        is_whole = b'"scores"' in said and (not body["stream"] or said.endswith(b"data: [DONE]\n\n"))
        if response.status_code != 200 or not is_whole:
            tally.errors[str(response.status_code)] += 1
            return
        tally.seconds.append(time.monotonic() - tried)
        tally.whole_seconds.append(time.monotonic() - began)
        return


async def come_and_go(client, model: str, scans: list[Path], tally: Tally, until: float) -> None:
    """Upload, ask, take the report, delete; over and over."""
    chance = random.Random(-1)
    while time.monotonic() < until:
        try:
            volume = await upload(client, chance.choice(scans))
            await ask(client, model, volume, tally, chance)
            for address in (f"{volume}/report", f"{volume}/image"):
                (await client.get(f"/v1/volumes/{address}")).raise_for_status()
            (await client.delete(f"/v1/volumes/{volume}")).raise_for_status()
        except httpx.HTTPError as error:
            tally.errors[f"come and go: {type(error).__name__}"] += 1
        await asyncio.sleep(2)


async def sample(pid: int, memory: list[tuple[float, float]]) -> None:
    """(minutes, MiB in memory) of the server."""
    began = time.monotonic()
    while True:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        kib = int(re.search(r"VmRSS:\s+(\d+)", status)[1])
        memory.append(((time.monotonic() - began) / 60, kib / 1024))
        await asyncio.sleep(SAMPLE_EVERY_S)


def memory_facts(memory: list[tuple[float, float]]) -> dict:
    """First, last and most; the slope where there are enough samples to have one."""
    minutes, mib = np.array(memory).T
    facts = {"memory_first_mib": round(mib[0]), "memory_last_mib": round(mib[-1]), "memory_most_mib": round(mib.max())}
    late = len(mib) // 3
    if len(mib) - late > 20:
        facts["memory_slope_mib_per_hour"] = round(60 * float(np.polyfit(minutes[late:], mib[late:], 1)[0]), 1)
        facts["memory_growth_late_percent"] = round(100 * float(mib[-10:].mean() / mib[late : late + 10].mean() - 1), 2)
    return facts


def figure(text: str, name: str) -> float:
    found = re.search(rf"^slicesight_{re.escape(name)} (\S+)", text, flags=re.MULTILINE)
    return float(found[1]) if found else 0.0


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
