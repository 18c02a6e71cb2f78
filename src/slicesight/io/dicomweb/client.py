"""How does a series come out of a hospital's archive, and a report back into it? By DICOMweb: QIDO-RS finds it,
WADO-RS brings its images into a temporary folder in the form they are stored in, STOW-RS stores the report.

A token comes from a file or from SLICESIGHT_ARCHIVE_TOKEN, a user name and password from ~/.netrc. Certificates are
checked; REQUESTS_CA_BUNDLE names a hospital's own. Nothing is followed to another address.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom

from slicesight.errors import InputError
from slicesight.io.dicom.series import NOT_SCANS
from slicesight.io.dicom.values import quiet_pydicom
from slicesight.io.dicomweb.address import ArchiveAddress, is_address, read_address
from slicesight.io.dicomweb.connection import (
    MAX_BYTES,
    ArchiveSession,
    json_value,
    open_session,
    status_meaning,
    status_of,
)

AS_STORED = (("application/dicom", "*"),)

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
    with open_session(address.archive, token=token, max_bytes=max_bytes) as talk:
        study_uid, expected = _found(talk, address)
        count = 0
        for instance in _instances(talk, study_uid, address.series_uid):
            instance.save_as(folder / f"{count:06d}.dcm")
            count += 1
            if progress is not None:
                progress(count, max(count, expected))
        talk.check_end()
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
    with open_session(archive, token=token, max_bytes=MAX_BYTES) as talk:
        talk.accept_json()
        try:
            answer = talk.client.store_instances([document])
        except (AttributeError, KeyError, SyntaxError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            answer = pydicom.Dataset()  # stored, and answered in a form of the archive's own
        for failed in answer.get("FailedSOPSequence", []):
            raise InputError(
                f"{archive} did not store the report ({status_meaning(failed.get('FailureReason'))}); see its log"
            )
        if not any(str(one.ReferencedSOPInstanceUID) == uid for one in answer.get("ReferencedSOPSequence", [])):
            known = talk.client.search_for_instances(
                study_instance_uid=str(document.StudyInstanceUID), search_filters={"SOPInstanceUID": uid}
            )
            if uid not in {json_value(one, "00080018") for one in known}:
                raise InputError(f"{archive} took the report but does not list it; look for {uid} in its log")
    return uid


def _found(talk: ArchiveSession, address: ArchiveAddress) -> tuple[str, int]:
    """(study UID, number of images or 0) as the archive lists them; WADO-RS has the last word where it does not."""
    from requests.exceptions import HTTPError

    try:
        listed = talk.client.search_for_series(
            study_instance_uid=address.study_uid, search_filters={"SeriesInstanceUID": address.series_uid}
        )
    except HTTPError as error:
        if address.study_uid is None or status_of(error) in (401, 403):
            raise
        return address.study_uid, 0
    same = [one for one in listed if json_value(one, "0020000E") == address.series_uid]
    if not same:
        if address.study_uid is None:
            raise InputError(
                f"{address.archive} has no series {address.series_uid}; check the UID, or name its study too"
            )
        return address.study_uid, 0
    modality = json_value(same[0], "00080060")
    if modality in NOT_SCANS:
        raise InputError(
            f"series {address.series_uid} holds {modality} objects, no images; expected a CT, MR or PET series"
        )
    count = json_value(same[0], "00201209")
    return address.study_uid or str(json_value(same[0], "0020000D")), int(count) if count else 0


def _instances(talk: ArchiveSession, study_uid: str, series_uid: str) -> Iterator[pydicom.Dataset]:
    """The series as it is stored; unpacked by the archive where it knows no other way."""
    from requests.exceptions import HTTPError

    try:
        return talk.client.iter_series(study_uid, series_uid, media_types=AS_STORED)
    except HTTPError as error:
        if status_of(error) != 406:
            raise
        return talk.client.iter_series(study_uid, series_uid)
