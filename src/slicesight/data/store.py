"""How are prepared volumes read back: any case by its id, quickly, by many processes at once?

DIR/manifest.jsonl names the cases, DIR/volumes/index.json says in which row of which shard each lies and appears when a
preparation is complete. Nothing is kept open between two reads: a case costs one mapping, one footer and one row group,
and an object may be copied to any number of processes and threads.
N slices, H rows, W columns.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.data.manifest import Case, iter_manifest
from slicesight.data.shards import FOLDER, RowPlace, Shard, opened_shard
from slicesight.errors import InputError, check_type
from slicesight.files import write_text
from slicesight.io.downloads import stay_on_disk
from slicesight.volumes.grid import GridSpec

INDEX = "index.json"
FORMAT = 1
_NUMPY_TYPES: dict[str, np.dtype[Any]] = {"uint8": np.dtype("u1"), "float16": np.dtype("<f2")}


@dataclass(frozen=True)
class FailedCase:
    """A case without a prepared volume, and why in one line."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class PreparedIndex:
    """What a complete preparation holds.

    spec: as asked for; digest: names the cases, the content of their files and how they were prepared, in the
        manifest's order.
    """

    spec: GridSpec
    dtype: str
    digest: str
    shards: tuple[Shard, ...]
    failed: tuple[FailedCase, ...] = ()

    def write(self, folder: Path) -> None:
        """Write DIR/volumes/index.json in one step, unless it says the same already."""
        head = {"format": FORMAT, "digest": self.digest, "spec": self.spec.to_dict(), "dtype": self.dtype}
        lists = {"shards": [asdict(shard) for shard in self.shards], "failed": [asdict(case) for case in self.failed]}
        text = json.dumps({**head, **lists}, ensure_ascii=False) + "\n"
        path = folder / INDEX
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text=text)


def read_index(folder: Path) -> PreparedIndex | None:
    """The index of a volumes folder, None where no preparation was completed yet."""
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise InputError(f"{path}: format {found['format']!r}; expected {FORMAT}, run `slicesight prepare` again")
        return PreparedIndex(
            spec=GridSpec.from_dict(found["spec"]),
            dtype=found["dtype"],
            digest=found["digest"],
            shards=tuple(
                Shard(row["name"], row["num_bytes"], tuple(row["ids"]), tuple(row["keys"])) for row in found["shards"]
            ),
            failed=tuple(FailedCase(**case) for case in found["failed"]),
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise InputError(f"{path}: the index is damaged; delete it and run `slicesight prepare` again") from None


@dataclass(frozen=True)
class PreparedVolumes:
    """Volumes on the model grid, read by case id."""

    folder: Path
    index: PreparedIndex
    _places: dict[str, RowPlace] = field(repr=False)
    manifest: str = "manifest.jsonl"

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, case_id: str) -> bool:
        return case_id in self._places

    @property
    def spec(self) -> GridSpec:
        """The grid as it was asked for; what it became for one scan is on its receipt."""
        return self.index.spec

    @property
    def dtype(self) -> str:
        """ "uint8" (255 is white) or "float16" (1.0 is white)."""
        return self.index.dtype

    @property
    def digest(self) -> str:
        """Changes with the cases, with the content of any of their files and with how they were prepared."""
        return self.index.digest

    @property
    def failed(self) -> tuple[FailedCase, ...]:
        """The manifest's cases that have no volume."""
        return self.index.failed

    @cached_property
    def cases(self) -> list[Case]:
        """The manifest's cases that have a volume, in its order; InputError where one was never prepared."""
        left_out = {case.id for case in self.failed}
        cases = [case for case in iter_manifest(self.folder / self.manifest) if case.id not in left_out]
        missing = [case.id for case in cases if case.id not in self]
        if missing:
            found = f"{self.folder / self.manifest}: {len(missing)} cases have no prepared volume"
            raise InputError(f"{found}, the first is {missing[0]!r}; run `slicesight prepare` again")
        return cases

    def voxels(self, case_id: str) -> NDArray[Any]:
        """(N, H, W) of `dtype`, a new array; (3, N, H, W) for a window of three parts."""
        row = self._row(case_id, ["voxels", "shape", "dtype"])
        stored: NDArray[Any] = np.frombuffer(row["voxels"], dtype=_NUMPY_TYPES[row["dtype"]]).reshape(row["shape"])
        return stored.copy()

    def receipt(self, case_id: str) -> dict[str, Any]:
        """What was read and what was done to it."""
        return dict(json.loads(self._row(case_id, ["receipt"])["receipt"]))

    def positions_mm(self, case_id: str) -> NDArray[np.float64] | None:
        """(N, 3) LPS position of each grid slice's centre; None where the file has no geometry."""
        positions = self._row(case_id, ["positions_mm"])["positions_mm"]
        return None if positions is None else np.asarray(positions, dtype=np.float64)

    def source_slices(self, case_id: str) -> list[range]:
        """The file's slices that each grid slice shows, as `GridSlice.source_slices`."""
        row = self._row(case_id, ["first_source_slice", "last_source_slice"])
        ends = zip(row["first_source_slice"], row["last_source_slice"], strict=True)
        return [range(first, last + 1) for first, last in ends]

    def content(self, case_id: str) -> str:
        """SHA-256 of the scan's file, or of its files' list; see `fingerprints.content_digest`."""
        return str(self._row(case_id, ["content"])["content"])

    def _row(self, case_id: str, columns: list[str]) -> dict[str, Any]:
        place = self._places.get(case_id)
        if place is None:
            reasons = [case.reason for case in self.failed if case.id == case_id]
            why = f"could not be prepared ({reasons[0]})" if reasons else "is not among the prepared volumes"
            raise InputError(f"{self.folder}: case {case_id!r} {why}")
        with opened_shard(place.path) as file:
            table = file.read_row_group(place.index, columns=columns, use_threads=False)
            return {
                name: table[name][0].as_buffer() if name == "voxels" else table[name][0].as_py() for name in columns
            }


def open_prepared(folder: str | Path) -> PreparedVolumes:
    """Open the prepared volumes of DIR; reads the index only.

    Args:
        folder: DIR, also in an object store (copied here), or another manifest in it:
            DIR/manifest_deduplicated.jsonl has the same volumes for fewer cases.

    Raises:
        InputError: nothing is prepared there, or a shard is missing or truncated.
    """
    check_type(folder, (str, Path), name="folder", expected="the path that `slicesight prepare` wrote to")
    folder, manifest = stay_on_disk(folder), "manifest.jsonl"
    if folder.suffix == ".jsonl" and folder.is_file():
        folder, manifest = folder.parent, folder.name
    index = read_index(folder / FOLDER)
    if index is None:
        found = f"{folder}: no complete preparation found (no {FOLDER}/{INDEX})"
        raise InputError(f"{found}; run `slicesight prepare`, it continues where it stopped")
    places: dict[str, RowPlace] = {}
    for shard in index.shards:
        path = folder / FOLDER / shard.name
        size = path.stat().st_size if path.is_file() else 0
        if size != shard.num_bytes:
            state = f"{size} bytes instead of {shard.num_bytes}" if path.is_file() else "missing"
            raise InputError(f"{path}: the shard is {state}; run `slicesight prepare` again, it makes what is missing")
        places |= {case_id: RowPlace(path, row) for row, case_id in enumerate(shard.ids)}
    return PreparedVolumes(folder, index, places, manifest)
