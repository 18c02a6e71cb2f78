"""The map of the command line: which verb calls which function.

Every verb imports what it needs when it runs, so that `slicesight --help` stays quick. A user's mistake (`InputError`)
is one line on stderr and exit code 2; anything else is our own fault and keeps its traceback.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slicesight import __version__
from slicesight.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ask questions of a 3D medical scan and see which slices each answer rests on. "
    "For research use only; not a medical device.",
)


class Plane(StrEnum):
    """How the model's slices are stacked."""

    acquired = "acquired"
    axial = "axial"
    coronal = "coronal"
    sagittal = "sagittal"


class ScanFormat(StrEnum):
    """What a phantom is written as."""

    nifti = "nifti"
    dicom = "dicom"


@app.command(epilog='Example: slicesight ask scan.nii.gz "Which phase is this?" --html scan.html')
def ask(
    scan: Annotated[
        Path,
        typer.Argument(
            metavar="SCAN",
            help="NIfTI, NRRD, MetaImage, .npy or DICOM file, a folder of DICOM, PNG or JPEG slices, or a zip.",
            show_default=False,
        ),
    ],
    questions: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUESTION", help="Left out, the model describes the findings.", show_default=False),
    ] = None,
    model: Annotated[str, typer.Option(help="A shipped model, a model folder or a hub name.")] = "phantom-tiny",
    window: Annotated[
        str | None,
        typer.Option(metavar="NAME|LO,HI", help="Grey window: soft_tissue, lung, bone, ..., percentile or two bounds."),
    ] = None,
    plane: Annotated[Plane | None, typer.Option(help="Stack the slices as acquired or reformatted.")] = None,
    series: Annotated[str | None, typer.Option(metavar="UID", help="Which series of a DICOM folder.")] = None,
    spacing_mm: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="Voxel size in mm where the header is wrong or has none.")
    ] = None,
    time_point: Annotated[int | None, typer.Option(help="Which volume of a 4D file, from 0.")] = None,
    unit: Annotated[str | None, typer.Option(metavar="HU|arbitrary", help="For files that do not say.")] = None,
    truth: Annotated[
        Path | None,
        typer.Option(metavar="MANIFEST", help="Compare with a manifest; without a question, ask all of its own."),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE|-", help="Write receipt and answers; - is stdout.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a self-contained report page.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as a picture.")] = None,
) -> None:
    """Answer questions about a scan, with the slices each answer rests on."""
    from slicesight.asking import AskRequest, run_ask

    run_ask(
        AskRequest(
            scan=scan,
            questions=questions or None,
            model=model,
            window=window,
            plane=plane.value if plane else None,
            series_uid=series,
            spacing_mm=_three_numbers(spacing_mm, "--spacing-mm"),
            time_point=time_point,
            unit=unit,
            truth=truth,
            json=json,
            html=html,
            png=png,
        )
    )


@app.command(epilog="Example: slicesight inspect dicom_folder --png sheet.png")
def inspect(
    scan: Annotated[
        Path,
        typer.Argument(
            metavar="SCAN",
            help="NIfTI, NRRD, MetaImage, .npy or DICOM file, a folder of DICOM, PNG or JPEG slices, or a zip.",
            show_default=False,
        ),
    ],
    window: Annotated[
        str, typer.Option(metavar="NAME|LO,HI", help="Grey window: soft_tissue, lung, bone, ..., percentile, m3d.")
    ] = "auto",
    plane: Annotated[Plane, typer.Option(help="Stack the slices as acquired or reformatted.")] = Plane.acquired,
    series: Annotated[str | None, typer.Option(metavar="UID", help="Which series of a DICOM folder.")] = None,
    spacing_mm: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="Voxel size in mm where the header is wrong or has none.")
    ] = None,
    time_point: Annotated[int | None, typer.Option(help="Which volume of a 4D file, from 0.")] = None,
    unit: Annotated[str | None, typer.Option(metavar="HU|arbitrary", help="For files that do not say.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the receipt as JSON.")] = False,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a contact sheet.")] = None,
) -> None:
    """Say how a scan is read: geometry, window, crop, and what about it is doubtful."""
    from slicesight.volumes.inspection import print_receipt

    print_receipt(
        scan,
        window=window,
        plane=plane.value,
        series_uid=series,
        spacing_mm=_three_numbers(spacing_mm, "--spacing-mm"),
        time_point=time_point,
        unit=unit,
        png=png,
        as_json=json,
    )


