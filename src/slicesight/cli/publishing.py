"""What does `slicesight publish` say before anything leaves this machine?"""

from __future__ import annotations

from pathlib import Path

import typer

from slicesight.cli.options import say
from slicesight.cli.terminal import size
from slicesight.errors import InputError, ModelError
from slicesight.files import write_text
from slicesight.models.publishing import prepare_publication, upload
from slicesight.models.shipped import find_folder, nearest_model


def run_publish(
    name: str, repository: str, *, out: Path | None, licence: str | None, private: bool, send: bool
) -> None:
    """List the files, show or write the page, and send all of it where that is asked for.

    Raises:
        InputError: no such model, a name that the hub refuses, or its refusal.
    """
    folder = find_folder(name)
    if not folder.is_dir():
        raise ModelError(f"{name}: no such model folder; {nearest_model(name)}")
    publication = prepare_publication(folder, repository, licence=licence)
    typer.echo(f"{repository}: {len(publication.files) + 1} files, {size(publication.num_bytes)}")
    for file, path in publication.files.items():
        typer.echo(f"  {file}  {size(path.stat().st_size)}")
    typer.echo(f"  README.md  {size(len(publication.readme.encode()))}")
    if publication.left_out:
        typer.echo(f"stays here: {', '.join(publication.left_out)}")
    if out is not None:
        write_text(out, text=publication.readme)
        say(f"wrote {out}")
    else:
        typer.echo(f"\n{publication.readme}")
    if send and publication.licence is None:
        raise InputError(
            f"{folder}: no licence of the weights in card.json; name it with --licence (apache-2.0, other)"
        )
    if send:
        say(f"sending to {repository}")
        typer.echo(f"published: {upload(publication, private=private)}")
    else:
        say("nothing was sent; --upload sends it")
