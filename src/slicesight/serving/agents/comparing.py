"""The tools about several scans: what differs between two, and which are most alike?

Scans are not registered to each other: differing answers or figures are no change of the patient by themselves.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import Field

from slicesight.errors import InputError
from slicesight.inference.answers import Answer
from slicesight.inference.embedding import Embedding, ModelEmbedder
from slicesight.inference.predictor import Predictor
from slicesight.inference.retrieval import Neighbour, cosines, nearest_scans, nearest_slices
from slicesight.models.card import RESEARCH_NOTICE
from slicesight.serving.agents.describing import describe_answer_for_agents, differences
from slicesight.serving.agents.measuring import Measured, labels_of, measure
from slicesight.serving.agents.pictures import draw_slices
from slicesight.serving.agents.scans import ReadScan
from slicesight.serving.agents.shapes import (
    AnswerShape,
    CompareResult,
    NeighbourShape,
    PairShape,
    SearchResult,
    StructureChangeShape,
)
from slicesight.serving.agents.tools import MAX_QUESTIONS, Question, Reading, ScanName, ScanTools, WindowName, result
from slicesight.volumes.receipt import scan_line

NOT_REGISTERED = (
    "The scans are not registered to each other, and a model may answer differently for another protocol: a difference "
    "here is no change of the patient by itself."
)
ALIKE = "Alike for this model is not alike for a reader."
MAX_AMONG = 50


class ComparingTools:
    """The tools about several scans, on the desks of the tools about one."""

    def __init__(self, tools: ScanTools) -> None:
        self.tools = tools
        self._vectors: dict[str, Embedding] = {}

    async def compare_scans(
        self,
        first: ScanName,
        second: ScanName,
        questions: Annotated[
            list[Question] | None, Field(max_length=MAX_QUESTIONS, description="Asked of both; left out, findings.")
        ] = None,
        first_mask: Annotated[str | None, Field(description="A mask of the first scan, to compare structures.")] = None,
        second_mask: Annotated[str | None, Field(description="A mask of the second, with the same labels.")] = None,
        names: Annotated[dict[int, str] | None, Field(description="What the labels are called.")] = None,
        window: WindowName = None,
        answer_anyway: Annotated[
            bool, Field(description="Hold no answer back, only say why not to believe it.")
        ] = False,
        pictures: Annotated[bool, Field(description="Add both heaviest slices of each question.")] = True,
        first_reading: Reading = None,
        second_reading: Reading = None,
    ) -> Annotated[CallToolResult, CompareResult]:
        """Ask the same of two scans, say how their acquisition differs, and compare the structures of their masks.

        Pictures come in pairs, first scan first, of the slice that weighs most in each answer.
        """
        if (first_mask is None) != (second_mask is None):
            raise InputError("one mask alone; give first_mask and second_mask, or neither")
        one = await self.tools.read(first, first_reading, mask=first_mask)
        other = await self.tools.read(second, second_reading, mask=second_mask)
        options, desk = self.tools.options, self.tools.model

        def work(
            predictor: Predictor, progress: Callable[[int, int], None]
        ) -> tuple[Predictor, list[list[Answer]], float | None]:
            found: list[list[Answer]] = []
            for scan in (one, other):
                encoded = desk.encoded(predictor, scan, window=window, plane=None)
                found.append(
                    predictor.ask(
                        encoded,
                        questions,
                        min_confidence=options.min_confidence,
                        answer_anyway=answer_anyway,
                        progress=progress,
                    )
                )
            return predictor, found, self._cosine(predictor, one, other)

        predictor, (answers, others), cosine = await desk.run(work)
        shown: list[bytes] = []
        if pictures:
            for pair in zip(answers, others, strict=True):
                for answer, scan in zip(pair, (one, other), strict=True):
                    shown += await self._heaviest(answer, scan, window)
        return result(
            CompareResult(
                first=one.name,
                second=other.name,
                first_summary=scan_line(one.volume),
                second_summary=scan_line(other.volume),
                differences=differences(one.volume, other.volume),
                cosine=cosine,
                model=predictor.card.name,
                answers=[
                    _pair(describe_answer_for_agents(answer), describe_answer_for_agents(beside))
                    for answer, beside in zip(answers, others, strict=True)
                ],
                structures=await asyncio.to_thread(_changes, one, other, names or {}),
                warnings=list(
                    dict.fromkeys(
                        text
                        for scan in (one, other)
                        for text in (*scan.volume.warnings, *scan.notes, *predictor.card.warnings_about(scan.volume))
                    )
                ),
                caveat=NOT_REGISTERED,
                use=RESEARCH_NOTICE,
            ),
            shown,
        )

    async def search_scans(
        self,
        scan: Annotated[
            str, Field(description="The scan to look for: a file or folder, or a scan's name in the table.")
        ],
        table: Annotated[
            str | None, Field(description="A table that `slicesight embed` wrote, .parquet, below a root.")
        ] = None,
        among: Annotated[
            list[str] | None, Field(min_length=1, max_length=MAX_AMONG, description="Instead: scans to embed now.")
        ] = None,
        grid_slice: Annotated[
            int | None, Field(ge=0, description="Look for slices like this one of the model's grid, not whole scans.")
        ] = None,
        top: Annotated[int, Field(ge=1, le=50)] = 5,
        include_patient_fields: Annotated[
            bool, Field(description="Say whose scans they are; only where the server allows it.")
        ] = False,
        reading: Reading = None,
    ) -> Annotated[CallToolResult, SearchResult]:
        """Find the scans, or slices of scans, most like this one, by the cosine of the model's vectors.

        Searches a table of many scans, or a few named ones.
        """
        self.tools.check_patient_fields(include_patient_fields)
        if (table is None) == (among is None):
            raise InputError("give a table of vectors or the scans to look among, one of the two")
        skipped: list[str] = []
        if table is not None:
            searched = table
            model, neighbours = await self._in_table(scan, table, grid_slice, top, reading)
        else:
            searched = f"{len(among or ())} scans"
            model, neighbours, skipped = await self._among(scan, among or [], grid_slice, top, reading)
        return result(
            SearchResult(
                query=scan,
                among=searched,
                model=model,
                neighbours=[
                    NeighbourShape(
                        rank=one.rank,
                        scan=one.scan,
                        cosine=one.cosine,
                        slices=None if one.source_slices is None else list(one.source_slices),
                        position_mm=None if one.position_mm is None else list(one.position_mm),
                        patient=one.patient if include_patient_fields else None,
                    )
                    for one in neighbours
                ],
                skipped=skipped,
                caveat=ALIKE,
                use=RESEARCH_NOTICE,
            )
        )

    async def _in_table(
        self, query: str, table: str, grid_slice: int | None, top: int, reading: Any
    ) -> tuple[str, list[Neighbour]]:
        from slicesight.inference.embedding_table import read_table

        place = await asyncio.to_thread(self.tools.desk.roots.find, table)
        if not place.is_file() or place.stat().st_size > self.tools.options.max_scan_bytes:
            raise InputError(f"{table}: expected one .parquet file within --max-scan")
        found = await asyncio.to_thread(read_table, place)
        scans = await asyncio.to_thread(lambda: found.scans)
        if query in scans:
            row = scans.index(query)
            vectors: tuple[Any, Any] = (found.volumes[row], found.slices(row) if grid_slice is not None else None)
            without = [query]
        else:
            scan = await self.tools.read(query, reading)

            def work(predictor: Predictor, progress: Callable[[int, int], None]) -> Embedding:
                embedder = _embedder(predictor)
                if embedder.digest() != found.facts["digest"]:
                    raise InputError(
                        f"{table}: was made by {found.facts['model']} with other weights or settings than "
                        f"{embedder.name}'s; start the server with that model, or embed the scans again"
                    )
                return self._embedded(predictor, scan, found.facts["space"])

            embedded = await self.tools.model.run(work)
            vectors, without = (embedded.volume, embedded.slices), []
        if grid_slice is None:
            near = await asyncio.to_thread(nearest_scans, found, vectors[0], count=top, without=without)
        else:
            vector = _slice_of(vectors[1], grid_slice)
            near = await asyncio.to_thread(nearest_slices, found, vector, count=top, without=without)
        return str(found.facts["model"]), near

    async def _among(
        self, query: str, among: Sequence[str], grid_slice: int | None, top: int, reading: Any
    ) -> tuple[str, list[Neighbour], list[str]]:
        """Through a table of the server's own that lives as long as the call, so that both ways search alike."""
        from slicesight.inference.embedding_table import ScanName as RowName
        from slicesight.inference.embedding_table import TableFacts, TableWriter, read_table

        scan = await self.tools.read(query, reading)
        others: dict[str, ReadScan] = {}
        skipped: list[str] = []
        for name in among:
            try:
                other = await self.tools.read(name, None)
                if other.key != scan.key:
                    others[other.name] = other
            except InputError as error:
                skipped.append(self.tools.desk.without_places(" ".join(str(error).split())))
        if not others:
            raise InputError(
                f"none of the {len(among)} scans is another that can be read; {skipped[0] if skipped else 'name more'}"
            )

        def work(predictor: Predictor, progress: Callable[[int, int], None]) -> tuple[str, list[Neighbour]]:
            folder = Path(tempfile.mkdtemp(prefix="slicesight-mcp-", dir=self.tools.options.folder))
            try:
                embedder = _embedder(predictor)
                own = self._embedded(predictor, scan, "encoder")
                facts = TableFacts(model=embedder.name, source="", digest="", space="encoder", has_depth_bins=False)
                writer = TableWriter(folder / "among.parquet", facts)
                for number, (name, other) in enumerate(others.items()):
                    progress(number, len(others))
                    writer.add(RowName(scan=name, stamp=other.key), self._embedded(predictor, other, "encoder"))
                writer.finish()
                table = read_table(folder / "among.parquet")
                if grid_slice is None:
                    return embedder.name, nearest_scans(table, own.volume, count=top)
                return embedder.name, nearest_slices(table, _slice_of(own.slices, grid_slice), count=top)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        model, near = await self.tools.model.run(work)
        return model, near, skipped

    def _embedded(self, predictor: Predictor, scan: ReadScan, space: Any) -> Embedding:
        """A scan's vectors, made once; only on the model's thread."""
        key = f"{scan.key} {space}"
        if key not in self._vectors:
            self._vectors[key] = _embedder(predictor).embed(scan.volume, space=space)
            while len(self._vectors) > 4 * MAX_AMONG:
                del self._vectors[next(iter(self._vectors))]
        return self._vectors[key]

    def _cosine(self, predictor: Predictor, one: ReadScan, other: ReadScan) -> float | None:
        """None for a model that gives no vectors."""
        try:
            first, second = (self._embedded(predictor, scan, "encoder") for scan in (one, other))
        except InputError:
            return None
        return float(cosines(first.volume, second.volume[None])[0])

    async def _heaviest(self, answer: Answer, scan: ReadScan, window: str | None) -> list[bytes]:
        """The slice that weighs most, in the plane of acquisition; nothing where no slice weighs."""
        if not answer.slices:
            return []
        middle = answer.slices[0].source_slices[len(answer.slices[0].source_slices) // 2]
        drawn, _ = await self.tools.paint(
            lambda: draw_slices(scan.volume, slices=[middle], window=window or "auto", labels_ZYX=scan.labels)
        )
        return [drawn[0].png]


def _embedder(predictor: Predictor) -> ModelEmbedder:
    from slicesight.inference.guests.predictor import GuestPredictor

    if isinstance(predictor, GuestPredictor):
        raise InputError(
            f"{predictor.card.name} is a guest and gives no vectors; start the server with one of our models"
        )
    return ModelEmbedder(predictor)


def _slice_of(slices_NL: Any, number: int) -> Any:
    if slices_NL is None:
        raise InputError("the model gives no vectors of slices; leave grid_slice out")
    if number >= len(slices_NL):
        raise InputError(f"grid_slice {number}: the grid has {len(slices_NL)} slices, 0 to {len(slices_NL) - 1}")
    return slices_NL[number]


def _pair(first: AnswerShape, second: AnswerShape) -> PairShape:
    is_known = first.abstained is None and second.abstained is None
    same = is_known and first.answer.strip().lower() == second.answer.strip().lower()
    return PairShape(question=first.question, first=first, second=second, same_answer=same)


def _changes(one: ReadScan, other: ReadScan, names: dict[int, str]) -> list[StructureChangeShape]:
    """Every label of either mask; nothing where there are no masks."""
    if one.labels is None or other.labels is None:
        return []
    found: list[dict[int, Measured]] = [
        {row.label: row for row in (measure(scan.volume, labels) if labels_of(labels) else [])}
        for scan, labels in ((one, one.labels), (other, other.labels))
    ]
    return [_change(label, found[0].get(label), found[1].get(label), names) for label in sorted({*found[0], *found[1]})]


def _change(label: int, first: Measured | None, second: Measured | None, names: dict[int, str]) -> StructureChangeShape:
    """Both sizes and their difference; a label that a mask lacks has no size there, which is not 0."""
    one, two = (None if row is None else row.volume_ml for row in (first, second))
    change = None if one is None or two is None else two - one
    return StructureChangeShape(
        label=label,
        name=names.get(label),
        first_ml=one,
        second_ml=two,
        change_ml=change,
        change_percent=None if change is None or not one else 100 * change / one,
        first_mean=None if first is None else first.mean,
        second_mean=None if second is None else second.mean,
    )
