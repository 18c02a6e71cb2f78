"""Verbs of `slicesight insight`: teach a 3D encoder with 2D models, then use what it learnt (Med3DInsight)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from slicesight.cli.options import (
    ArchiveTokenOption,
    ChangesOption,
    FillOption,
    ScanArgument,
    SeriesOption,
    SpacingOption,
    TimePointOption,
    UnitOption,
    say,
    stderr,
    three_numbers,
)
from slicesight.cli.training import stoppable

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A YAML file whose verb is this command.", show_default=False)
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run that was stopped in output_dir.")]


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
    on_bad_case: Annotated[
        Literal["stop", "skip"], typer.Option(help="Stop at an unreadable scan, or list it.")
    ] = "stop",
) -> None:
    """Cut scans into cubes and slices, find a text for each slice, and keep the frozen 2D models' vectors of both."""
    from slicesight.training.fitting import FitSettings
    from slicesight.training.pretraining_recipe import read_triplet_settings
    from slicesight.training.triplets.making import make_triplets

    chosen = {"captioner": captioner, "image_encoder": image_encoder, "text_encoder": text_encoder}
    options = [f"{key}={value}" for key, value in chosen.items() if value is not None]
    if captioner is not None:
        options.append("text=model")
    settings = read_triplet_settings(recipe, (*options, *(changes or ())))
    with phases() as progress:
        report = make_triplets(
            scans,
            out,
            settings,
            on_bad_case=on_bad_case,
            device=FitSettings(device=device).torch_device,
            progress=progress,
        )
    for name, reason in report.skipped:
        say(f"skipped {name}: {reason}")
    say(
        f"wrote {report.num_triplets} triplets of {report.num_scans} scans to {out}"
        + (f", {len(report.skipped)} scans skipped" if report.skipped else "")
        + f"; texts: {report.text_source}"
        + f"; pre-train on them: slicesight insight pretrain RECIPE --set data={out}"
        + ("" if report.num_texts else " --set text_weight=0")
    )


def pretrain(recipe: RecipeArgument, changes: ChangesOption = None, resume: ResumeOption = False) -> None:
    """Teach a 3D backbone what frozen 2D models say of its slices; no labels needed."""
    from slicesight.training.pretraining import run_pretraining
    from slicesight.training.pretraining_recipe import read_pretrain_recipe

    plan = read_pretrain_recipe(recipe, tuple(changes or ()))
    with stoppable(Path(plan.output_dir)), phases() as progress:
        folder = run_pretraining(plan, resume=resume, progress=progress)
    say(f"wrote {folder}; fine-tune it: slicesight insight segment RECIPE --set init={folder}")


def segment(recipe: RecipeArgument, changes: ChangesOption = None, resume: ResumeOption = False) -> None:
    """Fine-tune a backbone to outline structures, and score it on scans it never saw."""
    from functools import partial

    from slicesight.evaluation.metrics.masks import summarise
    from slicesight.evaluation.scan_scores import run_segmentation
    from slicesight.reports.overlays import draw_scored_scan
    from slicesight.training.segmentation import read_segment_recipe

    plan = read_segment_recipe(recipe, tuple(changes or ()))
    with stoppable(Path(plan.output_dir)), phases() as progress:
        draw = partial(draw_scored_scan, Path(plan.output_dir), plan.name)
        scores = run_segmentation(plan, resume=resume, progress=progress, draw=draw)
    for row in summarise(scores):
        line = f"{row['split']:5} {row['structure']}: Dice {row['dice']:.3f}" + _spread(row["dice_sd"], 3)
        if "hd95_mm" in row:
            line += f", HD95 {row['hd95_mm']:.1f} mm" + _spread(row["hd95_mm_sd"], 1)
        typer.echo(f"{line}, {row['patients']} patients")
    if not scores:
        say(f"nothing was scored: {plan.data} has no scan of {' or '.join(plan.score_splits)}")
    say(f"wrote {plan.output_dir}; use it: slicesight insight predict SCAN --model {plan.output_dir} --out MASK.nii.gz")


def classify(recipe: RecipeArgument, changes: ChangesOption = None, resume: ResumeOption = False) -> None:
    """Fine-tune or probe a backbone to name what a scan shows, and score it on scans it never saw."""
    from slicesight.evaluation.scan_scores import run_classification
    from slicesight.training.classification import read_classify_recipe

    plan = read_classify_recipe(recipe, tuple(changes or ()))
    with stoppable(Path(plan.output_dir)), phases() as progress:
        scores = run_classification(plan, resume=resume, progress=progress)
    for split, row in scores.items():
        auc = "AUC none (one class only)" if row["auc"] is None else f"AUC {row['auc']:.3f}"
        typer.echo(f"{split:5} {auc}, accuracy {row['accuracy']:.3f}, F1 {row['f1']:.3f}, {row['scans']} scans")
    say(f"wrote {plan.output_dir}; use it: slicesight insight predict SCAN --model {plan.output_dir}")


