"""How does a file of the Hugging Face hub come here whole, and go on where it was cut off?

Only with the hub library's own interfaces: its address (HF_ENDPOINT), its token (environment or login, never an option
of ours), its errors. Its own `snapshot_download` gives each process a temporary file of its own and so begins a cut
file anew (huggingface_hub 1.31, 2.4); its `http_get` takes up any half, so halves are kept here, by their checksum.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar
from unittest.mock import patch

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub import errors as hub_errors
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # its manual has it

from slicesight import __version__
from slicesight.errors import InputError, ModelError

CHUNK = 8 * 2**20
PIECE = 2**20
"""What a cut loses at most; the library's own pieces, 10 MiB, are minutes of a slow line, without a sign of life."""
TRIES = 4
LONGEST_WAIT = 60.0
SMALL_BYTES = 16 * 2**20
"""A settings file larger than this is not one."""
TRANSPORT_ERROR: type[Exception] = getattr(hub_errors, "HTTPError", OSError)
"""What the hub library's transport (httpx or httpx2, by its version) raises for any lost connection."""
ADDRESS = re.compile(r"https?://\S+?(?=:? |$)")
LOST = re.compile(r"Error while downloading from the hub: (.*?) ?\.? ?\b(Trying|Max)\b")
"""How the library tells of a transfer that broke."""
OnBytes = Callable[[int], None]
"""Called with the bytes that came; negative where they had to be dropped."""
Note = Callable[[str], None]
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of a repository: its size in bytes and its checksum, of an LFS file SHA-256, of another git's SHA-1."""

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def checksum(self) -> str | None:
        """The one to check with."""
        return self.sha256 or self.git_sha1


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A model repository at one commit."""

    hub: str
    revision: str
    endpoint: str
    files: dict[str, HubFile]
    licence: str | None = None

    @property
    def page(self) -> str:
        """Its page on the hub."""
        return f"{self.endpoint}/{self.hub}"


def look_up(hub: str, *, revision: str | None = None, endpoint: str | None = None) -> Repository:
    """What the hub says about a repository: its commit, its licence, its files with sizes and checksums.

    Raises:
        InputError: no such model, not for this user, no connection, or a hub that does not answer as one.
    """
    endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
    api = HfApi(endpoint=endpoint, library_name="slicesight", library_version=__version__)
    with plain_hub_errors(hub, endpoint):
        try:
            info = patiently(
                lambda: api.model_info(
                    hub, revision=revision, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
                )
            )
        except hub_errors.RepositoryNotFoundError as error:
            if not isinstance(error, hub_errors.GatedRepoError):
                refuse_other_kinds(api, hub)
            raise
    if info.sha is None or info.siblings is None:
        raise ModelError(f"{hub}: {endpoint} names neither its commit nor its files; expected a Hugging Face hub there")
    files = {}
    for found in info.siblings:
        lfs = found.lfs
        files[found.rfilename] = HubFile(
            path=found.rfilename,
            size=-1 if found.size is None else found.size,
            sha256=None if lfs is None else lfs.sha256,
            git_sha1=None if lfs is not None else found.blob_id,
        )
    return Repository(hub=hub, revision=info.sha, endpoint=endpoint, files=files, licence=read_licence(info))


def read_licence(info: Any) -> str | None:
    """The licence that a repository's card names, else its tag; None where neither does."""
    card = info.card_data.to_dict() if info.card_data is not None else {}
    named = card.get("license_name") if card.get("license") in (None, "other") else card.get("license")
    if named is None:
        named = next((tag.partition(":")[2] for tag in info.tags or () if tag.startswith("license:")), None)
    return None if named is None else ", ".join(named) if isinstance(named, list) else str(named)


def refuse_other_kinds(api: HfApi, hub: str) -> None:
    """Raises ModelError where the name belongs to a data set or a space."""
    for kind in ("dataset", "space"):
        if api.repo_exists(hub, repo_type=kind):
            what = {"dataset": "a data set", "space": "an application"}[kind]
            raise ModelError(f"{hub}: is {what} on the hub, not a model; name a model's repository")


