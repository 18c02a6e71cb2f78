"""Which layouts of scans with texts can be read, and who reads each?

A reader takes a `SourceRequest` and an `Intake` and gives cases whose `volume` is an absolute path; what it cannot use
it tells the intake. To add a layout, write its module and one line here.
"""

from __future__ import annotations

from collections.abc import Callable

from slicesight.data.manifest import Case
from slicesight.data.sources.ct_rate import read_ct_rate
from slicesight.data.sources.folder import read_folder
from slicesight.data.sources.intake import Intake, SourceRequest
from slicesight.data.sources.m3d_cap import read_m3d_cap
from slicesight.data.sources.m3d_vqa import read_m3d_vqa
from slicesight.data.sources.med2e3_json import read_med2e3_json

SOURCES: dict[str, Callable[[SourceRequest, Intake], list[Case]]] = {
    "m3d-cap": read_m3d_cap,
    "m3d-vqa": read_m3d_vqa,
    "med2e3-json": read_med2e3_json,
    "ct-rate": read_ct_rate,
    "folder": read_folder,
}

__all__ = ["SOURCES", "Intake", "Request"]
