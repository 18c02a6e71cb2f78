"""Options that several verbs share, each written once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slicesight.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console


class Plane(StrEnum):
    """How the model's slices are stacked."""

    acquired = "acquired"
    axial = "axial"
    coronal = "coronal"
    sagittal = "sagittal"


ScanArgument = Annotated[
    Path,
    typer.Argument(
        metavar="SCAN",
        help="NIfTI, NRRD, MetaImage, .npy or DICOM file, a folder of DICOM, PNG or JPEG slices, a zip, or a series in "
        "an archive: dicomweb+https://host/dicom-web/studies/S/series/UID.",
        show_default=False,
    ),
]
ArchiveTokenOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The archive's token; else SLICESIGHT_ARCHIVE_TOKEN, else ~/.netrc."),
]
ModelOption = Annotated[str, typer.Option(help="A shipped model, a model folder or a hub name.")]
WindowOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|LO,HI", help="Grey window: soft_tissue, lung, bone, ..., percentile, m3d or two bounds."
    ),
]
PlaneOption = Annotated[Plane | None, typer.Option(help="Stack the slices as acquired or reformatted.")]
SeriesOption = Annotated[str | None, typer.Option(metavar="UID", help="Which series of a DICOM folder.")]
SpacingOption = Annotated[
    str | None, typer.Option(metavar="Z,Y,X", help="Voxel size in mm where the header is wrong or has none.")
]
TimePointOption = Annotated[int | None, typer.Option(help="Which volume of a 4D file, from 0.")]
UnitOption = Annotated[str | None, typer.Option(metavar="HU|arbitrary", help="For files that do not say.")]
ChangesOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe; repeatable.")
]


def stderr() -> Console:
    """Where progress and notes go; stdout holds results only."""
    from rich.console import Console

    return Console(stderr=True)


def say(text: str) -> None:
    """A line on stderr."""
    stderr().print(text, highlight=False, soft_wrap=True)


def three_numbers(text: str | None, option: str) -> tuple[float, float, float] | None:
    """Three sizes in mm from "Z,Y,X"."""
    if text is None:
        return None
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} is {text!r}; expected three sizes in mm as Z,Y,X, for instance 5,0.8,0.8") from None
    return z, y, x
