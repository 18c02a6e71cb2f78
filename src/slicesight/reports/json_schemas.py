"""What do the verbs that print JSON print? One class a document; the JSON Schemas in reports/schemas/ are made of them.

    python -m slicesight.reports.json_schemas    # writes them anew; a test holds them against this file

A reader should ignore keys it does not know; a key that is lost or changes its meaning raises `schema`. A class
that is `Open` may hold more than is named here, such as scores or what a model's own card says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

FOLDER = Path(__file__).parent / "schemas"
Share = Annotated[float, Field(ge=0, le=1)]
Pair = Annotated[list[int], Field(min_length=2, max_length=2)]
Millimetres = Annotated[list[float], Field(min_length=3, max_length=3)]


class Closed(BaseModel):
    """Holds what is named and nothing else."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Open(BaseModel):
    """Holds at least what is named."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class WindowFacts(Closed):
    """Which measured values became black and white."""

    name: str
    low: float
    high: float
    unit: str


class GridFacts(Closed):
    """The grid that the model sees."""

    plane: str
    num_slices: int
    height: int
    width: int


class Receipt(Open):
    """How a scan was read and what about it is doubtful."""

    modality: str
    unit: Literal["HU", "SUV", "arbitrary"]
    shape_zyx: Annotated[list[int], Field(min_length=3, max_length=3)]
    spacing_mm_zyx: Millimetres | None
    plane: Literal["axial", "coronal", "sagittal"]
    num_source_slices: int
    stored_orientation: str
    has_positions: bool = Field(description="False: the file states no place in the patient.")
    is_synthetic: bool
    source: dict[str, Any]
    warnings: list[str]
    window: WindowFacts
    crop_zyx: list[Pair]
    grid: GridFacts
    resize: str


class InspectDocument(Receipt):
    """What `slicesight inspect --json` prints."""

    schema_: Literal[1] = Field(alias="schema")


class CardFacts(Open):
    """The model's own card, and what must be said of it."""

    name: str
    warnings: list[str]
    use: str


class RangeFacts(Closed):
    """Neighbouring slices that weigh more than twice an even share."""

    grid_slices: Pair
    name: str
    place: str
    share: float


class EvidenceFacts(Closed):
    """Which slices an answer rests on, and how that is known."""

    measured_by: Literal["scores", "occlusion", "none"]
    note: str | None
    summary: str
    caveat: str
    effective_slices: float | None
    even_share: float
    other_share: float
    ranges: list[RangeFacts]


class SliceFacts(Closed):
    """One slice of the grid and what it weighs."""

    rank: Annotated[int, Field(ge=1)]
    grid_slice: Annotated[int, Field(ge=0)]
    score: float
    source_slices: list[Annotated[int, Field(ge=0)]] = Field(
        description="0-based on the file's third stored axis; DICOM: in order of position."
    )
    position_mm: Millimetres | None = Field(description="Centre, patient coordinates (LPS).")
    sop_instance_uids: list[str]
    plane: Literal["axial", "coronal", "sagittal"] = Field("axial", description="Where several are scored together.")


class AnswerFacts(Closed):
    """An answer and how far it may be trusted."""

    question: str
    system: str | None = Field(
        description="The message that stood before the conversation; null where the model's own template did."
    )
    prefix: str | None = Field(
        description="How the one who asked began `answer`, which the model went on with; null where it began itself."
    )
    answer: str
    finish_reason: Literal["stop", "length"] = Field(description="length: cut, its end is missing.")
    cut_at: int | None = Field(description="Tokens after which the answer was cut.")
    choice: str | None = Field(
        description="The answer of a closed question held to its choices, where that was asked for."
    )
    confidence: Share | None = Field(description="Of a calibrated model: the probability that the answer is right.")
    confidence_note: str | None = Field(
        description="Why there is no confidence; with one, what counts as right where not only the same text does."
    )
    abstained: Literal["strange_scan", "unknown_question", "low_confidence", None] = Field(
        description="Why the model should not answer; null where it may."
    )
    would_say: str | None = Field(
        description="The text that is held back, not to be believed; null where `answer` is the model's own."
    )
    within_choices: bool | None = Field(
        description="Whether the answer names exactly one of the choices; null for an open question."
    )
    evidence: EvidenceFacts
    scores: list[Share] = Field(
        description="One per grid slice, summing to 1; empty for a model that weighs no slices."
    )
    slices: list[SliceFacts]


class AskDocument(Open):
    """What `slicesight ask --json` writes."""

    schema_: Literal[1] = Field(alias="schema")
    scan: Receipt
    model: CardFacts
    answers: list[AnswerFacts]


class StructureFacts(Closed):
    """One structure of a mask."""

    name: str
    value: int = Field(description="Of its voxels in the mask.")
    voxels: int
    volume_ml: float = Field(0.0, description="Left out where the file states no spacing.")
    source_slices: Pair | None = Field(description="The first and last stored slice that show it, from 0.")
    mean_probability: Share = Field(0.0, description="Left out where the network does not ask for each by itself.")


class StrangenessFacts(Closed):
    """How unlike the scans of training this one is; above `limit` it is strange."""

    score: float | None
    limit: float
    is_strange: bool
    reason: str


