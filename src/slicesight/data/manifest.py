"""What one line of a manifest holds: a volume, where its labels are, and its question-answer pairs.

A manifest is JSONL (one `Case` a line). M3D's convention is followed: 1 report, 5 open and 5 closed questions, closed
prompts `{question} Choices: A. {} B. {} C. {} D. {}`, closed targets `{letter}. {answer}` (M3D-VQA).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    ValidationError,
    model_validator,
)

from slicesight.data.choices import FOUR_LETTERS as FOUR_LETTERS
from slicesight.data.choices import LETTERS as LETTERS
from slicesight.errors import ManifestError, check_type
from slicesight.files import replacing
from slicesight.io.assemble import Fill, checked_fill
from slicesight.volumes.slice_range import Side

Task = Literal["report", "open", "closed"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
PART_OPTIONS = ("slices", "side")
"""Options of reading that name a part of a scan; without them it is the whole."""


def _fill(value: Any) -> Fill | None:
    """A true or a list is no number."""
    return checked_fill(value if isinstance(value, str | int | float | None) and not isinstance(value, bool) else "")


FillField = Annotated[Fill | None, BeforeValidator(_fill, json_schema_input_type=str | float | None)]
"""What takes the place of NaN: "LOWEST" or a number, also as text."""


class Conversation(BaseModel):
    """One question about a volume and its true answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str | None = None
    """Names the question in predictions; unique in a manifest where it is given."""
    task: Task
    topic: str
    question: str
    choices: tuple[str, ...] | None = None
    answer: str
    answer_choice: str | None = None
    source_slices: tuple[int, ...] | None = None
    """Slices of the file that show what is asked; None where nobody knows."""
    label_values: tuple[int, ...] | None = None
    """Values of the case's label map that mark what is asked, where source_slices is not given."""

    @model_validator(mode="after")
    def _closed_answers_are_among_the_choices(self) -> Conversation:
        if self.task != "closed":
            return self
        if not self.choices or not self.answer_choice:
            raise ValueError("a closed question needs `choices` and `answer_choice`")
        if len(self.choices) > len(LETTERS):
            raise ValueError(f"a closed question has {len(self.choices)} choices; at most {len(LETTERS)} have a letter")
        index = LETTERS.find(self.answer_choice)
        if index < 0 or index >= len(self.choices) or self.choices[index] != self.answer:
            raise ValueError(f"answer_choice {self.answer_choice!r} does not point at the answer {self.answer!r}")
        return self

    @property
    def prompt(self) -> str:
        """The question as the model reads it."""
        if not self.choices:
            return self.question
        listed = " ".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, self.choices, strict=False))
        return f"{self.question} Choices: {listed}"

    @property
    def target(self) -> str:
        """The answer as the model should write it."""
        return f"{self.answer_choice}. {self.answer}" if self.answer_choice else self.answer


class Reading(BaseModel):
    """What the scan's file leaves open, said as to `io.loading.read_volume`; spacing_mm is (z, y, x).

    slices: the case is these source slices (first, last) of the scan. side: one half of the patient.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    series: str | None = None
    time_point: int | None = Field(default=None, ge=0)
    unit: Literal["HU", "arbitrary"] | None = None
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    fill: FillField = None
    slices: tuple[NonNegativeInt, NonNegativeInt] | None = None
    side: Side | None = None

    def options(self) -> dict[str, Any]:
        """The arguments that are given, for `read_volume`."""
        given = self.model_dump(exclude_none=True)
        return {"series_uid" if name == "series" else name: value for name, value in given.items()}


class Case(BaseModel):
    """One volume with its conversations; `volume` and `labels` are relative to the manifest's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    """Unique in its manifest; a name such as "ct_case/000017/Axial", not a file."""
    split: Split | None = None
    patient: str | None = None
    """Who was scanned, by the source's pseudonym: no patient may be in two splits."""
    source: str | None = None
    """The data set the case was converted from, such as "m3d-cap"."""
    volume: str
    labels: str | None = None
    reading: Reading | None = None
    """How the volume is to be read, where its file leaves that open."""
    conversations: tuple[Conversation, ...]
    truth: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _label_values_are_of_a_label_map(self) -> Case:
        if self.labels is None and any(asked.label_values for asked in self.conversations):
            raise ValueError("a question names label_values but the case has no `labels`, the file of its label map")
        return self

    @property
    def read_options(self) -> dict[str, Any]:
        """Arguments for `io.loading.read_volume`; mostly none."""
        return self.reading.options() if self.reading is not None else {}

    @property
    def patient_key(self) -> str | None:
        """What the scans of one patient share, without the name: a digest of source and patient."""
        if self.patient is None:
            return None
        return hashlib.sha256(f"{self.source}\t{self.patient}".encode()).hexdigest()[:12]

    def with_fill(self, fill: Fill) -> Case:
        """The case with what takes the place of its scan's NaN, unless it says so itself."""
        reading = self.reading or Reading()
        if reading.fill is not None:
            return self
        return self.model_copy(update={"reading": reading.model_copy(update={"fill": fill})})


def read_manifest(path: str | Path) -> list[Case]:
    """Read a manifest; raises `ManifestError` naming the first bad line (a case id must not come twice)."""
    return list(iter_manifest(path))


def iter_manifest(path: str | Path) -> Iterator[Case]:
    """The cases of a manifest one after the other, for manifests too long to hold; errors as `read_manifest`."""
    check_type(path, (str, Path), name="manifest", expected="the path of a JSONL file")
    path = Path(path)
    if not path.is_file():
        raise ManifestError(f"{path.name}: no such manifest; expected a JSONL file with one volume a line")
    line_of: dict[str, int] = {}
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                case = Case.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"]) or "line"
                raise ManifestError(f"{path.name} line {number}: {where}: {first['msg']}") from None
            if case.id in line_of:
                raise ManifestError(
                    f"{path.name} line {number}: id {case.id!r} is on line {line_of[case.id]}; give each case its own"
                )
            line_of[case.id] = number
            yield case
    if not line_of:
        raise ManifestError(f"{path.name}: no cases found; expected one JSON object a line")


def write_manifest(cases: Iterable[Case], path: str | Path) -> None:
    """Write a manifest under a temporary name, then rename; ManifestError where an id comes twice."""
    with replacing(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        for line in _lines(cases):
            file.write(line)


def _lines(cases: Iterable[Case]) -> Iterator[str]:
    seen: set[str] = set()
    for case in cases:
        check_type(case, Case, name="a line of the manifest", expected="a Case")
        if case.id in seen:
            raise ManifestError(f"two cases have the id {case.id!r}; give each its own")
        seen.add(case.id)
        yield case.model_dump_json(exclude_none=True) + "\n"
