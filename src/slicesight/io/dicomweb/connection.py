"""How is an archive talked to so that every failure is one line and nothing runs away?

Whatever comes is counted and timed while it streams; several parts must end with their closing line; nothing is
followed to another address; no token leaves over an open line.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydicom.errors import InvalidDicomError

from slicesight.errors import InputError
from slicesight.io.dicom.values import DAMAGED, quiet_pydicom

if TYPE_CHECKING:
    from dicomweb_client.web import DICOMwebClient
    from requests import HTTPError, PreparedRequest, Response

TOKEN_VARIABLE = "SLICESIGHT_ARCHIVE_TOKEN"  # noqa: S105 the variable's name
MAX_BYTES = 8 << 30
CONNECT_S, READ_S, WHOLE_S = 10.0, 120.0, 3600.0
FAILURES = {
    0x0110: "it failed to process it",
    0x0122: "it does not keep structured reports",
    0x0124: "not authorised",
    0xA700: "out of resources",
    0xA900: "it finds the object's form wrong",
    0xC000: "it cannot understand the object",
}
"""What an archive's failure reasons mean (PS3.18, Table I.2-2)."""


class ArchiveSession:
    """A client, and what is watched over its answers: how much came, for how long, and whether the end was there."""

    def __init__(self, archive: str, *, token: str | None, max_bytes: int) -> None:
        from dicomweb_client.session_utils import create_session
        from dicomweb_client.web import DICOMwebClient

        self.archive = archive
        self.max_bytes = max_bytes
        self.ends_at = time.monotonic() + WHOLE_S
        self.num_bytes = 0
        self.media_type = ""
        self.closing: bytes | None = None
        self.tail = b""
        self.session = create_session()
        if token is not None:
            self.session.auth = _bearer(token)
        self.session.hooks["response"] = [self._watch]
        self.client: DICOMwebClient = DICOMwebClient(archive, session=self.session, timeout=(CONNECT_S, READ_S))
        self.client.host = urlsplit(archive).netloc  # its own leaves out the port
        self.client.set_http_retry_params(retry=False)

    def accept_json(self) -> None:
        self.session.headers["Accept"] = "application/dicom+json, application/json"

    @property
    def is_cut_short(self) -> bool:
        """Several parts were promised and the last one's end is missing."""
        return self.closing is not None and self.closing not in self.tail

    def check_end(self) -> None:
        if self.is_cut_short:
            raise InputError(f"{self.archive} stopped in the middle of the series; the answer is cut short, try again")

    def _watch(self, response: Response, *_: Any, **__: Any) -> None:
        if response.is_redirect:
            raise InputError(
                f"{self.archive} sends on to another address ({response.status_code}), which is not followed; name that"
            )
        self.media_type = response.headers.get("Content-Type", "no type")
        self.closing, self.tail = _closing(self.media_type), b""
        if response.status_code == 206 and self.closing is not None:
            raise InputError(f"{self.archive} has only a part of the series at hand (206); try again later")
        pieces = response.iter_content

        def watched(*args: Any, **kwargs: Any) -> Iterator[bytes]:
            for piece in pieces(*args, **kwargs):
                self.num_bytes += len(piece)
                self.tail = (self.tail + piece[-200:])[-200:]
                if self.num_bytes > self.max_bytes:
                    raise InputError(
                        f"{self.archive} sends more than {self.max_bytes / 2**20:.0f} MiB; ask for a smaller series"
                    )
                if time.monotonic() > self.ends_at:
                    raise InputError(f"{self.archive} has been sending for {WHOLE_S / 60:.0f} minutes; try again later")
                yield piece

        response.iter_content = watched  # type: ignore[method-assign]


