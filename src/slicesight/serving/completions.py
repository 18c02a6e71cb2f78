"""How is an answer written in OpenAI's shape, with the weight of every slice as extra fields?

choices[0].message (whole) or the last content chunk's delta (streamed):
content, confidence, abstained, would_say, scores (N), even_share 1/N, evidence in words, slices (heaviest first),
ranges
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slicesight.inference.answers import Answer, AnswerPiece
from slicesight.reports.evidence import caveat_of, describe_answer, summarise
from slicesight.volumes.grid import GridVolume


def evidence_fields(answer: Answer, *, plane: str) -> dict[str, Any]:
    """How sure the model is, and how much every slice weighs in an answer; empty for a model that weighs none.

    plane: of the grid, for slices that do not name their own.
    """
    evidence = summarise(answer)
    return {
        "confidence": answer.confidence,
        "confidence_note": answer.confidence_note,
        "abstained": answer.abstained,
        "would_say": answer.would_say,
        "scores": list(answer.scores),
        "even_share": evidence.even_share,
        "other_share": evidence.other_share,
        "effective_slices": evidence.effective_slices or None,
        "evidence": answer.evidence,
        "evidence_note": answer.evidence_note,
        "evidence_summary": describe_answer(answer),
        "evidence_caveat": caveat_of(answer),
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

    def whole(self, piece: AnswerPiece) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        assert piece.answer is not None
        message = {"role": "assistant", "content": piece.answer.text, "refusal": None}
        return {
            **self._head("chat.completion"),
            "choices": [
                {
                    "index": 0,
                    "message": {**message, **evidence_fields(piece.answer, plane=self.plane)},
                    "logprobs": None,
                    "finish_reason": _finish_reason(piece),
                }
            ],
            "usage": _usage(piece),
        }

    def first_chunk(self) -> str:
        return self._chunk({"role": "assistant", "content": ""})

    def chunk(self, piece: AnswerPiece) -> str:
        """The next text; with the last of it, the slices."""
        if piece.answer is None:
            return self._chunk({"content": piece.text})
        last = {"content": piece.text, **evidence_fields(piece.answer, plane=self.plane)}
        return self._chunk(last, finish_reason=_finish_reason(piece))

    def usage_chunk(self, piece: AnswerPiece) -> str:
        return write_event({**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(piece)})

    def _chunk(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return write_event({**self._head("chat.completion.chunk"), "choices": [choice]})

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


def write_event(body: Mapping[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False, allow_nan=False)}\n\n"


def _finish_reason(piece: AnswerPiece) -> str:
    return "length" if piece.is_truncated else "stop"


def _usage(piece: AnswerPiece) -> dict[str, int]:
    prompt, answer = piece.num_prompt_tokens, piece.num_answer_tokens
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
