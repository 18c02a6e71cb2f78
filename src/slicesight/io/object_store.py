"""How is a scan or a list read from an object store (`s3://bucket/scan.nii.gz`), and a result written there?

fsspec knows the stores (https://filesystem-spec.readthedocs.io); who may read comes from where each store's own
programs look for it (AWS_* variables, ~/.aws, a machine's role). An address holds no password and no query, so that
none can end in a log or a manifest. A scan is copied to a temporary folder of this process, checked by its size
and read there as any other: the readers never see the network. What a store refuses for the moment is tried again, with
pauses that double; what it refuses for good is one line.
"""

from __future__ import annotations

import errno
import os
import posixpath
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from slicesight.errors import InputError, VolumeError
from slicesight.io.files import one_line

SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "file", "memory")
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
EXAMPLE = "s3://bucket/folder/scan.nii.gz"
TRIES = 6
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 20.0
MAX_FILES = 100_000
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)}):/{{1,3}}(.*)", flags=re.DOTALL)
_LIBRARIES = frozenset(
    [
        "adlfs",
        "aiobotocore",
        "aiohttp",
        "azure",
        "boto3",
        "botocore",
        "fsspec",
        "gcsfs",
        "google",
        "requests",
        "s3fs",
        "urllib3",
    ]
)
_SECRET_NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|KEY|SAS|CONNECTION_STRING|CREDENTIAL|^FSSPEC_", flags=re.IGNORECASE)
_SECRET_VALUES = re.compile(
    r"(?i)\b(sig|signature|token|password|secret|key|(?:x-amz-|x-goog-)?(?:credential|signature|security-token))"
    r"(['\"]?\s*[=:]\s*)[^&\s,;'\"]+"
)
_STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "created")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One object. name: relative to what was listed; stamp: changes when its content may have changed."""

    name: str
    path: str
    size: int
    stamp: str


def is_remote(place: str | os.PathLike[str]) -> bool:
    """Whether a path names an object store; also as the `Path` a command line made of it, one slash folded away."""
    return _ADDRESS.fullmatch(_text(place)) is not None


def remote_url(place: str | os.PathLike[str]) -> str:
    """The address in one form, "s3://bucket/key" without a slash at its end.

    Raises:
        InputError: it holds a password, a query, a chain or dots that lead elsewhere.
    """
    found = _ADDRESS.fullmatch(_text(place))
    if found is None:
        raise InputError(f"{_text(place)[:100]!r} names no object store; expected for instance {EXAMPLE}")
    scheme, rest = found[1], found[2].rstrip("/")
    host = rest.partition("/")[0]
    if "::" in rest or "?" in rest or not rest.isprintable() or ":" in host.rpartition("@")[0]:
        raise InputError(
            f"{scheme}://…: the address holds a password, a query or a chain; expected {EXAMPLE}, with what opens the "
            "store in its own variables or files (AWS_…, ~/.aws, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_…)"
        )
    if not rest or ".." in rest.split("/"):
        raise InputError(f"{scheme}://{rest}: names no place in the store; expected {EXAMPLE}")
    return f"{scheme}:///{rest}" if scheme == "file" else f"{scheme}://{rest}"


def joined(base: str | os.PathLike[str], name: str) -> str | Path:
    """What `name`, written in a list that lies in `base`, stands for: an address or a path.

    Raises:
        InputError: it would lead out of the store.
    """
    if is_remote(name):
        return remote_url(name)
    if not is_remote(base):
        return Path(base) / name
    if os.path.isabs(name):
        return Path(name)
    scheme, rest = remote_url(base).split("://", 1)
    whole = posixpath.normpath(posixpath.join(rest, name))
    if scheme != "file" and whole.split("/")[0] != rest.split("/")[0]:
        raise InputError(
            f"{one_line(name)[:100]!r} leads out of {scheme}://{rest.split('/')[0]}; write the whole address"
        )
    return remote_url(f"{scheme}://{whole}")


class MissingError(VolumeError):
    """Nothing lies at an address."""


def list_files(place: str | os.PathLike[str]) -> list[StoredFile]:
    """The object, or everything beneath a folder but hidden files, in name order.

    Raises:
        MissingError: nothing is there. VolumeError: the store does not give it.
    """
    url = remote_url(place)
    store, path = _opened(url)

    def look() -> dict[str, dict[str, Any]] | dict[str, Any]:
        found: dict[str, Any] = store.info(path)
        return found if found["type"] == "file" else dict(store.find(path, detail=True))

    found = _tried(look, url)
    if found.get("type") == "file" and "name" in found:
        return [_stored(posixpath.basename(path), path, found)]
    files = []
    for key, facts in sorted(found.items()):
        name = str(key).removeprefix(str(path).rstrip("/")).lstrip("/")
        parts = name.split("/")
        if (
            facts["type"] != "file"
            or not name
            or name.endswith("/")
            or any(part.startswith(".") for part in parts[:-1])
        ):
            continue
        if ".." in parts or "\\" in name or not name.isprintable():
            raise VolumeError(f"{url}: holds an object named {one_line(name)[:80]!r}; expected plain names")
        if not parts[-1].startswith("."):
            files.append(_stored(name, str(key), facts))
    if len(files) > MAX_FILES:
        raise VolumeError(f"{url}: more than {MAX_FILES} objects; point at one study, or at a part of the data")
    if not files:
        raise MissingError(f"{url}: no such object or folder; check the address")
    return files


def has_file(place: str | os.PathLike[str]) -> bool:
    """Whether this very object is there."""
    url = remote_url(place)
    store, path = _opened(url)
    return bool(_tried(lambda: store.isfile(path), url))


def download(place: str | os.PathLike[str], file: StoredFile, target: Path) -> None:
    """Copy one object to a file; it appears under its name when it is whole."""
    url = remote_url(place)
    store, _ = _opened(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.download")

    def get() -> None:
        store.get_file(file.path, str(partial))
        if (size := partial.stat().st_size) != file.size:
            raise OSError(errno.EIO, f"{size} of {file.size} bytes came")

    try:
        _tried(get, url)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def upload(source: Path, place: str | os.PathLike[str]) -> None:
    """Write a file as an object; it is there whole or not at all, and again is the same.

    Raises:
        InputError: the store does not take it.
    """
    url = remote_url(place)
    store, path = _opened(url)
    is_disk = url.startswith("file:")

    def put() -> None:
        size = source.stat().st_size
        goal = f"{posixpath.dirname(path)}/.{posixpath.basename(path)}.upload" if is_disk else path
        if is_disk:
            store.makedirs(posixpath.dirname(path), exist_ok=True)
        store.put_file(str(source), goal)
        if (written := int(store.info(goal)["size"])) < size:  # a file that grows meanwhile is sent again later
            raise OSError(errno.EIO, f"{written} of {size} bytes arrived")
        if is_disk:
            os.replace(goal, path)

    _tried(put, url, writing=True)


def remove(place: str | os.PathLike[str]) -> None:
    """Remove one object; one that is gone already is no error."""
    url = remote_url(place)
    store, path = _opened(url)

    def take_away() -> None:
        if store.exists(path):
            store.rm_file(path)

    _tried(take_away, url, writing=True)


def _opened(url: str) -> tuple[Any, str]:
    """fsspec's file system (untyped here) and the path in it."""
    try:
        import fsspec

        store, path = fsspec.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package = PACKAGES.get(url.split(":")[0], "fsspec")
        extra = "'slicesight[remote]'" if package in ("s3fs", "fsspec") else package
        raise InputError(f"{url}: needs {package} ({one_line(str(error))[:100]}); run: pip install {extra}") from None
    return store, str(path)


