"""How do answers and scans become what tools return? The same figures as every other report, none of a patient."""

from __future__ import annotations

from typing import Any

from slicesight.inference.answers import Answer
from slicesight.reports.evidence import caveat_of, describe_answer, doubts_about, summarise
from slicesight.serving.agents.pictures import places_mm
from slicesight.serving.agents.scans import ReadScan
from slicesight.serving.agents.shapes import (
    AnswerShape,
    EvidenceShape,
    RangeShape,
    ScanResult,
    SliceShape,
)
from slicesight.volumes.receipt import scan_line
from slicesight.volumes.volume import Volume

MAX_HEAVIEST = 5
MAX_NUMBERS = 64
PATIENTS_FACTS = ("series_uid", "description")
"""Of a receipt's source: what leads back to a person's images, or was typed in by hand."""


def describe_scan(scan: ReadScan, receipt: dict[str, Any]) -> ScanResult:
    """The receipt and the few facts that a next call needs."""
    volume = scan.volume
    places = places_mm(volume, volume.acquisition_axis)
    first = last = None
    if places is not None:
        first, last = float(places[0]), float(places[-1])
    if volume.slices_reversed:
        first, last = last, first
    return ScanResult(
        scan=scan.name,
        summary=scan_line(volume),
        modality=volume.modality,
        unit=volume.unit,
        shape_zyx=list(volume.shape),
        spacing_mm_zyx=None if volume.spacing_mm is None else [float(size) for size in volume.spacing_mm],
        plane=volume.plane,
        num_slices=volume.num_source_slices,
        first_slice_mm=first,
        last_slice_mm=last,
        lowest=float(volume.voxels.min()),
        highest=float(volume.voxels.max()),
        is_synthetic=volume.is_synthetic,
        warnings=list(volume.warnings),
        receipt=receipt if scan.patient is not None else _nameless(receipt),
        patient=scan.patient,
    )


def _nameless(receipt: dict[str, Any]) -> dict[str, Any]:
    source = {name: value for name, value in receipt["source"].items() if name not in PATIENTS_FACTS}
    return {**receipt, "source": source}


def describe_answer_for_agents(answer: Answer) -> AnswerShape:
    """Text, confidence and what was held back, with the ranges and the heaviest slices."""
    found = summarise(answer)
    ranges = [
        RangeShape(
            name=one.name,
            place=one.place,
            share=one.share,
            slices=_numbers(answer, range(one.grid_slices[0], one.grid_slices[1] + 1)),
        )
        for one in found.shown
    ]
    heaviest = [
        SliceShape(
            rank=one.rank,
            score=one.score,
            slices=_numbers(answer, range(one.grid_slice, one.grid_slice + 1)),
            position_mm=None if one.position_mm is None else list(one.position_mm),
            plane=one.plane,
        )
        for one in answer.slices[:MAX_HEAVIEST]
    ]
    return AnswerShape(
        question=answer.question,
        answer=answer.text,
        confidence=answer.confidence,
        confidence_note=answer.confidence_note,
        abstained=answer.abstained,
        would_say=answer.would_say,
        choice=answer.choice,
        notes=doubts_about(answer),
        evidence=EvidenceShape(
            measured_by=answer.evidence,
            summary=describe_answer(answer),
            caveat=caveat_of(answer),
            even_share=found.even_share,
            effective_slices=found.effective_slices or None,
            ranges=ranges,
            heaviest=heaviest,
        ),
    )


def differences(first: Volume, second: Volume) -> list[str]:
    """What differs in how two scans were acquired, in plain lines."""
    found = []
    for name, one, other in (
        ("modality", first.modality, second.modality),
        ("unit", first.unit, second.unit),
        ("plane", first.plane, second.plane),
        ("size (z, y, x)", "×".join(map(str, first.shape)), "×".join(map(str, second.shape))),
        ("voxels in mm (z, y, x)", _spacing(first), _spacing(second)),
    ):
        if one != other:
            found.append(f"{name}: {one} and {other}")
    if first.is_synthetic != second.is_synthetic:
        found.append("one of the two is synthetic")
    return found


def _spacing(volume: Volume) -> str:
    return "unknown" if volume.spacing_mm is None else "×".join(f"{size:.2f}" for size in volume.spacing_mm)


def _numbers(answer: Answer, grid_slices: range) -> list[int]:
    """The file's slices behind these grid slices; none of a reformatted plane, whose every cut crosses all of them."""
    found: set[int] = set()
    for one in answer.slices:
        if one.grid_slice in grid_slices:
            alike = [other for other in answer.slices if other.plane == one.plane]
            if len(alike) == 1 or any(other.source_slices != one.source_slices for other in alike):
                found.update(one.source_slices)
    return sorted(found)[:MAX_NUMBERS]
