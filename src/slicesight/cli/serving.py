"""The verb that serves the page and the HTTP API."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from slicesight.cli.options import (
    AnswerAnywayOption,
    EvidenceOption,
    MinConfidenceOption,
    ModelOption,
    PassesOption,
    PresetOption,
    guest_settings,
)
from slicesight.errors import InputError
from slicesight.models.shipped import DEFAULT_MODEL


def serve(
    model: ModelOption = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen at; any but this machine's own needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its first line is the token every request must carry.", show_default=False),
    ] = None,
    max_upload: Annotated[str, typer.Option(metavar="SIZE", help="Largest scan, say 500MB.")] = "2GB",
    queue: Annotated[int, typer.Option(help="Questions that may wait; one more is told to come again.")] = 32,
    keep_minutes: Annotated[
        float, typer.Option(help="Remove a scan nobody has asked for so long; 0 keeps it until the end.")
    ] = 60,
    archive: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="DICOMweb archive whose series may be opened by address; repeatable."),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where clients find it behind a proxy, with its path.", show_default=False),
    ] = None,
    root_path: Annotated[str, typer.Option(metavar="PATH", help="What a proxy puts before the address's path.")] = "",
    grace: Annotated[float, typer.Option(metavar="SECONDS", help="For requests at work when it is told to stop.")] = 5,
    max_disk: Annotated[str, typer.Option(metavar="SIZE", help="Of all scans kept, on disk.")] = "50GB",
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep scans there meanwhile, not where temporary files are.", show_default=False
        ),
    ] = None,
    preset: PresetOption = None,
    evidence: EvidenceOption = True,
    evidence_passes: PassesOption = None,
    min_confidence: MinConfidenceOption = None,
    answer_anyway: AnswerAnywayOption = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Round the model to 8 bits where that makes it quicker on this processor.")
    ] = False,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="Who computes: own, vllm if its plug-in is here, auto the quicker.")
    ] = "auto",
) -> None:
    """Open a page that shows a scan, takes questions and marks the slices; an HTTP API in OpenAI's shape."""
    for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        if find_spec(package) is None:
            raise InputError(f"serving needs {package}, which is not installed; run: pip install 'slicesight[serve]'")
    from slicesight.inference.engines import choose_engine
    from slicesight.serving.options import ServeOptions, read_size, read_token

    choose_engine(engine, model)

    options = ServeOptions(
        model=model,
        host=host,
        port=port,
        token=None if token_file is None else read_token(token_file),
        max_upload_bytes=read_size(max_upload),
        max_waiting=queue,
        keep_minutes=keep_minutes,
        archives=tuple(archive or ()),
        folder=folder,
        public_url=public_url,
        root_path=root_path,
        grace_s=grace,
        max_kept_bytes=read_size(max_disk, "--max-disk"),
        int8=int8,
        engine=engine,
        **guest_settings(preset=preset, evidence=evidence, passes=evidence_passes),
        min_confidence=min_confidence,
        answer_anyway=answer_anyway,
    )
    from slicesight.serving.running import run_server

    run_server(options)
