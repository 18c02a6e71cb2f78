"""How much longer do good clients wait while others flood, stall and fuzz the same server? Does memory stay flat?

usage: python benchmarks/serve_fairness.py [--minutes 2] [--askers 200] [--model phantom-tiny] [--json]

A server of its own is started on this machine. First one good client asks alone, again and again. Then it goes on with
others who ask twice a minute (--rest seconds between two of a client's questions change that), and at last hostile ones
come too, each from a loopback address of its own (127.0.1.1, ...), by which the server tells clients apart:

    hogs       ask the longest answers, ten at a time each
    writers    send conversations of megabytes, or texts with odd temperatures
    holders    open connections, send half a header or a body byte by byte, and begin again when they are cut
    uploaders  send tiny scans and slow ones, and never ask

Printed: the good clients' seconds alone, among themselves and in the crowd, with the ratio of each to alone and of the
crowd to themselves (median, 95 %, longest), the share of its time that the server needs for the good ones' questions
alone (above 1 nobody can be served in time, whoever else is there), what the others were told by status, and the
server's memory as it goes. Any 5xx but 503 and 507 is a failure.
Addresses other than 127.0.0.0/8 are never spoken to.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median, quantiles

import httpx
from serve_load import TOGETHER, make_scans, say, started

KINDS = ("hog", "writer", "holder", "uploader")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--askers", type=int, default=200, help="addresses, the hostile among them")
    parser.add_argument("--hostile", type=int, default=20)
    parser.add_argument("--rest", type=float, default=30, help="seconds between two questions of one good client")
    parser.add_argument("--model", default="phantom-tiny")
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scans = make_scans(Path(folder), 1)
        with started(arguments, TOGETHER) as (address, process_id):
            found = asyncio.run(measure(arguments, address, process_id, scans[0].read_bytes()))
    say(json.dumps(found, indent=2))
    if arguments.json:
        print(json.dumps(found))
    bad = {
        status: count for status, count in found["others"].items() if status.startswith("5") and status not in "503 507"
    }
    sys.exit(f"server errors: {bad}" if bad else 0)


async def measure(arguments: argparse.Namespace, address: str, process_id: int, scan: bytes) -> dict[str, object]:
    good = client_at("127.0.0.1", address)
    volume = (await good.post("/v1/volumes", files={"file": ("scan.nii.gz", scan)})).json()["id"]
    await ask_again_and_again(good, volume, seconds=3)
    alone = await ask_again_and_again(good, volume, seconds=min(15, 20 * arguments.minutes))
    told: Counter[str] = Counter()
    memory = [resident_mib(process_id)]
    themselves = await crowded(arguments, good, address, volume, memory, process_id)
    end = time.monotonic() + 60 * arguments.minutes
    others = [
        asyncio.create_task(misbehave(KINDS[number % len(KINDS)], number, address, volume, scan, told, end))
        for number in range(arguments.hostile)
    ]
    crowd = await crowded(arguments, good, address, volume, memory, process_id)
    await asyncio.gather(*others)
    await good.aclose()
    found = {"alone": figures(alone), "themselves": figures(themselves), "crowd": figures(crowd)}
    pairs = {"themselves / alone": ("themselves", "alone"), "crowd / alone": ("crowd", "alone"),
             "crowd / themselves": ("crowd", "themselves")}  # fmt: skip
    return {
        "seconds": found,
        "ratio": {
            name: {point: round(found[one][point] / found[other][point], 2) for point in ("median", "p95", "longest")}
            for name, (one, other) in pairs.items()
        },
        "needed_share": round((arguments.askers - arguments.hostile) * median(alone) / arguments.rest, 2),
        "others": dict(told),
        "memory_mib": memory,
    }


async def crowded(
    arguments: argparse.Namespace,
    good: httpx.AsyncClient,
    address: str,
    volume: str,
    memory: list[int],
    process_id: int,
) -> list[float]:
    """The seconds of one who asks again and again and of all who ask now and then, for --minutes."""
    end = time.monotonic() + 60 * arguments.minutes
    patient = [
        asyncio.create_task(ask_now_and_then(f"127.0.9.{1 + number}", address, volume, end, rest=arguments.rest))
        for number in range(min(250, arguments.askers - arguments.hostile))
    ]
    took: list[float] = []
    for _ in range(3):
        took += await ask_again_and_again(good, volume, seconds=20 * arguments.minutes)
        memory.append(resident_mib(process_id))
    return took + [seconds for one in await asyncio.gather(*patient) for seconds in one]


async def ask_again_and_again(client: httpx.AsyncClient, volume: str, *, seconds: float) -> list[float]:
    """How long each answer took, 429 and waiting as told included."""
    end, took = time.monotonic() + seconds, []
    while time.monotonic() < end:
        began = time.monotonic()
        while (answer := await client.post("/v1/chat/completions", json=body(volume))).status_code != 200:
            assert answer.status_code in (429, 503), answer.text
            await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
        took.append(time.monotonic() - began)
        await asyncio.sleep(0.2)
    return took


async def ask_now_and_then(local: str, address: str, volume: str, end: float, *, rest: float) -> list[float]:
    """As a person would, about every `rest` seconds."""
    dice, took = random.Random(local), []
    async with client_at(local, address) as client:
        await asyncio.sleep(rest * dice.random())
        while time.monotonic() < end:
            took += await ask_again_and_again(client, volume, seconds=0.001)
            await asyncio.sleep(rest * (0.67 + 0.67 * dice.random()))
    return took


async def misbehave(
    kind: str, number: int, address: str, volume: str, scan: bytes, told: Counter[str], end: float
) -> None:
    dice = random.Random(number)
    local = f"127.0.{1 + number // 250}.{1 + number % 250}"
    async with client_at(local, address) as client:
        while time.monotonic() < end:
            try:
                if kind == "hog":
                    jobs = [client.post("/v1/chat/completions", json=body(volume, max_tokens=1024)) for _ in range(10)]
                elif kind == "writer":
                    jobs = [client.post("/v1/chat/completions", json=strange(volume, dice))]
                elif kind == "uploader":
                    file = scan if dice.random() < 0.2 else b"no scan"
                    jobs = [client.post("/v1/volumes", files={"file": ("scan.nii.gz", file)})]
                else:
                    jobs = [hold(local, address, dice)]
                for status in await asyncio.gather(*jobs):
                    told[str(getattr(status, "status_code", status))] += 1
            except (httpx.HTTPError, OSError) as error:
                told[type(error).__name__] += 1
            await asyncio.sleep(dice.random())


async def hold(local: str, address: str, dice: random.Random) -> str:
    """Half a request, then a byte now and then, until it is cut or this gives up."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(local, 0))
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    writer.write((head + ("Content-Length: 100000\r\n\r\n{" if dice.random() < 0.5 else "X-Half: ")).encode())
    try:
        for _ in range(60):
            writer.write(b" ")
            await writer.drain()
            try:
                line = await asyncio.wait_for(reader.readline(), 1)
            except TimeoutError:
                continue
            return line.split()[1].decode() if line else "closed"
        return "still open"
    finally:
        writer.close()


