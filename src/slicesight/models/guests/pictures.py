"""How does a grid become pictures in true proportions, one per slice or all on one sheet, with words that place them?

N slices, H rows, W columns. Every picture of a scan has the same size, so that one of them can be blanked without
anything else changing: a blank slice is black, as the deletion curves of `faithfulness` have it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slicesight.models.guests.preset import Preset
from slicesight.volumes.grid import GridSlice, GridVolume, height_over_width

if TYPE_CHECKING:
    from PIL.Image import Image

SQUARE = 0.02
"""A picture whose sides differ by less is left as it is."""
AXIS_NAMES = ("x", "y", "z")


@dataclass(frozen=True, kw_only=True)
class ShownSlices:
    """A scan as a guest sees it.

    slices: N pictures of one size. blank: the picture that takes the place of one. captions: beside them.
    """

    slices: tuple[Image, ...]
    blank: Image
    captions: tuple[str, ...]
    preset: Preset

    @property
    def is_sheet(self) -> bool:
        return self.preset.layout == "sheet"

    def pictures(self, kept_N: NDArray[np.bool_] | None = None) -> list[Image]:
        """What is shown when only the kept slices are left: N pictures, or one sheet."""
        kept = [True] * len(self.slices) if kept_N is None else kept_N.tolist()
        shown = [one if keep else self.blank for one, keep in zip(self.slices, kept, strict=True)]
        return [contact_sheet(shown, columns=self.columns)] if self.is_sheet else shown

    @property
    def columns(self) -> int:
        return self.preset.columns or math.ceil(math.sqrt(len(self.slices)))

    @property
    def sheet_caption(self) -> str:
        """Where every slice lies on the sheet."""
        count = len(self.slices)
        rows = -(-count // self.columns)
        places = f"; the first is {self.captions[0]}, the last {self.captions[-1]}" if count > 1 else ""
        return (
            f"The picture shows {count} slices of one medical scan in {rows} rows of {self.columns}, "
            f"each with its number, from left to right and then down{places}."
        )


def show(grid: GridVolume, preset: Preset) -> ShownSlices:
    """The pictures of a grid's slices."""
    from PIL import Image

    channels_CNHW = grid.voxels[None] if grid.channels is None else grid.channels
    proportion = height_over_width(grid)
    slices = [
        _picture([channel[number] for channel in channels_CNHW], proportion=proportion, size=_tile_size(grid, preset))
        for number in range(len(grid.voxels))
    ]
    return ShownSlices(
        slices=tuple(slices),
        blank=Image.new("RGB", slices[0].size),
        captions=captions(grid.slices, preset),
        preset=preset,
    )


def captions(slices: Sequence[GridSlice], preset: Preset) -> tuple[str, ...]:
    """The preset's words for each slice: number from 1, how many, and the place along the stack in mm (LPS)."""
    axis = _stacking_axis(slices)
    found = []
    for number, piece in enumerate(slices, start=1):
        place = ""
        if axis is not None and piece.position_mm is not None:
            place = f", {AXIS_NAMES[axis]} = {piece.position_mm[axis]:.0f} mm"
        found.append(preset.caption.format(number=number, count=len(slices), place=place))
    return tuple(found)


def contact_sheet(tiles: Sequence[Image], *, columns: int) -> Image:
    """All slices as one picture, row by row, each with its number in the corner, blanked or not."""
    from PIL import Image, ImageDraw, ImageFont

    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(max(9, height // 10))
    for number, tile in enumerate(tiles):
        corner = number % columns * width, number // columns * height
        sheet.paste(tile, corner)
        draw.text((corner[0] + 2, corner[1] + 1), str(number + 1), fill=(255, 213, 74), font=font)
    return sheet


def _tile_size(grid: GridVolume, preset: Preset) -> int:
    """Pixels of a slice's side: its own picture's, or its share of the sheet."""
    if preset.layout == "pictures":
        return preset.size
    columns = preset.columns or math.ceil(math.sqrt(len(grid.voxels)))
    return max(8, preset.size // columns)


def _picture(channels_HW: Sequence[NDArray[np.float32]], *, proportion: float, size: int) -> Image:
    """One slice in true proportions on a black square; a single window is grey."""
    from PIL import Image

    colours = [np.rint(channel * 255).astype(np.uint8) for channel in channels_HW]
    picture = Image.fromarray(np.stack(colours * (3 // len(colours)), axis=-1))
    height = size if proportion >= 1 else round(size * proportion)
    width = size if proportion <= 1 else round(size / proportion)
    if abs(height - width) < SQUARE * size:
        height = width = size
    picture = picture.resize((max(1, width), max(1, height)), Image.Resampling.BICUBIC)
    if picture.size == (size, size):
        return picture
    square = Image.new("RGB", (size, size))
    square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return square


def _stacking_axis(slices: Sequence[GridSlice]) -> int | None:
    """The LPS axis along which the slices differ most; None without geometry or with one slice."""
    first, last = slices[0].position_mm, slices[-1].position_mm
    if first is None or last is None or len(slices) == 1:
        return None
    return max(range(3), key=lambda axis: abs(last[axis] - first[axis]))
