"""Where do the scans and questions of an evaluation come from? A manifest with its files, a prepared folder, phantoms.

DATA is manifest.jsonl or its folder, a folder made by `slicesight prepare`, or phantoms:SEED:COUNT, which are painted
when they are needed. Each source gives a case's grid as the model wants it, and a digest that changes with its content.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from slicesight.data.fingerprints import content_digest, stat_fingerprint
from slicesight.data.manifest import Case, read_manifest
from slicesight.errors import InputError
from slicesight.io.loading import read_volume
from slicesight.phantoms.folder import phantom_case
from slicesight.phantoms.rendering import Phantom, make_phantom
from slicesight.volumes.geometry import Geometry
from slicesight.volumes.grid import GridSlice, GridSpec, GridVolume, to_grid
from slicesight.volumes.volume import Volume

if TYPE_CHECKING:
    from slicesight.data.store import PreparedVolumes

PREPARED_INDEX = Path("volumes") / "index.json"
PHANTOM_MARK = "phantoms:"
Gridder = Callable[[Volume], GridVolume]


class CaseSource(Protocol):
    """Cases with their volumes."""

    @property
    def cases(self) -> list[Case]: ...

    def grid(self, case: Case, spec: GridSpec) -> GridVolume:
        """The case's volume on the model's grid.

        Raises:
            InputError: it cannot be read.
        """

    def stamp(self, case: Case) -> str:
        """Changes when the files may have changed; cheap."""

    def content(self, case: Case) -> str:
        """Names the volume's content, whatever it is called."""


@dataclass(frozen=True)
class ManifestCases:
    """A manifest with its scan files."""

    manifest: Path

    @cached_property
    def cases(self) -> list[Case]:
        return read_manifest(self.manifest)

    def grid(self, case: Case, spec: GridSpec) -> GridVolume:
        return to_grid(read_volume(self._path(case)), spec)

    def stamp(self, case: Case) -> str:
        return stat_fingerprint(self._path(case))

    def content(self, case: Case) -> str:
        return content_digest(self._path(case))

    def _path(self, case: Case) -> Path:
        path = self.manifest.parent / case.volume
        if not path.exists():
            raise InputError(f"{self.manifest.name}: case {case.id}: no such scan {path}; mend the manifest.")
        return path


@dataclass(frozen=True)
class PreparedCases:
    """Volumes that already lie on the model's grid."""

    prepared: PreparedVolumes

    @cached_property
    def cases(self) -> list[Case]:
        return self.prepared.cases

    def grid(self, case: Case, spec: GridSpec) -> GridVolume:
        found = self.prepared.spec
        if found != spec:
            raise InputError(
                f"{self.prepared.folder}: prepared as {found.to_dict()} but the model reads {spec.to_dict()}; "
                "prepare it again for this model, or evaluate on the scans themselves."
            )
        voxels = self.prepared.voxels(case.id)
        if voxels.ndim != 3:
            raise InputError(f"{self.prepared.folder}: prepared with several windows; the model reads one channel.")
        scale = np.float32(255 if voxels.dtype == np.uint8 else 1)
        return _grid_of(voxels.astype(np.float32) / scale, self.prepared, case.id)

    def stamp(self, case: Case) -> str:
        return self.prepared.content(case.id)

    def content(self, case: Case) -> str:
        return self.prepared.content(case.id)


@dataclass(frozen=True)
class PhantomCases:
    """Synthetic scans, painted anew each time; the same seed gives the same ones."""

    seed: int
    count: int

    @cached_property
    def cases(self) -> list[Case]:
        return [
            phantom_case(_paint(self.seed, index), seed=self.seed, index=index, volume=self._name(index))
            for index in range(self.count)
        ]

    def grid(self, case: Case, spec: GridSpec) -> GridVolume:
        return to_grid(_paint(self.seed, int(case.volume.rpartition(":")[2])).volume, spec)

    def stamp(self, case: Case) -> str:
        return case.volume

    def content(self, case: Case) -> str:
        return case.volume

    def _name(self, index: int) -> str:
        return f"{PHANTOM_MARK}{self.seed}:{index}"


def open_cases(data: str) -> CaseSource:
    """The source that DATA names.

    Raises:
        InputError: there is nothing to evaluate on.
    """
    if data.startswith(PHANTOM_MARK):
        try:
            seed, count = (int(part) for part in data.removeprefix(PHANTOM_MARK).split(":"))
        except ValueError:
            raise InputError(f"{data}: expected phantoms:SEED:COUNT, for instance phantoms:9000:300.") from None
        if count < 1 or seed < 0:
            raise InputError(f"{data}: at least one phantom and a seed from 0; for instance phantoms:9000:300.")
        return PhantomCases(seed, count)
    path = Path(data)
    if path.is_dir():
        if (path / PREPARED_INDEX).is_file():
            from slicesight.data.store import open_prepared

            return PreparedCases(open_prepared(path))
        path = path / "manifest.jsonl"
    if not path.is_file():
        raise InputError(f"{data}: no manifest there; expected manifest.jsonl, its folder, or phantoms:SEED:COUNT.")
    return ManifestCases(path)


@dataclass(frozen=True)
class ChosenCases:
    """Some of a source's cases."""

    source: CaseSource
    cases: list[Case]

    def grid(self, case: Case, spec: GridSpec) -> GridVolume:
        return self.source.grid(case, spec)

    def stamp(self, case: Case) -> str:
        return self.source.stamp(case)

    def content(self, case: Case) -> str:
        return self.source.content(case)


def choose(source: CaseSource, *, split: str | None = None, count: int | None = None) -> ChosenCases:
    """The cases of a split (of "test" where the manifest has splits and none is named), the first `count` of them.

    Raises:
        InputError: none are left.
    """
    cases = source.cases
    present = sorted({case.split for case in cases if case.split is not None})
    wanted = split or ("test" if "test" in present else None)
    if wanted is not None:
        cases = [case for case in cases if case.split == wanted]
    if not cases:
        raise InputError(f"no case is in the split {wanted!r}; the splits there are {', '.join(present) or 'none'}.")
    return ChosenCases(source, cases[:count])


@lru_cache(maxsize=4)
def _paint(seed: int, index: int) -> Phantom:
    return make_phantom(seed, index)


def _grid_of(voxels: np.ndarray, prepared: PreparedVolumes, case_id: str) -> GridVolume:
    """A grid volume from what a preparation keeps: exact slices and positions, no place between them."""
    receipt = prepared.receipt(case_id)
    positions = prepared.positions_mm(case_id)
    slices = tuple(
        GridSlice(
            index=index,
            source_slices=tuple(sources),
            position_mm=None if positions is None else tuple(float(x) for x in positions[index]),  # type: ignore[arg-type]
        )
        for index, sources in enumerate(prepared.source_slices(case_id))
    )
    window, plane = receipt["window"], receipt["grid"]["plane"]
    z, y, x = receipt["shape_zyx"]
    geometry = Geometry(
        shape=(z, y, x), affine_lps=None, acquisition_axis=0, slices_reversed=False, slice_positions_mm=None
    )
    return GridVolume(
        voxels=voxels,
        plane=plane,
        spec=replace(prepared.spec, plane=plane, window=f"{window['low']:g},{window['high']:g}"),
        slices=slices,
        receipt=receipt,
        geometry=geometry,
        box=tuple((low, high) for low, high in receipt["crop_zyx"]),  # type: ignore[arg-type]
    )
