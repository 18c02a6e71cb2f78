"""How does a medical scan come into napari with its place in the patient? By slicesight's own reader, where installed.

The layer is (z, y, x), growing toward superior, posterior and patient-left, so that an axial slice lies as radiologists
see it. The matrix to patient millimetres stays in the layer's metadata: napari slices along data axes, and an oblique
scan would be resampled by it otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

METADATA_KEY = "slicesight"
LayerData = tuple[Any, dict[str, Any], str]
_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[LayerData]] | None:
    """napari's question who reads this; None leaves it to others: without slicesight, or where it is no scan's name."""
    if not isinstance(path, (str, Path)) or find_spec("slicesight") is None:
        return None
    place = Path(path)
    if place.is_dir():
        return read_scan if any(file.suffix == ".dcm" for file in place.iterdir()) else None
    return read_scan if place.name.lower().endswith(_SUFFIXES) else None


def read_scan(path: str | Path) -> list[LayerData]:
    """One image layer.

    Raises:
        InputError: the scan cannot be read.
    """
    from slicesight.io.loading import read_volume

    volume = read_volume(path)
    spacing_mm = volume.spacing_mm or (1.0, 1.0, 1.0)
    name = Path(path).name
    for suffix in (".gz", ".nii"):
        name = name.removesuffix(suffix)
    settings = {
        "name": name,
        "scale": spacing_mm,
        "metadata": {METADATA_KEY: volume},
        "contrast_limits": _limits(volume),
    }
    return [(volume.voxels, settings, "image")]


def _limits(volume: Any) -> tuple[float, float]:
    """What is shown from black to white: soft tissue of a CT, else as a model would be shown it."""
    from slicesight.volumes.foreground import foreground_threshold
    from slicesight.volumes.windows import window_bounds

    window = window_bounds(volume, "auto", threshold=foreground_threshold(volume))
    return float(window.low), float(max(window.high, window.low + 1e-6))
