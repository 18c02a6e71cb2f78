"""What does the operator of `slicesight mcp` decide, and which of it cannot be?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slicesight.errors import InputError
from slicesight.models.shipped import DEFAULT_MODEL

Transport = Literal["stdio", "http"]


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """The arguments of `slicesight mcp`, checked; host, port and token are those of `ServeOptions`.

    roots: folders below which scans may be opened. patient_fields: whether a tool may say what a DICOM header says of
    the patient, where it is asked for. timeout_s: of one call. max_scan_bytes: of all files of one scan.
    """

    roots: tuple[Path, ...]
    model: str = DEFAULT_MODEL
    preset: str | None = None
    evidence_passes: int | None = None
    int8: bool = False
    min_confidence: float | None = None
    patient_fields: bool = False
    timeout_s: float = 300
    max_scan_bytes: int = 2 * 10**9
    max_calls: int = 16
    """At work or waiting; one more is told to come again."""
    max_reading: int = 2
    """Scans read at the same time."""
    read_memory_bytes: int = 8 * 2**30
    """A process that reads a scan may address."""
    max_kept_bytes: int = 8 * 10**9
    """Of scans kept between calls, on disk, as long as the server runs."""
    max_kept: int = 8
    folder: Path | None = None
    """Where they are kept; None is the system's place for temporary files."""

    def __post_init__(self) -> None:
        if not self.roots:
            raise InputError("no folder to read from; name one with --root DIR.")
        for root in self.roots:
            if not root.is_dir():
                found = "is a file" if root.exists() else "there is no such folder"
                raise InputError(f"--root {root}: {found}; name a folder that holds scans.")
        if not 1 <= self.timeout_s <= 86_400:
            raise InputError(f"--timeout is {self.timeout_s:g}; expected 1 to 86400 seconds.")
        if self.max_scan_bytes < 1:
            raise InputError(f"--max-scan is {self.max_scan_bytes} bytes; expected more than none, say 2GB.")
        if self.max_calls < 1:
            raise InputError(f"--max-calls is {self.max_calls}; expected at least 1.")
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise InputError(f"--min-confidence is {self.min_confidence:g}; expected a number from 0 to 1.")
