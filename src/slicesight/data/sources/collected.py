"""How do rows that name a scan each become one case per scan? Questions gather under the scan and split they are about.

Used by the layouts whose rows are questions (3D-RAD, DeepTumorVQA, AMOS-MM, ReXGroundingCT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slicesight.data.manifest import Case, Conversation, Split
from slicesight.data.sources.intake import Intake, SourceLocation


@dataclass(kw_only=True)
class CollectedCases:
    """Cases in the order in which their scans are first named; a question's id may come once.

    source: what every case says it came from.
    """

    source: str
    intake: Intake
    _cases: dict[tuple[str, Split | None], Case] = field(default_factory=dict)
    _asked: dict[tuple[str, Split | None], list[Conversation]] = field(default_factory=dict)
    _first: dict[str, SourceLocation] = field(default_factory=dict)

    def add(
        self,
        name: str,
        path: Path,
        conversations: Sequence[Conversation],
        where: SourceLocation,
        *,
        split: Split | None,
        patient: str | None,
    ) -> None:
        """Questions about the scan `name`, which lies at `path`; one whose id came before is refused."""
        kept = []
        for asked in conversations:
            key = asked.id or ""
            if key in self._first:
                reason = f"question {key!r} is already in {self._first[key]}; give each question its own id"
                self.intake.refuse("bad row", reason, where, case_id=name)
                continue
            self._first[key] = where
            kept.append(asked)
        if not kept:
            return
        if (name, split) not in self._cases:
            case_id = name if not any(known == name for known, _ in self._cases) else f"{name}@{split}"
            self._cases[name, split] = Case(
                id=case_id, volume=str(path), split=split, patient=patient, source=self.source, conversations=()
            )
            self._asked[name, split] = []
        self._asked[name, split] += kept

    @property
    def cases(self) -> list[Case]:
        """Every scan that has a question, with all of its questions."""
        return [case.model_copy(update={"conversations": tuple(self._asked[key])}) for key, case in self._cases.items()]
