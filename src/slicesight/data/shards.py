"""How do prepared volumes lie on disk, and how is a whole shard told from half of one?

A shard is a Parquet file with one row group per case, so that one case is read without its neighbours: voxels as one
binary column beside shape and dtype, id, digests, positions, receipt. Pages carry checksums. A shard is written under
a hidden name and renamed to one made of its rows' keys: a file called shard-*.parquet is whole, the same rows give the
same name and bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from slicesight.data.rows import digest_of, row_key
from slicesight.errors import InputError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise InputError(f"prepared volumes need pyarrow ({error}); run: pip install 'slicesight[prepare]'") from error

FOLDER = "volumes"
PATTERN = "shard-*.parquet"
COMPRESSION_LEVEL = 3
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("content", pa.string()),
        ("preprocessing", pa.string()),
        ("dtype", pa.string()),
        ("shape", pa.list_(pa.int32())),
        ("positions_mm", pa.list_(pa.list_(pa.float32()))),
        ("first_source_slice", pa.list_(pa.int32())),
        ("last_source_slice", pa.list_(pa.int32())),
        ("receipt", pa.string()),
        ("voxels", pa.binary()),
    ],
    metadata={"slicesight": json.dumps({"format": 1, "voxels": "C order; uint8 is round(255 x), float16 is x"})},
)


@dataclass(frozen=True)
class Shard:
    """A whole shard: file name, size in bytes, and the cases and keys of its rows in order."""

    name: str
    num_bytes: int
    ids: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RowPlace:
    """Where a row is: the shard's path and the number of its row group."""

    path: Path
    index: int


@contextmanager
def opened_shard(path: Path) -> Iterator[pq.ParquetFile]:
    """A shard mapped into memory; damage becomes one line that says what to do."""
    try:
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False, page_checksum_verification=True) as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: this shard is missing; run `slicesight prepare` again to make it") from None
    except (pa.ArrowException, OSError) as error:
        found = f"{path}: the shard is damaged ({' '.join(str(error).split())[:120]})"
        raise InputError(f"{found}; delete it and run `slicesight prepare` again") from None


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys of a shard's rows, in order; reads no voxels."""
    with opened_shard(path) as file:
        columns = file.read(columns=["id", "content", "preprocessing"], use_threads=False).to_pydict()
    return tuple(row_key(*facts) for facts in zip(*columns.values(), strict=True))


class VolumeShardWriter:
    """Writes rows in order to a hidden file that gets its name at the end of the `with` block.

    Rows that an older shard holds are copied, and only when something new joins them: a shard of old rows that exists
    already under its name is left alone. A block that is stopped half-way keeps the rows it made as a smaller shard,
    unless the disk or a damaged older shard stopped it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shard: Shard | None = None
        """The result; None where there are no rows, or where they were thrown away."""
        self._ids: list[str] = []
        self._keys: list[str] = []
        self._num_new = 0
        self._copies: list[RowPlace] = []
        self._writer: pq.ParquetWriter | None = None
        self._file: BinaryIO | None = None
        self._hidden = folder / f".writing-{os.getpid()}.parquet"

    def __enter__(self) -> VolumeShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        finished = False
        try:
            if self._keys and (kind is None or (self._num_new and not isinstance(error, OSError))):
                self.shard = self._finish()
            finished = True
        finally:
            if self.shard is None or not finished:
                self._discard()

    def keep(self, case_id: str, key: str, place: RowPlace) -> None:
        """The next row is the one at `place`."""
        self._ids.append(case_id)
        self._keys.append(key)
        self._copies.append(place)

    def add(self, facts: dict[str, Any], voxels: bytes) -> str:
        """The next row is new; returns its key."""
        self._copy()
        row = {name: [voxels if name == "voxels" else facts[name]] for name in SCHEMA.names}
        self._write(pa.Table.from_pydict(row, schema=SCHEMA))
        self._ids.append(facts["id"])
        self._keys.append(row_key(facts["id"], facts["content"], facts["preprocessing"]))
        self._num_new += 1
        return self._keys[-1]

    def _finish(self) -> Shard:
        path = self.folder / f"shard-{digest_of(self._keys)}.parquet"
        if self._num_new or not path.exists():
            self._copy()
            assert self._writer is not None
            assert self._file is not None
            self._writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._hidden, path)
            _sync_folder(self.folder)
        return Shard(path.name, path.stat().st_size, tuple(self._ids), tuple(self._keys))

    def _discard(self) -> None:
        if self._writer is not None:
            self._writer.is_open = False  # or it would write its footer when it is collected
        if self._file is not None:
            self._file.close()
        self._hidden.unlink(missing_ok=True)

    def _copy(self) -> None:
        """Write the kept rows; from here on they are new to this file."""
        copies, self._copies = self._copies, []
        try:
            for place in copies:
                with opened_shard(place.path) as file:
                    row = file.read_row_group(place.index, use_threads=False)
                self._write(row)
        except InputError:
            self._keys.clear()  # some rows are missing, so this file never gets a name
            raise

    def _write(self, row: pa.Table) -> None:
        if self._writer is None:
            self._file = open_for_writing(self._hidden)
            self._writer = pq.ParquetWriter(
                self._file,
                SCHEMA,
                compression="zstd",
                compression_level=COMPRESSION_LEVEL,
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
            )
        self._writer.write_table(row)


def open_for_writing(path: Path) -> BinaryIO:
    """A new file."""
    return path.open("wb")


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut; Windows has no such call and needs none."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
