"""Which layouts of scans with texts can be read, and who reads each?

A reader takes a `SourceRequest` and an `Intake` and gives cases whose `volume` is an absolute path; what it cannot use
it tells the intake. To add a layout, write its module and one line here, or an entry point of `ENTRY_POINTS`.
"""

LAYOUTS: dict[str, str] = {
    "m3d-cap": "slicesight.data.sources.m3d:read_m3d_cap",
    "m3d-vqa": "slicesight.data.sources.m3d:read_m3d_vqa",
    "med2e3-json": "slicesight.data.sources.med2e3_json:read_med2e3_json",
    "ct-rate": "slicesight.data.sources.ct_rate:read_ct_rate",
    "masks": "slicesight.data.sources.masks:read_masks",
    "3d-rad": "slicesight.data.sources.three_d_rad:read_3d_rad",
    "deeptumorvqa": "slicesight.data.sources.deeptumorvqa:read_deeptumorvqa",
    "amos-mm": "slicesight.data.sources.amos_mm:read_amos_mm",
    "rexgroundingct": "slicesight.data.sources.rexgroundingct:read_rexgroundingct",
    "folder": "slicesight.data.sources.folder:read_folder",
    "manifest": "slicesight.data.sources.manifest_lines:read_manifest_lines",
}
ENTRY_POINTS = "slicesight.sources"

BENCHMARKS = ("ct-rate", "3d-rad", "deeptumorvqa", "amos-mm", "rexgroundingct")
"""The layouts that are public benchmarks; `evaluation.benchmarks` has their tables."""
