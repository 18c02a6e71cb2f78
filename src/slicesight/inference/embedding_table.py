"""How do many scans' vectors lie in one file that any reader of Parquet opens, and how do they come back as arrays?

One row a scan: names (scan, patient, split), the vectors as lists of float32 (slices and depth bins row after row, with
their shapes), where the slices lie, and the receipt as JSON. The file's own metadata (key `slicesight`) says by which
model, in which space, and what is missing why. Rows are kept in FILE.partial/ while they are made: a run that was
stopped goes on there, as long as model, space and a scan's files are the same; the file itself appears when it is
whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight import __version__
from slicesight.errors import InputError
from slicesight.files import replacing, write_text
from slicesight.inference.embedding import Embedding, Vectors
from slicesight.io.downloads import stay_on_disk
from slicesight.models.card import RESEARCH_NOTICE

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise InputError(f"tables of vectors need pyarrow ({error}); run: pip install 'slicesight[prepare]'") from error

FORMAT = 1
FLOATS, PLACES = pa.list_(pa.float32()), pa.list_(pa.list_(pa.float64()))
COLUMNS = [
    ("scan", pa.string()),
    ("patient", pa.string()),
    ("split", pa.string()),
    ("stamp", pa.string()),
    ("volume", FLOATS),
    ("slices", FLOATS),
    ("slices_shape", pa.list_(pa.int32())),
    ("slice_positions_mm", PLACES),
    ("slice_planes", pa.list_(pa.string())),
    ("source_slices", pa.list_(pa.list_(pa.int32()))),
    ("depth_bins", FLOATS),
    ("depth_bins_shape", pa.list_(pa.int32())),
    ("receipt", pa.string()),
]
METADATA_KEY = b"slicesight"
PARTIAL = ".partial"
"""Ending of the folder beside a table that is being made."""


@dataclass(frozen=True, kw_only=True)
class ScanName:
    """What a row is called. stamp: changes when the scan's files may have changed."""

    scan: str
    stamp: str
    patient: str | None = None
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class TableFacts:
    """Whose vectors these are. digest: of the model's weights and settings; source: what loads the model again."""

    model: str
    source: str
    digest: str
    space: str
    has_depth_bins: bool = True

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **vars(self)}


class TableWriter:
    """Rows of one table, each safe once it is added.

    Raises:
        InputError: what is kept beside `out` was begun with another model or space.
    """

    def __init__(self, out: Path, facts: TableFacts) -> None:
        self.out, self.facts = out, facts
        self.folder = out.with_name(out.name + PARTIAL)
        state = self.folder / "run.json"
        if state.is_file():
            found = json.loads(state.read_text(encoding="utf-8"))
            for name, wanted in facts.to_dict().items():
                if found.get(name) != wanted:
                    raise InputError(
                        f"{self.folder}: was begun with {name} {found.get(name)!r}, now it is {wanted!r}; remove it, "
                        "or name another --out"
                    )
        else:
            try:
                self.folder.mkdir(exist_ok=True)
            except OSError as error:
                raise InputError(f"{self.folder}: cannot be made ({error.strerror}); name another --out") from error
            write_text(state, text=json.dumps(facts.to_dict(), indent=1) + "\n")
        self.missing: dict[str, str] = {}
        self.num_kept = 0
        self._names: list[str] = []

    def has(self, name: ScanName) -> bool:
        """Whether an earlier run has added this scan as it is now."""
        place = self._place(name.scan)
        if not place.is_file():
            return False
        found = pq.read_table(place, columns=["scan", "stamp"]).to_pylist()
        return bool(found == [{"scan": name.scan, "stamp": name.stamp}])

    def keep(self, name: ScanName) -> None:
        """Take an earlier run's row into this table."""
        self._names.append(name.scan)
        self.num_kept += 1
        self.missing.update(_metadata_of(pq.read_schema(self._place(name.scan)))["missing"])

    def add(self, name: ScanName, found: Embedding) -> None:
        """Keep a scan's vectors on disk."""
        self.missing.update(found.missing)
        if not self.facts.has_depth_bins:
            self.missing["depth_bins"] = "left out with --no-depth-bins"
        table = pa.Table.from_pylist([self._row(name, found)], schema=self._schema())
        with replacing(self._place(name.scan)) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        self._names.append(name.scan)

    def finish(self) -> int:
        """Write the table whole, one row group a scan in the order they came, and remove what was kept; its bytes."""
        with (
            replacing(self.out) as temporary,
            pq.ParquetWriter(temporary, self._schema(), compression="zstd") as writer,
        ):
            for name in self._names:
                writer.write_table(pq.read_table(self._place(name), schema=self._schema()))
        self.abandon()
        return self.out.stat().st_size

    def abandon(self) -> None:
        """Remove what is kept beside the table."""
        shutil.rmtree(self.folder)

    def _place(self, scan: str) -> Path:
        return self.folder / f"{hashlib.sha256(scan.encode()).hexdigest()[:24]}.parquet"

    def _schema(self) -> Any:
        facts = {**self.facts.to_dict(), "missing": self.missing, "slicesight": __version__, "use": RESEARCH_NOTICE}
        return pa.schema(COLUMNS, metadata={METADATA_KEY: json.dumps(facts).encode()})

    def _row(self, name: ScanName, found: Embedding) -> dict[str, Any]:
        places = found.slice_places if found.slices is not None else ()
        has_mm = bool(places) and all(place.position_mm is not None for place in places)
        bins = found.depth_bins if self.facts.has_depth_bins else None
        return {
            "scan": name.scan,
            "patient": name.patient,
            "split": name.split,
            "stamp": name.stamp,
            "volume": found.volume,
            "slices": _flat(found.slices),
            "slices_shape": _shape(found.slices),
            "slice_positions_mm": [list(place.position_mm or ()) for place in places] if has_mm else None,
            "slice_planes": [place.plane for place in places] if any(place.plane for place in places) else None,
            "source_slices": [list(place.source_slices) for place in places] if places else None,
            "depth_bins": _flat(bins),
            "depth_bins_shape": _shape(bins),
            "receipt": json.dumps(found.receipt),
        }


