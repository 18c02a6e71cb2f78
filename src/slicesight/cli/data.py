"""Verbs that make data: synthetic scans, and scans with texts in any layout brought into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from slicesight.cli.options import FillOption, PlaneOption, WindowOption, stderr
from slicesight.data.sources import LAYOUTS
from slicesight.errors import InputError

SMALL_MODEL_SIZE = (32, 96, 96)
"""What phantom-tiny reads."""


def phantom(
    out: Annotated[Path, typer.Option(help="Folder to write; made if it does not exist.", show_default=False)],
    count: Annotated[int, typer.Option(min=1, help="How many scans.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same scans.")] = 0,
    format: Annotated[  # noqa: A002
        Literal["nifti", "dicom"], typer.Option(help="One file per scan, or one DICOM folder.")
    ] = "nifti",
) -> None:
    """Write synthetic CT scans with known truth, their labels and manifest.jsonl."""
    from slicesight.phantoms.folder import write_phantoms
    from slicesight.reports.terminal import progress_bar

    with progress_bar(stderr(), "painting phantoms") as progress:
        manifest = write_phantoms(out, count=count, seed=seed, scan_format=format, progress=progress)
    stderr().print(f"wrote {count} scans and {manifest}", highlight=False, soft_wrap=True)


def prepare(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="The data set's folder or list.", show_default=False)
    ],
    format: Annotated[  # noqa: A002
        str,
        typer.Option(
            metavar="|".join(LAYOUTS),
            help="The layout of the source, one of these or of another package's.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder to write, or s3://bucket/folder; made if it does not exist.", show_default=False),
    ],
    volumes: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the scans lie, if not beside the lists.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="FORMAT=SOURCE", help="More questions about the same scans, or more scans; repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many scans of each split.")] = None,
    split_by_patient: Annotated[
        int | None,
        typer.Option(
            metavar="SEED", min=0, help="Deal patients into train, val and test, where the source has no splits."
        ),
    ] = None,
    split_shares: Annotated[str, typer.Option(metavar="T,V,T", help="Their shares.")] = "80,10,10",
    duplicates: Annotated[
        Literal["look", "content", "off"] | None,
        typer.Option(help="How copies of a scan are found; look, if there are several splits.", show_default=False),
    ] = None,
    leaks_leave: Annotated[
        Literal["train", "test"],
        typer.Option(help="Which side gives up the scans that both have, in manifest_deduplicated.jsonl."),
    ] = "train",
    on_bad_case: Annotated[
        Literal["stop", "skip"], typer.Option(help="Stop at a bad row or scan, or list it and go on.")
    ] = "stop",
    manifest_only: Annotated[bool, typer.Option("--manifest-only", help="Leave the volumes where they are.")] = False,
    size: Annotated[str, typer.Option(metavar="N,H,W", help="The grid: slices, rows, columns.")] = "32,256,256",
    window: WindowOption = None,
    plane: PlaneOption = None,
    fill: FillOption = None,
    dtype: Annotated[Literal["uint8", "float16"], typer.Option(help="What a voxel is stored as.")] = "uint8",
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Prepare on a Ray cluster: local, auto, ray://...")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Bring scans with their reports and questions into one layout, ready to train on.

    m3d-cap: the folder of M3D_Cap or M3D_Cap_npy, or M3D_Cap.json
    m3d-vqa: M3D_VQA_*.csv, or their folder
    med2e3-json: conversations as Med-2E3 trains on, or their folder
    ct-rate: CT-RATE's folder, with its fixed volumes and tables
    masks: scans with label maps, and masks.yaml that says what the labels
    mean; questions are made from them (docs/how-to/prepare.md)
    3d-rad: 3DRAD's tables, with CT-RATE's volumes in --volumes
    deeptumorvqa: the folder DeepTumorVQA_2.0 with benchmark/ct
    amos-mm: the folder of AMOS-MM's two lists and imagesTr, imagesVa
    rexgroundingct: dataset.json and segmentations/, with CT-RATE's volumes
    manifest: a manifest.jsonl that exists already; its scans lie anywhere,
    also in an object store, s3://bucket/... (docs/how-to/fleet.md)
    folder: any tree of scans with texts beside them:

    scan.nii.gz with scan.txt (its report) or scan.json: {"report", "split",
    "patient", "questions": [{"question", "answer", "choices", "topic"}]};
    a folder of slices with the text in it, or beside it under its name;
    report.txt for every scan of its folder that has no text of its own;
    questions.csv on top: scan,question,answer,choices (a|b|c),topic.
    A first folder train, val or test is the split, the next one the patient.

    Written: manifest.jsonl, summary.json, skipped.jsonl and volumes/; where two
    splits share a scan or a patient, also manifest_deduplicated.jsonl and
    duplicates.jsonl. Run again, it does only what has changed.
    """
    from dataclasses import replace

    from slicesight.data.converting import MANIFEST, ConvertRequest, convert
    from slicesight.io.assemble import checked_fill
    from slicesight.io.mirror import folder_for
    from slicesight.io.object_store import is_remote, remote_url
    from slicesight.reports.terminal import progress_bar
    from slicesight.volumes.grid import GridSpec

    num_slices, height, width = _whole_numbers(size, "--size", example="32,256,256")
    spec = GridSpec(
        num_slices=num_slices,
        height=height,
        width=width,
        window=window or "auto",
        plane=plane or "acquired",
    )
    shown = remote_url(out) if is_remote(out) else out
    with folder_for(out) as folder:
        request = ConvertRequest(
            format=format,
            source=source,
            out=folder,
            volumes=volumes,
            also=tuple(_format_and_source(text) for text in also or ()),
            limit=limit,
            split_seed=split_by_patient,
            split_shares=_whole_numbers(split_shares, "--split-shares", example="80,10,10"),
            duplicates=duplicates,
            leave=leaks_leave,
            on_bad_case=on_bad_case,
            workers=workers,
            fill=checked_fill(fill),
            is_sent=is_remote(out),
        )
        with progress_bar(stderr(), "comparing scans") as progress:
            conversion = convert(request, progress=progress)
        summary = conversion.write()
        if not manifest_only:
            from slicesight.data.preprocess import prepare_volumes

            with progress_bar(stderr(), "preparing volumes") as progress:
                report = prepare_volumes(
                    folder / MANIFEST,
                    folder,
                    spec=spec,
                    dtype=dtype,
                    workers=workers,
                    ray_address=ray,
                    on_bad_case=on_bad_case,
                    progress=progress,
                )
            if report.failed:
                conversion = conversion.without({case.id: case.reason for case in report.failed})
                summary = conversion.write()
            stderr().print(str(replace(report, folder=shown)), highlight=False, soft_wrap=True)
    if manifest_only:
        next_step = "the same command without --manifest-only"
    else:
        has_splits = "train" in summary["counts"]
        next_step = _training_command(format, shown, size=(num_slices, height, width), has_splits=has_splits)
    _tell(summary, shown, as_json=json, next_step=next_step)