def strange(volume: str, dice: random.Random) -> dict[str, object]:
    if dice.random() < 0.3:
        long = [{"role": role, "content": "word " * 18_000} for _ in range(20) for role in ("user", "assistant")]
        asked = body(volume)
        return {**asked, "messages": [*long, *asked["messages"]]}  # type: ignore[misc]
    return body(
        volume, temperature=dice.choice((1e-39, 1e-9, 1e-4, 2)), top_p=dice.choice((1e-9, 0.5, 1)), seed=number_of(dice)
    )


def number_of(dice: random.Random) -> int:
    return dice.randrange(-(2**63), 2**63)


def body(volume: str, **settings: object) -> dict[str, object]:
    content = [{"type": "text", "text": "Which phase is this?"}, {"type": "file", "file": {"file_id": volume}}]
    return {"model": "phantom-tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 32, **settings}


def client_at(local: str, address: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=address, timeout=120, transport=httpx.AsyncHTTPTransport(local_address=local))


def figures(seconds: list[float]) -> dict[str, float]:
    every = sorted(seconds)
    p95 = quantiles(every, n=20)[-1] if len(every) > 1 else every[0]
    return {
        "count": len(every),
        "median": round(median(every), 3),
        "p95": round(p95, 3),
        "longest": round(every[-1], 3),
    }


def resident_mib(process_id: int) -> int:
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) >> 10


if __name__ == "__main__":
    main()