@contextmanager
def open_session(archive: str, *, token: str | None, max_bytes: int) -> Iterator[ArchiveSession]:
    """A connection whose every failure is one line."""
    try:
        import dicomweb_client  # noqa: F401
        from requests import exceptions
    except ImportError as error:
        raise InputError(f"an archive needs dicomweb-client ({error}); run: pip install 'slicesight[dicom]'") from error
    token = token or os.environ.get(TOKEN_VARIABLE) or None
    if token is not None and archive.startswith("http://") and not _is_loopback(archive):
        raise InputError(f"a token would travel unencrypted to {archive}; use its dicomweb+https:// address")
    talk = ArchiveSession(archive, token=token, max_bytes=max_bytes)
    try:
        with quiet_pydicom(), _quiet_client():
            yield talk
    except InputError:
        raise
    except exceptions.HTTPError as error:
        raise InputError(_refusal(archive, error)) from None
    except exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            raise InputError(
                f"{archive} does not speak TLS; check the port, or use its dicomweb+http:// address"
            ) from None
        raise InputError(
            f"{archive}: its certificate is not trusted; name the hospital's own in REQUESTS_CA_BUNDLE=FILE.pem"
        ) from None
    except exceptions.InvalidJSONError as error:
        raise InputError(_unreadable_reply(talk, error)) from None
    except exceptions.RequestException as error:
        raise InputError(_silence(talk, error)) from None
    except OSError as error:
        raise InputError(
            f"the series cannot be written down ({error.strerror or error}); make room on the disk"
        ) from None
    except (*DAMAGED, InvalidDicomError) as error:
        talk.check_end()
        raise InputError(_unreadable_reply(talk, error)) from None
    finally:
        talk.session.close()


def status_of(error: HTTPError) -> int:
    """The number an archive refuses with."""
    return 0 if error.response is None else error.response.status_code


def _refusal(archive: str, error: HTTPError) -> str:
    status = status_of(error)
    if status in (401, 403):
        return (
            f"{archive} refuses ({status}); give a token with --archive-token FILE or {TOKEN_VARIABLE}, or the user "
            "name in ~/.netrc"
        )
    if status == 404:
        return f"{archive} has nothing at this address (404); check host, path and UIDs"
    if status in (429, 503):
        return f"{archive} is busy ({status}); try again later"
    reason = ""
    if error.response is not None and error.response.request.method == "POST":
        try:
            answer = error.response.json()
            failed = (answer[0] if isinstance(answer, list) else answer)["00081198"]["Value"][0]
            reason = f", {status_meaning(json_value(failed, '00081197'))}"
        except (AttributeError, LookupError, TypeError, ValueError):
            pass
    return f"{archive} failed ({status}{reason}); see its log or ask its keeper"


def _silence(talk: ArchiveSession, error: Exception) -> str:
    from requests.exceptions import ConnectTimeout, ContentDecodingError

    if talk.is_cut_short or isinstance(error, ContentDecodingError):
        return f"{talk.archive} stopped in the middle of the series; the answer is cut short, try again"
    if isinstance(error, ConnectTimeout):
        return f"{talk.archive} cannot be reached within {CONNECT_S:.0f} s; check host, port and network"
    if "timed out" in str(error):
        return f"{talk.archive} has been silent for {READ_S:.0f} s; try again later"
    return f"{talk.archive} cannot be reached ({type(error).__name__}); check host, port and network"


def _unreadable_reply(talk: ArchiveSession, error: Exception) -> str:
    what = f"{talk.media_type.split(';')[0]}, {type(error).__name__}"
    return f"{talk.archive} does not answer as DICOMweb does ({what}); check the address"


def _closing(content_type: str) -> bytes | None:
    """What the last of several parts ends with."""
    kind, *settings = content_type.split(";")
    if kind.strip().lower() != "multipart/related":
        return None
    for setting in settings:
        name, _, value = setting.strip().partition("=")
        if name.lower() == "boundary":
            return b"--" + value.strip('"').encode() + b"--"
    return None


def _bearer(token: str) -> Callable[[PreparedRequest], PreparedRequest]:
    def sign(request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return sign


def _is_loopback(archive: str) -> bool:
    host = urlsplit(archive).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Without the client's own remarks, which name UIDs."""
    logger = logging.getLogger("dicomweb_client")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def json_value(entry: Any, tag: str) -> Any:
    """The first value of an attribute in DICOM's JSON, None without one."""
    values = entry.get(tag, {}).get("Value") or [None]
    return values[0]


def status_meaning(reason: Any) -> str:
    """An archive's failure reason in words."""
    if not isinstance(reason, int):
        return "no reason given"
    family = reason if reason in FAILURES else reason & (0xF000 if reason >= 0xC000 else 0xFF00)
    return FAILURES.get(family, f"reason {reason:04X}")
