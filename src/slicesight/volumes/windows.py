"""Which grey values become black and white?

A window is a word: "auto", a CT name, "LO,HI", "percentile", "m3d", or CT names joined by "+" for one channel each.
"""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.errors import InputError, VolumeError
from slicesight.volumes.volume import Volume

CT_WINDOWS_HU: dict[str, tuple[float, float]] = {
    "soft_tissue": (-160.0, 240.0),
    "lung": (-1350.0, 150.0),
    "bone": (-500.0, 1300.0),
    "brain": (0.0, 80.0),
    "mediastinum": (-125.0, 225.0),
    "liver": (-45.0, 105.0),
}
OTHER_WINDOWS = ("auto", "percentile", "m3d")
PERCENTILES = (0.5, 99.5)
_MAX_SAMPLES = 1_000_000


def checked_window(window: str) -> str:
    """The window word in its one spelling ("Soft tissue" -> "soft_tissue"), or an InputError."""
    word = window.strip().lower().replace(" ", "_").replace("-", "_") if not _is_range(window) else window
    if "+" in word:
        return "+".join(checked_window(part) for part in word.split("+"))
    if word in CT_WINDOWS_HU or word in OTHER_WINDOWS:
        return word
    if _is_range(window):
        low, high = _range_of(window)
        if not low < high:
            raise InputError(f"window {window!r}: {low:g} is not below {high:g}; write the lower value first, as LO,HI")
        return f"{low:g},{high:g}"
    names = [*OTHER_WINDOWS, *CT_WINDOWS_HU]
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {near[0]!r}? else" if near else "use"
    raise InputError(f"window {window!r} is unknown; {hint} one of {', '.join(names)}, or LO,HI such as -160,240")


def window_bounds(volume: Volume, window: str, *, threshold: float) -> tuple[str, tuple[float, float]]:
    """The word that "auto" stands for here and the grey values (low, high) that become 0 and 1.

    Args:
        threshold: what the volume's foreground lies above; percentiles are taken there.
    """
    word = checked_window(window)
    if word == "auto":
        if volume.display_range is not None:
            return "display", volume.display_range
        word = "soft_tissue" if volume.unit == "HU" else "percentile"
    if word in CT_WINDOWS_HU:
        if volume.unit != "HU":
            raise VolumeError(
                f"window {word!r} is in HU, but the scan's values are in arbitrary units ({volume.modality}); "
                "use 'percentile' or LO,HI, or read it with unit='HU' if it is a CT"
            )
        return word, CT_WINDOWS_HU[word]
    if word == "percentile":
        return word, _percentile_bounds(volume.voxels, threshold)
    if word == "m3d":
        return word, (float(volume.voxels.min()), float(volume.voxels.max()))
    return word, _range_of(word)


def sampled(voxels: NDArray[Any]) -> NDArray[Any]:
    """At most about a million voxels, evenly spread and the same whenever the volume is the same."""
    step = max(1, int(np.ceil((voxels.size / _MAX_SAMPLES) ** (1 / 3))))
    return np.ascontiguousarray(voxels[::step, ::step, ::step]).reshape(-1)


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
