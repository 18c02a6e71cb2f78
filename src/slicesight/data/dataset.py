"""Which scans are trained or evaluated on, and what is asked about them? One `Dataset`, whatever stands behind it.

DATA is manifest.jsonl or its folder, a folder made by `slicesight prepare` (each here or in an object store), or
NAME:REST of a source in `SOURCES` or of another package's entry point. N slices, H rows, W columns.
"""

from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from slicesight.data.fingerprints import content_digest, stat_fingerprint
from slicesight.data.manifest import PART_OPTIONS, Case, Conversation, read_manifest
from slicesight.data.plugins import find_plugin, known_names
from slicesight.errors import InputError, check_type
from slicesight.io.assemble import checked_fill
from slicesight.io.downloads import on_disk
from slicesight.io.loading import read_volume
from slicesight.io.object_store import has_file, is_remote, joined, remote_url
from slicesight.volumes.geometry import Geometry
from slicesight.volumes.grid import GridSlice, GridSpec, GridVolume, to_grid
from slicesight.volumes.slice_range import range_box
from slicesight.volumes.volume import Volume

if TYPE_CHECKING:
    from slicesight.data.store import PreparedVolumes

SOURCES: dict[str, str] = {
    "prepared": "slicesight.data.dataset:open_prepared_dataset",
    "phantoms": "slicesight.phantoms.dataset:open_phantoms",
    "branches": "slicesight.phantoms.branch_dataset:open_branches",
}
"""NAME -> "module:function" called as function(REST, grid=..., **options) -> Dataset. Another package adds one by an
entry point of the group `ENTRY_POINTS`, or by a line here."""
ENTRY_POINTS = "slicesight.case_sources"
PREPARED_INDEX = Path("volumes") / "index.json"
MANIFEST = "manifest.jsonl"


class Dataset(ABC):
    """Cases with their volumes. A source says what its cases are and how one comes onto a grid; the rest follows.

    spec: the grid on which `voxels` are given; None where every call of `grid` names its own.
    asks_anew: whether another epoch asks other questions (of the same tasks in the same order).
    """

    spec: GridSpec | None = None
    asks_anew: bool = False

    @cached_property
    def cases(self) -> list[Case]:
        """What the source holds, in its order."""
        raise NotImplementedError

    @abstractmethod
    def grid(self, case: Case, spec: GridSpec) -> GridVolume:
        """The case's volume on a model's grid; raises InputError where it cannot be read, or not onto this grid."""

    @abstractmethod
    def stamp(self, case: Case) -> str:
        """Changes when the files may have changed; cheap."""

    @abstractmethod
    def content(self, case: Case) -> str:
        """Names the volume's content, whatever it is called."""

    def scan_content(self, case: Case) -> str:
        """Names the scan itself, however it is read: by this a copy of it is found in other data."""
        return self.content(case)

    def __len__(self) -> int:
        return len(self.cases)

    def subset(self, cases: Iterable[Case]) -> Self:
        """The same volumes with some of their cases."""
        part = copy.copy(self)
        part.cases = list(cases)
        return part

    def with_seed(self, seed: int) -> Dataset:
        """The same cases; where every epoch asks anew, with other draws."""
        return self

    def conversations(self, case: Case, epoch: int) -> Sequence[Conversation]:
        """What is asked about a case in one epoch."""
        return case.conversations

    def texts(self, *, count: int, seed: int) -> Iterator[str]:
        """Prompts and answers as a model reads them, for a tokenizer; of endless texts `count` are drawn."""
        for case in self.cases:
            for conversation in self.conversations(case, 0):
                yield f"{conversation.prompt} Answer: {conversation.target}"

    def stage0(self, *arguments: Any, **settings: Any) -> None:
        """Teach a model's parts what the data's own truth says, before the stages; arguments: training/stage0.

        Raises:
            InputError: there is no truth to learn from.
        """
        raise InputError(
            "stage 0 learns from the truth of phantoms or prepared label maps; start from init or parts instead"
        )

    def voxels(self, case: Case) -> NDArray[np.float32]:
        """(N, H, W) in [0, 1], on the dataset's own grid."""
        return self.grid(case, self.own_spec).voxels

    def source_slices(self, case: Case) -> Sequence[Sequence[int]]:
        """The file's slices that each of the N grid slices shows."""
        return [piece.source_slices for piece in self.grid(case, self.own_spec).slices]

    def true_slices(self, case: Case, conversation: Conversation) -> NDArray[np.bool_]:
        """Grid slices that show what one question is about -> (N,); none marked where nobody knows or all show it."""
        if conversation.source_slices is None:
            return np.zeros(self.own_spec.num_slices, dtype=bool)
        wanted = set(conversation.source_slices)
        shown = np.array([not wanted.isdisjoint(source) for source in self.source_slices(case)])
        return shown & ~shown.all()

    def labels(self, case: Case) -> NDArray[np.int32] | None:
        """The case's canonical label map (Z, Y, X); None where the source holds none."""
        return None

    def plane(self, case: Case) -> str | None:
        """How the slices are stacked, None where the file does not say which way they lie."""
        grid = self.grid(case, self.own_spec)
        return grid.plane if grid.receipt["has_positions"] else None

    def fingerprint(self, case: Case) -> str:
        """Changes with the case's voxels on the dataset's own grid."""
        return digest_of(self.content(case).encode(), self.preparation.encode())

    @property
    def preparation(self) -> str:
        """Changes with the way any scan comes onto the dataset's own grid."""
        return digest_of(json.dumps(self.own_spec.to_dict(), sort_keys=True).encode())

    @property
    def own_spec(self) -> GridSpec:
        """`spec`, where there must be one."""
        if self.spec is None:
            raise InputError("these scans lie on no grid yet; open them with a grid, or prepare them")
        return self.spec


