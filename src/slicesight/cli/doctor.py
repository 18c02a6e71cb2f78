"""What does `slicesight doctor` print? A block for a bug report: what is here, and what keeps it from working."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Say what is installed here and what is broken, to paste into a bug report; exit code 1 if something is.

    Names nobody: home is ~, tokens and proxies are only said to be set. Look it
    through before you paste it all the same.
    """
    from slicesight.cli.diagnosis import diagnose

    found = diagnose()
    if json:
        typer.echo(json_module.dumps(found, indent=1))
    else:
        typer.echo("\n".join(("```", *report_lines(found), "```")))
    if found["problems"]:
        raise typer.Exit(1)


def report_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The report, a topic a line or block."""
    for name, part in found.items():
        if name in ("schema", "problems"):
            continue
        if isinstance(part, dict) and "error" in part:
            yield f"{name}: cannot be told ({part['error']})"
        else:
            yield from _TOPICS.get(name, _facts)(name, part)
    yield "problems:" if found["problems"] else "problems: none found"
    yield from (f"  {line}" for line in found["problems"])


def _facts(name: str, part: Mapping[str, Any]) -> Iterator[str]:
    yield f"{name}:"
    for key, value in part.items():
        shown = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
        if isinstance(value, Mapping):
            shown = ", ".join(f"{inner.replace('_', ' ')} {text}" for inner, text in value.items())
        yield f"  {key.replace('_', ' ') if name != 'variables' else key}: {'unknown' if shown is None else shown}"


def _libraries(name: str, part: Mapping[str, str | None]) -> Iterator[str]:
    yield f"{name}: " + ", ".join(f"{key} {version or 'MISSING'}" for key, version in part.items())


def _extras(name: str, part: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield f"{name}: " + (", ".join(key for key, one in part.items() if one["installed"]) or "none whole")
    yield from (f"  {key}: lacks {', '.join(one['missing'])}" for key, one in part.items() if one["missing"])


def _models(name: str, part: list[Mapping[str, Any]]) -> Iterator[str]:
    yield f"{name}: " + (", ".join(f"{one['name']} ({one['state']}, {one['gib']:g} GiB)" for one in part) or "none")


def _gpus(name: str, part: list[Mapping[str, Any]]) -> Iterator[str]:
    yield f"{name}: " + ("; ".join(" ".join(f"{key} {value}" for key, value in one.items()) for one in part) or "none")


def _codecs(name: str, part: list[Mapping[str, Any]]) -> Iterator[str]:
    yield f"{name}: DICOM transfer syntaxes that can be decoded here"
    for one in part:
        yield f"  {one['uid']} {one['name']}: {', '.join(one['by']) or 'NO'}"


_TOPICS: dict[str, Any] = {
    "libraries": _libraries,
    "extras": _extras,
    "models": _models,
    "gpu": _gpus,
    "codecs": _codecs,
}
