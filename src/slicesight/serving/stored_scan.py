"""What is kept of a scan on disk between its upload and its questions? Plain files that cannot run code.

    scan.json     facts of the scan, its grid's slices, the receipt
    grid.f32      the voxels the model sees, (N, H, W), or a guest's three colours of them, little-endian float32 alone
    image.nii.gz  the scan for a viewer
    source.json   of DICOM images what a report must repeat of them once they are gone: their names, and what the first
                  says about patient and study. The one file that names a person: it leaves the server in reports only

The voxels have no header of their own: .npy's is read by Python's parser, which in Python 3.11 fails now and then when
several threads parse at once ("AST constructor recursion depth mismatch"). The original is not needed again, and so a
kept scan costs little memory: the volume read back has its shape but no voxels.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from slicesight.errors import InputError
from slicesight.io.dicom.source import SourceImage, SourceSeries, read_source
from slicesight.io.files import DAMAGED
from slicesight.volumes.grid import GridSlice, GridSpec, GridVolume
from slicesight.volumes.volume import Volume

SCAN_FILE, GRID_FILE, IMAGE_FILE, SOURCE_FILE = "scan.json", "grid.f32", "image.nii.gz", "source.json"
VOXEL_TYPE = "<f4"
REFUSAL_FILE = "refusal.json"
"""Left instead by the process that could not read an upload."""
_PLAIN_FACTS = (
    *("spacing_mm", "acquisition_axis", "slices_reversed", "sop_instance_uids", "frame_numbers"),
    *("modality", "unit", "display_range", "is_synthetic", "warnings", "source"),
)


@dataclass(frozen=True, kw_only=True)
class StoredScan:
    """A scan as it comes back from disk: `volume` knows everything but its voxels, which are all 0."""

    volume: Volume
    grid: GridVolume


def write_scan(volume: Volume, grid: GridVolume, *, folder: Path) -> None:
    """Write what questions will need; scan.json, by which a scan counts as kept, comes last."""
    shown = grid.voxels if grid.channels is None else grid.channels  # the first channel is the grid's own voxels
    shown.astype(VOXEL_TYPE).tofile(folder / GRID_FILE)
    facts = {
        "volume": {
            "shape": volume.shape,
            "affine_lps": None if volume.affine_lps is None else volume.affine_lps.tolist(),
            "slice_positions_mm": None if volume.slice_positions_mm is None else volume.slice_positions_mm.tolist(),
            **{name: getattr(volume, name) for name in _PLAIN_FACTS},
        },
        "grid": {
            "shape": grid.voxels.shape,
            "num_channels": 1 if grid.channels is None else len(grid.channels),
            "plane": grid.plane,
            "spec": grid.spec.to_dict(),
            "box": grid.box,
            "receipt": grid.receipt,
            "slices": [
                {
                    "index": piece.index,
                    "source_slices": piece.source_slices,
                    "position_mm": piece.position_mm,
                    "sop_instance_uids": piece.sop_instance_uids,
                }
                for piece in grid.slices
            ],
        },
    }
    (folder / SCAN_FILE).write_text(json.dumps(facts), encoding="utf-8")


def read_scan(folder: Path) -> StoredScan:
    """What `write_scan` wrote; the grid's voxels stay on disk until somebody looks at them."""
    facts = json.loads((folder / SCAN_FILE).read_text(encoding="utf-8"))
    volume = _read_volume(facts["volume"])
    stated = facts["grid"]
    num_channels = stated.get("num_channels", 1)
    channels = np.memmap(folder / GRID_FILE, dtype=VOXEL_TYPE, mode="r", shape=(num_channels, *stated["shape"]))
    grid = GridVolume(
        voxels=channels[0],
        channels=channels if num_channels > 1 else None,
        plane=stated["plane"],
        spec=GridSpec.from_dict(stated["spec"]),
        slices=tuple(GridSlice(**{name: _tuple(value) for name, value in piece.items()}) for piece in stated["slices"]),
        receipt=stated["receipt"],
        geometry=volume.geometry,
        box=tuple((start, stop) for start, stop in stated["box"]),  # type: ignore[arg-type]  # three pairs
    )
    return StoredScan(volume=volume, grid=grid)


def write_source(upload: Path, volume: Volume, *, folder: Path) -> None:
    """Write what a report needs, or why there can be none."""
    try:
        source = read_source(upload, volume)
        found = {"images": [asdict(image) for image in source.images], "header": source.header.to_json_dict()}
    except InputError as error:
        found = {"reason": str(error)}
    except DAMAGED as error:
        found = {"reason": f"the images' headers are damaged ({type(error).__name__}); export the series again"}
    (folder / SOURCE_FILE).write_text(json.dumps(found), encoding="utf-8")


def read_stored_source(folder: Path) -> SourceSeries:
    """The images behind a kept scan.

    Raises:
        InputError: the scan was no DICOM, or its images have no names.
    """
    found = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
    if "reason" in found:
        raise InputError(found["reason"])
    return SourceSeries(
        images=tuple(SourceImage(**image) for image in found["images"]),
        header=pydicom.Dataset.from_json(found["header"]),
    )


def read_instance_numbers(folder: Path) -> list[int] | None:
    """What each source slice's DICOM image calls its number; None where there are none, or several slices share one."""
    try:
        numbers = [image.instance_number for image in read_stored_source(folder).images if image.frame is None]
    except (InputError, FileNotFoundError):
        return None
    found = [number for number in numbers if number is not None]
    return found if found and len(found) == len(numbers) else None


def _read_volume(stated: dict[str, Any]) -> Volume:
    affine, positions = stated["affine_lps"], stated["slice_positions_mm"]
    return Volume(
        voxels=np.broadcast_to(np.float32(0), tuple(stated["shape"])),
        affine_lps=None if affine is None else np.array(affine),
        slice_positions_mm=None if positions is None else np.array(positions),
        **{name: _tuple(stated[name]) for name in _PLAIN_FACTS},
    )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
