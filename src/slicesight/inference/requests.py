"""What does a caller hand over who wants questions answered, by a model here or by a server elsewhere?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slicesight.errors import InputError
from slicesight.inference.answers import AnswerPiece
from slicesight.inference.calibration.calibration import AnswerRule
from slicesight.inference.encoded_scan import EncodedScan

if TYPE_CHECKING:
    from slicesight.inference.prompts import TokenizedQuestion
    from slicesight.inference.sampling import Sampler

History = Sequence[tuple[str, str]]
"""Earlier (question, answer) turns of a conversation."""


@dataclass(eq=False, kw_only=True)
class AskRequest:
    """Questions about one scan that somebody waits for.

    scan: gives the encoded scan when their turn comes; None for questions without a scan.
    on_piece, on_error: called by the thread that answers. in_pieces: whether text is wanted before an answer is whole.
    options: of `Predictor.ask`. sampler: made from them already, where several requests share one.
    tokenized: the questions' prompts, where another thread made them. first_number: of its questions, for the seed.
    constrained: numbers of the questions that must be answered with one of their choices, where they list any.
    rule: when an answer of a calibrated model is held back. wants_likelihoods: pieces carry them; nothing is judged.
    is_cancelled: set by any thread; nothing is passed on any more. client, since: who asks, and from when on it waits,
    for a queue in front. system, prefix: a message before the conversation, and how the answers begin.
    """

    scan: Callable[[], EncodedScan] | None
    questions: Sequence[str]
    on_piece: Callable[[AnswerPiece], None]
    on_error: Callable[[Exception], None]
    history: History = ()
    system: str | None = None
    prefix: str = ""
    max_new_tokens: int = 160
    options: dict[str, Any] = field(default_factory=dict)
    sampler: Sampler | None = None
    tokenized: Sequence[TokenizedQuestion] | None = None
    in_pieces: bool = True
    first_number: int = 0
    constrained: Collection[int] = ()
    rule: AnswerRule = field(default_factory=AnswerRule)
    wants_likelihoods: bool = False
    is_cancelled: bool = False
    client: str = ""
    since: float = 0.0

    @property
    def given(self) -> dict[str, Any]:
        """What an `Answer` says of how it was asked."""
        return {"system": self.system, "prefix": self.prefix}

    def check(self) -> None:
        """Raises InputError for an answer that is begun and held to its choices."""
        if self.prefix and self.constrained:
            raise InputError("the answer is begun and held to choices; leave one of the two out.")


def as_exception(error: BaseException) -> Exception:
    """An error of one question: native code of a tokenizer panics with what is no Exception.

    Raises:
        BaseException: the program is to stop.
    """
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        raise error
    return error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