def _tried(action: Callable[[], Result], url: str, *, writing: bool = False) -> Result:
    """What the action gives; a passing refusal is waited out, a lasting one becomes a line without secrets."""
    for number in range(1, TRIES + 1):
        try:
            return action()
        except FileNotFoundError:
            raise MissingError(f"{url}: no such object, folder or bucket; check the address") from None
        except Exception as error:
            if not _is_the_stores(error):
                raise
            reason = _reason(error)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise VolumeError(f"{url}: the disk is full; make room and run the same again") from None
            if _is_refused(error):
                what = "written" if writing else "read"
                change = "name who may in the store's own variables or files (AWS_…, ~/.aws), or change its rights"
                raise VolumeError(f"{url}: may not be {what} ({reason}); {change}") from None
            if number == TRIES:
                what = "written" if writing else "read"
                raise VolumeError(
                    f"{url}: cannot be {what} after {TRIES} tries ({reason}); check the network and the store, then "
                    "run the same again"
                ) from None
        time.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (number - 1)) * random.uniform(0.5, 1.5))  # noqa: S311
    raise AssertionError("every try ends above")


def _is_the_stores(error: Exception) -> bool:
    """Whether the network or the store raised it; all else is our own fault."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in _LIBRARIES


def _is_refused(error: Exception) -> bool:
    """Whether trying again is of no use."""
    name = type(error).__name__
    return isinstance(error, PermissionError) or any(
        part in name for part in ("Credential", "Auth", "Refresh", "Token", "ParamValidation", "ProfileNotFound")
    )


def _reason(error: Exception) -> str:
    """The library's first line, without anything that opens a store."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name):
            for secret in re.findall(r"[^\s'\"{},:;=&]{8,}", value):
                text = text.replace(secret, "…")
    text = re.sub(r"//[^/@\s]*@", "//…@", _SECRET_VALUES.sub(r"\1\2…", text))
    return one_line(text)[:160]


def _stored(name: str, path: str, facts: dict[str, Any]) -> StoredFile:
    stamp = next((f"{key}={facts[key]}" for key in _STAMPS if facts.get(key) is not None), "")
    return StoredFile(name=name, path=path, size=int(facts["size"] or 0), stamp=stamp)


def _text(place: str | os.PathLike[str]) -> str:
    return place.as_posix() if isinstance(place, Path) else str(place)
