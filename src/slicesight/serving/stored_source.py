"""What does a DICOM report need of the images a scan was read from, once they are gone? (source.json)

Names of images, and what the first says about patient and study, which a report must repeat: the one file here that
names a person. It leaves the server in reports only, and with the volume it is removed.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pydicom

from slicesight.errors import InputError
from slicesight.io.dicom.source import SourceImage, SourceSeries, read_source
from slicesight.io.files import DAMAGED
from slicesight.volumes.volume import Volume

SOURCE_FILE = "source.json"


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
