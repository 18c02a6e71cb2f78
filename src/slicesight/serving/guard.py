"""What must hold for every request, whatever route it takes?

Only the right host name (against DNS rebinding), no foreign page, the token where one is set; bodies of bounded size
that keep arriving; clients that keep reading; the same security headers on every response; a log line without anything
the client wrote; and a mistake of our own ends as one line, never as a traceback with somebody's question in it.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slicesight.serving.fairness import client_of
from slicesight.serving.options import ServeOptions
from slicesight.serving.refusals import Refusal, internal_error
from slicesight.serving.telemetry import Metrics, log, log_failure

MAX_JSON_BYTES = 4 * 2**20
UPLOAD_PATH, CHAT_PATH = "/v1/volumes", "/v1/chat/completions"
GRACE_S = 30
"""Before the rate of a body counts."""

_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; sandbox allow-scripts"
)
_HEADERS = {
    "content-security-policy": _PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


NOBODY_THERE = 499
"""A status no client sees: it has closed the connection."""


class ClientGone(Exception):  # noqa: N818  # no fault
    """Nobody waits for the response any more."""


class TooSlow(Exception):  # noqa: N818  # it ends a connection, nobody reads it
    """The client has stopped reading."""


class Guard:
    """Pure ASGI, around everything.

    Args:
        max_chat_bytes: of a conversation, which is refused before it is read where it is longer than any the model can
            answer. check_chat: raises a Refusal for a client whose question could not wait, before its body is read.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        options: ServeOptions,
        metrics: Metrics,
        max_chat_bytes: int = MAX_JSON_BYTES,
        check_chat: Callable[[str], None] = lambda client: None,
    ) -> None:
        self.app, self.options, self.metrics = app, options, metrics
        self.max_chat_bytes, self.check_chat = max_chat_bytes, check_chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await _Exchange(self, self._at_root(scope), receive, send).run()
        # there are no web sockets here: leaving without a word refuses them

    def _at_root(self, scope: Scope) -> Scope:
        """Without the path that a proxy puts before ours; some proxies take it off themselves."""
        root, path = self.options.root_path, scope["path"]
        if root and (path == root or path.startswith(f"{root}/")):
            path = path[len(root) :] or "/"
        if path != "/":
            path = path.rstrip("/") or "/"
        return {**scope, "root_path": root, "path": root + path, "our_path": path}

    def refusal(self, scope: Scope) -> Refusal | None:
        """Why this request is not let in."""
        headers = Headers(scope=scope)
        host = _host_name(f"//{headers.get('host', '')}")
        if self.options.is_loopback and host not in self.options.host_names:
            return Refusal(
                421,
                "the Host header names another machine; open the address this server printed, or start it with "
                "--public-url where a proxy stands in front.",
            )
        origin = headers.get("origin")
        if self.options.is_loopback and origin is not None and _host_name(origin) not in self.options.host_names:
            return Refusal(403, "a page from elsewhere may not ask this server; open its own page.")
        if self.options.token is not None and needs_token(scope["our_path"]):
            kind, _, token = headers.get("authorization", "").partition(" ")
            is_right = hmac.compare_digest(token.encode(), self.options.token.encode())
            if kind.lower() != "bearer" or not is_right:
                return Refusal(
                    401,
                    "the token is missing or wrong; send the header Authorization: Bearer TOKEN.",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        if scope["our_path"] == CHAT_PATH and scope["method"] == "POST":
            return self._chat_refusal(scope, headers)
        return None

    def _chat_refusal(self, scope: Scope, headers: Headers) -> Refusal | None:
        """What can be said of a question without its body: parsing what is refused takes time from the others."""
        announced = headers.get("content-length", "")
        num_bytes = int(announced) if announced.isdecimal() and len(announced) < 20 else 0
        if num_bytes > MAX_JSON_BYTES:
            return _too_large(MAX_JSON_BYTES)
        if num_bytes > self.max_chat_bytes:
            return _too_long(self.max_chat_bytes)
        try:
            self.check_chat(client_of(scope))
        except Refusal as refusal:
            return refusal
        return None


class _Exchange:
    """One request and its response."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard, self.scope, self._receive, self._send = guard, scope, receive, send
        self.status = 0
        self.num_received = 0
        self.has_body = False
        self.began = time.monotonic()
        is_upload = scope["our_path"] == UPLOAD_PATH
        self.max_bytes = guard.options.max_upload_bytes + MAX_JSON_BYTES if is_upload else MAX_JSON_BYTES
        self.is_chat = scope["our_path"] == CHAT_PATH

    async def run(self) -> None:
        try:
            refusal = self.guard.refusal(self.scope)
            if refusal is None:
                await self.guard.app(self.scope, self.receive, self.send)
            else:
                await refusal.response()(self.scope, self.receive, self.send)
        except (TooSlow, ClientGone, ClientDisconnect):
            self.status = self.status or NOBODY_THERE
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except (
            BaseException
        ) as error:  # the last place before the server's own log, which would print the error's words
            log_failure(self.route, error)
            if not self.status:
                await internal_error().response()(self.scope, self.receive, self.send)
        finally:
            method = self.scope["method"] if self.scope["method"] in _METHODS else "other"
            self.guard.metrics.requests.labels(method, self.route, str(self.status)).inc()
            log.info("%s %s %d %.0f ms", method, self.route, self.status, 1000 * (time.monotonic() - self.began))

    @property
    def route(self) -> str:
        """The address without anything of the client's in it."""
        return getattr(self.scope.get("route"), "path", None) or "(none)"

    async def receive(self) -> Message:
        if self.has_body:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self.guard.options.stall_timeout_s)
        except TimeoutError:
            self.has_body = True
            seconds = self.guard.options.stall_timeout_s
            raise Refusal(
                408, f"nothing came for {seconds:.0f} s; send the request again.", headers={"Connection": "close"}
            ) from None
        self.num_received += len(message.get("body", b""))
        late, rate = time.monotonic() - self.began - GRACE_S, self.guard.options.min_upload_rate
        if late > 0 and self.num_received < rate * late and message.get("more_body"):
            self.has_body = True
            raise Refusal(
                408,
                f"the body is slower than {rate} bytes/s; try a better connection.",
                headers={"Connection": "close"},
            )
        self.has_body = not message.get("more_body", False)
        if self.is_chat and self.num_received > self.guard.max_chat_bytes:
            raise _too_long(self.guard.max_chat_bytes)
        if self.num_received > self.max_bytes:
            raise _too_large(self.max_bytes)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if not self.scope["our_path"].startswith("/assets/"):
                headers.setdefault("cache-control", "no-store")
        try:
            await asyncio.wait_for(self._send(message), self.guard.options.stall_timeout_s)
        except TimeoutError:
            raise TooSlow from None


_METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"})


def _too_large(max_bytes: int) -> Refusal:
    message = f"the request is larger than {max_bytes} bytes; send less."
    return Refusal(413, message, headers={"Connection": "close"})


def _too_long(max_bytes: int) -> Refusal:
    message = f"the conversation has more than {max_bytes} bytes, and this model reads less; shorten it, or begin anew."
    return Refusal(400, message, param="messages", code="too_long", headers={"Connection": "close"})


def needs_token(path: str) -> bool:
    """All but the page, which holds nothing, and the question whether we live."""
    return path.startswith(("/v1", "/mcp")) or path in ("/metrics", "/openapi.json")


def _host_name(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
