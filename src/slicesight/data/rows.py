"""How does one scan become one row of a shard, and what is known of it from earlier runs?

key = digest(case id, content of the scan's files, settings as resolved for this scan, dtype, NUMERICS): two runs that
would write the same row give the same key, whatever was asked for ("auto" or what it resolves to).
N slices, H rows, W columns: voxels (N, H, W), or (3, N, H, W) for a window of three parts.
uint8 = round(255 x), float16 = x, for grid values x in [0, 1].

DIR/volumes/journal.jsonl has one line per prepared scan, added when the shard that holds it is complete. A line half
written by a killed run is left out; without the journal everything is prepared again, nothing is wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from slicesight.data.fingerprints import content_digest
from slicesight.errors import InputError, VolumeError
from slicesight.files import append_lines, write_text
from slicesight.io.downloads import on_disk
from slicesight.io.loading import read_volume
from slicesight.volumes.grid import GridSpec, GridVolume, to_grid
from slicesight.volumes.volume import Volume
from slicesight.volumes.windows import channel_windows

NUMERICS = 1
"""Raised when the same scan and settings give other voxels, so that what is prepared is prepared again."""

JOURNAL = "journal.jsonl"
StoredType = Literal["uint8", "float16"]
STORED_TYPES: tuple[StoredType, ...] = ("uint8", "float16")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanJob:
    """One scan to prepare; `known_content` is what its files held when their row, which still exists, was made."""

    case_id: str
    path: str
    spec: GridSpec
    dtype: StoredType
    known_content: str | None = None
    read_options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ScanOutcome:
    """What came of a job: a row (facts and voxels), nothing new (`content` as known), or a reason.

    facts: the row's columns but the voxels, JSON-able; settings: as resolved; acquired: the scan's own plane.
    """

    case_id: str
    content: str = ""
    facts: dict[str, Any] | None = None
    voxels: bytes = b""
    settings: dict[str, Any] | None = None
    acquired: str = ""
    failure: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalEntry:
    """A prepared scan: its files by size and time, their content, its own plane, what the settings became."""

    id: str
    files: str
    content: str
    asked_window: str
    acquired: str
    settings: dict[str, Any]


def prepare_scan(job: ScanJob) -> ScanOutcome:
    """Read the scan and bring it to the grid; a scan that cannot be used gives its reason instead of an exception."""
    path = Path(job.path)
    try:
        content, volume = _read(job)
        if volume is None:
            return ScanOutcome(case_id=job.case_id, content=content)
        grid = to_grid(volume, job.spec)
    except InputError as error:
        return ScanOutcome(case_id=job.case_id, failure=" ".join(str(error).split()))
    except MemoryError:
        return ScanOutcome(case_id=job.case_id, failure=f"{path.name}: reading it needs more memory than there is")
    except Exception as error:
        error.add_note(f"while preparing case {job.case_id!r}")
        raise
    windows = grid.receipt.get("windows", [grid.receipt["window"]])
    settings = {**grid.spec.to_dict(), "window": "+".join(window["name"] for window in windows)}
    voxels = stored_voxels(grid, job.dtype)
    facts = {
        "id": job.case_id,
        "content": content,
        "preprocessing": preprocessing_digest(settings, job.dtype, job.read_options),
        "dtype": job.dtype,
        "shape": list(voxels.shape),
        "positions_mm": _positions(grid),
        "first_source_slice": [piece.source_slices[0] for piece in grid.slices],
        "last_source_slice": [piece.source_slices[-1] for piece in grid.slices],
        "receipt": json.dumps(grid.receipt, ensure_ascii=False),
    }
    return ScanOutcome(
        case_id=job.case_id,
        content=content,
        facts=facts,
        voxels=voxels.tobytes(),
        settings=settings,
        acquired=volume.plane,
    )


def stored_voxels(grid: GridVolume, dtype: StoredType) -> np.ndarray[Any, Any]:
    """The grid as it is stored: (N, H, W), or (3, N, H, W) for three windows."""
    values = grid.voxels if grid.channels is None else grid.channels
    return np.rint(values * 255).astype(np.uint8) if dtype == "uint8" else values.astype("<f2")


def foreseen_settings(spec: GridSpec, known: JournalEntry) -> dict[str, Any] | None:
    """What `spec` resolves to for a scan of an earlier run; None where only reading it again can tell."""
    window = spec.window
    if "auto" in channel_windows(window):
        if window != known.asked_window:
            return None
        window = known.settings["window"]
    plane = known.acquired if spec.plane == "acquired" else spec.plane
    return {**replace(spec, plane=plane).to_dict(), "window": window}


def preprocessing_digest(settings: dict[str, Any], dtype: StoredType, read_options: dict[str, Any]) -> str:
    """Names resolved settings, dtype, the numerics of this version and how the scan was read, where that was said."""
    asked = {"reading": read_options} if read_options else {}
    return digest_of({"numerics": NUMERICS, "dtype": dtype, "grid": settings, **asked})


def row_key(case_id: str, content: str, preprocessing: str) -> str:
    """Names a row by everything it is a function of."""
    return digest_of([case_id, content, preprocessing])


def digest_of(value: Any) -> str:
    """128 bits of the SHA-256 of a JSON value, as hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_journal(folder: Path) -> dict[str, JournalEntry]:
    """The last line of every case."""
    path = folder / JOURNAL
    if not path.is_file():
        return {}
    known: dict[str, JournalEntry] = {}
    shared: dict[str, dict[str, Any]] = {}  # thousands of scans have the same settings
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            try:
                entry = JournalEntry(**json.loads(line))
            except (json.JSONDecodeError, TypeError):
                continue
            settings = shared.setdefault(json.dumps(entry.settings), entry.settings)
            known[entry.id] = replace(entry, settings=settings)
    return known


def add_to_journal(folder: Path, entries: Iterable[JournalEntry]) -> None:
    """Append lines and see them on disk."""
    append_lines(folder / JOURNAL, (json.dumps(asdict(entry), ensure_ascii=False) for entry in entries))


def write_journal(folder: Path, entries: Iterable[JournalEntry]) -> None:
    """Replace the journal by these lines, unless it holds just them."""
    text = "".join(f"{json.dumps(asdict(entry), ensure_ascii=False)}\n" for entry in entries)
    path = folder / JOURNAL
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_text(path, text=text)


def _read(job: ScanJob) -> tuple[str, Volume | None]:
    """What the scan's files hold, and the scan unless that is known; from an object store it comes once for both."""
    with on_disk(job.path) as place:
        content = _content_of(place)
        return content, None if content == job.known_content else read_volume(place, **job.read_options)


def _content_of(path: Path) -> str:
    try:
        return content_digest(path)
    except FileNotFoundError:
        raise VolumeError(f"{path}: no such file or folder; check `volume` in the manifest") from None
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror or error}); check the path and the disk") from None


def _positions(grid: GridVolume) -> list[list[float]] | None:
    positions = [piece.position_mm for piece in grid.slices]
    return None if positions[0] is None else [list(position) for position in positions if position is not None]