@dataclass(frozen=True)
class EmbeddingTable:
    """The vectors of a file. S scans in its order.

    facts: model, source, digest, space, missing, as the file says.
    """

    path: Path
    facts: Mapping[str, Any]

    @cached_property
    def scans(self) -> list[str]:
        """Their names."""
        return [row["scan"] for row in self._columns("scan")]

    @cached_property
    def patients(self) -> list[str | None]:
        """Whose they are, where the table says so."""
        return [row["patient"] for row in self._columns("patient")]

    @cached_property
    def splits(self) -> list[str | None]:
        """For what they are, where the table says so."""
        return [row["split"] for row in self._columns("split")]

    @cached_property
    def volumes(self) -> Vectors:
        """(S, V), a row a scan."""
        found: Vectors = _floats(self._read("volume"), "volume").reshape(len(self.scans), -1)
        return found

    def slices(self, number: int) -> Vectors:
        """(N, L) of one scan; InputError where this table has none."""
        return self._matrix(number, "slices")

    def depth_bins(self, number: int) -> Vectors:
        """(K, P, C) of one scan; InputError where this table has none."""
        return self._matrix(number, "depth_bins")

    def places(self, number: int) -> list[dict[str, Any]]:
        """{"source_slices", "position_mm"} of every slice of one scan."""
        (row,) = self._columns("slice_positions_mm", "source_slices", "slice_planes", group=number)
        found = row["source_slices"] or []
        positions = row["slice_positions_mm"] or [None] * len(found)
        planes = row["slice_planes"] or [None] * len(found)
        return [
            {"source_slices": sources, "position_mm": position, "plane": plane}
            for sources, position, plane in zip(found, positions, planes, strict=True)
        ]

    def receipt(self, number: int) -> dict[str, Any]:
        """How one scan was read and brought to the model."""
        (row,) = self._columns("receipt", group=number)
        found: dict[str, Any] = json.loads(row["receipt"])
        return found

    def _matrix(self, number: int, column: str) -> Vectors:
        row = self._read(column, f"{column}_shape", group=number)
        (shape,) = row.column(f"{column}_shape").to_pylist()
        if shape is None:
            why = self.facts["missing"].get(column, "the table was written without")
            raise InputError(f"{self.path}: holds no {column.replace('_', ' ')} ({why})")
        return _floats(row, column).reshape(shape)

    def _columns(self, *names: str, group: int | None = None) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._read(*names, group=group).to_pylist()
        return rows

    def _read(self, *names: str, group: int | None = None) -> Any:
        with pq.ParquetFile(self.path) as file:
            return file.read(columns=list(names)) if group is None else file.read_row_group(group, columns=list(names))


def read_table(path: str | Path) -> EmbeddingTable:
    """Open what `slicesight embed` wrote.

    Raises:
        InputError: no such file, no Parquet, another version's, or of another program.
    """
    place = stay_on_disk(path)
    if not place.is_file():
        raise InputError(f"{place}: no such file; expected a table that slicesight embed wrote")
    try:
        schema = pq.read_schema(place)
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{place}: no Parquet ({reason}); expected a table that slicesight embed wrote") from None
    facts = _metadata_of(schema)
    if facts.get("format") != FORMAT:
        raise InputError(f"{place}: holds no vectors of ours; expected a table that slicesight embed wrote")
    return EmbeddingTable(place, facts)


def _metadata_of(schema: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
    return found


def _floats(table: Any, column: str) -> Vectors:
    """All numbers of a column of lists, one behind the other."""
    found: Vectors = table.column(column).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return found


def _flat(array: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    return None if array is None else array.ravel()


def _shape(array: NDArray[np.float32] | None) -> Sequence[int] | None:
    return None if array is None else list(array.shape)
