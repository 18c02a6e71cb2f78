"""Write the manual's pages for `man`, one a command, from the command line itself: python docs/make_man.py FOLDER.

click-man sets the page; what it leaves out of a command, its arguments and its example, is added here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import typer.main
from click_man.man import ManPage

from slicesight import __version__
from slicesight.cli import app


def write_pages(folder: Path) -> list[Path]:
    """slicesight.1, slicesight-ask.1, …; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return list(_write(typer.main.get_command(app), "slicesight", None, folder))


def _write(command: click.Command, name: str, parent: click.Context | None, folder: Path):
    context = click.Context(command, info_name=name, parent=parent)
    page = ManPage(context.command_path)
    text = _plain(command.help or "")
    page.version = f"slicesight {__version__}"
    page.short_help = text.partition("\n")[0]
    page.description = "\n\n".join(filter(None, (text, _plain(command.epilog or ""))))
    page.synopsis = " ".join(command.collect_usage_pieces(context))
    records = [one.get_help_record(context) for one in command.params if not getattr(one, "hidden", False)]
    page.options = [(_plain(names), _plain(said)) for names, said in filter(None, records)]
    inner = getattr(command, "commands", {})
    page.commands = [(verb, _plain(one.help or "").partition("\n")[0]) for verb, one in inner.items()]
    path = folder / f"{context.command_path.replace(' ', '-')}.1"
    path.write_text(str(page), encoding="utf-8")
    yield path
    for verb, one in inner.items():
        yield from _write(one, verb, context, folder)


def _plain(text: str) -> str:
    """Without what roff takes for its own: backslashes, and a dot or quote that begins a line."""
    lines = (line.strip().replace("\\", r"\e") for line in text.strip().splitlines())
    return "\n".join(rf"\&{line}" if line.startswith((".", "'")) else line for line in lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/make_man.py FOLDER")
    for written in write_pages(Path(sys.argv[1])):
        print(written)