def with_checksum(repository: Repository, path: str) -> HubFile:
    """The file as the hub would send it now: of the pinned commit, with size and checksum (from its ETag if need be).

    Raises:
        ModelError: the address that sends the file has another commit or another content than the listing.
    """
    listed = repository.files[path]
    with plain_hub_errors(repository.hub, repository.endpoint):
        found = get_hf_file_metadata(
            address_of(repository, path),
            endpoint=repository.endpoint,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            retry_on_errors=True,
        )
    if found.commit_hash not in (None, repository.revision):
        raise ModelError(
            f"{repository.hub}: {path} is sent from commit {found.commit_hash}, expected {repository.revision}; "
            "the mirror is out of step, try again later or set HF_ENDPOINT to another"
        )
    size = found.size if listed.size < 0 else listed.size
    if size is None:
        raise ModelError(
            f"{repository.hub}: {repository.endpoint} does not say how large {path} is; use another mirror"
        )
    if found.size not in (None, size) or (listed.checksum and found.etag not in (None, listed.checksum)):
        raise ModelError(
            f"{repository.hub}: {path} is another file than the one listed (ETag {found.etag}, expected "
            f"{listed.checksum}); the mirror is out of step, try again later or set HF_ENDPOINT to another"
        )
    etag = found.etag or ""
    return HubFile(
        path=path,
        size=size,
        sha256=listed.sha256 or (etag if len(etag) == 64 else None),
        git_sha1=listed.git_sha1 or (etag if len(etag) == 40 else None),
    )


def read_small(repository: Repository, path: str) -> bytes:
    """A settings file, in memory only, checked.

    Raises:
        ModelError: it is too large to be one, or damaged.
    """
    file = with_checksum(repository, path)
    if file.size > SMALL_BYTES:
        raise ModelError(f"{repository.hub}: {path} has {file.size:,} bytes; expected a settings file of a model")
    content = io.BytesIO()
    receive(repository, file, content, on_bytes=lambda _: None)
    if file.checksum and checksum_of(io.BytesIO(content.getvalue()), file) != file.checksum:
        raise ModelError(f"{repository.hub}: {path} came damaged; try again")
    return content.getvalue()


def fetch(repository: Repository, path: str, destination: Path, *, on_bytes: OnBytes) -> HubFile:
    """Bring one file to `destination`, which exists only once its checksum was right; a half goes on where it ended.

    Raises:
        InputError: the connection was lost for good, or the checksum is wrong twice.
    """
    file = with_checksum(repository, path)
    half = half_of(destination, file)
    destination.parent.mkdir(parents=True, exist_ok=True)
    for other in destination.parent.glob(f"{destination.name}.*.part"):
        if other != half:  # of another commit
            other.unlink()
    for _ in range(2):
        with half.open("ab") as content:
            if content.tell() > file.size:
                content.truncate(0)
            receive(repository, file, content, on_bytes=on_bytes)
        with half.open("rb") as content:
            if file.checksum is None or checksum_of(content, file) == file.checksum:
                half.replace(destination)
                return file
        half.unlink()
        on_bytes(-file.size)
    raise ModelError(
        f"{repository.hub}: {path} came with a wrong checksum twice, expected {file.checksum}; what stands between "
        f"here and {repository.endpoint} changes files, try another connection or mirror"
    )


def half_of(destination: Path, file: HubFile) -> Path:
    """Where a file waits until it is whole."""
    return destination.with_name(f"{destination.name}.{(file.checksum or 'unchecked')[:16]}.part")


def receive(repository: Repository, file: HubFile, content: BinaryIO, *, on_bytes: OnBytes) -> None:
    """Append what is missing of a file; the library goes on by itself after a stall or a cut, several times."""
    headers = build_hf_headers(library_name="slicesight", library_version=__version__)
    headers["Accept-Encoding"] = "identity"  # else a half could not be continued
    smaller = min(PIECE, constants.DOWNLOAD_CHUNK_SIZE)
    with plain_hub_errors(repository.hub, repository.endpoint), patch.object(constants, "DOWNLOAD_CHUNK_SIZE", smaller):
        http_get(
            address_of(repository, file.path),
            content,
            resume_size=content.tell(),
            headers=headers,
            expected_size=file.size,
            displayed_filename=file.path,
            tqdm_class=counting_bar(on_bytes),
        )


def address_of(repository: Repository, path: str) -> str:
    """A file's address at the pinned commit."""
    return hf_hub_url(repository.hub, path, revision=repository.revision, endpoint=repository.endpoint)


def checksum_of(content: BinaryIO, file: HubFile) -> str:
    """SHA-256 of the content, or the SHA-1 that git gives a blob: of "blob", its size, a zero byte and the content."""
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    while piece := content.read(CHUNK):
        digest.update(piece)
    return digest.hexdigest()


def counting_bar(on_bytes: OnBytes) -> Any:
    """What the library takes for a tqdm class, and only counts."""

    class CountingBar:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def update(self, number: float | None = 1) -> None:
            on_bytes(int(number or 0))

        def __enter__(self) -> CountingBar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    return CountingBar