class PredictDocument(Closed):
    """What `slicesight insight predict --json` writes, and the .json beside a mask."""

    schema_: Literal[1] = Field(alias="schema")
    scan: str
    model: Literal["segmenter", "classifier"]
    warnings: list[str]
    strangeness: StrangenessFacts | None = Field(None, description="Of a calibrated segmenter.")
    structures: list[StructureFacts] = Field([], description="Of a segmenter.")
    probabilities: dict[str, Share] = Field({}, description="Of a classifier.")


class CountsOfSplit(Closed):
    """What one split holds."""

    scans: int
    patients: int
    questions: int
    tasks: dict[str, dict[str, dict[str, float]]]


class PrepareDocument(Closed):
    """What `slicesight prepare --json` prints, and summary.json."""

    schema_: Literal[1] = Field(alias="schema")
    sources: list[Any]
    counts: dict[str, CountsOfSplit]
    skipped: dict[str, int] = Field(description="How many scans were left out, by the kind of reason.")
    duplicates: dict[str, Any] | None
    deduplicated: dict[str, Any] | None
    notes: list[str]


class Sheet(Open):
    """The scores of one system, unrounded; `missing` says why a number is not there."""

    sheet: str | int
    slicesight: str
    system: str
    format: str
    num_pairs: int
    num_volumes: int | None
    open: dict[str, Any] | None
    closed: dict[str, Any] | None
    report: dict[str, Any] | None
    evidence: dict[str, Any] | None
    clinical: dict[str, Any] | None
    selective: dict[str, Any] | None
    controls: Any
    leaks: Any
    metrics: dict[str, Any]
    missing: dict[str, Any]


class ComparisonFacts(Open):
    """A paired test of two systems; p is null where there is none, and `missing` says why."""

    first: str
    second: str
    metric: str
    p: Share | None


class SheetDocument(Sheet):
    """What `slicesight score --json` writes of one system."""

    schema_: Literal[1] = Field(alias="schema")
    benchmark: dict[str, Any] = Field({}, description="With --benchmark.")


class SheetsDocument(Closed):
    """What `slicesight score --json` writes of several systems, and `slicesight compare --json`."""

    schema_: Literal[1] = Field(alias="schema")
    systems: list[Sheet]
    comparisons: list[ComparisonFacts]
    benchmark: dict[str, Any] | None = None


class NeighbourFacts(Closed):
    """One of the nearest; what is not known of it, or belongs to slices only, is left out."""

    rank: int
    scan: str
    cosine: Annotated[float, Field(ge=-1.000001, le=1.000001)]
    patient: str = ""
    grid_slice: int = 0
    plane: str = ""
    source_slices: list[int] = []
    position_mm: Millimetres = []


class NearestDocument(Closed):
    """What `slicesight nearest --json` writes."""

    schema_: Literal[1] = Field(alias="schema")
    query: str
    grid_slice: int | None
    model: str
    space: str
    neighbours: list[NeighbourFacts]
    use: str


class ModelFacts(Closed):
    """One model, where it is, and what it was measured to do."""

    name: str
    state: str
    gib: float | None
    licence: str | None
    trained_on: Any
    summary: str
    scores: dict[str, Any] | None
    hub: str | None
    revision: str | None
    folder: str | None


class ModelsDocument(Closed):
    """What `slicesight models --json` prints."""

    schema_: Literal[1] = Field(alias="schema")
    models: list[ModelFacts]


class DoctorDocument(Open):
    """What `slicesight doctor --json` prints; a part that cannot be told holds {"error": why}."""

    schema_: Literal[1] = Field(alias="schema")
    versions: dict[str, Any]
    processor: dict[str, Any]
    torch: dict[str, Any]
    gpu: list[dict[str, Any]] | dict[str, Any]
    libraries: dict[str, str | None]
    extras: dict[str, dict[str, Any]] | dict[str, str]
    models: list[dict[str, Any]] | dict[str, Any]
    caches: dict[str, Any]
    page: dict[str, Any]
    codecs: list[dict[str, Any]] | dict[str, Any]
    sandbox: dict[str, Any]
    variables: dict[str, str]
    problems: list[str]


DOCUMENTS: dict[str, type[BaseModel] | tuple[type[BaseModel], ...]] = {
    "ask": AskDocument,
    "compare": SheetsDocument,
    "doctor": DoctorDocument,
    "insight-predict": PredictDocument,
    "inspect": InspectDocument,
    "models": ModelsDocument,
    "nearest": NearestDocument,
    "prepare": PrepareDocument,
    "score": (SheetDocument, SheetsDocument),
}
"""By verb; of several classes a document is one."""


def schema_of(verb: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of what a verb prints."""
    kinds = DOCUMENTS[verb]
    union: Any = kinds if not isinstance(kinds, tuple) else kinds[0] | kinds[1]
    made = _without_defaults(TypeAdapter(union).json_schema(by_alias=True))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"slicesight-{verb}-1", **made}


def _without_defaults(part: Any) -> Any:
    """What may be left out has no value then, which a default would seem to say."""
    if isinstance(part, list):
        return [_without_defaults(one) for one in part]
    if not isinstance(part, dict):
        return part
    return {key: _without_defaults(one) for key, one in part.items() if key != "default"}


def file_of(verb: str) -> Path:
    """Where the published schema of a verb lies."""
    return FOLDER / f"{verb}.schema.json"


def text_of(verb: str) -> str:
    """What that file holds."""
    return json.dumps(schema_of(verb), indent=1) + "\n"


if __name__ == "__main__":
    for name in DOCUMENTS:
        file_of(name).write_text(text_of(name), encoding="utf-8")
