"""How does a viewer ask a slicesight server about the scan on screen?

The one client of 3D Slicer and napari, by the server's HTTP API alone (docs/how-to/serve.md): the standard library,
Python 3.9 or newer, no torch.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import secrets
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from .answers import ScanAnswer
from .scan_file import ScreenScan, ViewerError, write_nifti

OnText = Callable[[str], None]
OnProgress = Callable[[int, int], None]
"""Called with bytes sent and bytes in all."""
_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class ServedModel:
    """What answers, and what must be read before it is asked."""

    name: str
    notices: tuple[str, ...]
    windows: tuple[str, ...] = ()


class Server:
    """A `slicesight serve` at its address.

    Args:
        address: such as http://127.0.0.1:8000, a path of a proxy included.
        token: of a server that wants one.
        allow_plain_http: send scan and token unencrypted to another machine.

    Raises:
        ViewerError: the address is none, or would send a scan unencrypted to another machine.
    """

    def __init__(
        self, address: str, *, token: str = "", allow_plain_http: bool = False, timeout_s: float = 600
    ) -> None:
        address = address.strip().rstrip("/")
        self.address = address[: -len("/v1")] if address.endswith("/v1") else address
        parts = _split(self.address)
        self.host, self.token, self.timeout_s = parts.hostname or "", token.strip(), timeout_s
        if not (self.token.isascii() and self.token.isprintable()):
            raise ViewerError("the token holds characters that no token has; copy the first line of the token's file.")
        if parts.scheme == "http" and not self.is_this_machine and not allow_plain_http:
            raise ViewerError(
                f"{self.address} would get scan and token unencrypted; use https://, a tunnel to 127.0.0.1, or allow "
                "plain http for a network you trust."
            )
        handlers = [urllib.request.ProxyHandler({})] if self.is_this_machine else []
        self._opener = urllib.request.build_opener(_NoRedirect, *handlers)

    @property
    def is_this_machine(self) -> bool:
        """Whether what is sent stays here."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def model(self) -> ServedModel:
        """What the server runs."""
        settings = self._json("GET", "/v1/settings")
        return ServedModel(settings["model"], tuple(settings["notices"]), tuple(settings["windows"]))

    def send(
        self,
        scan: ScreenScan,
        *,
        window: str = "",
        on_progress: OnProgress | None = None,
        is_stopped: Callable[[], bool] | None = None,
    ) -> str:
        """Send a scan -> the id that the server keeps it by. Only voxels and their place are sent, no patient's name.

        Raises:
            ViewerError: the scan cannot be read there, or sent.
        """
        boundary = secrets.token_hex(16)
        fields = {"unit": scan.unit, "window": window}
        with tempfile.TemporaryDirectory(prefix="slicesight-") as folder:
            file = Path(folder) / "scan.nii.gz"
            write_nifti(scan, file)
            head = b"".join(_field(boundary, name, value) for name, value in fields.items() if value)
            head += (
                f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="scan.nii.gz"\r\n'
                "Content-Type: application/octet-stream\r\n\r\n"
            ).encode()
            tail = f"\r\n--{boundary}--\r\n".encode()
            total = len(head) + file.stat().st_size + len(tail)
            headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Content-Length": str(total)}
            with file.open("rb") as stream:
                body = _watched(_chunks(head, stream, tail), total, on_progress, is_stopped)
                return str(self._json("POST", "/v1/volumes", body=body, headers=headers)["id"])

    def ask(
        self,
        scan_id: str,
        question: str,
        *,
        answer_anyway: bool = False,
        on_text: OnText | None = None,
        is_stopped: Callable[[], bool] | None = None,
    ) -> ScanAnswer:
        """One question about a scan that was sent; without words it asks for the findings.

        Args:
            on_text: called with the answer's text so far, as it comes.

        Raises:
            ViewerError: the server refuses (code "no_volume": it no longer keeps the scan), or stops half-way.
        """
        file_part = {"type": "file", "file": {"file_id": scan_id}}
        words = [{"type": "text", "text": question.strip()}] if question.strip() else []
        body = {
            "model": self.model().name,
            "messages": [{"role": "user", "content": [*words, file_part]}],
            "stream": True,
            **({"answer_anyway": True} if answer_anyway else {}),
        }
        text = ""
        with self._reached(), self._open("POST", "/v1/chat/completions", body=json.dumps(body).encode()) as response:
            for event in _events(response):
                if is_stopped is not None and is_stopped():
                    raise ViewerError("the question was called off.", "stopped")
                _raise_refusal(event)
                for choice in event.get("choices", ()):
                    text += choice["delta"].get("content", "")
                    if choice["finish_reason"] is not None:
                        return ScanAnswer.from_message(
                            question,
                            {**choice["delta"], "content": text},
                            finish_reason=choice["finish_reason"],
                            notices=event["notices"],
                        )
                if on_text is not None and text:
                    on_text(text)
        raise ViewerError(f"{self.host} stopped in the middle of its answer; ask again.")

    def forget(self, scan_id: str) -> None:
        """Have the scan and its answers removed from the server; nothing happens where it is gone already."""
        try:
            with self._reached():
                self._open("DELETE", f"/v1/volumes/{scan_id}").close()
        except ViewerError as error:
            if error.code != "no_volume":
                raise

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        with self._reached(), self._open(method, path, **request) as response:
            found = _parsed(response.read())
        if found is None:
            raise ViewerError(f"{self.address} answers, but is no slicesight server; give the address it printed.")
        return found

    def _open(self, method: str, path: str, *, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        sent = {"Content-Type": "application/json", "Accept": "*/*", **(headers or {})}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.address + path, data=body, headers=sent, method=method)  # noqa: S310
        try:
            return self._opener.open(request, timeout=self.timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                _raise_refusal(_parsed(error.read()) or {})
            raise ViewerError(
                f"{self.address} says {error.code} {error.reason}; give the address that slicesight serve printed."
            ) from None

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ViewerError(
                f"{self.address} cannot be reached ({reason}); start slicesight serve there, or mend the address."
            ) from None


class Backend(Protocol):
    """What answers: a `Server`, or a model in the viewer's own process."""

    def send(
        self,
        scan: ScreenScan,
        *,
        window: str = "",
        on_progress: OnProgress | None = None,
        is_stopped: Callable[[], bool] | None = None,
    ) -> str: ...

    def ask(
        self,
        scan_id: str,
        question: str,
        *,
        answer_anyway: bool = False,
        on_text: OnText | None = None,
        is_stopped: Callable[[], bool] | None = None,
    ) -> ScanAnswer: ...

    def forget(self, scan_id: str) -> None: ...


class Session:
    """The scan on screen and what asks it: sent with its first question, again where the server no longer has it."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._kept: tuple[tuple[str, str, str], str] | None = None

    def ask(
        self,
        scan: ScreenScan,
        question: str,
        *,
        window: str = "",
        answer_anyway: bool = False,
        on_progress: OnProgress | None = None,
        on_text: OnText | None = None,
        is_stopped: Callable[[], bool] | None = None,
    ) -> ScanAnswer:
        """Ask about a scan, sent first where it has to be; arguments as of `Server`."""

        def scan_id() -> str:
            key = (scan.key, scan.unit, window)
            if self._kept is None or self._kept[0] != key or not scan.key:
                self.close()
                found = self.backend.send(scan, window=window, on_progress=on_progress, is_stopped=is_stopped)
                self._kept = key, found
            return self._kept[1]

        options: dict[str, Any] = {"answer_anyway": answer_anyway, "on_text": on_text, "is_stopped": is_stopped}
        try:
            return self.backend.ask(scan_id(), question, **options)
        except ViewerError as error:
            if error.code != "no_volume":
                raise
        self._kept = None
        return self.backend.ask(scan_id(), question, **options)

    def close(self) -> None:
        """Leave no scan behind."""
        kept, self._kept = self._kept, None
        if kept is not None:
            self.backend.forget(kept[1])


def _split(address: str) -> Any:
    try:
        parts = urlsplit(address)
        if parts.scheme in ("http", "https") and parts.hostname and not parts.query and parts.username is None:
            parts.port  # noqa: B018  # raises where it is none
            return parts
    except ValueError:
        pass
    raise ViewerError(f"{address!r} is no server's address; expected one such as http://127.0.0.1:8000.")


def _field(boundary: str, name: str, value: str) -> bytes:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def _chunks(head: bytes, stream: BinaryIO, tail: bytes) -> Iterator[bytes]:
    yield head
    yield from iter(lambda: stream.read(_CHUNK_BYTES), b"")
    yield tail


def _watched(
    chunks: Iterator[bytes], total: int, on_progress: OnProgress | None, is_stopped: Callable[[], bool] | None
) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        if is_stopped is not None and is_stopped():
            raise ViewerError("sending the scan was called off.", "stopped")
        yield chunk
        done += len(chunk)
        if on_progress is not None:
            on_progress(done, total)


def _events(response: Any) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event."""
    for line in response:
        found = _parsed(line[len(b"data:") :]) if line.startswith(b"data:") else None
        if found is not None:
            yield found


def _parsed(content: bytes) -> dict[str, Any] | None:
    """A JSON object, or None for anything else."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _raise_refusal(found: dict[str, Any]) -> None:
    error = found.get("error")
    if isinstance(error, dict):
        raise ViewerError(str(error.get("message")), error.get("code"))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token goes to the address that was given, nowhere else."""

    def redirect_request(self, *_arguments: Any) -> None:
        return None
