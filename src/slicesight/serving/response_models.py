"""What do the responses look like to a program that reads /openapi.json?"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class ErrorShape(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None
    code: str | None


class RefusalShape(BaseModel):
    """OpenAI's shape of an error."""

    error: ErrorShape


class GridShape(BaseModel):
    """The grid the model sees."""

    num_slices: int
    height: int
    width: int
    plane: str
    window: str


class GridSliceShape(BaseModel):
    """One scored slice: the file's own slices behind it, and its centre (LPS, mm)."""

    grid_slice: int
    source_slices: list[int]
    position_mm: list[float] | None
    plane: str


class VolumeShape(BaseModel):
    """A scan the server keeps."""

    id: str
    object: str
    created: int
    expires_at: int | None
    bytes: int
    receipt: dict[str, Any]
    grid: GridShape
    grid_slices: list[GridSliceShape]
    instance_numbers: list[int] | None
    notices: list[str]


class StoredShape(BaseModel):
    """A report in an archive."""

    sop_instance_uid: str
    archive: str


class SliceShape(GridSliceShape):
    """A slice and how much it weighs in an answer."""

    rank: int
    score: float


class RangeShape(BaseModel):
    """Neighbouring slices that weigh more than twice an even spread."""

    name: str
    place: str
    share: float
    grid_slices: list[int]


class AnswerShape(BaseModel):
    """An assistant's message with what weighs in it."""

    role: str
    content: str
    refusal: None
    confidence: float | None
    confidence_note: str | None
    abstained: Literal["strange_scan", "unknown_question", "low_confidence"] | None
    would_say: str | None
    scores: list[float]
    even_share: float
    other_share: float
    effective_slices: float | None
    evidence: str
    evidence_note: str | None
    evidence_summary: str
    evidence_caveat: str
    slices: list[SliceShape]
    ranges: list[RangeShape]


class ChoiceShape(BaseModel):
    """The one choice."""

    index: int
    message: AnswerShape
    logprobs: None
    finish_reason: str


class UsageShape(BaseModel):
    """Tokens, those of the volume among the prompt's."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionShape(BaseModel):
    """OpenAI's chat completion."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: None
    notices: list[str]
    choices: list[ChoiceShape]
    usage: UsageShape


class ModelShape(BaseModel):
    """OpenAI's model, with what it was made from."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    object: str
    created: int
    owned_by: str
    card: dict[str, Any]
    notices: list[str]


class ModelsShape(BaseModel):
    """OpenAI's list."""

    object: str
    data: list[ModelShape]


class SettingsShape(BaseModel):
    """What a page has to know; `instance` is another after every start, when the scans are gone."""

    model: str
    notices: list[str]
    ready_questions: list[str]
    max_upload_bytes: int
    archives: list[str]
    windows: list[str]
    default_answer_tokens: int
    max_answer_tokens: int
    max_client_volumes: int
    keep_minutes: float
    instance: str
    needs_token: bool


def _refusal(text: str) -> dict[str, Any]:
    return {"model": RefusalShape, "description": text}


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: _refusal("Something in the request is wrong; `param` names it."),
    401: _refusal("The token is missing or wrong."),
    403: _refusal("A page from elsewhere, or an address outside the named archives."),
    404: _refusal("There is no such volume, model or answer."),
    408: _refusal("The request's body did not keep coming."),
    409: _refusal("It cannot be done with this scan."),
    413: _refusal("Larger than this server takes."),
    415: _refusal("Neither a form nor JSON."),
    421: _refusal("The Host header names another machine."),
    422: _refusal("The scan cannot be read."),
    429: _refusal("As many questions wait, or volumes are kept, as may; Retry-After says when to come again."),
    500: _refusal("A mistake of the server's own, or of this one answer."),
    502: _refusal("The archive cannot be reached, or refuses."),
    503: _refusal("Too many connections, or the model is being started again; Retry-After says when to come again."),
    504: _refusal("No whole answer in time."),
    507: _refusal("The disk for scans is full."),
}
