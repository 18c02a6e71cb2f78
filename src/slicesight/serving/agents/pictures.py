"""Which pictures of a scan does an agent see: single slices as the file has them, with the outlines of a mask?

Slices are upright radiological pictures (`reports.overlays.upright`) with square pixels: patient-right is on the left
of axial and coronal ones, as the letters at the edges say.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from slicesight.errors import InputError
from slicesight.reports.evidence import AXIS_NAMES, sides
from slicesight.reports.overlays import upright
from slicesight.volumes.foreground import foreground_threshold
from slicesight.volumes.volume import PLANES, Plane, Volume
from slicesight.volumes.windows import Window, channel_windows, window_bounds, window_for

MAX_PICTURES = 12
MARK, SHADE = (255, 215, 95), (0, 0, 0)
OUTLINES = ((255, 92, 51), (51, 195, 255), (255, 214, 51), (179, 102, 255), (102, 255, 140), (255, 102, 196))
LEAST_ASPECT, MOST_ASPECT = 0.1, 10.0


@dataclass(frozen=True, kw_only=True)
class SlicePicture:
    """A slice as PNG. slice: its number in the file (in the acquired plane), else along the plane's axis from 0."""

    png: bytes
    slice: int
    plane: Plane
    position_mm: float | None
    width: int
    height: int

    @property
    def caption(self) -> str:
        """`slice 71 · z -208 mm`."""
        return caption(self.slice, self.plane, self.position_mm)


def draw_slices(
    volume: Volume,
    *,
    plane: str = "acquired",
    slices: Sequence[int] | None = None,
    positions_mm: Sequence[float] | None = None,
    window: str = "auto",
    size: int = 512,
    labels_ZYX: NDArray[np.int32] | None = None,
    count: int = 6,
) -> tuple[list[SlicePicture], Window]:
    """The slices asked for, by number or by place along the plane's axis, else `count` spread evenly, and their window.

    Args:
        size: pixels of the longer side. labels_ZYX: outlined in colour, each label in its own.

    Raises:
        InputError: no such plane, slice, place or window; too many.
    """
    axis = volume.acquisition_axis if plane == "acquired" else _axis_of(plane)
    word = channel_windows(window_for(volume, window))
    if len(word) > 1:
        raise InputError(f"window {window!r} gives {len(word)} channels; name a single window")
    bounds = window_bounds(volume, word[0], threshold=foreground_threshold(volume))
    chosen = _indices(volume, axis, slices, positions_mm, count)
    return [_draw(volume, axis, index, bounds, size, labels_ZYX) for index in chosen], bounds


def caption(number: int, plane: Plane, position_mm: float | None) -> str:
    """A slice's name and place along its axis."""
    name = f"slice {number}"
    return name if position_mm is None else f"{name} · {AXIS_NAMES[2 - PLANES.index(plane)]} {position_mm:.0f} mm"


def png_of(write: Callable[[Path], None]) -> bytes:
    """The bytes of what `write` writes as PNG into a file."""
    with tempfile.TemporaryDirectory(prefix="slicesight-") as folder:
        file = Path(folder) / "picture.png"
        write(file)
        return file.read_bytes()


def places_mm(volume: Volume, axis: int) -> NDArray[np.float64] | None:
    """Where the centre of every slice along a canonical axis lies on the patient's axis; None without geometry."""
    index = np.tile((np.asarray(volume.shape) - 1) / 2, (volume.shape[axis], 1))
    index[:, axis] = np.arange(volume.shape[axis])
    found = volume.geometry.to_mm(index)
    return None if found is None else found[:, 2 - axis]


def _axis_of(plane: str) -> int:
    if plane not in PLANES:
        raise InputError(f"plane {plane!r} is unknown; use acquired, {', '.join(PLANES)}")
    return PLANES.index(plane)