class ManifestDataset(Dataset):
    """A manifest with its scan files, read whenever they are wanted."""

    def __init__(self, manifest: str | Path, *, grid: GridSpec | None = None) -> None:
        self.manifest, self.spec = manifest, grid
        self._folder = remote_url(manifest).rpartition("/")[0] if is_remote(manifest) else Path(manifest).parent
        self._name = Path(manifest).name

    @cached_property
    def cases(self) -> list[Case]:
        return read_manifest(self.manifest)

    def grid(self, case: Case, spec: GridSpec) -> GridVolume:
        return to_grid(self.volume(case), spec)

    def volume(self, case: Case) -> Volume:
        """The case's scan, read as its line says; errors as of `read_volume`."""
        return read_volume(self._path(case), **case.read_options)

    def labels(self, case: Case) -> NDArray[np.int32] | None:
        if case.labels is None:
            return None
        from slicesight.io.masks import read_labels

        path = joined(self._folder, case.labels)
        if isinstance(path, Path) and not path.exists():
            raise InputError(f"{self._name}: case {case.id}: no such label map {path}; mend the manifest.")
        options = case.read_options
        whole = read_volume(
            self._path(case), **{name: value for name, value in options.items() if name not in PART_OPTIONS}
        )
        with on_disk(path) as place:
            labels_ZYX = read_labels(place, whole)
        if not set(PART_OPTIONS) & set(options):
            return labels_ZYX
        box = range_box(whole, options.get("slices"), side=options.get("side"))
        return labels_ZYX[tuple(slice(*extent) for extent in box)]

    def stamp(self, case: Case) -> str:
        return stat_fingerprint(self._path(case)) + (repr(case.read_options) if case.reading else "")

    def content(self, case: Case) -> str:
        content = content_digest(self._path(case))
        return digest_of(content.encode(), repr(case.read_options).encode()) if case.reading else content

    def scan_content(self, case: Case) -> str:
        return content_digest(self._path(case))

    def _path(self, case: Case) -> str | Path:
        path = joined(self._folder, case.volume)
        if isinstance(path, Path) and not path.exists():
            raise InputError(f"{self._name}: case {case.id}: no such scan {path}; mend the manifest.")
        return path


