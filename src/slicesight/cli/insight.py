"""Verbs of `slicesight insight`: teach a 3D encoder with 2D models, then use what it learnt (Med3DInsight)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .options import ChangesOption, stderr

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A YAML file whose verb is this command.", show_default=False)
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run that was stopped in output_dir.")]


class OnBadCase(StrEnum):
    """What a scan that cannot be read does."""

    stop = "stop"
    skip = "skip"


def triplets(
    scans: Annotated[
        Path, typer.Argument(metavar="SCANS", help="A .jsonl of scans, a folder of scans, or one.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; one that was stopped is finished.", show_default=False)],
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="RECIPE", help="Take the settings from `triplets:` of a pretrain recipe."),
    ] = None,
    captioner: Annotated[
        str | None, typer.Option(metavar="NAME", help="Image-text-to-text model that describes each slice.")
    ] = None,
    image_encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="CLIP-like model or 2D image encoder; pixels needs no weights.")
    ] = None,
    text_encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Text encoder, where the image encoder has no text side.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, such as slices_per_plane=16; repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the 2D models run: auto, cpu, cuda or cuda:1.")] = "auto",
    on_bad_case: Annotated[OnBadCase, typer.Option(help="Stop at an unreadable scan, or list it.")] = OnBadCase.stop,
) -> None:
    """Cut scans into cubes and slices, find a text for each slice, and keep the frozen 2D models' vectors of both."""
    from slicesight.insight.fitting import FitSettings
    from slicesight.insight.recipe import read_triplet_settings
    from slicesight.insight.triplets import make_triplets

    chosen = {"captioner": captioner, "image_encoder": image_encoder, "text_encoder": text_encoder}
    words = [f"{key}={value}" for key, value in chosen.items() if value is not None]
    if captioner is not None:
        words.append("text=model")
    settings = read_triplet_settings(recipe, (*words, *(changes or ())))
    with phases() as progress:
        report = make_triplets(
            scans,
            out,
            settings,
            on_bad_case=on_bad_case.value,
            device=FitSettings(device=device).torch_device,
            progress=progress,
        )
    for name, reason in report.skipped:
        say(f"skipped {name}: {reason}")
    say(
        f"wrote {report.num_triplets} triplets of {report.num_scans} scans to {out}"
        + (f", {len(report.skipped)} scans skipped" if report.skipped else "")
        + f"; pre-train on them: slicesight insight pretrain RECIPE --set data={out}"
    )


def pretrain(recipe: RecipeArgument, changes: ChangesOption = None, resume: ResumeOption = False) -> None:
    """Teach a 3D backbone what frozen 2D models say of its slices; no labels needed."""
    from slicesight.insight.pretrain import run_pretraining
    from slicesight.insight.recipe import read_pretrain_recipe

    plan = read_pretrain_recipe(recipe, tuple(changes or ()))
    with phases() as progress:
        folder = run_pretraining(plan, resume=resume, progress=progress)
    say(f"wrote {folder}; fine-tune it: slicesight insight segment RECIPE --set init={folder}")


EXAMPLES = {
    triplets: "slicesight insight triplets scans.jsonl --out triplets --image-encoder openai/clip-vit-base-patch32",
    pretrain: "slicesight insight pretrain recipes/insight.yaml --set data=triplets --set output_dir=runs/insight",
}
"""Every verb with a line to try, in the order `--help` lists them."""

app = typer.Typer(
    no_args_is_help=True,
    help="Teach a 3D encoder with 2D multimodal models, then segment and classify with it (Med3DInsight).",
)
for verb, example in EXAMPLES.items():
    app.command(epilog=f"Example: {example}")(verb)


def say(text: str) -> None:
    """A line on stderr."""
    stderr().print(text, highlight=False, soft_wrap=True)


@contextmanager
def phases() -> Iterator[Callable[[str, int, int], None]]:
    """One bar for work in several parts; where stderr is no terminal, one line as each part begins."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    console = stderr()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("starting", total=None)
        current = ""

        def tell(doing: str, done: int, total: int) -> None:
            nonlocal current
            if doing != current:
                current = doing
                bar.reset(task, description=doing, total=total)
                if not console.is_terminal:
                    say(f"{doing}: {total}")
            bar.update(task, completed=done, total=total)

        yield tell
