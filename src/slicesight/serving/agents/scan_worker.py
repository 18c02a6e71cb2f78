"""What runs in the process that reads a scan for an agent? (`python -m slicesight.serving.agents.scan_worker`)

As the server's reading_worker.py, but the files stay where they are: the process may read below the roots and write its
own folder, nothing else, and reaches no network. The request is one line of JSON on stdin. In the folder are left the
facts and grid of the scan (`stored_scan.write_scan`), its voxels, a mask's labels on the same voxels, what was said
while reading; with patient fields wanted also what the first DICOM header says of patient and study.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from slicesight.errors import InputError
from slicesight.io.assemble import checked_unit
from slicesight.io.loading import read_volume
from slicesight.io.masks import read_labels
from slicesight.serving.sandbox import confine, leave_with_parent, limit_resources
from slicesight.serving.stored_scan import REFUSAL_FILE, VOXEL_TYPE, write_scan, write_source
from slicesight.volumes.grid import GridSpec, to_grid

VOXEL_FILE, LABEL_FILE, NOTES_FILE = "voxels.f32", "labels.i32", "notes.json"
LABEL_TYPE = "<i4"


class _Notes(logging.Handler):
    """Keeps what is warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main() -> None:
    """Read the request, obey it, leave the outcome in its folder."""
    request = json.loads(sys.stdin.readline())
    limit, folder = request["memory_bytes"], Path(request["folder"])
    limit_resources(memory_bytes=limit, cpu_seconds=request["cpu_seconds"], file_bytes=limit)
    tempfile.tempdir = str(folder / "unpacked")
    Path(tempfile.tempdir).mkdir()
    confine(folder, needs_network=False, may_read=request["roots"])
    threading.Thread(target=leave_with_parent, daemon=True).start()
    try:
        _read(folder, request)
    except InputError as error:
        _refuse(folder, str(error))
    except MemoryError:
        _refuse(folder, f"reading the scan takes more than {limit / 2**30:.0f} GiB; name a smaller part of it.")
    finally:
        shutil.rmtree(tempfile.tempdir, ignore_errors=True)


def _read(folder: Path, request: dict[str, Any]) -> None:
    notes, options, place = _Notes(), request["options"], Path(request["place"])
    logging.getLogger("slicesight").addHandler(notes)
    spacing = options.get("spacing_mm")
    volume = read_volume(
        place,
        series_uid=options.get("series"),
        spacing_mm=None if spacing is None else (spacing[0], spacing[1], spacing[2]),
        time_point=options.get("time_point"),
        unit=checked_unit(options.get("unit")),
        fill=options.get("fill"),
    )
    if request["mask"] is not None:
        labels = read_labels(Path(request["mask"]), volume)
        np.ascontiguousarray(labels, dtype=LABEL_TYPE).tofile(folder / LABEL_FILE)
    np.ascontiguousarray(volume.voxels, dtype=VOXEL_TYPE).tofile(folder / VOXEL_FILE)
    if request["with_patient"]:
        write_source(place, volume, folder=folder)
    (folder / NOTES_FILE).write_text(json.dumps(notes.lines), encoding="utf-8")
    write_scan(volume, to_grid(volume, GridSpec()), folder=folder)


def _refuse(folder: Path, message: str) -> None:
    (folder / REFUSAL_FILE).write_text(json.dumps({"message": message}), encoding="utf-8")


if __name__ == "__main__":
    main()