class PreparedDataset(Dataset):
    """Volumes that already lie on the model's grid."""

    def __init__(self, prepared: PreparedVolumes) -> None:
        if "+" in prepared.spec.window:
            found = f"{prepared.folder}: prepared with the windows {prepared.spec.window}"
            raise InputError(f"{found}, but a model reads one channel; prepare it again with one window")
        self.prepared, self.spec = prepared, prepared.spec

    @cached_property
    def cases(self) -> list[Case]:
        return self.prepared.cases

    def grid(self, case: Case, spec: GridSpec) -> GridVolume:
        if self.prepared.spec != spec:
            found = f"{self.prepared.folder}: prepared as {self.prepared.spec.to_dict()}"
            change = "prepare it again for this model, or use the scans themselves."
            raise InputError(f"{found}, but the model reads {spec.to_dict()}; {change}")
        return _grid_of(self.voxels(case), self.prepared, case.id)

    def stamp(self, case: Case) -> str:
        return self.prepared.content(case.id)

    def content(self, case: Case) -> str:
        return self.prepared.content(case.id)

    def voxels(self, case: Case) -> NDArray[np.float32]:
        return to_float(self.prepared.voxels(case.id))

    def source_slices(self, case: Case) -> Sequence[Sequence[int]]:
        return self.prepared.source_slices(case.id)

    def plane(self, case: Case) -> str | None:
        receipt = self.prepared.receipt(case.id)
        return receipt["grid"]["plane"] if receipt["has_positions"] else None

    @property
    def preparation(self) -> str:
        settings = {**self.prepared.spec.to_dict(), "dtype": self.prepared.dtype}
        return digest_of(json.dumps(settings, sort_keys=True).encode())


def open_dataset(
    data: str | Path,
    *,
    split: str | None = None,
    prefer: str | None = None,
    count: int | None = None,
    grid: GridSpec | None = None,
    fill: str | float | None = None,
    **options: Any,
) -> Dataset:
    """The cases that DATA names.

    Args:
        split: only its cases. prefer: the split to take where none is named and the data have it.
        count: only the first so many of them.
        grid: on which `voxels` are wanted; prepared scans must lie on it already.
        fill: what takes the place of NaN in a manifest's scans where it does not say; as for `read_volume`.
        options: further ones of the source's own, such as the phantoms' `folder`.

    Raises:
        InputError: there is nothing, the split is empty, or prepared scans lie on another grid.
    """
    check_type(data, (str, Path), name="data", expected="a path or NAME:REST, such as phantoms:9000:300")
    check_type(grid, (GridSpec, type(None)), name="grid", expected="a GridSpec")
    name, mark, rest = str(data).partition(":")
    if mark and name in known_names(SOURCES, ENTRY_POINTS):
        opener = find_plugin(name, SOURCES, ENTRY_POINTS)
        known = list(signature(opener).parameters)[2:]
        for option in options:
            if option not in known:
                raise InputError(f"{option!r} is no option of {name}; its options are {', '.join(known) or 'none'}")
        dataset: Dataset = opener(rest, grid=grid, **options)
    elif options:
        raise InputError(f"{data}: {', '.join(options)} cannot be set for scans on disk; leave it out")
    else:
        dataset = _open_remote(remote_url(data), grid) if is_remote(data) else _open_path(Path(data), grid)
    if (chosen := checked_fill(fill)) is not None:
        if not isinstance(dataset, ManifestDataset):
            raise InputError(f"{data}: fill is for scan files that a manifest names; leave it out, or prepare with it")
        dataset = dataset.subset(case.with_fill(chosen) for case in dataset.cases)
    return select(dataset, split=split, prefer=prefer, count=count)


