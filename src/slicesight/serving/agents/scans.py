"""How does a tool get from a scan's name to its voxels, without trusting the file, and once for many calls?

Each scan is read by a process of its own (`scan_worker.py`) with limits on time and memory. What it leaves is kept in a
private folder for the next calls, the ones used last, until the server ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.data.fingerprints import stat_fingerprint
from slicesight.errors import InputError
from slicesight.serving.agents.options import AgentOptions
from slicesight.serving.agents.roots import Roots
from slicesight.serving.agents.scan_worker import LABEL_FILE, LABEL_TYPE, NOTES_FILE, VOXEL_FILE
from slicesight.serving.isolated_reading import name_form_fields, run_worker, worker_environment
from slicesight.serving.stored_scan import REFUSAL_FILE, SCAN_FILE, VOXEL_TYPE, read_scan, read_stored_source
from slicesight.volumes.grid import GridVolume
from slicesight.volumes.volume import Volume

WORKER = ("-P", "-m", "slicesight.serving.agents.scan_worker")
PATIENT_KEYWORDS = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("StudyDate", "StudyDescription", "AccessionNumber", "SeriesDescription"),
)


@dataclass(frozen=True, kw_only=True)
class ReadScan:
    """A scan as tools work with it.

    name: what tools call it. key: the same for the same files and options. grid: with the usual settings. labels: of
    the mask, (Z, Y, X) on the scan's own voxels. notes: what was doubtful about the mask. patient: DICOM keyword to
    text, where it was asked for.
    """

    name: str
    key: str
    volume: Volume
    grid: GridVolume
    labels: NDArray[np.int32] | None
    notes: tuple[str, ...]
    patient: dict[str, str] | None


class ScanDesk:
    """Reads scans below the roots and keeps them for a while; a context that removes all of them at its end."""

    def __init__(self, options: AgentOptions) -> None:
        self.options, self.roots = options, Roots(options.roots)
        self._folder = Path(tempfile.mkdtemp(prefix="slicesight-mcp-", dir=options.folder))
        self._kept: OrderedDict[str, ReadScan] = OrderedDict()
        self._locks: dict[str, asyncio.Lock] = {}
        self._slots = asyncio.Semaphore(options.max_reading)

    def __enter__(self) -> ScanDesk:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    async def read(
        self, name: str, *, options: dict[str, Any], mask: str | None = None, with_patient: bool = False
    ) -> ReadScan:
        """The scan, and a mask on its voxels.

        Args:
            options: how to read it, by the names of `slicesight ask`.

        Raises:
            InputError: outside the roots, not there, too large, no scan, or not read within time and memory.
        """
        place = await asyncio.to_thread(self.roots.scan, name, max_bytes=self.options.max_scan_bytes)
        over = None
        if mask is not None:
            over = await asyncio.to_thread(self.roots.scan, mask, max_bytes=self.options.max_scan_bytes)
        stamps = [None if one is None else await asyncio.to_thread(stat_fingerprint, one) for one in (place, over)]
        told = json.dumps([stamps, options, with_patient], sort_keys=True)
        key = hashlib.sha256(told.encode()).hexdigest()[:24]
        async with self._locks.setdefault(key, asyncio.Lock()):
            if key not in self._kept:
                self._kept[key] = await self._read(key, place, over, options, with_patient)
                await asyncio.to_thread(self._tidy)
            self._kept.move_to_end(key)
            return self._kept[key]

    async def _read(
        self, key: str, place: Path, mask: Path | None, options: dict[str, Any], with_patient: bool
    ) -> ReadScan:
        folder = self._folder / key
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        name, limit_s = self.roots.name_of(place), self.options.timeout_s
        request = {
            "folder": str(folder),
            "place": str(place),
            "mask": None if mask is None else str(mask),
            "roots": [str(root) for root in self.roots.places],
            "options": options,
            "with_patient": with_patient,
            "memory_bytes": self.options.read_memory_bytes,
            "cpu_seconds": ceil(limit_s),
        }
        try:
            async with self._slots:
                code = await run_worker(
                    WORKER, json.dumps(request), timeout_s=limit_s, environment=worker_environment()
                )
            refusal = folder / REFUSAL_FILE
            if refusal.is_file():
                message = json.loads(refusal.read_text(encoding="utf-8"))["message"]
                raise InputError(name_form_fields(message))
            if code != 0 or not (folder / SCAN_FILE).is_file():
                raise InputError(
                    f"{name}: stopped the program that reads it; it is damaged or larger than this server allows, "
                    "check it with slicesight inspect"
                )
            return await asyncio.to_thread(self._load, folder, name, key, with_patient)
        except TimeoutError:
            shutil.rmtree(folder, ignore_errors=True)
            raise InputError(
                f"{name}: reading took more than {limit_s:.0f} s; name a smaller scan, or start the server with a "
                "longer --timeout"
            ) from None
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _load(self, folder: Path, name: str, key: str, with_patient: bool) -> ReadScan:
        stored = read_scan(folder)
        shape = stored.volume.shape
        voxels = np.asarray(np.memmap(folder / VOXEL_FILE, dtype=VOXEL_TYPE, mode="r", shape=shape))
        labels = None
        if (folder / LABEL_FILE).is_file():
            labels = np.asarray(np.memmap(folder / LABEL_FILE, dtype=LABEL_TYPE, mode="r", shape=shape))
        notes = json.loads((folder / NOTES_FILE).read_text(encoding="utf-8"))
        return ReadScan(
            name=name,
            key=key,
            volume=replace(stored.volume, voxels=voxels),
            grid=stored.grid,
            labels=labels,
            notes=tuple(self.without_places(note) for note in notes),
            patient=_patient_of(folder) if with_patient else None,
        )

    def _tidy(self) -> None:
        """Let go what was used longest ago; whoever still works with it keeps its memory."""
        sizes = {key: _size_of(self._folder / key) for key in self._kept}
        for key in list(self._kept)[:-1]:
            if len(self._kept) <= self.options.max_kept and sum(sizes.values()) <= self.options.max_kept_bytes:
                return
            del self._kept[key], sizes[key]
            self._locks.pop(key, None)
            shutil.rmtree(self._folder / key, ignore_errors=True)

    def without_places(self, message: str) -> str:
        """Without where the roots lie on this machine."""
        for name, root in self.roots.names.items():
            message = message.replace(f"{root}/", "" if len(self.roots.names) == 1 else f"{name}/")
        return message


def _patient_of(folder: Path) -> dict[str, str]:
    """What the first DICOM header says of patient and study; nothing for a scan that is no DICOM."""
    try:
        header = read_stored_source(folder).header
    except InputError:
        return {}
    return {word: str(header[word].value) for word in PATIENT_KEYWORDS if word in header and str(header[word].value)}


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0
