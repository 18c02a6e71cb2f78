"""Two archives for tests: a small one over HTTP that misbehaves on demand, and a real Orthanc."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pydicom
import pytest

STUDY, SERIES = "1.2.3", "1.2.3.4"
BOUNDARY = b"the-boundary"
DICOM_PARTS = 'multipart/related; type="application/dicom"; boundary="the-boundary"'
JSON = "application/dicom+json"
ORTHANC_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass
class Reply:
    """What the small archive says. cut: promise a length and stop that many bytes before it."""

    status: int = 200
    kind: str = JSON
    body: bytes = b"[]"
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    says_length: bool = True
    wait_s: float = 0.0


def as_parts(files: list[Path], *, closing: bool = True) -> bytes:
    """Files as one body of several parts."""
    parts = [b"--" + BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n" + file.read_bytes() for file in files]
    return b"\r\n".join(parts) + (b"\r\n--" + BOUNDARY + b"--\r\n" if closing else b"")


def listing(*, modality: str = "CT", count: int | None = None) -> Reply:
    """QIDO's answer about the one series."""
    entry = {
        "0020000D": {"vr": "UI", "Value": [STUDY]},
        "0020000E": {"vr": "UI", "Value": [SERIES]},
        "00080060": {"vr": "CS", "Value": [modality]},
    }
    if count is not None:
        entry["00201209"] = {"vr": "IS", "Value": [count]}
    return Reply(body=json.dumps([entry]).encode())


class SmallArchive:
    """Answers `GET …/series?…` with `listed`, `GET …/studies/…` with `series`, `POST` with `stored`; notes who asks."""

    def __init__(self) -> None:
        self.listed: Reply | Callable[[str], Reply] = listing()
        self.series: Reply | Callable[[str], Reply] = Reply(kind=DICOM_PARTS, body=as_parts([]))
        self.stored: Reply | Callable[[bytes], Reply] = Reply(body=b"{}")
        self.instances: Reply = Reply()
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.posted: list[bytes] = []
        archive = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                archive.asked.append(("GET", self.path, dict(self.headers)))
                chosen = archive.series
                if "/instances?" in self.path:
                    chosen = archive.instances
                elif "?" in self.path:
                    chosen = archive.listed
                self.say(chosen if isinstance(chosen, Reply) else chosen(self.headers.get("Accept", "")))

            def do_POST(self) -> None:
                archive.asked.append(("POST", self.path, dict(self.headers)))
                archive.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.say(archive.stored if isinstance(archive.stored, Reply) else archive.stored(archive.posted[-1]))

            def say(self, reply: Reply) -> None:
                time.sleep(reply.wait_s)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.send_response(reply.status)
                    self.send_header("Content-Type", reply.kind)
                    if reply.says_length:
                        self.send_header("Content-Length", str(len(reply.body)))
                    else:
                        self.send_header("Connection", "close")
                    for name, value in reply.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(reply.body[: len(reply.body) - reply.cut])
                if reply.cut or not reply.says_length:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that hangs up is what some tests are about."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/dicom-web"

    @property
    def address(self) -> str:
        return f"dicomweb+{self.url}/studies/{STUDY}/series/{SERIES}"

    def holds(self, folder: Path, **reply: object) -> None:
        """The folder's files are the series."""
        files = sorted(folder.iterdir())
        self.listed = listing(count=len(files))
        self.series = Reply(kind=DICOM_PARTS, body=as_parts(files), **reply)


@contextlib.contextmanager
def small_archive() -> Iterator[SmallArchive]:
    archive = SmallArchive()
    thread = threading.Thread(target=archive.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield archive
    finally:
        archive.server.shutdown()
        archive.server.server_close()
        thread.join()


@contextlib.contextmanager
def orthanc(folder: Path, *, users: dict[str, str] | None = None) -> Iterator[str]:
    """A real Orthanc with its DICOMweb plugin on free loopback ports -> its DICOMweb address; killed afterwards."""
    program = shutil.which("Orthanc") or ("/usr/sbin/Orthanc" if Path("/usr/sbin/Orthanc").is_file() else None)
    if program is None or not ORTHANC_PLUGIN.exists():
        pytest.skip("Orthanc and its DICOMweb plugin are not installed (Debian's orthanc and orthanc-dicomweb)")
    port = _free_port()
    (folder / "storage").mkdir()
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": users is not None,
        "RegisteredUsers": users or {},
        "Plugins": [str(ORTHANC_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    url = f"http://127.0.0.1:{port}/dicom-web"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(f"{url}/studies", process)
            yield url
        finally:
            process.kill()
            process.wait()


def put(url: str, files: list[Path]) -> pydicom.Dataset:
    """Store files by STOW-RS, as any program would; returns the first one's header."""
    body = as_parts(files)
    request = urllib.request.Request(
        f"{url}/studies", data=body, headers={"Content-Type": DICOM_PARTS, "Accept": JSON}, method="POST"
    )
    with urllib.request.urlopen(request) as answer:
        stored = json.load(answer)
    assert len(stored["00081199"]["Value"]) == len(files)
    return pydicom.dcmread(files[0], stop_before_pixels=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "Orthanc ended by itself"
        try:
            urllib.request.urlopen(url).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("Orthanc did not answer within 30 s")
