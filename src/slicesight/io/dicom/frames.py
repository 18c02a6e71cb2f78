"""Where does each stored slice of a DICOM series lie, be it a file of its own or a frame of an enhanced object?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from slicesight.io.dicom.values import first_item, number_of, numbers_of, text_of, value_of, whole_number
from slicesight.io.files import ScanError

_MAX_FRAMES = 100_000


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One stored slice: its header, where it lies and how its values scale.

    number: which frame of its file; position: (3,) LPS of its first pixel; spacing: (row, column) distance in mm;
    directions: (2, 3) along a row, down a column; slope: None where the header gives no rescale;
    items: where what tells it from others is looked up, the header or its functional groups.
    """

    header: pydicom.Dataset
    number: int
    shape: tuple[int, int]
    position: NDArray[np.float64]
    directions: NDArray[np.float64]
    spacing: tuple[float, float]
    slope: float | None
    intercept: float
    items: tuple[Any, ...]

    @property
    def sop_instance_uid(self) -> str:
        """The UID of the file the frame is stored in."""
        return text_of(self.header, "SOPInstanceUID")

    @property
    def is_one_of_many(self) -> bool:
        """Its file holds several frames."""
        return whole_number(self.header, "NumberOfFrames", default=1) > 1

    @property
    def order_in_time(self) -> tuple[int, int, str]:
        """What tells apart frames at one position: instance number, frame number, UID."""
        return whole_number(self.header, "InstanceNumber", default=0), self.number, self.sop_instance_uid


def frames_of(headers: list[pydicom.Dataset]) -> list[Frame]:
    """Every frame of the series' headers, in file order."""
    frames: list[Frame] = []
    for header in headers:
        shape = _shape(header)
        if "MOSAIC" in text_of(header, "ImageType").upper():
            raise ScanError(
                "a Siemens mosaic, whose images hold the slices of a volume as tiles; expected one slice per image, "
                "convert it with dcm2niix and read the NIfTI"
            )
        count = whole_number(header, "NumberOfFrames", default=1)
        per_frame = value_of(header, "PerFrameFunctionalGroupsSequence")
        if per_frame is None:
            if count > 1:
                raise ScanError(
                    f"{count} frames in one file without a position each; expected an enhanced object "
                    "or one file per slice, export it so"
                )
            frames.append(_frame(header, 0, shape, [header]))
            continue
        if not 1 <= count <= _MAX_FRAMES or len(per_frame) != count:
            raise ScanError(f"{count} frames, but positions for {len(per_frame)}; the file is damaged, export it again")
        shared = first_item(header, "SharedFunctionalGroupsSequence")
        for number, groups in enumerate(per_frame):
            frames.append(_frame(header, number, shape, _group_items(groups, shared)))
    return frames


def _group_items(groups: Any, shared: Any) -> list[Any]:
    """Where a frame's place, scaling and what tells it from others are looked up, its own items before shared ones."""
    items = []
    for keyword in (
        "PlanePositionSequence",
        "PlaneOrientationSequence",
        "PixelMeasuresSequence",
        "PixelValueTransformationSequence",
        "FrameContentSequence",
        "MREchoSequence",
        "MRDiffusionSequence",
        "MRImageFrameTypeSequence",
        "CardiacSynchronizationSequence",
    ):
        for owner in (groups, shared):
            item = first_item(owner, keyword) if owner is not None else None
            if item is not None:
                items.append(item)
    return items


def _frame(header: Any, number: int, shape: tuple[int, int], items: list[Any]) -> Frame:
    position = _first(items, "ImagePositionPatient", 3)
    cosines = _first(items, "ImageOrientationPatient", 6)
    spacing = _first(items, "PixelSpacing", 2)
    if position is None or cosines is None:
        missing = "ImagePositionPatient" if position is None else "ImageOrientationPatient"
        raise ScanError(f"a slice has no {missing}; expected one for every slice, export the original series")
    if spacing is None:
        raise ScanError("a slice has no PixelSpacing; expected row and column distance in mm, export it again")
    if min(spacing) <= 0:
        raise ScanError(f"PixelSpacing is {spacing.tolist()} mm; fix the header or pass --spacing-mm")
    slope = intercept = None
    for item in items:
        slope = number_of(item, "RescaleSlope", default=None) if slope is None else slope
        intercept = number_of(item, "RescaleIntercept", default=None) if intercept is None else intercept
    if slope == 0:
        raise ScanError("RescaleSlope is 0, which makes every voxel equal; fix the header")
    has_rescale = slope is not None or intercept is not None
    return Frame(
        header=header,
        number=number,
        shape=shape,
        position=position,
        directions=_directions(cosines),
        spacing=(float(spacing[0]), float(spacing[1])),
        slope=(1.0 if slope is None else slope) if has_rescale else None,
        intercept=0.0 if intercept is None else intercept,
        items=tuple(items),
    )


def _shape(header: Any) -> tuple[int, int]:
    rows = whole_number(header, "Rows", default=0)
    columns = whole_number(header, "Columns", default=0)
    samples = whole_number(header, "SamplesPerPixel", default=1)
    if rows < 2 or columns < 2:
        raise ScanError(f"a slice is {columns}×{rows} pixels; expected at least 2×2, the header is damaged")
    if samples != 1:
        raise ScanError(f"pixels have {samples} colours; expected grey values, choose the original series")
    if (meaning := text_of(header, "PhotometricInterpretation")).upper().startswith("PALETTE"):
        raise ScanError(
            f"pixels are places in a colour table ({meaning}); expected grey values, choose the original series"
        )
    stored, high = (whole_number(header, keyword, default=0) for keyword in ("BitsStored", "HighBit"))
    if stored and value_of(header, "HighBit") is not None and high != stored - 1:
        raise ScanError(
            f"BitsStored is {stored} and HighBit {high}, so the values do not lie in the low bits; expected HighBit "
            f"{stored - 1}, export it again or fix the header"
        )
    return rows, columns


def _directions(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    pair = cosines.reshape(2, 3)
    lengths = np.linalg.norm(pair, axis=1)
    if np.abs(lengths - 1).max() > 0.05 or abs(float(pair[0] @ pair[1])) > 0.05:
        raise ScanError(f"ImageOrientationPatient {cosines.tolist()} is not two unit vectors at right angles; fix it")
    return np.asarray(pair / lengths[:, None])


def _first(items: list[Any], keyword: str, count: int) -> NDArray[np.float64] | None:
    for item in items:
        numbers = numbers_of(item, keyword, count)
        if numbers is not None:
            return numbers
    return None
