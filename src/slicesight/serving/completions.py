"""How is an answer said in OpenAI's shape, with the slices it rests on as extra fields?

choices[0].message (whole) or the last content chunk's delta (streamed):
content, scores (N), even_share 1/N, slices (heaviest first), ranges
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slicesight.inference.answers import Answer
from slicesight.inference.continuous import StreamedAnswer
from slicesight.reports.evidence import summarise
from slicesight.volumes.grid import GridVolume


def evidence_fields(answer: Answer, *, plane: str) -> dict[str, Any]:
    """The slices an answer rests on; empty for a model that weighs none.

    plane: of the grid, for slices that do not name their own.
    """
    evidence = summarise(answer)
    return {
        "scores": list(answer.scores),
        "even_share": evidence.even_share,
        "slices": [
            {
                "rank": found.rank,
                "grid_slice": found.grid_slice,
                "score": found.score,
                **_place(found.source_slices, found.position_mm, found.plane or plane),
            }
            for found in answer.slices
        ],
        "ranges": [
            {"name": one.name, "place": one.place, "share": one.share, "grid_slices": list(one.grid_slices)}
            for one in evidence.ranges
        ],
    }


def grid_slices(grid: GridVolume) -> list[dict[str, Any]]:
    """Where every scored slice lies, in the order of the scores."""
    return [
        {"grid_slice": number, **_place(piece.source_slices, piece.position_mm, piece.plane or grid.plane)}
        for number, piece in enumerate(grid.scored_slices)
    ]


def _place(source_slices: Sequence[int], position_mm: Sequence[float] | None, plane: str) -> dict[str, Any]:
    return {
        "source_slices": list(source_slices),
        "position_mm": None if position_mm is None else list(position_mm),
        "plane": plane,
    }


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer on its way to the client."""

    id: str
    model: str
    notices: Sequence[str]
    plane: str
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, told: StreamedAnswer) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        assert told.answer is not None
        message = {"role": "assistant", "content": told.answer.text, "refusal": None}
        return {
            **self._head("chat.completion"),
            "choices": [
                {
                    "index": 0,
                    "message": {**message, **evidence_fields(told.answer, plane=self.plane)},
                    "logprobs": None,
                    "finish_reason": _finish_reason(told),
                }
            ],
            "usage": _usage(told),
        }

    def first_chunk(self) -> str:
        return self._chunk({"role": "assistant", "content": ""})

    def chunk(self, told: StreamedAnswer) -> str:
        """The next words; with the last ones, the slices."""
        if told.answer is None:
            return self._chunk({"content": told.text})
        last = {"content": told.text, **evidence_fields(told.answer, plane=self.plane)}
        return self._chunk(last, finish_reason=_finish_reason(told))

    def usage_chunk(self, told: StreamedAnswer) -> str:
        return _event({**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(told)})

    def _chunk(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**self._head("chat.completion.chunk"), "choices": [choice]})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
            "notices": list(self.notices),
        }


LAST_EVENT = "data: [DONE]\n\n"


def error_event(body: Mapping[str, Any]) -> str:
    """An error after the stream has begun."""
    return _event(body)


def _event(body: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, allow_nan=False)}\n\n"


def _finish_reason(told: StreamedAnswer) -> str:
    return "length" if told.is_cut else "stop"


def _usage(told: StreamedAnswer) -> dict[str, int]:
    asked, said = told.num_prompt_tokens, told.num_answer_tokens
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
