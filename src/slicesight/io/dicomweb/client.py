"""How does a series come out of a hospital's archive, and a report back into it? By DICOMweb: QIDO-RS finds it,
WADO-RS brings its images into a temporary folder in the form they are stored in, STOW-RS stores the report.

A token comes from a file or from SLICESIGHT_ARCHIVE_TOKEN, a user name and password from ~/.netrc; no token leaves over
an open line. Certificates are checked; REQUESTS_CA_BUNDLE names a hospital's own. Nothing is followed to another
address. Whatever comes is counted and timed while it streams, several parts must end with their closing line, and every
failure is one line.
"""

from __future__ import annotations

import ipaddress
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pydicom
from pydicom.errors import InvalidDicomError

from slicesight.errors import InputError
from slicesight.io.dicom.series import NOT_SCANS
from slicesight.io.dicom.values import quiet_pydicom
from slicesight.io.dicomweb.address import ArchiveAddress, is_address, read_address
from slicesight.io.files import DAMAGED

if TYPE_CHECKING:
    from dicomweb_client.web import DICOMwebClient
    from requests import HTTPError, PreparedRequest, Response

TOKEN_VARIABLE = "SLICESIGHT_ARCHIVE_TOKEN"  # noqa: S105 the variable's name
MAX_BYTES = 8 << 30
CONNECT_S, READ_S, WHOLE_S = 10.0, 120.0, 3600.0
_FAILURES = {
    0x0110: "it failed to process it",
    0x0122: "it does not keep structured reports",
    0x0124: "not authorised",
    0xA700: "out of resources",
    0xA900: "it finds the object's form wrong",
    0xC000: "it cannot understand the object",
}
"""What an archive's failure reasons mean (PS3.18, Table I.2-2)."""
_AS_STORED = (("application/dicom", "*"),)

Progress = Callable[[int, int], None]
"""Called with (images here, images of the series); the second grows where the archive does not say it."""


