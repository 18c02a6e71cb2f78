"""What is a scan once it is read: voxels in canonical order, patient millimetres, and where each slice came from.

Axes are ZYX. Canonical means permuted and flipped, never resampled, so that indices grow toward
superior (axis 0), posterior (axis 1) and patient-left (axis 2): the DICOM LPS directions, slowest axis first.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slicesight.volumes.geometry import Geometry

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, Plane, Plane] = ("axial", "coronal", "sagittal")  # plane whose slices stack along axis 0, 1, 2


@dataclass(frozen=True, kw_only=True, repr=False)
class Volume:
    """A 3D scan in canonical orientation.

    voxels: (Z, Y, X) float32; HU for CT, arbitrary units otherwise.
    affine_lps: (4, 4) float64 taking (z, y, x, 1) indices to (x, y, z, 1) in LPS millimetres; None without geometry.
    spacing_mm: (z, y, x); None when unknown (a file may state its spacing and no position).
    acquisition_axis: the canonical axis along which the file's third stored axis (its slices) runs.
    slices_reversed: True where the file's slice order runs against the canonical axis.
    slice_positions_mm: (S, 3) LPS position of each SOURCE slice's centre, in source order, from each slice's own header
        where it has one; None without geometry.
    sop_instance_uids: one per source slice for DICOM, else empty.
    frame_numbers: which frame of its DICOM file each source slice is, from 1; empty where every file is one slice.
    first_source_slice: number of the first source slice held, above 0 for a range of the file's slices.
    keeps_frame: whether it is a part whose frame is the whole scan's; then it is not cropped to its own foreground.
    modality: "CT", "MR", "PT" or "unknown"; unit: "HU", "SUV" or "arbitrary".
    display_range: the grey range of values that are pictures already (8-bit slices, M3D arrays); None for measurements.
    is_synthetic: the scan carries the phantom marker.
    warnings: plain sentences for the receipt; source: reader facts for the receipt (no patient fields).
    """

    voxels: NDArray[np.float32]
    affine_lps: NDArray[np.float64] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    acquisition_axis: int = 0
    slices_reversed: bool = False
    slice_positions_mm: NDArray[np.float64] | None = None
    sop_instance_uids: tuple[str, ...] = ()
    frame_numbers: tuple[int, ...] = ()
    first_source_slice: int = 0
    keeps_frame: bool = False
    modality: str = "unknown"
    unit: Literal["HU", "SUV", "arbitrary"] = "arbitrary"
    display_range: tuple[float, float] | None = None
    is_synthetic: bool = False
    warnings: tuple[str, ...] = ()
    source: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        spacing = "unknown" if self.spacing_mm is None else "×".join(f"{size:g}" for size in self.spacing_mm) + " mm"
        shape = "×".join(map(str, self.voxels.shape))
        return f"Volume({self.modality}, {self.unit}, {shape} (z, y, x), spacing {spacing}, {self.plane})"

    def _repr_html_(self) -> str:
        """What a notebook shows; the room of reports stands above this one, so it is found by name."""
        return str(pkgutil.resolve_name("slicesight.reports.notebook:volume_html")(self))

    @property
    def geometry(self) -> Geometry:
        """Where the voxels lie in the patient and in the file."""
        return Geometry(
            shape=self.shape,
            affine_lps=self.affine_lps,
            acquisition_axis=self.acquisition_axis,
            slices_reversed=self.slices_reversed,
            slice_positions_mm=self.slice_positions_mm,
            first_source_slice=self.first_source_slice,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        z, y, x = self.voxels.shape
        return z, y, x

    @property
    def plane(self) -> Plane:
        """The acquisition plane."""
        return PLANES[self.acquisition_axis]

    @property
    def num_source_slices(self) -> int:
        """How many of the file's slices it holds."""
        return int(self.voxels.shape[self.acquisition_axis])
