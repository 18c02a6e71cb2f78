"""How is a request refused? In OpenAI's shape, one line: what was found, what was expected, what to change.

{"error": {"message", "type", "param", "code"}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refusal(HTTPException):
    """A request that is not served, and why."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        line = " ".join(message.split()).encode("utf-8", "replace").decode()  # half a surrogate pair cannot be sent
        super().__init__(status_code=status, detail=line, headers=headers)
        self.param, self.code = param, code

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status_code, "invalid_request_error" if self.status_code < 500 else "server_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), status_code=self.status_code, headers=self.headers)


def no_volume() -> Refusal:
    """The same whether it never was or is gone."""
    return Refusal(
        404, "there is no such volume; it may have expired, upload the scan again.", param="volume", code="no_volume"
    )


def internal_error() -> Refusal:
    """A mistake of our own; what it was stands in the log."""
    return Refusal(500, "the server made a mistake; its log says where.", code="internal_error")


def add_handlers(app: FastAPI) -> None:
    """Give every refusal of the framework the same shape."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def refused_by_framework(request: Request, error: HTTPException) -> JSONResponse:
        message = {
            404: "there is nothing at this address; /openapi.json lists what there is.",
            405: "this address does not take that method; /openapi.json lists which it takes.",
        }.get(error.status_code, str(error.detail))
        return Refusal(error.status_code, message, headers=error.headers).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()
        first = next((one for one in found if one["type"] == "string_unicode"), found[0])
        parts = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
        param = ".".join(part for part in parts if part.isidentifier() or part.isdecimal()) or None  # no names of types
        if first["type"] == "json_invalid":
            return Refusal(400, "the body is not valid JSON; send one JSON object.", code="json_invalid").response()
        half = next((letter for letter in str(first.get("input")) if "\ud800" <= letter <= "\udfff"), None)
        if half is not None:
            wrong = f"{param} holds half a character, the lone surrogate \\u{ord(half):04x}; send whole Unicode text."
        elif first["type"] == "extra_forbidden":
            wrong = f"field {parts[-1]!r:.50} is unknown; /openapi.json lists the fields."
        else:
            said = str(first["msg"]).removeprefix("Value error, ")
            wrong = f"{param or 'the body'}: {said[:1].lower()}{said[1:]}."
        return Refusal(400, wrong, param=param).response()
