"""How do several replicas, on one machine or many, serve the same API? (`serve run slicesight.serving.ray_app:build`)

Ray Serve starts replicas, each with a model of its own, adds and removes them with the load, and hands a request to
whichever has least to do. A volume is found by all of them because all keep theirs in one shared folder
(scan_store.py); each replica that is asked about it encodes it once.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve.schema import LoggingConfig

from slicesight.errors import InputError
from slicesight.models.shipped import DEFAULT_MODEL
from slicesight.serving.options import ServeOptions, read_token

_MORE_THAN_QUEUED = 64
"""Requests a replica may hold beyond its questions (uploads, pictures, reports), so that the 429 is our own."""


class RayArguments(BaseModel):
    """What `serve run` passes as KEY=VALUE."""

    model_config = ConfigDict(extra="forbid")

    folder: Path
    """Shared by all replicas; on several machines a network folder that all of them see."""
    model: str = DEFAULT_MODEL
    token_file: Path | None = None
    host: str = "127.0.0.1"
    """Where Ray's proxies listen, as told to `serve start --http-host`."""
    keep_minutes: float = 60
    queue: int = 32
    archive: str | None = None
    int8: bool = False
    min_confidence: float | None = None
    answer_anyway: bool = False
    public_url: str | None = None
    min_replicas: int = 1
    max_replicas: int = 4
    questions_per_replica: int | None = None
    """At work or waiting, at which another replica is wanted; None: as many as are answered together."""
    upscale_delay_s: float = 10
    downscale_delay_s: float = 300
    """How long there must be more, or fewer, before one comes or goes."""
    cpus: float = 1
    gpus: float = 0
    """Of each replica."""

    def options(self) -> ServeOptions:
        """The same as those of `slicesight serve`."""
        return ServeOptions(
            model=self.model,
            int8=self.int8,
            min_confidence=self.min_confidence,
            answer_anyway=self.answer_anyway,
            host=self.host,
            token=None if self.token_file is None else read_token(self.token_file),
            archives=() if self.archive is None else (self.archive,),
            folder=self.folder,
            is_shared=True,
            keep_minutes=self.keep_minutes,
            max_waiting=self.queue,
            public_url=self.public_url,
        )


def build(arguments: RayArguments) -> serve.Application:
    """The application with its replicas and how many of them there may be.

    Raises:
        InputError: an option that cannot be, as `slicesight serve` would say.
    """
    if not 1 <= arguments.min_replicas <= arguments.max_replicas:
        raise InputError(
            f"min_replicas is {arguments.min_replicas} and max_replicas {arguments.max_replicas}; expected at least 1, "
            "and no more than the second."
        )
    options = arguments.options()

    def make_app() -> FastAPI:
        from slicesight.reports.ask import load_quietly
        from slicesight.serving.app import create_app

        return create_app(load_quietly(options.model, int8=options.int8), options)

    as_replica = serve.deployment(
        name="slicesight",
        autoscaling_config={
            "min_replicas": arguments.min_replicas,
            "max_replicas": arguments.max_replicas,
            "target_ongoing_requests": arguments.questions_per_replica or options.batch_size,
            "upscale_delay_s": arguments.upscale_delay_s,
            "downscale_delay_s": arguments.downscale_delay_s,
            "metrics_interval_s": min(5.0, arguments.upscale_delay_s),
            "look_back_period_s": min(10.0, 2 * arguments.upscale_delay_s),
        },
        max_ongoing_requests=options.batch_size + options.max_waiting + _MORE_THAN_QUEUED,
        ray_actor_options={"num_cpus": arguments.cpus, "num_gpus": arguments.gpus},
        logging_config=LoggingConfig(enable_access_log=False),
        graceful_shutdown_timeout_s=options.answer_timeout_s,
    )
    return as_replica(serve.ingress(make_app)()).bind()
