"""Verbs that make data: synthetic scans."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .options import stderr


class ScanFormat(StrEnum):
    """What a phantom is written as."""

    nifti = "nifti"
    dicom = "dicom"


def phantom(
    out: Annotated[Path, typer.Option(help="Folder to write; made if it does not exist.", show_default=False)],
    count: Annotated[int, typer.Option(min=1, help="How many scans.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same scans.")] = 0,
    format: Annotated[ScanFormat, typer.Option(help="One file per scan, or one DICOM folder.")] = ScanFormat.nifti,  # noqa: A002
) -> None:
    """Write synthetic CT scans with known truth, their labels and manifest.jsonl."""
    from slicesight.conversations.phantom_folder import write_phantoms
    from slicesight.shell import progress_bar

    with progress_bar(stderr(), "painting phantoms") as progress:
        manifest = write_phantoms(out, count=count, seed=seed, scan_format=format.value, progress=progress)
    stderr().print(f"wrote {count} scans and {manifest}", highlight=False, soft_wrap=True)
