"""The tools themselves: what does each take, do and return?

Every tool reads; none writes below the roots. A result is structured content after its schema (`shapes.py`), the same
as JSON text for clients that pass on text alone, and pictures. A user's mistake is an InputError and comes back as an
error result in one line; what each may cost is bounded in `server.py`.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from mcp.types import CallToolResult, ImageContent, TextContent
from pydantic import BaseModel, Field

from slicesight.errors import InputError
from slicesight.inference.answers import Answer
from slicesight.inference.predictor import Predictor
from slicesight.models.card import RESEARCH_NOTICE
from slicesight.reports.ask import AnswerReport
from slicesight.reports.evidence import reading_line
from slicesight.reports.figure import draw_report, save_figure
from slicesight.reports.inspection import write_contact_sheet
from slicesight.serving.agents.describing import describe_answer_for_agents, describe_scan
from slicesight.serving.agents.measuring import labels_of, measure
from slicesight.serving.agents.model_desk import ModelDesk
from slicesight.serving.agents.options import AgentOptions
from slicesight.serving.agents.pictures import draw_slices, png_of
from slicesight.serving.agents.roots import ListedScan
from slicesight.serving.agents.scans import ReadScan, ScanDesk
from slicesight.serving.agents.shapes import (
    AskResult,
    ListedShape,
    ListResult,
    MeasureResult,
    PictureShape,
    ReadingShape,
    ScanResult,
    ShowResult,
    StructureShape,
)
from slicesight.volumes.grid import GridSpec, GridVolume, to_grid
from slicesight.volumes.receipt import scan_line

Found = TypeVar("Found")
MAX_LISTED = 200
MAX_QUESTIONS = 16
Question = Annotated[str, Field(min_length=1, max_length=2000)]
ScanName = Annotated[str, Field(description="A scan's file or folder, by the name list_scans gives or its path.")]
MaskName = Annotated[str, Field(description="A label map (whole numbers) on the scan's own voxels, by name or path.")]
Reading = Annotated[ReadingShape | None, Field(description="How to read the file where it does not say enough itself.")]
PlaneName = Literal["acquired", "axial", "coronal", "sagittal"]
WindowName = Annotated[
    str | None, Field(description="Grey window: soft_tissue, lung, bone, brain, liver, …, percentile, or LO,HI.")
]
Choices = Literal["free", "only", "both"]


class ScanTools:
    """The tools about one scan.

    Args:
        desk: reads scans. model: answers.
    """

    def __init__(self, options: AgentOptions, *, desk: ScanDesk, model: ModelDesk) -> None:
        self.options, self.desk, self.model = options, desk, model
        self._painter = ThreadPoolExecutor(1, "pictures")  # matplotlib is one thread's

    def close(self) -> None:
        """No more pictures."""
        self._painter.shutdown(wait=False, cancel_futures=True)

    async def list_scans(
        self, folder: Annotated[str, Field(description="Below the roots; left out, all of them.")] = "."
    ) -> Annotated[CallToolResult, ListResult]:
        """List scans, masks and tables of vectors below a folder, by the names that the other tools take.

        Goes by the files' names, so inspect_scan says what a file really is. Folders of DICOM or PNG slices are listed
        as one scan.
        """
        roots = self.desk.roots
        places = roots.places if folder in (".", "") else (await asyncio.to_thread(roots.find, folder),)
        listed: list[ListedScan] = []
        is_complete = True
        for place in places:
            if not place.is_dir():
                raise InputError(f"{folder}: is a file; name a folder, or inspect_scan it")
            found, whole = await asyncio.to_thread(roots.listed, place, count=MAX_LISTED - len(listed))
            listed += found
            is_complete = is_complete and whole
        shown = [
            ListedShape(name=one.name, kind=one.kind, files=one.num_files, megabytes=round(one.num_bytes / 1e6, 3))
            for one in listed
        ]
        return result(ListResult(folder=folder, found=shown, is_complete=is_complete))

    async def inspect_scan(
        self,
        scan: ScanName,
        window: WindowName = None,
        plane: PlaneName | None = None,
        contact_sheet: Annotated[bool, Field(description="Add a picture of slices over the whole scan.")] = True,
        include_patient_fields: Annotated[
            bool, Field(description="Add name, id, dates of the DICOM header; only where the server allows it.")
        ] = False,
        reading: Reading = None,
    ) -> Annotated[CallToolResult, ScanResult]:
        """Say how a scan is read: modality, size, millimetres, orientation, value range, and what about it is doubtful.

        Names nobody unless include_patient_fields is set. Look at the warnings before believing anything else.
        """
        self.check_patient_fields(include_patient_fields)
        found = await self.read(scan, reading, with_patient=include_patient_fields)
        receipt = found.grid.receipt
        if window is not None or plane is not None:
            spec = GridSpec(window=window or "auto", plane=plane or "acquired")
            receipt = (await asyncio.to_thread(to_grid, found.volume, spec)).receipt
        described = await asyncio.to_thread(describe_scan, found, receipt)
        pictures: list[bytes] = []
        if contact_sheet:
            draw = partial(write_contact_sheet, found.volume, window=window or "auto")
            pictures.append(await self.paint(png_of, draw))
        return result(described, pictures)

    async def ask_scan(
        self,
        scan: ScanName,
        questions: Annotated[
            list[Question],
            Field(
                min_length=1,
                max_length=MAX_QUESTIONS,
                description='A closed question carries its choices: "Which phase? Choices: A. arterial B. venous".',
            ),
        ],
        window: WindowName = None,
        plane: PlaneName | None = None,
        choices: Annotated[
            Choices, Field(description="Hold closed questions to their choices, or give both.")
        ] = "free",
        answer_anyway: Annotated[
            bool, Field(description="Hold no answer back, only say why not to believe it.")
        ] = False,
        pictures: Annotated[bool, Field(description="Add the evidence of each answer as a picture.")] = True,
        reading: Reading = None,
    ) -> Annotated[CallToolResult, AskResult]:
        """Answer questions about a scan, each with its confidence and the slices it rests on.

        Check an answer before repeating it: look at the slices named in evidence.ranges with show_slices. Where
        `abstained` is set the model should not answer; say so instead of what it would say.
        """
        read = await self.read(scan, reading)

        def work(
            predictor: Predictor, progress: Callable[[int, int], None]
        ) -> tuple[Predictor, GridVolume, list[Answer]]:
            encoded = self.model.encoded(predictor, read, window=window, plane=plane)
            answers = predictor.ask(
                encoded,
                questions,
                choices=choices,
                min_confidence=self.options.min_confidence,
                answer_anyway=answer_anyway,
                progress=progress,
            )
            return predictor, encoded.grid, answers

        predictor, grid, answers = await self.model.run(work)
        shown: list[bytes] = []
        if pictures:
            for answer in answers:
                report = AnswerReport(volume=read.volume, grid=grid, card=predictor.card, answers=[answer])
                shown.append(await self.paint(_draw_answer, report))
        return result(
            AskResult(
                scan=read.name,
                summary=scan_line(read.volume),
                reading=reading_line(grid),
                model=predictor.card.name,
                answers=[describe_answer_for_agents(answer) for answer in answers],
                warnings=[*read.volume.warnings, *predictor.card.warnings_about(read.volume)],
                use=RESEARCH_NOTICE,
            ),
            shown,
        )

    async def show_slices(
        self,
        scan: ScanName,
        slices: Annotated[
            list[int] | None,
            Field(min_length=1, max_length=12, description="Numbers as in the file (acquired plane), from 0."),
        ] = None,
        positions_mm: Annotated[
            list[float] | None,
            Field(min_length=1, max_length=12, description="Instead: places along the plane's axis, LPS millimetres."),
        ] = None,
        plane: PlaneName = "acquired",
        window: WindowName = None,
        mask: Annotated[str | None, Field(description="Outline the labels of this mask.")] = None,
        size: Annotated[int, Field(ge=64, le=1024, description="Pixels of the longer side.")] = 512,
        reading: Reading = None,
    ) -> Annotated[CallToolResult, ShowResult]:
        """Show slices of a scan as PNG pictures; without numbers or places six spread over it.

        Pictures are in radiological convention, the letters at the edges say the patient's sides.
        """
        read = await self.read(scan, reading, mask=mask)
        drawn, bounds = await self.paint(
            partial(
                draw_slices,
                read.volume,
                plane=plane,
                slices=slices,
                positions_mm=positions_mm,
                window=window or "auto",
                size=size,
                labels_ZYX=read.labels,
            )
        )
        unit = f" {read.volume.unit}" if read.volume.unit != "arbitrary" else ""
        return result(
            ShowResult(
                scan=read.name,
                summary=scan_line(read.volume),
                window=f"{bounds.name} {bounds.low:g} to {bounds.high:g}{unit}",
                pictures=[
                    PictureShape(
                        caption=one.caption,
                        slice=one.slice,
                        plane=one.plane,
                        position_mm=one.position_mm,
                        width=one.width,
                        height=one.height,
                    )
                    for one in drawn
                ],
                outlined=[] if read.labels is None else await asyncio.to_thread(labels_of, read.labels),
                warnings=[*read.volume.warnings, *read.notes],
                use=RESEARCH_NOTICE,
            ),
            [one.png for one in drawn],
        )

    async def measure_structure(
        self,
        scan: ScanName,
        mask: MaskName,
        labels: Annotated[
            list[int] | None, Field(max_length=200, description="Only these; left out, all above 0.")
        ] = None,
        names: Annotated[dict[int, str] | None, Field(description="What the labels are called.")] = None,
        picture: Annotated[bool, Field(description="Add slices with the outlines.")] = True,
        window: WindowName = None,
        reading: Reading = None,
    ) -> Annotated[CallToolResult, MeasureResult]:
        """Measure each structure of a mask: millilitres, mean and standard deviation (HU for CT), place, extent.

        The mask must lie on the scan's own voxels. Figures are as good as the mask: look at the outlines.
        """
        read = await self.read(scan, reading, mask=mask)
        assert read.labels is not None
        found = await asyncio.to_thread(measure, read.volume, read.labels, labels)
        pictures: list[bytes] = []
        if picture:
            middle = [round(sum(one.source_slices) / 2) for one in found[:4]]
            draw = partial(draw_slices, read.volume, slices=sorted(set(middle)), labels_ZYX=read.labels)
            drawn, _ = await self.paint(partial(draw, window=window or "auto"))
            pictures = [one.png for one in drawn]
        return result(
            MeasureResult(
                scan=read.name,
                mask=mask,
                unit=read.volume.unit,
                structures=[
                    StructureShape(
                        name=(names or {}).get(one.label),
                        slices=list(one.source_slices),
                        **{key: value for key, value in vars(one).items() if key != "source_slices"},
                    )
                    for one in found
                ],
                warnings=[*read.volume.warnings, *read.notes],
                use=RESEARCH_NOTICE,
            ),
            pictures,
        )

    async def read(
        self, name: str, reading: ReadingShape | None, *, mask: str | None = None, with_patient: bool = False
    ) -> ReadScan:
        """The scan, read or kept."""
        options = {} if reading is None else reading.model_dump(exclude_none=True)
        return await self.desk.read(name, options=options, mask=mask, with_patient=with_patient)

    async def paint(self, draw: Callable[..., Found], *arguments: Any) -> Found:
        """What `draw` makes, on the one thread that draws."""
        return await asyncio.get_running_loop().run_in_executor(self._painter, partial(draw, *arguments))

    def check_patient_fields(self, wanted: bool) -> None:
        """Raises InputError where a person may not be named."""
        if wanted and not self.options.patient_fields:
            raise InputError(
                "include_patient_fields: this server names no patients; leave it out, or start it with --patient-fields"
            )


def result(found: BaseModel, pictures: Sequence[bytes] = ()) -> CallToolResult:
    """Structured content, the same as text, and pictures."""
    images = [
        ImageContent(type="image", data=base64.b64encode(png).decode(), mime_type="image/png") for png in pictures
    ]
    text = TextContent(type="text", text=found.model_dump_json())
    return CallToolResult(content=[text, *images], structured_content=found.model_dump(mode="json"))


def _draw_answer(report: AnswerReport) -> bytes:
    return png_of(partial(save_figure, draw_report(report)))
