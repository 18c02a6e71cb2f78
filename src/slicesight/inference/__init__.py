"""Ask a model about scans: `load` gives a `Predictor`. Its names load their modules on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slicesight.inference.answers import Answer, AnswerPiece, SliceEvidence
    from slicesight.inference.embedding import Embedding, load_embedder
    from slicesight.inference.encoded_scan import EncodedScan
    from slicesight.inference.loading import load
    from slicesight.inference.predictor import Predictor

_HOMES = {
    "Answer": "answers",
    "AnswerPiece": "answers",
    "Embedding": "embedding",
    "EncodedScan": "encoded_scan",
    "Predictor": "predictor",
    "SliceEvidence": "answers",
    "load": "loading",
    "load_embedder": "embedding",
}
__all__ = ["Answer", "AnswerPiece", "Embedding", "EncodedScan", "Predictor", "SliceEvidence", "load", "load_embedder"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
