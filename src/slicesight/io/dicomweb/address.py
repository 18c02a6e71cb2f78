"""Which series of which hospital archive is meant by `dicomweb+https://host/dicom-web/studies/S/series/UID`?

The archive is everything before `/studies`, or before `/series` where the study is left out. No user name, no query
and no dots that lead elsewhere: a server that lets others name an address must know where it will go.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from slicesight.errors import InputError

PREFIX = "dicomweb+"
EXAMPLE = "dicomweb+https://host/dicom-web/studies/1.2.3/series/1.2.4"
_SERIES = re.compile(r"(?P<archive>.+?)(?:/studies/(?P<study>[^/]*))?/series/(?P<series>[^/]*)/?")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_USUAL_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class ArchiveAddress:
    """A series in an archive.

    archive: its DICOMweb address, `https://host/dicom-web`. study_uid: None where the archive has to be asked for it.
    """

    archive: str
    study_uid: str | None
    series_uid: str

    def __str__(self) -> str:
        study = f"/studies/{self.study_uid}" if self.study_uid else ""
        return f"{PREFIX}{self.archive}{study}/series/{self.series_uid}"


def is_address(place: str | Path) -> bool:
    """Whether a scan is named by an archive's address rather than a path."""
    return str(place).startswith((f"{PREFIX}http:", f"{PREFIX}https:"))


def read_address(place: str | Path, *, allowed: Sequence[str] | None = None) -> ArchiveAddress:
    """The address in its parts.

    Args:
        place: as text, or as the Path a command line made of it.
        allowed: archives beneath which it must lie; None allows any.

    Raises:
        InputError: it is no such address, or lies elsewhere.
    """
    text = place.as_posix() if isinstance(place, Path) else place
    text = re.sub(r"^(dicomweb\+https?):/(?=[^/])", r"\1://", text)  # a Path folds the two slashes into one
    found = _SERIES.fullmatch(text)
    if not is_address(text) or found is None:
        raise InputError(f"{_shown(text)} names no series of an archive; expected {EXAMPLE}, the study may be left out")
    for name in ("study", "series"):
        uid = found[name]
        if uid is not None and (len(uid) > 64 or not _UID.fullmatch(uid)):
            raise InputError(
                f"the {name} {uid[:70]!r} is no DICOM UID; expected numbers joined by dots, check the address"
            )
    archive = read_archive(found["archive"])
    if allowed is not None and not any(_is_beneath(archive, read_archive(one)) for one in allowed):
        listed = ", ".join(allowed) or "none"
        raise InputError(f"{archive} is not among the archives this server may ask ({listed}); name a series of one")
    return ArchiveAddress(archive=archive, study_uid=found["study"], series_uid=found["series"])


def read_archive(text: str) -> str:
    """An archive's own address in one form: small letters, no usual port, no slash at its end."""
    url = text.removeprefix(PREFIX)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InputError(f"{_shown(text)} is no address; expected {EXAMPLE}") from None
    if parts.scheme not in _USUAL_PORTS or not parts.hostname:
        raise InputError(f"{_shown(text)} is no address of an archive; expected https://host/dicom-web or http://…")
    if parts.username is not None or parts.password is not None:
        raise InputError(
            "the archive's address holds a user name; put it into ~/.netrc, or a token into a file, and leave it out"
        )
    segments = parts.path.split("/")
    if set("?#%\\ ") & set(url) or {".", ".."} & set(segments) or not url.isprintable():
        raise InputError(f"{_shown(text)} holds more than an archive's plain address; expected {EXAMPLE}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown_port = f":{port}" if port is not None and port != _USUAL_PORTS[parts.scheme] else ""
    return f"{parts.scheme}://{host}{shown_port}{parts.path.rstrip('/')}"


def _is_beneath(archive: str, allowed: str) -> bool:
    return archive == allowed or archive.startswith(f"{allowed}/")


def _shown(text: str) -> str:
    """The address for a message, without a password that may stand in it."""
    without = re.sub(r"//[^/@]*@", "//…@", text)
    return "".join(letter if letter.isprintable() else "?" for letter in without)[:200]
