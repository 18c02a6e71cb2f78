"""Which options do all verbs share that ask questions of scans, of one, of a folder or of what arrives in one?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from slicesight.cli.options import (
    AnswerAnywayOption,
    EvidenceOption,
    FillOption,
    MinConfidenceOption,
    PagesOption,
    PassesOption,
    PlaneOption,
    PresetOption,
    SpacingOption,
    TimePointOption,
    UnitOption,
    WindowOption,
    WorkersOption,
    guest_settings,
    share_from_0_to_1,
    three_numbers,
)

Choices = Literal["free", "only", "both"]
"""How a question that lists its choices is answered."""


@dataclass(frozen=True, kw_only=True)
class AskingOptions:
    """How a scan is read, shown to the model and asked."""

    window: WindowOption = None
    plane: PlaneOption = None
    spacing_mm: SpacingOption = None
    time_point: TimePointOption = None
    unit: UnitOption = None
    fill: FillOption = None
    preset: PresetOption = None
    evidence: EvidenceOption = True
    evidence_passes: PassesOption = None
    min_confidence: MinConfidenceOption = None
    answer_anyway: AnswerAnywayOption = False
    int8: Annotated[
        bool, typer.Option("--int8", help="Round the model to 8 bits where that makes it quicker on this processor.")
    ] = False
    workers: WorkersOption = 1
    pages: PagesOption = True

    def __post_init__(self) -> None:
        from slicesight.volumes.grid import GridSpec

        three_numbers(self.spacing_mm, "--spacing-mm")
        _ = self.guest_settings
        share_from_0_to_1(self.min_confidence, "--min-confidence")
        GridSpec(window=self.window or "auto", plane=self.plane or "acquired")  # refuses what does not exist

    @property
    def guest_settings(self) -> dict[str, Any]:
        """What a guest is loaded with."""
        return guest_settings(preset=self.preset, evidence=self.evidence, passes=self.evidence_passes)
