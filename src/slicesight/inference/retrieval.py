"""Which scans, or which slices, are most like this one? Exact cosines with every vector of a table; no index, no guess.

cosine(x, y) = x · y / (|x| |y|), in double precision. Equal ones come in the table's order. S scans of V components.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slicesight.errors import InputError

if TYPE_CHECKING:
    from slicesight.inference.embedding_table import EmbeddingTable

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """One of the nearest. grid_slice, source_slices, position_mm: of a slice, None for a whole scan."""

    rank: int
    scan: str
    cosine: float
    patient: str | None = None
    grid_slice: int | None = None
    plane: str | None = None
    source_slices: tuple[int, ...] | None = None
    position_mm: tuple[float, ...] | None = None


def cosines(query_V: ArrayLike, vectors_SV: ArrayLike) -> Floats:
    """The cosine of one vector with each of many -> (S,).

    Raises:
        InputError: sizes that differ, numbers that are none, or a vector of zeros, which points nowhere.
    """
    query, vectors = np.asarray(query_V, dtype=np.float64), np.asarray(vectors_SV, dtype=np.float64)
    if query.ndim != 1 or vectors.ndim != 2 or vectors.shape[1] != len(query):
        raise InputError(
            f"the vector is {query.shape}, the table's are {vectors.shape}; expected one model's and space"
        )
    lengths, own = np.linalg.norm(vectors, axis=1), float(np.linalg.norm(query))
    if not (np.isfinite(lengths).all() and np.isfinite(own)) or own == 0 or not lengths.all():
        raise InputError("a vector is zero or holds what is no number, so it has no direction; embed the scan again")
    found: Floats = vectors @ query / (lengths * own)
    return found.clip(-1, 1)


def nearest_scans(
    table: EmbeddingTable,
    query_V: ArrayLike,
    *,
    count: int,
    without: Collection[str] = (),
    other_than: str | None = None,
) -> list[Neighbour]:
    """The `count` scans nearest to a volume vector.

    Args:
        without: scans that are not asked for, such as the query itself. other_than: a patient whose scans are left out.
    """
    found = cosines(query_V, table.volumes)
    kept = _kept(table, without, other_than)
    order = [place for place in np.argsort(-found, kind="stable").tolist() if place in kept][:count]
    return [
        Neighbour(rank=rank, scan=table.scans[place], cosine=float(found[place]), patient=table.patients[place])
        for rank, place in enumerate(order, start=1)
    ]


def nearest_slices(
    table: EmbeddingTable,
    query_L: ArrayLike,
    *,
    count: int,
    without: Collection[str] = (),
    other_than: str | None = None,
) -> list[Neighbour]:
    """The `count` slices nearest to a slice's vector, of any scan; arguments as for `nearest_scans`."""
    found: list[tuple[float, int, int]] = []
    for place in sorted(_kept(table, without, other_than)):
        own = cosines(query_L, table.slices(place))
        best = np.argsort(-own, kind="stable")[:count].tolist()
        found += [(float(own[number]), place, number) for number in best]
        found = sorted(found, key=lambda one: (-one[0], one[1], one[2]))[:count]
    neighbours = []
    for rank, (cosine, place, number) in enumerate(found, start=1):
        where = table.places(place)[number]
        at: Sequence[float] | None = where["position_mm"]
        neighbours.append(
            Neighbour(
                rank=rank,
                scan=table.scans[place],
                cosine=cosine,
                patient=table.patients[place],
                grid_slice=number,
                plane=where["plane"],
                source_slices=tuple(where["source_slices"]),
                position_mm=None if at is None else tuple(at),
            )
        )
    return neighbours


def _kept(table: EmbeddingTable, without: Collection[str], other_than: str | None) -> set[int]:
    """Which rows may be answered; InputError where none is left."""
    kept = {
        place
        for place, (scan, patient) in enumerate(zip(table.scans, table.patients, strict=True))
        if scan not in without and (other_than is None or patient != other_than)
    }
    if not kept:
        raise InputError(f"{table.path}: no other scan is left to compare with; embed more scans")
    return kept