@app.command(epilog="Example: slicesight phantom --count 20 --seed 1 --out phantoms")
def phantom(
    out: Annotated[Path, typer.Option(help="Folder to write; made if it does not exist.", show_default=False)],
    count: Annotated[int, typer.Option(min=1, help="How many scans.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same scans.")] = 0,
    format: Annotated[ScanFormat, typer.Option(help="One file per scan, or one DICOM folder.")] = ScanFormat.nifti,  # noqa: A002
) -> None:
    """Write synthetic CT scans with known truth, their labels and manifest.jsonl."""
    from slicesight.conversations.phantom_folder import write_phantoms
    from slicesight.shell import progress_bar

    with progress_bar(_stderr(), "painting phantoms") as progress:
        manifest = write_phantoms(out, count=count, seed=seed, scan_format=format.value, progress=progress)
    _stderr().print(f"wrote {count} scans and {manifest}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: slicesight convert Med-2E3-M3D med2e3 --question-tokenizer M3D-CLIP")
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="OFFICIAL_DIR", help="The released folder, as downloaded.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.", show_default=False)],
    question_tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="M3D-CLIP's tokenizer (vocab.txt), which the release does not hold."),
    ] = None,
) -> None:
    """Turn released weights (Med-2E3, M3D-CLIP, M3D-LaMed) into a model folder."""
    from slicesight.model.m3d import convert_folder

    report = convert_folder(
        source,
        out,
        question_tokenizer=question_tokenizer,
        on_progress=lambda part: _stderr().print(f"converting {part}", highlight=False),
    )
    typer.echo(str(report))
    typer.echo(f"wrote {out}")


@app.command(epilog="Example: slicesight plan med2e3-phi3 --dtype bfloat16 --questions 11 --device 24GiB")
def plan(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A model folder, its config.json, or med2e3-phi3.")],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="cpu, cuda, or a size such as 24GiB.")] = "cpu",
    questions: Annotated[int, typer.Option(min=1, help="Asked together about one volume.")] = 1,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a sequence, visual ones included.")] = 768,
    train: Annotated[bool, typer.Option("--train", help="Also the paper's two training stages.")] = False,
) -> None:
    """What a model needs before it is loaded: parameters, memory, work, and whether it fits."""
    from slicesight import planning

    model_config = planning.read_config(config)
    found = planning.plan(model_config, dtype=dtype, num_questions=questions, length=length)
    speed = planning.measure_speed(dtype=dtype, device=device) if device in ("cpu", "cuda") else None
    free_bytes = planning.find_free_bytes(device)
    typer.echo(planning.describe_plan(found, free_bytes=free_bytes, device=device, speed=speed))
    for stage in planning.TRAINED_PARTS if train else ():
        step = planning.plan_training(model_config, stage, dtype=dtype, num_questions=questions, length=length)
        typer.echo(planning.describe_training(step))


@app.command(epilog="Example: slicesight train recipes/phantom-tiny.yaml --set output_dir=runs/mine --set seed=3")
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file of recipes/.", show_default=False)],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe; repeatable.")
    ] = None,
) -> None:
    """Train a model from a recipe; its folder ends with the model, its log and its loss curves."""
    from importlib.util import find_spec

    from slicesight.training.recipe import read_recipe

    plan_of_run = read_recipe(recipe, tuple(changes or ()))

    if find_spec("accelerate") is None:
        raise InputError(
            "training needs the package accelerate, which is not installed: pip install 'slicesight[train]'"
        )
    from slicesight.training.stages import run_recipe

    folder = run_recipe(plan_of_run, console=_stderr())
    _stderr().print(f"wrote {folder}; ask it: slicesight ask SCAN --model {folder}", highlight=False, soft_wrap=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the scans and reports.")] = Path("demo"),
    model: Annotated[str, typer.Option(help="A shipped model, a model folder or a hub name.")] = "phantom-tiny",
    seed: Annotated[int, typer.Option(min=0, help="Which synthetic scans to make.")] = 20_000,
) -> None:
    """Make two synthetic scans, ask each its eleven questions and compare with the truth."""
    from slicesight.demo import run_demo

    run_demo(out, model=model, seed=seed)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Options before the verb."""
    if version:
        typer.echo(f"slicesight {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: run the verb and turn a user's mistake into one line."""
    try:
        app(prog_name="slicesight")
    except InputError as error:
        sys.stderr.write(f"slicesight: {' '.join(str(error).split())}\n")
        sys.exit(2)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _three_numbers(text: str | None, option: str) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} is {text!r}; expected three sizes in mm as Z,Y,X, for instance 5,0.8,0.8") from None
    return z, y, x


if __name__ == "__main__":
    main()