def patiently(ask: Callable[[], Found]) -> Found:
    """Ask again after a 429 (as long as the hub says), a server's fault or silence; the last error is the caller's."""
    for number in range(TRIES):
        try:
            return ask()
        except hub_errors.HfHubHTTPError as error:
            status = error.response.status_code
            if number == TRIES - 1 or (status not in (408, 429) and status < 500):
                raise
            said = error.response.headers.get("Retry-After", "")
            wait = float(said) if said.isdigit() else 2.0**number
            if wait > LONGEST_WAIT:
                raise
            logging.getLogger("huggingface_hub").warning("HTTP %d, asking again in %g s", status, wait)
            time.sleep(wait)
        except TRANSPORT_ERROR as error:
            is_timeout = any(kind.__name__ == "TimeoutException" for kind in type(error).__mro__)
            if number == TRIES - 1 or not is_timeout:
                raise
            logging.getLogger("huggingface_hub").warning("no answer yet, asking again")
    raise AssertionError


@contextmanager
def noting_retries(note: Note) -> Iterator[None]:
    """Hand what the library logs about lost connections and waiting to `note`, one line each, instead of to stderr."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = ADDRESS.sub("the hub", " ".join(record.getMessage().split()))
            if lost := LOST.match(text):
                text = f"the connection was lost ({lost[1]}); {'going on' if lost[2] == 'Trying' else 'giving up'}"
            note(text if len(text) < 160 else text[:157] + "...")

    logger = logging.getLogger("huggingface_hub")
    before, propagates, level = logger.handlers[:], logger.propagate, logger.level
    logger.handlers, logger.propagate = [Handler(logging.WARNING)], False
    logger.setLevel(logging.WARNING)  # whoever loaded a model before may have silenced the library
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, propagates
        logger.setLevel(level)


@contextmanager
def plain_hub_errors(hub: str, endpoint: str) -> Iterator[None]:
    """Turn what the hub library raises into one line: what was found, what to change."""
    try:
        yield
    except InputError:
        raise
    except hub_errors.HFValidationError as error:
        raise InputError(f"{hub!r} is no name of a model on the hub; expected owner/model") from error
    except hub_errors.OfflineModeIsEnabled as error:
        raise InputError(
            "HF_HUB_OFFLINE is set, so nothing can be fetched; unset it, or give a downloaded folder with --from FOLDER"
        ) from error
    except hub_errors.HfHubHTTPError as error:
        _refuse_by_status(hub, endpoint, error)
    except hub_errors.FileMetadataError as error:
        raise ModelError(f"{hub}: {endpoint} does not answer as a Hugging Face hub; check HF_ENDPOINT") from error
    except (TRANSPORT_ERROR, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise  # the disk's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{hub}: the connection to {endpoint} failed ({reason[:120]}); check it (and HF_ENDPOINT) and run the same "
            "again, it goes on where it stopped, or give a downloaded folder with --from FOLDER"
        ) from error
    except ValueError as error:  # a page of a hotel's network, say, where JSON was expected
        raise InputError(f"{hub}: {endpoint} does not answer as a Hugging Face hub; check HF_ENDPOINT") from error


def _refuse_by_status(hub: str, endpoint: str, error: hub_errors.HfHubHTTPError) -> NoReturn:
    status = error.response.status_code
    if isinstance(error, hub_errors.GatedRepoError) or status == 403:
        line = (
            f"{hub}: its owners give it to people they know ({status}); ask for access at {endpoint}/{hub}, then "
            "hf auth login (or HF_TOKEN), and run the same again"
        )
    elif isinstance(error, hub_errors.RevisionNotFoundError):
        line = f"{hub}: has no such revision; expected a branch, a tag or a commit of {endpoint}/{hub}"
    elif isinstance(error, hub_errors.RemoteEntryNotFoundError):
        line = f"{hub}: a file of its own list is not there (404); the mirror is out of step, try again later"
    elif isinstance(error, hub_errors.RepositoryNotFoundError) or status in (401, 404):
        line = (
            f"{hub}: {endpoint} has no such model, or it is private ({status}); check the name, or hf auth login "
            "with an account that may read it"
        )
    elif status == 429:
        wait = error.response.headers.get("Retry-After")
        line = f"{hub}: {endpoint} has had too many requests (429); run the same again " + (
            f"in {wait} s" if wait else "in some minutes"
        )
    else:
        line = f"{hub}: {endpoint} answers {status}; run the same again later, it goes on where it stopped"
    raise InputError(line) from error
