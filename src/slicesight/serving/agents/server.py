"""How do the tools become a server of the Model Context Protocol, over stdio or HTTP, and what holds for every call?

A call is refused where too many are under way, ends when its time is up, and knows the arguments that its schema names
and no others. A user's mistake comes back in one line for the agent to mend; of a mistake of our own the agent learns
only that there was one, its traceback goes to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import ToolAnnotations

from slicesight import __version__
from slicesight.errors import InputError
from slicesight.inference.predictor import Predictor
from slicesight.models.card import RESEARCH_NOTICE
from slicesight.reports.ask import load_quietly
from slicesight.serving.agents.comparing import ComparingTools
from slicesight.serving.agents.model_desk import ModelDesk
from slicesight.serving.agents.options import AgentOptions
from slicesight.serving.agents.scans import ScanDesk
from slicesight.serving.agents.tools import ScanTools

INSTRUCTIONS = f"""Ask questions of 3D medical scans (CT, MR, PET) and see which slices the answers rest on.
Begin with list_scans, then inspect_scan: its warnings say what is doubtful about a file. ask_scan answers with a
confidence and evidence; look at the slices it names with show_slices before you repeat an answer, and say which slices
it rests on. Where `abstained` is set, say that the model does not know. {RESEARCH_NOTICE}"""

ToolFunction = Callable[..., Awaitable[Any]]


class CallLimits:
    """How many calls are under way, and how long each may take."""

    def __init__(self, options: AgentOptions, *, desk: ScanDesk) -> None:
        self.options, self.desk, self.num_calls = options, desk, 0

    def bounded(self, tool: ToolFunction) -> ToolFunction:
        """The tool, refused where too many are at work, ended when its time is up, mistakes in one line."""

        @functools.wraps(tool)
        async def call(*arguments: Any, **named: Any) -> Any:
            if self.num_calls >= self.options.max_calls:
                raise ToolError(f"{self.num_calls} calls are under way, as many as may be; call again in 5 s")
            self.num_calls += 1
            try:
                async with asyncio.timeout(self.options.timeout_s):
                    return await tool(*arguments, **named)
            except InputError as error:
                raise ToolError(self.desk.without_places(" ".join(str(error).split()))) from None
            except TimeoutError:
                raise ToolError(
                    f"it took more than {self.options.timeout_s:g} s; ask less at a time, or start the server with a "
                    "longer --timeout"
                ) from None
            finally:
                self.num_calls -= 1

        return call


@contextlib.contextmanager
def agent_server(options: AgentOptions, *, load: Callable[..., Predictor] = load_quietly) -> Iterator[MCPServer]:
    """A server with its tools; at the end no scan is left that was kept for them."""
    model = ModelDesk(
        functools.partial(
            load,
            options.model,
            int8=options.int8,
            preset=options.preset,
            evidence_passes=options.evidence_passes,
        )
    )
    with ScanDesk(options) as desk:
        tools, limits = ScanTools(options, desk=desk, model=model), CallLimits(options, desk=desk)
        try:
            yield MCPServer(
                "slicesight",
                title="slicesight: 3D medical scans, asked",
                version=__version__,
                instructions=INSTRUCTIONS,
                tools=[_strict(limits.bounded(tool)) for tool in tool_functions(tools)],
                log_level="WARNING",
            )
        finally:
            model.close()
            tools.close()


def tool_functions(tools: ScanTools) -> list[ToolFunction]:
    """Every tool, in the order a client lists them."""
    several = ComparingTools(tools)
    return [
        tools.list_scans,
        tools.inspect_scan,
        tools.ask_scan,
        tools.show_slices,
        tools.measure_structure,
        several.compare_scans,
        several.search_scans,
    ]


def _strict(function: ToolFunction) -> Any:
    """A tool that refuses arguments it does not know: one that is silently ignored would be answered wrongly."""
    read_only = ToolAnnotations(
        read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    )
    tool = Tool.from_function(function, annotations=read_only, description=_plain(function.__doc__ or ""))
    arguments = tool.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"
    arguments.model_rebuild(force=True)
    tool.parameters = arguments.model_json_schema(by_alias=True)
    return tool


def _plain(text: str) -> str:
    """A docstring without its indentation and line breaks."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def run_stdio(options: AgentOptions) -> None:
    """Serve until stdin closes; whatever else would be printed goes to stderr."""
    with agent_server(options) as server, contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.run_stdio_async())
