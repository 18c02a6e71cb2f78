"""A Hugging Face hub small enough for a test: what `slicesight pull` asks a hub, on loopback, with faults on demand.

It answers as huggingface.co does: model info with sizes and checksums, `resolve` with ETag and commit headers, LFS
files by a redirect to another address, ranges, gated and private repositories with their error codes, 429 and how long.
    python tests/loopback_hub.py FOLDER   # serves FOLDER/owner/model until it is stopped
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".bin", ".safetensors", ".model")
PIECE = 1 << 16


@dataclass
class Repo:
    """Files by path, and who may have them."""

    files: dict[str, bytes]
    licence: str | None = "apache-2.0"
    gated_for: str | None = None
    """The only token that may fetch files; the info is public."""
    private_for: str | None = None
    """The only token that may know that it exists."""

    @property
    def commit(self) -> str:
        names = "".join(f"{path}{sha256(content)}" for path, content in sorted(self.files.items()))
        return hashlib.sha1(names.encode()).hexdigest()


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    is_storage: bool


@dataclass
class Hub:
    """The hub's repositories, its faults still to come, and what it was asked."""

    repos: dict[str, Repo] = field(default_factory=dict)
    datasets: set[str] = field(default_factory=set)
    faults: dict[str, list[tuple[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    """Path's end -> what goes wrong with the next GETs of it: ("cut", bytes), ("stall", bytes), ("status", (code,
    headers)), ("damage", None), ("ignore range", None), ("slow", bytes a second), ("cut for good", bytes),
    ("silent", seconds)."""
    requests: list[Request] = field(default_factory=list)
    without_checksums: bool = False
    commit_sent: str | None = None
    xet: str | None = None
    """None keeps no file in Xet storage; "missing" and "stalled" name one for LFS files that never gives them."""
    url: str = ""
    storage_url: str = ""

    def add(self, name: str, folder: Path, **settings: Any) -> Repo:
        """Every file of a folder as a repository."""
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        self.repos[name] = Repo(files=files, **settings)
        return self.repos[name]

    def fetched(self, ending: str) -> list[Request]:
        """The GETs of a file's content, from the storage where it is an LFS file."""
        is_lfs = ending.endswith(LFS_SUFFIXES)
        return [r for r in self.requests if r.method == "GET" and r.path.endswith(ending) and r.is_storage == is_lfs]


@lru_cache(maxsize=256)
def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@lru_cache(maxsize=256)
def git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub and its storage, each at an address of its own."""
    servers = []
    for is_storage in (False, True):
        handler = type("Handler", (_Handler,), {"hub": hub, "is_storage": is_storage})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
    hub.url, hub.storage_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    is_storage: bool
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, *, with_content: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        authorization = self.headers.get("Authorization")
        self.hub.requests.append(
            Request(self.command, path, self.headers.get("Range"), authorization, is_storage=self.is_storage)
        )
        fault = self._fault_of(path) if with_content else None
        if fault is not None and fault[0] == "silent":
            time.sleep(fault[1])
        if fault is not None and fault[0] == "status":
            code, headers = fault[1]
            self._send(code, b"", headers)
        elif self.is_storage:
            content = next(
                c for repo in self.hub.repos.values() for c in repo.files.values() if path[1:65] == sha256(c)
            )
            self._send_content(content, fault, {"ETag": f'"{sha256(content)}"'}, with_content=with_content)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._send_info(match[1], match[2])
        elif match := re.fullmatch(r"/api/(datasets|spaces)/([^/]+/[^/]+)", path):
            there = match[1] == "datasets" and match[2] in self.hub.datasets
            self._send(200 if there else 401, b'{"id": "x/y"}', {} if there else {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/xet/"):
            if self.hub.xet == "stalled":
                time.sleep(3)
            self._send(404, b"", {})
        elif path.startswith("/api/models/") and path.endswith("/xet-read-token"):
            expires = str(int(time.time()) + 3600)
            token = {
                "X-Xet-Cas-Url": f"{self.hub.url}/xet",
                "X-Xet-Access-Token": "t",
                "X-Xet-Token-Expiration": expires,
            }
            self._send(200, b"{}", token)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._send_file(match[1], match[3], fault, with_content=with_content)
        else:
            self._send(404, b"", {})

    @property
    def storage_of_other_host(self) -> str:
        """As the real hub's, the storage has another host: the library follows redirects within one."""
        return self.hub.storage_url.replace("127.0.0.1", "localhost") if self.hub.xet else self.hub.storage_url

    def _fault_of(self, path: str) -> tuple[str, Any] | None:
        for ending, faults in self.hub.faults.items():
            is_content = self.is_storage == ending.endswith(LFS_SUFFIXES)
            if faults and path.endswith(ending) and is_content:
                return faults[0] if faults[0][0] == "cut for good" else faults.pop(0)
        return None

    def _may(self, token: str | None) -> bool:
        return token is None or self.headers.get("Authorization") == f"Bearer {token}"

    def _send_info(self, name: str, revision: str | None) -> None:
        repo = self.hub.repos.get(name)
        if repo is None or not self._may(repo.private_for):
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
            return
        if revision not in (None, "main", repo.commit):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = []
        for path, content in sorted(repo.files.items()):
            sibling: dict[str, Any] = {"rfilename": path}
            if not self.hub.without_checksums:
                sibling |= {"size": len(content), "blobId": git_sha1(content)}
                if path.endswith(LFS_SUFFIXES):
                    sibling["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
        info = {"id": name, "sha": repo.commit, "siblings": siblings, "gated": "manual" if repo.gated_for else False}
        info |= {"private": repo.private_for is not None, "tags": []}
        if repo.licence is not None:
            info |= {"cardData": {"license": repo.licence}, "tags": [f"license:{repo.licence}"]}
        self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _send_file(self, name: str, path: str, fault: tuple[str, Any] | None, *, with_content: bool) -> None:
        repo = self.hub.repos.get(name)
        if repo is None or not self._may(repo.private_for):
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif not self._may(repo.gated_for):
            code = 403 if self.headers.get("Authorization") else 401
            self._send(code, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to {name} is restricted."})
        elif path not in repo.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            content = repo.files[path]
            headers = {"X-Repo-Commit": self.hub.commit_sent or repo.commit}
            if path.endswith(LFS_SUFFIXES):
                digest = sha256(content)
                headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
                if self.hub.xet:
                    headers["X-Xet-Hash"] = digest
                    headers["Link"] = f'<{self.hub.url}/api/models/{name}/xet-read-token>; rel="xet-auth"'
                self._send(302, b"", headers | {"Location": f"{self.storage_of_other_host}/{digest}/{path}"})
            else:
                headers["ETag"] = f'"{git_sha1(content)}"'
                self._send_content(content, fault, headers, with_content=with_content)

    def _send_content(
        self, content: bytes, fault: tuple[str, Any] | None, headers: dict[str, str], *, with_content: bool
    ) -> None:
        what, how = fault or ("", None)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        begin = int(asked[1]) if asked and what != "ignore range" else 0
        self.send_response(206 if begin else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not with_content:
            return
        if what == "damage":
            content = content[:-1] + bytes([content[-1] ^ 1])
        rest = content[begin:]
        if what in ("cut", "cut for good", "stall"):
            self.wfile.write(rest[:how])
            self.wfile.flush()
            if what == "stall":
                time.sleep(1.5)
            self.close_connection = True
            return
        for place in range(0, len(rest), PIECE):
            self.wfile.write(rest[place : place + PIECE])
            if what == "slow":
                time.sleep(PIECE / how)

    def _send(self, code: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def handle(self) -> None:
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):  # the client was killed
            self.close_connection = True


if __name__ == "__main__":
    served = Hub()
    for place in sorted(Path(sys.argv[1]).glob("*/*")):
        served.add(f"{place.parent.name}/{place.name}", place)
    with serving(served):
        print(served.url, flush=True)
        threading.Event().wait()