def predict(
    scan: ScanArgument,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME|DIR", help="A folder of insight segment or classify, or a model's name.", show_default=False
        ),
    ],
    out: Annotated[Path | None, typer.Option(metavar="MASK.nii.gz", help="Write the mask in the scan's grid.")] = None,
    dicom_seg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a DICOM SEG, for DICOM scans.")] = None,
    rtstruct: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a DICOM RT structure set, for DICOM scans.")
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write slices with the outlines.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE|-", help="Write the findings; - is stdout.")] = None,
    series: SeriesOption = None,
    spacing_mm: SpacingOption = None,
    time_point: TimePointOption = None,
    unit: UnitOption = None,
    fill: FillOption = None,
    any_kind: Annotated[
        bool, typer.Option("--any-kind", help="Go on where the scan is unlike those the model learnt from.")
    ] = False,
    archive_token: ArchiveTokenOption = None,
) -> None:
    """Outline structures in one scan, or name its class. For research use only; not a medical device."""
    from json import dumps

    from transformers.utils import logging

    from slicesight.files import write_text
    from slicesight.inference.scan_prediction import PredictRequest, predict_scan, sidecar_of
    from slicesight.io.assemble import checked_unit
    from slicesight.io.dicomweb.client import local_copy
    from slicesight.reports.overlays import draw_prediction

    logging.disable_progress_bar()
    with local_copy(scan, token_file=archive_token) as place, phases() as progress:
        found = predict_scan(
            PredictRequest(
                scan=place,
                model=model,
                out=out,
                dicom_seg=dicom_seg,
                rtstruct=rtstruct,
                png=png,
                series_uid=series,
                spacing_mm=three_numbers(spacing_mm, "--spacing-mm"),
                time_point=time_point,
                unit=checked_unit(unit),
                fill=fill,
                any_kind=any_kind,
            ),
            draw=draw_prediction,
            progress=progress,
        )
    document = {"schema": 1, **found}
    if json is not None and str(json) != "-":
        write_text(json, text=dumps(document, indent=1) + "\n")
    if json is not None and str(json) == "-":
        typer.echo(dumps(document, indent=1))
    else:
        typer.echo(found["scan"])
        for structure in found.get("structures", ()):
            held = structure["source_slices"]
            volume = f"{structure['volume_ml']:.1f} ml" if "volume_ml" in structure else f"{structure['voxels']} voxels"
            typer.echo(
                f"{structure['name']}: {volume}, slices {held[0]}–{held[1]}" if held else f"{structure['name']}: none"
            )
        for name, probability in found.get("probabilities", {}).items():
            typer.echo(f"{name}: {probability:.3f}")
    beside = None if out is None or "structures" not in found else sidecar_of(out)
    places = (out, dicom_seg, rtstruct, png, json, beside)
    written = [str(path) for path in places if path is not None and str(path) != "-"]
    if written:
        say(f"wrote {', '.join(written)}; look at the outlines before you use them")


EXAMPLES: dict[Callable[..., None], str] = {
    triplets: "slicesight insight triplets scans.jsonl --out triplets --image-encoder openai/clip-vit-base-patch32",
    pretrain: "slicesight insight pretrain recipes/insight.yaml --set data=triplets --set output_dir=runs/insight",
    segment: "slicesight insight segment recipes/segment.yaml --set data=scans.jsonl --set init=runs/insight",
    classify: "slicesight insight classify recipes/classify.yaml --set data=scans.jsonl --set mode=probe",
    predict: "slicesight insight predict scan.nii.gz --model runs/segment --out mask.nii.gz --png overlay.png",
}
"""Every verb with a line to try, in the order `--help` lists them."""

app = typer.Typer(
    no_args_is_help=True,
    help="Teach a 3D encoder with 2D multimodal models, then segment and classify with it (Med3DInsight).",
)
for verb, example in EXAMPLES.items():
    app.command(epilog=f"Example: {example}")(verb)


def _spread(deviation: float | None, digits: int) -> str:
    return "" if deviation is None else f" ± {deviation:.{digits}f}"


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

        def report(doing: str, done: int, total: int) -> None:
            nonlocal current
            if doing != current:
                current = doing
                bar.reset(task, description=doing, total=total)
                if not console.is_terminal:
                    say(f"{doing}: {total}")
            bar.update(task, completed=done, total=total)

        yield report