def _training_command(layout: str, out: str | Path, *, size: tuple[int, int, int], has_splits: bool) -> str:
    """What to type next; own scans have a recipe that starts from the small model, where the grid is that model's."""
    command = f"--set 'data={{prepared: {out}{'' if has_splits else ', split: null'}}}'"
    if layout != "folder":
        return f"slicesight train RECIPE.yaml {command}"
    if size != SMALL_MODEL_SIZE:
        command += " --set init=null --set 'parts={language_model: NAME, vision2d: NAME}'"
    return f"slicesight train recipes/own-scans.yaml {command} (docs/how-to/own-scans.md)"


def _tell(summary: dict[str, Any], out: str | Path, *, as_json: bool, next_step: str) -> None:
    """The summary on stdout; what was written, and what to do next, on stderr."""
    import sys
    from json import dumps

    from slicesight.data.converting import DUPLICATES, NO_SPLIT, SKIPPED, counts_table
    from slicesight.reports.terminal import report_console

    deduplicated = summary["deduplicated"]
    if as_json:
        sys.stdout.write(dumps(summary, indent=2) + "\n")
    else:
        report_console().print(counts_table(summary["counts"], deduplicated["counts"] if deduplicated else None))
    lines = [f"note: {note}" for note in summary["notes"]]
    if set(summary["counts"]) == {NO_SPLIT}:
        lines.append("note: no scan has a split; --split-by-patient 0 deals patients into train, val and test")
    if summary["skipped"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in summary["skipped"].items())
        lines.append(f"left out: {kinds}; {out}/{SKIPPED} says which and why")
    if deduplicated:
        lines.append(
            f"{summary['duplicates']['leaks']} groups of one patient or scan lie in two splits ({out}/{DUPLICATES}); "
            f"{out}/{deduplicated['manifest']} leaves {deduplicated['scans_left_out']} scans out of "
            f"{deduplicated['left_out_of']} and can stand for {out} as the folder of prepared data"
        )
    lines.append(f"wrote {out}/manifest.jsonl; next: {next_step}")
    for line in lines:
        stderr().print(line, highlight=False, soft_wrap=True)


def _whole_numbers(text: str, option: str, *, example: str) -> tuple[int, int, int]:
    try:
        first, second, third = (int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} is {text!r}; expected three whole numbers, for instance {example}") from None
    return first, second, third


def _format_and_source(text: str) -> tuple[str, Path]:
    word, is_pair, source = text.partition("=")
    if not is_pair or not source:
        raise InputError(f"--also is {text!r}; expected FORMAT=SOURCE, for instance m3d-vqa=M3D/M3D-VQA")
    return word, Path(source)
