"""What does the operator of a server decide, and which of it cannot be?"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from slicesight.errors import InputError
from slicesight.io.dicomweb.address import read_archive
from slicesight.models.shipped import DEFAULT_MODEL

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
MIN_TOKEN_LENGTH = 16
_SIZE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The arguments of `slicesight serve`, checked."""

    model: str = DEFAULT_MODEL
    int8: bool = False
    engine: str = "auto"
    """Who computes: the package's own engine, another that is installed, or of these the quickest for the model."""
    preset: str | None = None
    """What a guest is shown."""
    evidence_passes: int | None = None
    """How often slices may be blanked for a guest's evidence; 0 measures none."""
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    """What `Authorization: Bearer` must carry; None only where nobody but this machine can ask."""
    archives: tuple[str, ...] = ()
    """DICOMweb addresses beneath which a series may be named instead of uploaded."""
    folder: Path | None = None
    """Where scans are kept while they are asked; None is the system's place for temporary files."""
    is_shared: bool = False
    """Whether several servers keep their scans in `folder` together (replicas of one service)."""

    max_upload_bytes: int = 2 * 10**9
    max_kept_volumes: int = 200
    max_client_volumes: int = 100
    """Of them, by one client."""
    max_kept_bytes: int = 50 * 10**9
    """On disk, of all volumes together."""
    max_answers: int = 200
    """Kept with each volume for its reports; the oldest go first."""
    keep_minutes: float = 60
    """A scan nobody has asked for as long is removed; 0 keeps it until the server stops."""

    max_waiting: int = 32
    """Questions that may wait; one more is told to come again."""
    batch_size: int = 16
    """Questions answered together."""
    encoded_bytes: int = 2**30
    """Of encoded scans kept in memory, the ones used last."""
    max_answer_tokens: int = 1024
    min_confidence: float | None = None
    """A calibrated model holds back answers of which it is less sure; None takes the calibration's own limit."""
    answer_anyway: bool = False
    """Hold nothing back, unless a request says otherwise."""

    answer_timeout_s: float = 300
    read_timeout_s: float = 180
    """To read an uploaded scan."""
    read_memory_bytes: int = 8 * 2**30
    """A process that reads a scan may address."""
    fetch_timeout_s: float = 1800
    """To take a series from an archive and read it."""
    max_reading: int = 2
    """Scans read at the same time."""
    grace_s: float = 5
    """For requests at work when the server is told to stop."""
    public_url: str | None = None
    """Where clients find the server, if a proxy stands in front: its Host, Origin and path are let in."""
    root_path: str = ""
    """Of the address, what the proxy puts before ours; of `public_url` where that is given."""
    max_connections: int = 1000
    max_client_connections: int = 250
    """Open at the same time, of one address; without a proxy in front."""
    stall_timeout_s: float = 30
    """Without a byte from or to the client."""
    min_upload_rate: int = 16 * 2**10
    """Bytes per second that a request's body must reach on the whole."""

    @property
    def is_plain(self) -> bool:
        """Whether nothing is asked for that only the package's own engine does."""
        return not (self.int8 or self.preset or self.evidence_passes is not None)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"--port is {self.port}; expected 1 to 65535, or 0 for any that is free.")
        if self.max_upload_bytes < 1:
            raise InputError(f"--max-upload is {self.max_upload_bytes} bytes; expected more than none, say 2GB.")
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise InputError(f"--min-confidence is {self.min_confidence:g}; expected a number from 0 to 1.")
        if self.engine not in ("auto", "own") and not self.is_plain:
            raise InputError(
                f"--engine {self.engine} takes neither --int8 nor settings of guests; leave these out, or the engine."
            )
        if self.max_waiting < 1:
            raise InputError(f"--queue is {self.max_waiting}; expected at least 1 question that may wait.")
        if not 0 <= self.keep_minutes < 10**6:
            raise InputError(f"--keep-minutes is {self.keep_minutes:g}; expected 0 (no end) or more.")
        if self.token is None and not self.is_loopback:
            raise InputError(
                f"--host {self.host} can be reached from other machines, and there is no token; write one into a file "
                "(openssl rand -hex 32) and pass --token-file FILE."
            )
        if self.token is not None and (len(self.token) < MIN_TOKEN_LENGTH or not re.fullmatch(r"[!-~]+", self.token)):
            raise InputError(
                f"the token has {len(self.token)} characters; expected at least {MIN_TOKEN_LENGTH} of ASCII without "
                "blanks, for instance from openssl rand -hex 32."
            )
        if self.public_url is not None:
            parts = _split(self.public_url)
            if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
                raise InputError(
                    f"--public-url is {self.public_url!r}; expected an address such as https://host/scans."
                )
            if self.token is None:
                raise InputError(
                    f"--public-url {self.public_url} lets others in, and there is no token; write one into a file "
                    "(openssl rand -hex 32) and pass --token-file FILE."
                )
            object.__setattr__(self, "root_path", self.root_path or parts.path)
        object.__setattr__(self, "root_path", f"/{self.root_path.strip('/')}" if self.root_path.strip("/") else "")
        if not re.fullmatch(r"(/[\w.~-]+)*", self.root_path, re.ASCII) or "/." in self.root_path:
            raise InputError(f"--root-path is {self.root_path!r}; expected a path such as /scans.")
        if not 0 <= self.grace_s < 10**6:
            raise InputError(f"--grace is {self.grace_s:g}; expected seconds, 0 or more.")
        if self.max_kept_bytes < self.max_upload_bytes:
            raise InputError(
                f"--max-disk is {self.max_kept_bytes} bytes, less than one upload of {self.max_upload_bytes} may have; "
                "raise it, or lower --max-upload."
            )
        object.__setattr__(self, "archives", tuple(read_archive(archive) for archive in self.archives))

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine reaches the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def host_names(self) -> frozenset[str]:
        """What a Host or Origin header may name."""
        public = None if self.public_url is None else _split(self.public_url)
        return LOOPBACK_NAMES | {self.host.lower()} | ({public.hostname or ""} if public else set())


def _split(address: str) -> SplitResult | None:
    try:
        return urlsplit(address)
    except ValueError:
        return None


def read_token(file: Path) -> str:
    """The token in a file's first line."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--token-file {file}: cannot be read ({type(error).__name__}); name a text file.") from None
    if not lines[0].strip():
        raise InputError(f"--token-file {file}: its first line is empty; write the token there.")
    return lines[0].strip()


def read_size(text: str, name: str = "--max-upload") -> int:
    """Bytes from "2GB", "500 MB", "1GiB" or a plain number."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip())
    if found is None or found[2].upper() not in _SIZE_UNITS:
        raise InputError(f"{name} is {text!r}; expected a size such as 500MB or 2GB.")
    return int(float(found[1]) * _SIZE_UNITS[found[2].upper()])
