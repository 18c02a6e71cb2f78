"""Options that several verbs share, each written once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from slicesight.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

Options = TypeVar("Options")


Plane = Literal["acquired", "axial", "coronal", "sagittal"]
"""How the model's slices are stacked."""
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


def complete_model(begun: str) -> list[str]:
    """Names of models for the shell's completion; folders and hub names are typed."""
    from slicesight.models.shipped import pulled_models, shipped_models

    return [name for name in (*shipped_models(), *pulled_models()) if name.startswith(begun)]


ModelOption = Annotated[
    str,
    typer.Option(
        autocompletion=complete_model,
        help="A shipped or pulled model, a model folder or a hub name; or a guest: hf:ID_OR_FOLDER, openai:URL#MODEL.",
    ),
]
ChosenModelOption = Annotated[
    str | None,
    typer.Option(
        autocompletion=complete_model,
        help="A shipped or pulled model, a model folder or a hub name; or a guest: hf:ID_OR_FOLDER, openai:URL#MODEL. "
        "Left out, the shipped model for scans like this one: anatomy-small for real, phantom-tiny for synthetic ones.",
        show_default=False,
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE.yaml", help="What a guest (hf:…, openai:…) is shown; left out, what fits it."),
]
EvidenceOption = Annotated[
    bool,
    typer.Option(
        "--evidence/--no-evidence", help="Measure a guest's evidence by blanking slices (many further passes)."
    ),
]
PassesOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=4, help="How often slices may be blanked per answer; else 2·log2(slices)·4."),
]
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
FillOption = Annotated[
    str | None, typer.Option(metavar="LOWEST|VALUE", help="What takes the place of NaN; without it NaN is refused.")
]
UnitOption = Annotated[str | None, typer.Option(metavar="HU|arbitrary", help="For files that do not say.")]
MinConfidenceOption = Annotated[
    float | None,
    typer.Option(
        metavar="0-1",
        help="A calibrated model holds back answers of which it is less sure; left out, the calibration's own limit.",
        show_default=False,
    ),
]
AnswerAnywayOption = Annotated[
    bool, typer.Option("--answer-anyway", help="Hold no answer back, only say why it should not be believed.")
]
WorkersOption = Annotated[
    int, typer.Option(min=1, help="For many scans: how many processes answer; of several each uses one thread.")
]
PagesOption = Annotated[
    bool, typer.Option(help="For many scans: also write a page per scan and the picture of each answer's slice.")
]
ScanLimitOption = Annotated[
    int | None,
    typer.Option(metavar="SECONDS", min=1, help="For many scans: give a scan up that takes longer, and list it."),
]
ChangesOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe; repeatable.")
]


def guest_settings(*, preset: str | None, evidence: bool, passes: int | None) -> dict[str, Any]:
    """What `load` is told of a guest, without what nobody named."""
    if passes is not None and not evidence:
        raise InputError(f"--evidence-passes {passes} and --no-evidence do not go together; leave one of them out.")
    settings = {"preset": preset, "evidence_passes": passes if evidence else 0}
    return {name: value for name, value in settings.items() if value is not None}


def verb(run: Callable[[Options], None]) -> Callable[..., None]:
    """A command whose arguments and options are the fields of the dataclass that `run` takes, written there only.

    `--help` lists the class's own ones first, then those that it has from the class it extends.
    """
    (options_class,) = (hint for name, hint in get_type_hints(run).items() if name != "return")
    hints = get_type_hints(options_class, include_extras=True)
    own = inspect.get_annotations(options_class)

    def command(**given: Any) -> None:
        run(options_class(**given))

    command.__name__, command.__doc__ = run.__name__, run.__doc__
    command.__annotations__ = hints
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what typer reads
        [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=hints[field.name],
            )
            for field in sorted(fields(options_class), key=lambda field: field.name not in own)
        ]
    )
    return command


def is_address_of_store(place: Path) -> bool:
    """Whether an output goes into an object store, s3://…; what stands in its way is found when it is opened."""
    from slicesight.io.object_store import is_remote, remote_url

    return is_remote(place) and bool(remote_url(place))


def checked_folder(folder: Path) -> None:
    """An InputError where a file stands in the way of --out."""
    if folder.is_file():
        raise InputError(f"{folder} is a file; name a folder with --out.")


def made_folder(folder: Path) -> None:
    """Make the folder of --out."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); name another folder.") from error


def stderr() -> Console:
    """Where progress and notes go; stdout holds results only."""
    from rich.console import Console

    return Console(stderr=True)


def say(text: str) -> None:
    """A line on stderr."""
    stderr().print(text, highlight=False, soft_wrap=True)


def share_from_0_to_1(value: float | None, option: str) -> None:
    """Refuse what is no share."""
    if value is not None and not 0 <= value <= 1:
        raise InputError(f"{option} is {value:g}; expected a number from 0 to 1")


def three_numbers(text: str | None, option: str) -> tuple[float, float, float] | None:
    """Three sizes in mm from "Z,Y,X"."""
    if text is None:
        return None
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} is {text!r}; expected three sizes in mm as Z,Y,X, for instance 5,0.8,0.8") from None
    return z, y, x
