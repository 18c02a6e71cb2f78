"""What may a caller say about a scan that its file leaves open?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slicesight.errors import InputError, check_type

Unit = Literal["HU", "arbitrary"]


def checked_unit(word: str | None) -> Unit | None:
    """The unit a caller names, or an InputError."""
    if word not in (None, "HU", "arbitrary"):
        raise InputError(f"unit is {word!r}; expected 'HU' or 'arbitrary'")
    return "HU" if word == "HU" else "arbitrary" if word == "arbitrary" else None


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """The keyword arguments of `read_volume`, checked."""

    series_uid: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    time_point: int | None = None
    unit: Unit | None = None
    may_be_blank: bool = False

    def __post_init__(self) -> None:
        if self.spacing_mm is not None and not _is_spacing(self.spacing_mm):
            raise InputError(f"spacing_mm is {self.spacing_mm!r}; expected three sizes z, y, x above 0 mm")
        checked_unit(self.unit)
        if self.time_point is not None:
            check_type(self.time_point, int, name="time point", expected="0 or more")
            if self.time_point < 0:
                raise InputError(f"time point is {self.time_point}; expected 0 or more")


def _is_spacing(sizes: object) -> bool:
    try:
        z, y, x = (float(size) for size in sizes)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return False
    return all(0 < size < 1000 for size in (z, y, x))
