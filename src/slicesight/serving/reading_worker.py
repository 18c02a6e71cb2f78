"""What runs in the process that reads one uploaded scan? (`python -m slicesight.serving.reading_worker`)

Decoders of medical formats are native code and meet files from strangers: here they may crash, hang or ask for memory
without end, and nobody but this process notices. The request comes as one line of JSON on stdin, which stays open: when
it closes, the server is gone and so are we. What was found is left in the folder, a refusal in refusal.json.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from slicesight.errors import InputError
from slicesight.io.assemble import checked_unit
from slicesight.io.dicomweb.address import read_address
from slicesight.io.dicomweb.client import fetch
from slicesight.io.loading import read_volume
from slicesight.io.writers import write_nifti
from slicesight.serving.sandbox import confine, leave_with_parent, limit_resources
from slicesight.serving.stored_scan import IMAGE_FILE, REFUSAL_FILE, write_scan, write_source
from slicesight.volumes.grid import GridSpec, to_grid
from slicesight.volumes.volume import Volume

_PACK_LEVEL = 1  # a viewer waits for it


class ArchiveFailed(Exception):  # noqa: N818  # it is said as a refusal
    """The archive, not the scan."""


def main() -> None:
    """Read the request, obey it, leave the outcome in its folder."""
    request = json.loads(sys.stdin.readline())
    limit, folder = request["memory_bytes"], Path(request["folder"])
    limit_resources(memory_bytes=limit, cpu_seconds=request["cpu_seconds"], file_bytes=limit)
    tempfile.tempdir = str(folder / "unpacked")
    Path(tempfile.tempdir).mkdir()
    confine(folder, needs_network=request["series"] is not None)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    try:
        _read(folder, request)
    except ArchiveFailed as error:
        _refuse(folder, str(error), is_archives=True)
    except InputError as error:
        _refuse(folder, str(error))
    except MemoryError:
        _refuse(folder, f"reading the scan takes more than {limit / 2**30:.0f} GiB; send a smaller part of it.")
    finally:
        shutil.rmtree(tempfile.tempdir, ignore_errors=True)


def _read(folder: Path, request: dict[str, Any]) -> None:
    options = request["options"]
    place = folder / (request["file"] or "series")
    if request["series"] is not None:
        _fetch(request["series"], place, max_bytes=request["max_fetched_bytes"])
    volume = read_volume(
        place,
        series_uid=options.get("series"),
        spacing_mm=options.get("spacing_mm"),
        time_point=options.get("time_point"),
        unit=checked_unit(options.get("unit")),
        fill=options.get("fill"),
    )
    spec = GridSpec.from_dict(request["grid"])
    grid = to_grid(volume, spec)
    if grid.channels is not None and not spec.pick_slices:  # a guest's pictures have colours
        raise InputError(f"window {spec.window!r} gives several channels; name a single window.")
    _write_image(volume, folder)
    write_source(place, volume, folder=folder)
    write_scan(volume, grid, folder=folder)
    shutil.rmtree(place) if place.is_dir() else place.unlink()


def _fetch(address: str, place: Path, *, max_bytes: int) -> None:
    place.mkdir()
    try:
        fetch(read_address(address), place, max_bytes=max_bytes)
    except InputError as error:
        raise ArchiveFailed(str(error)) from None


def _write_image(volume: Volume, folder: Path) -> None:
    """The scan for a viewer; without geometry its voxels are cubes of 1 mm, or what spacing is known."""
    if volume.affine_lps is None:
        affine = np.zeros((4, 4))
        for axis, size in enumerate(volume.spacing_mm or (1.0, 1.0, 1.0)):
            affine[2 - axis, axis] = size
        affine[3, 3] = 1.0
        volume = replace(volume, affine_lps=affine)
    plain = folder / "image.nii"
    write_nifti(volume, plain, orientation="RAS")
    with plain.open("rb") as source, (folder / IMAGE_FILE).open("wb") as sink, _packer(sink) as packed:
        shutil.copyfileobj(source, packed, 1 << 20)
    plain.unlink()


def _packer(sink: Any) -> Any:
    try:
        from isal import igzip
    except ImportError:
        return gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=_PACK_LEVEL, mtime=0, filename="")
    return igzip.IGzipFile(  # type: ignore[no-untyped-call]
        fileobj=sink, mode="wb", compresslevel=_PACK_LEVEL, mtime=0, filename=""
    )


def _refuse(folder: Path, message: str, *, is_archives: bool = False) -> None:
    found = {"message": message, "is_archives": is_archives}
    (folder / REFUSAL_FILE).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
