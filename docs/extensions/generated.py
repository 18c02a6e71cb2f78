"""Which parts of the manual are written by the code itself? Every command with its options, every module's question.

Two directives for Markdown pages, `command-line` and `module-map`. Both are made when the manual is built, from the
command tree and the modules' docstrings, so they cannot fall behind.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer.main
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SOURCE = Path(__file__).resolve().parents[2] / "src" / "slicesight"
INCLUDED = {"README.md": "readme", "CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog"}


def command_pages() -> Iterator[tuple[str, str]]:
    """("slicesight ask", its description in Markdown) of every verb, in the order of `--help`."""
    from slicesight.cli import app

    yield from _walk(typer.main.get_command(app), "slicesight")


def _walk(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    children = getattr(command, "commands", {})
    if not children:
        yield name, _described(command, name)
    for verb, child in children.items():
        yield from _walk(child, f"{name} {verb}")


def _described(command: click.Command, name: str) -> str:
    said = inspect.cleandoc(command.help or "")
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    shown = " ".join([name, *(_placeholder(one) for one in arguments), *(["[OPTIONS]"] if options else [])])
    lines = [_escaped(said), "", "```text", shown, "```", ""]
    if command.epilog:
        lines += ["For example:", "", "```text", command.epilog.removeprefix("Example: "), "```", ""]
    if arguments or options:
        lines += ["| argument, option | what it is | left out |", "|---|---|---|"]
        lines += [_row(one) for one in (*arguments, *options) if not getattr(one, "hidden", False)]
    return "\n".join(lines)


def _row(one: Any) -> str:
    if one.param_type_name == "argument":
        names = f"`{_placeholder(one)}`"
    else:
        value = "" if one.is_flag else f" {_value_name(one)}".replace("|", "\\|")
        names = ", ".join(f"`{name}{value}`" for name in (*one.opts, *one.secondary_opts))
    default = one.get_default(click.Context(click.Command("none")))
    if one.required:
        left_out = "must be given"
    elif default in (None, False, (), []) or callable(default):
        left_out = ""
    else:
        left_out = f"`{default}`" if not isinstance(default, list | tuple) else ", ".join(f"`{x}`" for x in default)
    repeats = " May be repeated." if one.multiple else ""
    return f"| {names} | {_escaped(getattr(one, 'help', None) or '')}{repeats} | {left_out} |"


def _value_name(one: Any) -> str:
    """What stands behind an option: its own word for it, else its kind."""
    if one.metavar:
        return str(one.metavar)
    shown = one.display_type(click.Context(click.Command("none"))) if hasattr(one, "display_type") else one.type.name
    return str(shown).strip("<>").upper()


def _placeholder(one: Any) -> str:
    name = one.metavar or (one.name or "").upper()
    return name if one.required else f"[{name.strip('[]')}]"


def _escaped(text: str) -> str:
    """Help text is plain; in Markdown its stars, bars and brackets would mean something."""
    for letter in "\\`*_|<>[]$":
        text = text.replace(letter, f"\\{letter}")
    return " ".join(text.split()) if "\n\n" not in text else text


def module_rows() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(room, [(module, the question that it answers)]) in the order of folders."""
    rooms: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if docstring and path.name != "__main__.py":
            parts = path.relative_to(SOURCE).with_suffix("").parts
            name = ".".join(("slicesight", *parts)).removesuffix(".__init__")
            room = parts[0] if len(parts) > 1 else ""
            rooms.setdefault(room, []).append((name, " ".join(docstring.split("\n\n")[0].split())))
    yield from rooms.items()


class CommandLine(SphinxDirective):
    """Every verb, a section each."""

    def run(self) -> list[nodes.Node]:
        text = "\n\n".join(f"## {name}\n\n{described}" for name, described in command_pages())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class ModuleMap(SphinxDirective):
    """Every module's question, a table for each room."""

    def run(self) -> list[nodes.Node]:
        parts = []
        for room, rows in module_rows():
            lines = [f"| `{name}` | {_escaped(question)} |" for name, question in rows]
            parts.append(
                "\n".join([f"## {room or 'at the root'}", "", "| module | its question |", "|---|---|", *lines])
            )
        return self.parse_text_to_nodes("\n\n".join(parts), allow_section_headings=True)


def lead_into_the_manual(app: Sphinx, document: nodes.document) -> None:
    """README, CONTRIBUTING and CHANGELOG name each other as files; in the manual they are pages."""
    for node in document.findall(addnodes.pending_xref):
        if node["reftarget"] in INCLUDED:
            node["refdomain"], node["reftarget"], node["reftargetid"] = "doc", INCLUDED[node["reftarget"]], None


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-line", CommandLine)
    app.add_directive("module-map", ModuleMap)
    app.connect("doctree-read", lead_into_the_manual)
    return {"parallel_read_safe": True}
