"""What do the tools return, as JSON Schema for a client that checks it? One class a result; pictures go beside it.

Every number has its unit in its name or its description; what is not known is null, never a guess.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Use = Annotated[str, Field(description="What the answers may be used for.")]


class Shape(BaseModel):
    """The settings of all shapes: nothing is returned that the schema does not name."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ReadingShape(BaseModel):
    """How a file is to be read where it does not say enough itself; all may be left out."""

    model_config = ConfigDict(extra="forbid")

    series: str | None = Field(None, description="Series instance UID, for a DICOM folder that holds several.")
    spacing_mm: tuple[float, float, float] | None = Field(
        None, description="Voxel size (z, y, x) where the header's is missing or wrong."
    )
    time_point: int | None = Field(None, description="Which volume of a 4D file, from 0.")
    unit: Literal["HU", "arbitrary"] | None = Field(None, description="For files that do not say.")
    fill: str | None = Field(
        None, description='What takes the place of NaN: "LOWEST" or a number; else NaN is refused.'
    )


class ListedShape(Shape):
    """A file or folder that looks like a scan."""

    name: str = Field(description="What the other tools take as `scan`, `mask` or `table`.")
    kind: str
    files: int
    megabytes: float


class ListResult(Shape):
    """What there is."""

    folder: str
    found: list[ListedShape]
    is_complete: bool = Field(description="False: there is more; name a subfolder.")


class ScanResult(Shape):
    """How a scan is read, and what about it is doubtful."""

    scan: str
    summary: str
    modality: str
    unit: str
    shape_zyx: list[int]
    spacing_mm_zyx: list[float] | None
    plane: str = Field(description="Of acquisition: axial, coronal or sagittal.")
    num_slices: int = Field(description="In the acquired plane; slices are numbered from 0.")
    first_slice_mm: float | None = Field(description="Place of slice 0 along the stacking axis (LPS); null if unknown.")
    last_slice_mm: float | None
    lowest: float
    highest: float
    is_synthetic: bool
    warnings: list[str]
    receipt: dict[str, Any] = Field(description="The whole receipt, as `slicesight inspect --json` prints it.")
    patient: dict[str, str] | None = Field(
        description="DICOM keyword to value; null unless include_patient_fields was asked for and is allowed here."
    )


class RangeShape(Shape):
    """Neighbouring slices that weigh more than twice an even share."""

    name: str
    place: str = Field(description="In millimetres along the stacking axis; empty where the file states no place.")
    share: float
    slices: list[int] = Field(description="The file's slices (acquired plane) behind the range: for show_slices.")


class SliceShape(Shape):
    """One of the heaviest slices of the model's grid."""

    rank: int
    score: float
    slices: list[int] = Field(description="The file's slices (acquired plane) behind it: for show_slices.")
    position_mm: list[float] | None = Field(description="Its centre (x, y, z), LPS.")
    plane: str | None


class EvidenceShape(Shape):
    """Which slices the answer rests on, and how that is known."""

    measured_by: Literal["scores", "occlusion", "none"]
    summary: str
    caveat: str = Field(description="What the weights do not say.")
    even_share: float = Field(description="What a slice would weigh if all weighed alike.")
    effective_slices: float | None
    ranges: list[RangeShape]
    heaviest: list[SliceShape]


class AnswerShape(Shape):
    """An answer and how far it may be trusted."""

    question: str
    answer: str
    confidence: float | None = Field(description="Calibrated probability that it is right; null: not known.")
    confidence_note: str | None
    abstained: Literal["strange_scan", "unknown_question", "low_confidence"] | None = Field(
        description="Why the model should not answer; then `answer` gives no answer unless answer_anyway was set."
    )
    would_say: str | None = Field(description="What is held back; not to be believed.")
    choice: str | None
    notes: list[str] = Field(description="What must be read with the answer: held back, cut, outside the choices.")
    evidence: EvidenceShape


class AskResult(Shape):
    """All answers about a scan."""

    scan: str
    summary: str
    reading: str
    model: str
    answers: list[AnswerShape]
    warnings: list[str]
    use: Use


class PictureShape(Shape):
    """One picture of the result, in the order of the image blocks."""

    caption: str
    slice: int
    plane: str
    position_mm: float | None
    width: int
    height: int


class ShowResult(Shape):
    """What the pictures show."""

    scan: str
    summary: str
    window: str
    pictures: list[PictureShape]
    outlined: list[int] = Field(description="Labels of the mask that are outlined.")
    warnings: list[str]
    use: Use


class StructureShape(Shape):
    """The figures of one label of the mask, over its voxels, in the scan's unit."""

    label: int
    name: str | None
    voxels: int
    volume_ml: float | None
    mean: float
    sd: float
    minimum: float
    median: float
    maximum: float
    slices: list[int] = Field(description="First and last slice (acquired plane) that show it.")
    centroid_mm: list[float] | None = Field(description="(x, y, z), LPS.")
    extent_mm: list[float] | None = Field(description="Of its bounding box (x, y, z).")
    reaches_edge: bool = Field(description="True: part of it may lie outside the scan.")


class MeasureResult(Shape):
    """The structures of a mask on its scan."""

    scan: str
    mask: str
    unit: str = Field(description="Of mean, sd, minimum, median and maximum: HU, SUV or arbitrary.")
    structures: list[StructureShape]
    warnings: list[str]
    use: Use


class PairShape(Shape):
    """The same question of both scans."""

    question: str
    first: AnswerShape
    second: AnswerShape
    same_answer: bool


class StructureChangeShape(Shape):
    """A label in both masks."""

    label: int
    name: str | None
    first_ml: float | None
    second_ml: float | None
    change_ml: float | None
    change_percent: float | None
    first_mean: float | None
    second_mean: float | None


class CompareResult(Shape):
    """Two scans side by side."""

    first: str
    second: str
    first_summary: str
    second_summary: str
    differences: list[str] = Field(description="In how they were acquired, which may explain differing answers.")
    cosine: float | None = Field(description="Of the model's vectors of both scans, 1 for the same; null: it has none.")
    model: str
    answers: list[PairShape]
    structures: list[StructureChangeShape]
    warnings: list[str]
    caveat: str
    use: Use


class NeighbourShape(Shape):
    """One of the nearest."""

    rank: int
    scan: str
    cosine: float
    slices: list[int] | None
    position_mm: list[float] | None
    patient: str | None = Field(description="Null unless include_patient_fields was asked for and is allowed here.")


class SearchResult(Shape):
    """The scans, or slices of scans, that are most alike for the model."""

    query: str
    among: str
    model: str
    neighbours: list[NeighbourShape]
    skipped: list[str] = Field(description="Scans that could not be read, and why.")
    caveat: str
    use: Use
