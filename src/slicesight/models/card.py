"""What is a model made from, and may its answers be believed about this scan?

A model folder holds `card.json` beside its weights:
{"name", "trained_on": "synthetic" or a plain phrase, "summary", "caption_question", ... any further facts}.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slicesight.errors import ModelError
from slicesight.files import read_json_object
from slicesight.volumes.volume import Volume

CARD_FILE = "card.json"
RESEARCH_NOTICE = "For research use only. Not a medical device: no answer here may guide a diagnosis or a treatment."
DEFAULT_CAPTION_QUESTION = "Describe the findings of this scan."


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The facts about a model that its user must see beside its answers."""

    name: str
    trained_on: str = "unknown"
    summary: str = ""
    caption_question: str = DEFAULT_CAPTION_QUESTION
    notices: tuple[str, ...] = ()
    """What must be read about this model whatever the scan."""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_synthetic(self) -> bool:
        """The model has seen synthetic scans only."""
        return self.trained_on == "synthetic"

    def warnings_about(self, volume: Volume) -> tuple[str, ...]:
        """Plain sentences that must stand beside any answer this model gives about `volume`."""
        return self.notices if volume.is_synthetic else self.warnings

    @property
    def warnings(self) -> tuple[str, ...]:
        """Plain sentences that must stand beside any answer about a real scan."""
        if self.is_synthetic:
            warning = f"{self.name} was trained on synthetic CT only: its answer about a real scan means nothing."
            return (warning, *self.notices)
        return self.notices

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: the card's own facts first, so that nothing the author wrote is lost."""
        return {**self.facts, "name": self.name, "trained_on": self.trained_on, "summary": self.summary}


def read_card(path: Path | None, *, name: str) -> ModelCard:
    """Read a card file; a model without one gets a card that says only its name.

    Raises:
        ModelError: the file is not a JSON object, or one of the known facts is not text.
    """
    if path is None or not path.is_file():
        return ModelCard(name=name)
    facts = read_json_object(path, error=ModelError)
    known: dict[str, Any] = {"name": name}
    for key in ("name", "trained_on", "summary", "caption_question"):
        if key not in facts:
            continue
        if not isinstance(facts[key], str):
            raise ModelError(f"{path}: {key} is {facts[key]!r}, expected text.")
        known[key] = facts[key]
    return ModelCard(**known, facts=facts)
