"""What happens to a line or file that cannot become a case: stop and say so, or set it aside and go on?

Two kinds of things are set aside. What is merely not a case (a mask without a text, an empty series) is always listed
and never fatal. What should have been one (a row that contradicts itself, a volume that is missing) stops the run
unless `on_bad_case` is "skip".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from slicesight.errors import InputError

OnBadCase = Literal["stop", "skip"]


class UnusableError(ValueError):
    """What one line says cannot be made into a question; the reader that knows file and line reports it."""


@dataclass(frozen=True, kw_only=True)
class SourceRequest:
    """Where to look.

    source: what the user pointed at; volumes: where else scan files may lie; out: is never read as part of the source.
    """

    source: Path
    out: Path
    volumes: Path | None = None

    @property
    def base(self) -> Path:
        """The folder of the source, or in which it lies."""
        return self.source if self.source.is_dir() else self.source.parent


class SourceLocation(NamedTuple):
    """Where in the source something stands: a file's name, and the line in it where there are lines."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file} line {self.line}"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Something of the source that is in no case, and why; `kind` is what the summary counts by."""

    kind: str
    reason: str
    place: SourceLocation | None = None
    case_id: str | None = None

    def __str__(self) -> str:
        return self.reason if self.place is None else f"{self.place}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        file, line = self.place or (None, None)
        facts = {"kind": self.kind, "file": file, "line": line, "id": self.case_id, "reason": self.reason}
        return {key: value for key, value in facts.items() if value is not None}


@dataclass(kw_only=True)
class Intake:
    """What a reader reports beside its cases."""

    on_bad_case: OnBadCase = "stop"
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def leave_out(
        self, kind: str, reason: str, place: SourceLocation | None = None, *, case_id: str | None = None
    ) -> None:
        """List what was never meant to be a case."""
        self.skipped.append(Skipped(kind=kind, reason=reason, place=place, case_id=case_id))

    def refuse(
        self, kind: str, reason: str, place: SourceLocation | None = None, *, case_id: str | None = None
    ) -> None:
        """Stop at a bad case, or list it.

        Args:
            reason: what was found, what was expected and, after a semicolon, what to change.

        Raises:
            InputError: with `on_bad_case` "stop".
        """
        if self.on_bad_case == "stop":
            skipped = Skipped(kind=kind, reason=reason, place=place)
            raise InputError(f"{skipped} (--on-bad-case skip goes on without it)")
        self.leave_out(kind, reason, place, case_id=case_id)
