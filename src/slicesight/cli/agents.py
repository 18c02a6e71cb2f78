"""The verb that gives agents their tools."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slicesight.cli.options import (
    EvidenceOption,
    MinConfidenceOption,
    ModelOption,
    PassesOption,
    PresetOption,
    guest_settings,
    verb,
)
from slicesight.errors import InputError
from slicesight.models.shipped import DEFAULT_MODEL

if TYPE_CHECKING:
    from slicesight.serving.agents.options import AgentOptions


@dataclass(frozen=True, kw_only=True)
class McpOptions:
    """The options of `slicesight mcp`."""

    root: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Scans may be read below it, and nowhere else; repeatable. Left out, the current folder.",
            show_default=False,
        ),
    ] = None
    model: ModelOption = DEFAULT_MODEL
    http: Annotated[bool, typer.Option("--http", help="Listen for HTTP instead of talking over stdin and stdout.")] = (
        False
    )
    host: Annotated[str, typer.Option(help="With --http: address to listen at; any but loopback needs a token.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, typer.Option(help="With --http: port to listen at; 0 takes any that is free.")] = 8765
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --http: its first line is the token every request must carry.",
            show_default=False,
        ),
    ] = None
    public_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="With --http: where clients find it behind a proxy.", show_default=False),
    ] = None
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="One call may take.")] = 300
    max_scan: Annotated[str, typer.Option(metavar="SIZE", help="All files of one scan may have, say 500MB.")] = "2GB"
    max_calls: Annotated[int, typer.Option(help="Calls at work or waiting; one more is told to come again.")] = 16
    patient_fields: Annotated[
        bool,
        typer.Option(
            "--patient-fields", help="Let tools name patients (name, id, dates of DICOM headers) when asked to."
        ),
    ] = False
    preset: PresetOption = None
    evidence: EvidenceOption = True
    evidence_passes: PassesOption = None
    min_confidence: MinConfidenceOption = None
    int8: Annotated[
        bool, typer.Option("--int8", help="Round the model to 8 bits where that makes it quicker on this processor.")
    ] = False

    def checked(self) -> AgentOptions:
        """The options as the server takes them.

        Raises:
            InputError: one of them cannot be.
        """
        from slicesight.serving.agents.options import AgentOptions
        from slicesight.serving.options import read_size

        return AgentOptions(
            roots=tuple(self.root or [_current_folder()]),
            model=self.model,
            int8=self.int8,
            timeout_s=self.timeout,
            max_scan_bytes=read_size(self.max_scan, "--max-scan"),
            max_calls=self.max_calls,
            patient_fields=self.patient_fields,
            min_confidence=self.min_confidence,
            **guest_settings(preset=self.preset, evidence=self.evidence, passes=self.evidence_passes),
        )


@verb
def mcp(options: McpOptions) -> None:
    """Give agents tools to ask, show and measure scans (Model Context Protocol); docs/how-to/agents.md."""
    for package in ("mcp", "fastapi", "uvicorn", "prometheus_client"):
        if find_spec(package) is None:
            raise InputError(
                f"agents' tools need {package}, which is not installed; run: pip install 'slicesight[mcp]'"
            )
    checked = options.checked()
    from slicesight.serving.options import ServeOptions, read_token

    if not options.http and (options.token_file is not None or options.public_url is not None):
        raise InputError("--token-file and --public-url are for --http; add it, or leave them out.")
    listening = ServeOptions(
        host=options.host,
        port=options.port,
        token=None if options.token_file is None else read_token(options.token_file),
        public_url=options.public_url,
    )
    _check_model(options.model)
    if options.http:
        from slicesight.serving.agents.http import run_http

        run_http(checked, listening)
    else:
        from slicesight.serving.agents.server import run_stdio

        run_stdio(checked)


def _check_model(name: str) -> None:
    """A mistyped name is told now, not with the first question; nothing is loaded."""
    from slicesight.inference.loading import GUEST_PREFIXES, find_source

    if not name.startswith(GUEST_PREFIXES):
        find_source(name)


def _current_folder() -> Path:
    """Where the server was started, unless that is everything."""
    folder = Path.cwd()
    if folder in (Path(folder.anchor), Path.home()):
        raise InputError(
            f"no --root, and the current folder is {folder}; name the folder of your scans with --root DIR."
        )
    return folder
