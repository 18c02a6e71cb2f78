"""Who misbehaves toward a server on this machine, in a process of its own? (started by serve_fairness.py)

    hogs       ask the longest answers, ten at a time each
    writers    send conversations of megabytes, or texts with odd temperatures
    holders    open connections, send half a header or a body byte by byte, and begin again when they are cut
    uploaders  send tiny scans and slow ones, and never ask

Each has a loopback address of its own (127.0.1.1, ...). One line of JSON on stdin says what to do; when stdin closes
they stop, and what they were told, counted by status, is one line of JSON on stdout.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys
from collections import Counter
from pathlib import Path

import httpx

KINDS = ("hog", "writer", "holder", "uploader")


def main() -> None:
    order = json.loads(sys.stdin.readline())
    told: Counter[str] = Counter()
    asyncio.run(misbehave_until_told(order, told))
    print(json.dumps(told))


async def misbehave_until_told(order: dict[str, object], told: Counter[str]) -> None:
    scan = Path(str(order["scan"])).read_bytes()
    kinds = [str(kind) for kind in order["kinds"]]  # type: ignore[attr-defined]
    tasks = [
        asyncio.create_task(misbehave(kinds[number % len(kinds)], number, order, scan, told))
        for number in range(int(order["count"]))  # type: ignore[call-overload]
    ]
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def misbehave(kind: str, number: int, order: dict[str, object], scan: bytes, told: Counter[str]) -> None:
    dice = random.Random(number)
    address, volume, model = (str(order[name]) for name in ("address", "volume", "model"))
    local = f"127.0.{1 + number // 250}.{1 + number % 250}"
    long = long_body(volume, model) if kind == "writer" else b""
    async with client_at(local, address) as client:
        while True:
            try:
                if kind == "hog":
                    asked = body(volume, model, max_tokens=1024, temperature=1.5, seed=dice.randrange(10**6))
                    jobs = [client.post("/v1/chat/completions", json=asked) for _ in range(10)]
                elif kind == "writer" and dice.random() < 0.3:
                    kept = {"content-type": "application/json"}
                    jobs = [client.post("/v1/chat/completions", content=long, headers=kept)]
                elif kind == "writer":
                    jobs = [client.post("/v1/chat/completions", json=strange(volume, model, dice))]
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


def long_body(volume: str, model: str) -> bytes:
    """A conversation of 3.6 MB, made once: the one who sends it is not what is measured."""
    long = [{"role": role, "content": "word " * 18_000} for _ in range(20) for role in ("user", "assistant")]
    asked = body(volume, model)
    return json.dumps({**asked, "messages": [*long, *asked["messages"]]}).encode()  # type: ignore[misc]


def strange(volume: str, model: str, dice: random.Random) -> dict[str, object]:
    return body(
        volume,
        model,
        temperature=dice.choice((1e-39, 1e-9, 1e-4, 2)),
        top_p=dice.choice((1e-9, 0.5, 1)),
        seed=dice.randrange(-(2**63), 2**63),
    )


def body(volume: str, model: str, **settings: object) -> dict[str, object]:
    content = [{"type": "text", "text": "Which phase is this?"}, {"type": "file", "file": {"file_id": volume}}]
    return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 32, **settings}


NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""One for all: a client that makes its own reads a list of authorities first, and 180 of them hold this program up."""


def client_at(local: str, address: str) -> httpx.AsyncClient:
    way = httpx.AsyncHTTPTransport(local_address=local, verify=NO_TLS)
    return httpx.AsyncClient(base_url=address, timeout=120, transport=way)


if __name__ == "__main__":
    main()
