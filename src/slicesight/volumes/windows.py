"""Which grey values become black and white?

A window is a word: "auto", a CT name, "LO,HI", "percentile", "min_max", "m3d", or three of them joined by "+" for one
colour channel each. "A|B" is A for a scan in HU and B for any other.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.errors import InputError, VolumeError, check_type
from slicesight.volumes.foreground import sampled
from slicesight.volumes.volume import Volume

CT_WINDOWS_HU: dict[str, tuple[float, float]] = {
    "soft_tissue": (-160.0, 240.0),
    "lung": (-1350.0, 150.0),
    "bone": (-500.0, 1300.0),
    "brain": (0.0, 80.0),
    "mediastinum": (-125.0, 225.0),
    "liver": (-45.0, 105.0),
}
OTHER_WINDOWS = ("auto", "percentile", "min_max", "m3d")
_JOINT = re.compile(r"(?<![0-9][eE])\+")
"""What stands between channels, and is no sign of an exponent (1e+06)."""
PERCENTILES = (0.5, 99.5)
NUM_CHANNELS = 3


@dataclass(frozen=True)
class Window:
    """Grey values `low` and `high` become 0 and 1; what lies outside is clipped."""

    name: str
    low: float
    high: float

    @property
    def word(self) -> str:
        """The word that gives this window again."""
        return f"{self.low:g},{self.high:g}" if self.name == "display" else self.name

    def to_grey(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Values as float32 in [0, 1]."""
        grey: NDArray[np.float32] = np.subtract(values, np.float32(self.low), dtype=np.float32, order="C")
        grey *= np.float32(1.0 / (self.high - self.low)) if self.high > self.low else np.float32(0.0)
        np.clip(grey, 0.0, 1.0, out=grey)
        return grey


def checked_window(window: str) -> str:
    """The window word in its one spelling ("Soft tissue" -> "soft_tissue"), or an InputError."""
    check_type(window, str, name="window", expected="its name, or LO,HI such as -160,240")
    if "|" in window:
        return _checked_alternatives(window)
    if _JOINT.search(window) and not _is_range(window):
        return _checked_channels(window)
    if _is_range(window):
        low, high = _range_of(window)
        if not low < high:
            raise InputError(f"window {window!r}: {low:g} is not below {high:g}; write the lower value first, as LO,HI")
        return f"{low:g},{high:g}"
    word = window.strip().lower().replace(" ", "_").replace("-", "_")
    if word in CT_WINDOWS_HU or word in OTHER_WINDOWS:
        return word
    names = [*OTHER_WINDOWS, *CT_WINDOWS_HU]
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {near[0]!r}? else" if near else "use"
    raise InputError(f"window {window!r} is unknown; {hint} one of {', '.join(names)}, or LO,HI such as -160,240")


def channel_windows(window: str) -> tuple[str, ...]:
    """The windows of a word: one, or one per channel ("lung+soft_tissue+bone")."""
    return tuple(_JOINT.split(checked_window(window)))


def window_for(volume: Volume, window: str) -> str:
    """Of "A|B" the one that suits the scan's unit; any other word as it is."""
    in_hu, either, other = checked_window(window).partition("|")
    return in_hu if volume.unit == "HU" or not either else other


def window_bounds(volume: Volume, window: str, *, threshold: float) -> Window:
    """What a window word means for this scan.

    Args:
        window: a single window, not a word of several channels.
        threshold: what the volume's foreground lies above; percentiles are taken there.
    """
    word = checked_window(window)
    if word == "auto":
        if volume.display_range is not None:
            return Window("display", *volume.display_range)
        word = "soft_tissue" if volume.unit == "HU" else "percentile"
    if word in CT_WINDOWS_HU:
        if volume.unit != "HU":
            raise VolumeError(
                f"window {word!r} is in HU, but the scan ({volume.modality}) is in {volume.unit} units; "
                "use 'percentile' or LO,HI, or read it with unit='HU' if it is a CT"
            )
        return Window(word, *CT_WINDOWS_HU[word])
    if word == "percentile":
        return Window(word, *_percentile_bounds(volume.voxels, threshold))
    if word in ("m3d", "min_max"):
        return Window(word, float(volume.voxels.min()), float(volume.voxels.max()))
    return Window(word, *_range_of(word))


def _checked_alternatives(window: str) -> str:
    parts = window.split("|")
    if len(parts) != 2:
        raise InputError(f"window {window!r} has {len(parts)} alternatives; expected two, for HU | for any other unit")
    return "|".join(map(checked_window, parts))


def _checked_channels(word: str) -> str:
    parts = [checked_window(part) for part in _JOINT.split(word)]
    if len(parts) != NUM_CHANNELS or "m3d" in parts:
        raise InputError(
            f"window {word!r} has {len(parts)} parts; expected {NUM_CHANNELS} windows for the three colour channels, "
            "such as lung+soft_tissue+bone"
        )
    return "+".join(parts)


def _percentile_bounds(voxels: NDArray[Any], threshold: float) -> tuple[float, float]:
    values = sampled(voxels)
    foreground = values[values > threshold]
    low, high = np.percentile(foreground if foreground.size else values, PERCENTILES)
    if not low < high:
        low, high = float(voxels.min()), float(voxels.max())
    return float(low), float(high)


def _is_range(text: str) -> bool:
    parts = text.split(",")
    return len(parts) == 2 and all(_is_number(part) for part in parts)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _range_of(text: str) -> tuple[float, float]:
    low, high = text.split(",")
    return float(low), float(high)
