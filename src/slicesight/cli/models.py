"""Verbs about a model as such: fetch a released one, list all, convert a folder, plan what one needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slicesight.cli.options import PresetOption, say, stderr
from slicesight.errors import InputError


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="med-2e3, m3d-lamed, m3d-clip, or owner/model on the hub, in an official layout or this package's.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to write; left out, among the user's own data.", show_default=False),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="A folder downloaded by other means; nothing is fetched."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="COMMIT", help="Branch, tag or commit; left out, the newest.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the original files in the folder original/.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be fetched.")] = False,
) -> None:
    """Fetch a released model from the Hugging Face hub and make it ready to use by its name.

    Interrupted, the same command goes on where it stopped. A private or gated
    model: hf auth login, or HF_TOKEN. A mirror: HF_ENDPOINT.
    """
    from slicesight.cli.pull import run_pull

    folder = run_pull(name, to=to, source=source, revision=revision, keep=keep, dry_run=dry_run)
    if folder is not None:
        typer.echo(f"wrote {folder}")


def models(
    json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the models that came with the package, were pulled, or can be: size, licence, training data, scores."""
    from slicesight.cli.model_list import list_models, print_models

    print_models(list_models(), as_json=json)


def publish(
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model folder, or a model's name.", show_default=False)
    ],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="The repository on the hub.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page (README.md) there, to read it first.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="NAME", help="As the hub names it (apache-2.0, other); else the card's.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="A repository that only its owner sees.")] = False,
    upload: Annotated[bool, typer.Option("--upload", help="Send it; without this, nothing leaves.")] = False,
) -> None:
    """Say what would be published of a model on the Hugging Face hub, with its page; --upload sends it.

    Only weights, settings, tokenizer and card are sent: logs, recipes and
    lists stay here. Log in first: hf auth login.
    """
    from slicesight.cli.publishing import run_publish

    run_publish(name, repository, out=out, licence=licence, private=private, send=upload)


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
    from slicesight.models.importers.m3d import convert_folder

    report = convert_folder(
        source,
        out,
        question_tokenizer=question_tokenizer,
        on_progress=lambda part: stderr().print(f"converting {part}", highlight=False),
    )
    typer.echo(str(report))
    typer.echo(f"wrote {out}")


def plan(
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="[CONFIG]",
            help="A model folder, its config.json, or med2e3-phi3; a guest: hf:ID_OR_FOLDER or gemma-3-4b.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="cpu, cuda, or a size such as 24GiB.")] = "cpu",
    questions: Annotated[int, typer.Option(min=1, help="Asked together about one volume.")] = 1,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a sequence, visual ones included.")] = 768,
    time: Annotated[
        bool, typer.Option(help="Time a few layers of each part here, for seconds beside the work.")
    ] = True,
    train: Annotated[bool, typer.Option("--train", help="Also the paper's two training stages.")] = False,
    preset: PresetOption = None,
    machine: Annotated[
        bool,
        typer.Option("--machine", help="Only this processor: how fast it multiplies in each way, and what is chosen."),
    ] = False,
) -> None:
    """What a model needs before it is loaded: parameters, memory, work, and whether it fits."""
    if machine:
        if config:
            raise InputError(
                f"--machine is about this processor alone, and {config} is a model; leave one of them out."
            )
        typer.echo("\n".join(_machine_lines()))
        return
    if not config:
        raise InputError("plan needs a model: a folder, its config.json, med2e3-phi3 or a guest; or --machine alone.")
    from slicesight.planning.guests import KNOWN_GUESTS

    if config.startswith("hf:") or config in KNOWN_GUESTS:
        typer.echo(_guest_plan(config, preset=preset, dtype=dtype, device=device))
        return
    if preset is not None:
        raise InputError(f"--preset is for guests (hf:…, {', '.join(KNOWN_GUESTS)}), and {config} is none.")
    from slicesight.planning import plan as planning

    model_config = planning.read_config(config)
    found = planning.plan(model_config, dtype=dtype, num_questions=questions, length=length)
    free_bytes = planning.find_free_bytes(device)
    seconds = None
    if time and device in ("cpu", "cuda"):
        from slicesight.planning.timing import time_stages

        say("timing a few layers of each part (--no-time leaves this out)")
        seconds = time_stages(model_config, dtype=dtype, num_questions=questions, length=length, device=device)
    typer.echo(planning.describe_plan(found, free_bytes=free_bytes, device=device, seconds=seconds))
    for stage in planning.TRAINED_PARTS if train else ():
        step = planning.plan_training(model_config, stage, dtype=dtype, num_questions=questions, length=length)
        typer.echo(planning.describe_training(step))


def _machine_lines() -> list[str]:
    from slicesight.inference.cpu.tuning import describe_tuning, read_tuning

    return describe_tuning(read_tuning())


def _guest_plan(name: str, *, preset: str | None, dtype: str, device: str) -> str:
    """The plan of a guest, read from its configuration alone."""
    from slicesight.inference.guests.loading import read_guest_config
    from slicesight.models.guests.preset import find_preset
    from slicesight.planning.guests import describe_guest, known_config, plan_guest
    from slicesight.planning.memory import find_free_bytes

    config = known_config(name) or read_guest_config(name.removeprefix("hf:"))
    chosen = find_preset(preset, name=Path(name.removeprefix("hf:")).name, model_type=config.model_type)
    return describe_guest(plan_guest(config, chosen, dtype=dtype), free_bytes=find_free_bytes(device), device=device)
