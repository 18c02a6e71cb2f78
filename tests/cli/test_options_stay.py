"""No verb, option, default or place of the last version is lost: `options.json` holds what it had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main

from slicesight.cli import app

CHANGED_DEFAULTS = {
    ("slicesight ask", "model"): None,  # by what was scanned
    ("slicesight serve", "model"): "anatomy-small",
    ("slicesight embed", "model"): "anatomy-small",
}
"""What the shipped models know was extended; a name that is given means what it meant."""
EARLIER: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("options.json").read_text())


def parameters_of(command: click.Command, name: str = "slicesight") -> dict[str, dict[str, Any]]:
    """{verb: {parameter: how it is written and what it is when left out}}, subcommands included."""
    found: dict[str, dict[str, Any]] = {
        name: {
            parameter.name or "": {
                "kind": parameter.param_type_name,
                "names": sorted([*parameter.opts, *parameter.secondary_opts]),
                "default": json.loads(json.dumps(parameter.get_default(click.Context(command)), default=str)),
                "required": parameter.required,
                "repeats": parameter.multiple or parameter.nargs == -1,
            }
            for parameter in command.params
        }
    }
    for verb, inner in getattr(command, "commands", {}).items():
        found |= parameters_of(inner, f"{name} {verb}")
    return found


NOW = parameters_of(typer.main.get_command(app))


@pytest.mark.parametrize("verb", EARLIER)
def test_every_verb_still_has_its_options_with_their_defaults(verb):
    assert verb in NOW
    earlier = {
        name: {**facts, "default": CHANGED_DEFAULTS.get((verb, name), facts["default"])}
        for name, facts in EARLIER[verb].items()
    }
    lost = {name: facts for name, facts in earlier.items() if not still(facts, NOW[verb].get(name))}
    assert not lost


def still(earlier: dict[str, Any], now: dict[str, Any] | None) -> bool:
    """The same option; one that had to be given may be left out now, which breaks no command line."""
    return now is not None and now == {**earlier, "required": earlier["required"] and now["required"]}


@pytest.mark.parametrize("verb", EARLIER)
def test_arguments_stand_in_the_same_order(verb):
    def order(found: dict[str, dict[str, Any]]) -> list[str]:
        return [name for name, facts in found[verb].items() if facts["kind"] == "argument"]

    assert order(NOW) == order(EARLIER)