def open_prepared_dataset(folder: str | Path, *, grid: GridSpec | None = None) -> PreparedDataset:
    """The scans that `slicesight prepare` brought onto a grid; arguments as for `store.open_prepared`.

    Raises:
        InputError: nothing is prepared there, or on another grid than this.
    """
    from slicesight.data.store import open_prepared  # needs pyarrow, which the others do not

    prepared = open_prepared(folder)
    if grid is not None and grid != prepared.spec:
        found = f"{folder}: prepared as {prepared.spec.to_dict()}, the recipe's grid is {grid.to_dict()}"
        raise InputError(f"{found}; leave grid out of the recipe, or prepare the scans again")
    return PreparedDataset(prepared)


def select(
    dataset: Dataset, *, split: str | None = None, prefer: str | None = None, count: int | None = None
) -> Dataset:
    """The cases of a split, the first `count` of them; arguments as for `open_dataset` (InputError: none are left)."""
    if count is not None and count < 1:
        raise InputError(f"count is {count}; expected at least one case")
    if split is None and prefer is None and count is None:
        return dataset
    present = sorted({case.split for case in dataset.cases if case.split is not None})
    wanted = split or (prefer if prefer in present else None)
    cases = [case for case in dataset.cases if wanted is None or case.split == wanted]
    if not cases:
        raise InputError(f"no case is in the split {wanted!r}; the splits there are {', '.join(present) or 'none'}.")
    return dataset.subset(cases[:count])


def to_float(stored: NDArray[np.uint8] | NDArray[np.float16]) -> NDArray[np.float32]:
    """Stored voxels as the [0, 1] the model reads: uint8 255 and float16 1.0 are white."""
    return stored.astype(np.float32) / np.float32(255 if stored.dtype == np.uint8 else 1)


def digest_of(*pieces: bytes) -> str:
    """SHA-256 of the pieces, in hexadecimal."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()


def _open_remote(url: str, grid: GridSpec | None) -> Dataset:
    """As `_open_path`; prepared scans are copied here, a manifest's only when they are wanted."""
    if url.endswith(".jsonl"):
        return ManifestDataset(url, grid=grid)
    if has_file(joined(url, PREPARED_INDEX.as_posix())):
        return open_prepared_dataset(url, grid=grid)
    if not has_file(joined(url, MANIFEST)):
        raise InputError(f"{url}: no manifest there; expected manifest.jsonl, its folder, or phantoms:SEED:COUNT.")
    return ManifestDataset(str(joined(url, MANIFEST)), grid=grid)


def _open_path(path: Path, grid: GridSpec | None) -> Dataset:
    if path.is_dir():
        if (path / PREPARED_INDEX).is_file():
            return open_prepared_dataset(path, grid=grid)
        path = path / MANIFEST
    if not path.is_file():
        raise InputError(f"{path}: no manifest there; expected manifest.jsonl, its folder, or phantoms:SEED:COUNT.")
    return ManifestDataset(path, grid=grid)


def _grid_of(voxels: NDArray[np.float32], prepared: PreparedVolumes, case_id: str) -> GridVolume:
    """A grid volume from what a preparation holds: exact slices and positions, no place between them."""
    receipt, positions = prepared.receipt(case_id), prepared.positions_mm(case_id)
    places = [None] * len(voxels) if positions is None else [(x, y, z) for x, y, z in positions.tolist()]
    shown = enumerate(zip(prepared.source_slices(case_id), places, strict=True))
    window, plane = receipt["window"], receipt["grid"]["plane"]
    z, y, x = receipt["shape_zyx"]
    return GridVolume(
        voxels=voxels,
        plane=plane,
        spec=replace(prepared.spec, plane=plane, window=f"{window['low']:g},{window['high']:g}"),
        slices=tuple(GridSlice(index=i, source_slices=tuple(sources), position_mm=at) for i, (sources, at) in shown),
        receipt=receipt,
        geometry=Geometry(
            shape=(z, y, x), affine_lps=None, acquisition_axis=0, slices_reversed=False, slice_positions_mm=None
        ),
        box=tuple((low, high) for low, high in receipt["crop_zyx"]),  # type: ignore[arg-type]
    )