def _indices(
    volume: Volume, axis: int, slices: Sequence[int] | None, positions_mm: Sequence[float] | None, count: int
) -> list[int]:
    """Canonical indices along the axis."""
    length = volume.shape[axis]
    if slices is not None and positions_mm is not None:
        raise InputError("slices and positions_mm do not go together; leave one of them out")
    wanted = len(slices or positions_mm or ()) or count
    if wanted > MAX_PICTURES:
        raise InputError(f"{wanted} pictures; at most {MAX_PICTURES} at a time, ask again for the others")
    if positions_mm is not None:
        return [_nearest(volume, axis, place) for place in positions_mm]
    if slices is None:
        return sorted({int(place) for place in (np.arange(count) + 0.5) * length / count})
    first = volume.first_source_slice if axis == volume.acquisition_axis else 0
    for number in slices:
        if not first <= number < first + length:
            raise InputError(f"slice {number}: the scan has {length} in this plane, {first} to {first + length - 1}")
    backward = axis == volume.acquisition_axis and volume.slices_reversed
    return [length - 1 - (number - first) if backward else number - first for number in slices]


def _nearest(volume: Volume, axis: int, place: float) -> int:
    found = places_mm(volume, axis)
    name = AXIS_NAMES[2 - axis]
    if found is None:
        raise InputError("the file states no place in the patient; ask for slices by number")
    step = abs(float(found[-1] - found[0])) / max(len(found) - 1, 1)
    low, high = float(found.min()), float(found.max())
    if not low - step <= place <= high + step:
        raise InputError(f"{name} {place:g} mm lies outside the scan, which reaches from {low:.0f} to {high:.0f} mm")
    return int(np.abs(found - place).argmin())


def _draw(
    volume: Volume, axis: int, index: int, bounds: Window, size: int, labels_ZYX: NDArray[np.int32] | None
) -> SlicePicture:
    grey = (255 * bounds.to_grey(upright(volume.voxels, axis, index))).round().astype(np.uint8)
    rows, columns = [other for other in range(3) if other != axis]
    spacing = volume.spacing_mm or (1.0, 1.0, 1.0)
    tall, wide = grey.shape[0] * spacing[rows], grey.shape[1] * spacing[columns]
    aspect = float(np.clip(tall / wide, LEAST_ASPECT, MOST_ASPECT))
    width, height = (size, max(1, round(size * aspect))) if aspect <= 1 else (max(1, round(size / aspect)), size)
    picture = Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR).convert("RGB")
    if labels_ZYX is not None:
        _outline(picture, upright(labels_ZYX, axis, index))
    plane, places = PLANES[axis], places_mm(volume, axis)
    number = index
    if axis == volume.acquisition_axis:
        (number,) = volume.geometry.source_slices([index])
    position = None if places is None else float(places[index])
    _write_on(picture, caption(number, plane, position), sides(plane) if volume.affine_lps is not None else "????")
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return SlicePicture(
        png=stream.getvalue(), slice=number, plane=plane, position_mm=position, width=width, height=height
    )


def _outline(picture: Image.Image, labels_YX: NDArray[np.int32]) -> None:
    """Colour the edge of every label at the picture's own size."""
    pixels = np.asarray(picture).copy()
    values = [int(value) for value in np.unique(labels_YX) if value > 0]
    for value in values:
        mask = Image.fromarray((255 * (labels_YX == value)).astype(np.uint8)).resize(
            picture.size, Image.Resampling.NEAREST
        )
        inside = np.pad(np.asarray(mask) > 0, 1)
        middle = inside[1:-1, 1:-1]
        core = middle & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        pixels[middle & ~core] = OUTLINES[(value - 1) % len(OUTLINES)]
    picture.paste(Image.fromarray(pixels))


def _write_on(picture: Image.Image, text: str, letters: str) -> None:
    """Sides at the edges, the caption below."""
    draw, (width, height) = ImageDraw.Draw(picture), picture.size
    font = ImageFont.load_default(size=max(10, min(width, height) // 28))
    middle = (("lm", (4, height // 2)), ("rm", (width - 4, height // 2)), ("ma", (width // 2, 3)))
    left, right, top, bottom = tuple(letters)
    for letter, (anchor, place) in zip((left, right, top), middle, strict=True):
        draw.text(place, letter, fill=MARK, font=font, anchor=anchor, stroke_width=1, stroke_fill=SHADE)
    draw.text((width - 4, height - 4), bottom, fill=MARK, font=font, anchor="rs", stroke_width=1, stroke_fill=SHADE)
    draw.text((4, height - 4), text, fill=MARK, font=font, anchor="ls", stroke_width=1, stroke_fill=SHADE)
