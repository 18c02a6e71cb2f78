"""Verbs about vectors: make them of scans, and look for what is nearest."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from slicesight.cli.options import FillOption, is_address_of_store, verb
from slicesight.cli.scans import STDOUT
from slicesight.errors import InputError
from slicesight.files import checked_place
from slicesight.models.shipped import DEFAULT_MODEL

Space = Literal["encoder", "language"]
"""Whose vectors: the encoders', or what the language model is shown of the scan."""
EmbedderOption = Annotated[
    str, typer.Option(help="A model with an encoder: shipped, a model folder, a hub name, or a folder of insight.")
]


def check_pyarrow() -> None:
    """Raises InputError where tables can be neither written nor read."""
    if find_spec("pyarrow") is None:
        raise InputError("tables of vectors need pyarrow, which is not installed: pip install 'slicesight[prepare]'")


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """The options of `slicesight embed`."""

    scans: Annotated[
        list[str],
        typer.Argument(
            metavar="SCANS",
            help="Scans (files, folders of DICOM), or DATA: manifest.jsonl or its folder, a prepared folder, "
            "phantoms:SEED:COUNT.",
            show_default=False,
        ),
    ]
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.parquet", help="The table, here or s3://…; it shows what the scans show.", show_default=False
        ),
    ]
    model: EmbedderOption = DEFAULT_MODEL
    space: Annotated[
        Space, typer.Option(help="The encoders' own vectors, or those that the language model is shown.")
    ] = "encoder"
    depth_bins: Annotated[
        bool, typer.Option(help="Also the 3D encoder's tokens by depth bin, the largest part of the table.")
    ] = True
    split: Annotated[str | None, typer.Option(help="Of DATA, only the scans of this split.")] = None
    count: Annotated[int | None, typer.Option(min=1, help="Of DATA, only the first so many scans.")] = None
    fill: FillOption = None
    skip_bad_cases: Annotated[bool, typer.Option(help="Leave unreadable scans out and list them.")] = False

    def __post_init__(self) -> None:
        check_pyarrow()
        if not is_address_of_store(self.out):
            checked_place(self.out)


@verb
def embed(options: EmbedOptions) -> None:
    """Write the vectors of scans, their slices and depth bins into one table; goes on where it was stopped."""
    from slicesight.cli.embed import run_embed

    run_embed(options)


@dataclass(frozen=True, kw_only=True)
class NearestOptions:
    """The options of `slicesight nearest`."""

    table: Annotated[
        Path, typer.Argument(metavar="FILE.parquet", help="What slicesight embed wrote.", show_default=False)
    ]
    query: Annotated[
        str,
        typer.Argument(metavar="SCAN", help="A scan of the table by its name there, or any file.", show_default=False),
    ]
    top: Annotated[int, typer.Option(min=1, help="How many to list.")] = 5
    slice: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Look for slices like the scan's grid slice N, from 0.")
    ] = None
    other_patients: Annotated[bool, typer.Option("--other-patients", help="Leave out scans of the same patient.")] = (
        False
    )
    model: Annotated[str | None, typer.Option(help="What embeds a file; left out, the model that the table names.")] = (
        None
    )
    json: Annotated[Path | None, typer.Option(metavar="FILE|-", help="Write them as JSON; - is stdout.")] = None

    def __post_init__(self) -> None:
        check_pyarrow()
        if self.json is not None and self.json != STDOUT:
            checked_place(self.json)


@verb
def nearest(options: NearestOptions) -> None:
    """List the scans, or slices, whose vectors are nearest to this scan's, by exact cosine."""
    from slicesight.cli.embed import run_nearest

    run_nearest(options)