def read_token(file: Path) -> str:
    """The token a file holds, never shown.

    Raises:
        InputError: the file cannot be read or is no single word.
    """
    try:
        token = file.read_text(encoding="ascii").strip()
    except OSError as error:
        raise InputError(f"{file}: the token cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        token = ""
    if not token or len(token.split()) != 1 or not token.isprintable():
        raise InputError(f"{file}: expected one token of plain letters; write nothing else into the file")
    return token


@contextmanager
def local_copy(scan: str | Path, *, token_file: Path | None = None, progress: Progress | None = None) -> Iterator[Path]:
    """The scan's own path, or a temporary folder with the series an address names.

    Args and Raises: as `read_token` and `fetch`.
    """
    if not is_address(scan):
        yield Path(scan)
        return
    token = None if token_file is None else read_token(token_file)
    with fetched(read_address(scan), token=token, progress=progress) as folder:
        yield folder


@contextmanager
def fetched(
    address: str | ArchiveAddress,
    *,
    token: str | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> Iterator[Path]:
    """A temporary folder with the series' files, removed afterwards; it bears the series' UID.

    Args and Raises: as `fetch`.
    """
    where = read_address(address) if isinstance(address, str) else address
    with tempfile.TemporaryDirectory(prefix="slicesight-") as temporary:
        folder = Path(temporary) / where.series_uid
        folder.mkdir()
        fetch(where, folder, token=token, max_bytes=max_bytes, progress=progress)
        yield folder


def fetch(
    address: ArchiveAddress,
    folder: Path,
    *,
    token: str | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> int:
    """Bring a series' images into a folder, one file and no more than one image in memory at a time.

    Args:
        token: to show to the archive; None takes TOKEN_VARIABLE, else what ~/.netrc says.
        max_bytes: how much the archive may send.

    Returns:
        How many images came.

    Raises:
        InputError: the archive cannot be reached, refuses, has no such series of images, or stops in the middle.
    """
    with _opened(address.archive, token=token, max_bytes=max_bytes) as session:
        study_uid, expected = _found(session, address)
        count = 0
        for instance in _instances(session, study_uid, address.series_uid):
            instance.save_as(folder / f"{count:06d}.dcm")
            count += 1
            if progress is not None:
                progress(count, max(count, expected))
        session.check_end()
    if count == 0:
        raise InputError(f"series {address.series_uid} is empty in {address.archive}; check it there")
    if count < expected:
        raise InputError(
            f"{address.archive} sent {count} of the series' {expected} images; the answer is cut short, try again"
        )
    return count


def store(report: Path, *, archive: str, token: str | None = None) -> str:
    """Store a report in the archive its images came from.

    Returns:
        Its SOP instance UID, which the archive now knows.

    Raises:
        InputError: the archive cannot be reached or does not take it.
    """
    with quiet_pydicom():
        document = pydicom.dcmread(report)
    uid = str(document.SOPInstanceUID)
    with _opened(archive, token=token, max_bytes=MAX_BYTES) as session:
        session.accept_json()
        try:
            answer = session.client.store_instances([document])
        except (AttributeError, KeyError, SyntaxError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            answer = pydicom.Dataset()  # stored, and answered in a form of the archive's own
        for failed in answer.get("FailedSOPSequence", []):
            raise InputError(
                f"{archive} did not store the report ({_status_meaning(failed.get('FailureReason'))}); see its log"
            )
        if not any(str(one.ReferencedSOPInstanceUID) == uid for one in answer.get("ReferencedSOPSequence", [])):
            known = session.client.search_for_instances(
                study_instance_uid=str(document.StudyInstanceUID), search_filters={"SOPInstanceUID": uid}
            )
            if uid not in {_json_value(one, "00080018") for one in known}:
                raise InputError(f"{archive} took the report but does not list it; look for {uid} in its log")
    return uid


def _found(session: _Session, address: ArchiveAddress) -> tuple[str, int]:
    """(study UID, number of images or 0) as the archive lists them; WADO-RS has the last word where it does not."""
    from requests.exceptions import HTTPError

    try:
        listed = session.client.search_for_series(
            study_instance_uid=address.study_uid, search_filters={"SeriesInstanceUID": address.series_uid}
        )
    except HTTPError as error:
        if address.study_uid is None or _status_of(error) in (401, 403):
            raise
        return address.study_uid, 0
    same = [one for one in listed if _json_value(one, "0020000E") == address.series_uid]
    if not same:
        if address.study_uid is None:
            raise InputError(
                f"{address.archive} has no series {address.series_uid}; check the UID, or name its study too"
            )
        return address.study_uid, 0
    modality = _json_value(same[0], "00080060")
    if modality in NOT_SCANS:
        raise InputError(
            f"series {address.series_uid} holds {modality} objects, no images; expected a CT, MR or PET series"
        )
    count = _json_value(same[0], "00201209")
    return address.study_uid or str(_json_value(same[0], "0020000D")), int(count) if count else 0


def _instances(session: _Session, study_uid: str, series_uid: str) -> Iterator[pydicom.Dataset]:
    """The series as it is stored; unpacked by the archive where it knows no other way."""
    from requests.exceptions import HTTPError

    try:
        return session.client.iter_series(study_uid, series_uid, media_types=_AS_STORED)
    except HTTPError as error:
        if _status_of(error) != 406:
            raise
        return session.client.iter_series(study_uid, series_uid)


class _Session:
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
        self.http = create_session()
        if token is not None:
            self.http.auth = _bearer(token)
        self.http.hooks["response"] = [self._watch]
        self.client: DICOMwebClient = DICOMwebClient(archive, session=self.http, timeout=(CONNECT_S, READ_S))
        self.client.host = urlsplit(archive).netloc  # its own leaves out the port
        self.client.set_http_retry_params(retry=False)

    def accept_json(self) -> None:
        self.http.headers["Accept"] = "application/dicom+json, application/json"

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
def _opened(archive: str, *, token: str | None, max_bytes: int) -> Iterator[_Session]:
    """A connection whose every failure is one line."""
    try:
        import dicomweb_client  # noqa: F401
        from requests import exceptions
    except ImportError as error:
        raise InputError(f"an archive needs dicomweb-client ({error}); run: pip install 'slicesight[dicom]'") from error
    token = token or os.environ.get(TOKEN_VARIABLE) or None
    if token is not None and archive.startswith("http://") and not _is_loopback(archive):
        raise InputError(f"a token would travel unencrypted to {archive}; use its dicomweb+https:// address")
    session = _Session(archive, token=token, max_bytes=max_bytes)
    try:
        with quiet_pydicom(also="dicomweb_client"):
            yield session
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
        raise InputError(_unreadable_reply(session, error)) from None
    except exceptions.RequestException as error:
        raise InputError(_silence(session, error)) from None
    except OSError as error:
        raise InputError(
            f"the series cannot be written down ({error.strerror or error}); make room on the disk"
        ) from None
    except (*DAMAGED, InvalidDicomError) as error:
        session.check_end()
        raise InputError(_unreadable_reply(session, error)) from None
    finally:
        session.http.close()


def _status_of(error: HTTPError) -> int:
    return 0 if error.response is None else error.response.status_code


def _refusal(archive: str, error: HTTPError) -> str:
    status = _status_of(error)
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
            reason = f", {_status_meaning(_json_value(failed, '00081197'))}"
        except (AttributeError, LookupError, TypeError, ValueError):
            pass
    return f"{archive} failed ({status}{reason}); see its log or ask its keeper"


def _silence(session: _Session, error: Exception) -> str:
    from requests.exceptions import ConnectTimeout, ContentDecodingError

    if session.is_cut_short or isinstance(error, ContentDecodingError):
        return f"{session.archive} stopped in the middle of the series; the answer is cut short, try again"
    if isinstance(error, ConnectTimeout):
        return f"{session.archive} cannot be reached within {CONNECT_S:.0f} s; check host, port and network"
    if "timed out" in str(error):
        return f"{session.archive} has been silent for {READ_S:.0f} s; try again later"
    return f"{session.archive} cannot be reached ({type(error).__name__}); check host, port and network"


def _unreadable_reply(session: _Session, error: Exception) -> str:
    what = f"{session.media_type.split(';')[0]}, {type(error).__name__}"
    return f"{session.archive} does not answer as DICOMweb does ({what}); check the address"


def _closing(content_type: str) -> bytes | None:
    """What the last of several parts ends with."""
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    is_related = header.get_content_type() == "multipart/related"
    return f"--{boundary}--".encode() if is_related and boundary else None


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


def _json_value(entry: Any, tag: str) -> Any:
    """The first value of an attribute in DICOM's JSON, None without one."""
    values = entry.get(tag, {}).get("Value") or [None]
    return values[0]


def _status_meaning(reason: Any) -> str:
    if not isinstance(reason, int):
        return "no reason given"
    family = reason if reason in _FAILURES else reason & (0xF000 if reason >= 0xC000 else 0xFF00)
    return _FAILURES.get(family, f"reason {reason:04X}")
