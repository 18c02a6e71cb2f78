"""/v1/volumes: bring a scan, look at it, take its report, take it away."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from slicesight.errors import InputError
from slicesight.io.assemble import ReadOptions, checked_unit
from slicesight.io.dicomweb.address import read_address
from slicesight.serving.completions import grid_slices
from slicesight.serving.event_stream import unless_gone
from slicesight.serving.guard import MAX_JSON_BYTES, REPORT_POLICY
from slicesight.serving.refusals import Refusal, no_volume
from slicesight.serving.reports import (
    FILE_NAMES,
    MEDIA_TYPES,
    ReportFormat,
    collect_answers,
    store_report,
    write_report_file,
)
from slicesight.serving.response_models import REFUSALS, UPLOAD_BODY, StoredShape, VolumeShape
from slicesight.serving.server import Server
from slicesight.serving.stored_scan import IMAGE_FILE
from slicesight.serving.uploads import receive_upload

AnswersQuery = Annotated[str | None, Query(max_length=10_000, description="chatcmpl-a,chatcmpl-b; else all.")]
_FIELDS = ("window", "plane", "series", "spacing_mm", "unit", "time_point")


def volume_routes(server: Server) -> APIRouter:
    """The routes over one server's scan_store."""
    router = APIRouter(prefix="/v1/volumes", tags=["volumes"], responses=REFUSALS)
    scan_store = server.scan_store

    @router.post("", status_code=201, response_model=VolumeShape, openapi_extra=UPLOAD_BODY)
    async def create_volume(request: Request) -> JSONResponse:
        """Bring a scan: as multipart part `file`, or by its address in an archive the operator has named."""
        try:
            volume_id = await _receive(request, server)
        except Refusal as refusal:
            server.metrics.uploads.labels("refused" if refusal.status_code < 500 else "failed").inc()
            raise
        server.metrics.uploads.labels("kept").inc()
        found = await asyncio.to_thread(describe_volume, server, volume_id)
        return JSONResponse(found, status_code=201, headers={"Location": f"/v1/volumes/{volume_id}"})

    @router.get("/{volume_id}", response_model=VolumeShape)
    async def get_volume(volume_id: str) -> JSONResponse:
        """How the scan was read, and where its slices lie."""
        return JSONResponse(await asyncio.to_thread(describe_volume, server, volume_id))

    @router.delete("/{volume_id}", status_code=204, response_class=Response)
    async def delete_volume(volume_id: str) -> None:
        """Remove the scan and its answers from disk and memory."""
        await asyncio.to_thread(scan_store.delete, volume_id)
        server.tidy_memory()

    @router.get("/{volume_id}/image", response_class=Response, responses={200: {"content": {"application/gzip": {}}}})
    async def get_image(volume_id: str) -> FileResponse:
        """The scan as NIfTI (.nii.gz) for a viewer, whatever was uploaded."""
        file = scan_store.image(volume_id)
        if not file.exists():
            raise no_volume()
        return FileResponse(file, media_type="application/gzip", filename="scan.nii.gz")

    @router.get(
        "/{volume_id}/report",
        response_class=Response,
        responses={200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}}, 409: REFUSALS[400]},
    )
    async def get_report(
        volume_id: str,
        format: Annotated[ReportFormat, Query(description="Page, JSON as of `slicesight ask`, or DICOM SR.")] = "html",  # noqa: A002
        answers: AnswersQuery = None,
    ) -> Response:
        """The answers about a scan as a report."""

        def make() -> bytes:
            report = collect_answers(scan_store, server.predictor, volume_id, _names(answers))
            return write_report_file(
                report, format, folder=scan_store.incoming, volume_folder=scan_store.volumes / volume_id
            )

        return Response(
            await asyncio.to_thread(make),
            media_type=MEDIA_TYPES[format],
            headers={
                "Content-Disposition": f'attachment; filename="{FILE_NAMES[format]}"',
                "Content-Security-Policy": REPORT_POLICY,
            },
        )

    @router.post("/{volume_id}/report/store", response_model=StoredShape)
    async def store_volume_report(volume_id: str, answers: AnswersQuery = None) -> JSONResponse:
        """Store the answers as a DICOM report in the archive the scan came from."""

        def make() -> dict[str, str]:
            report = collect_answers(scan_store, server.predictor, volume_id, _names(answers))
            _, upload = scan_store.read(volume_id)
            archive = upload["archive"]
            if archive is None:
                raise Refusal(409, "this scan came from no archive; download the report instead.")
            folder = scan_store.volumes / volume_id
            uid = store_report(report, archive=archive, folder=scan_store.incoming, volume_folder=folder)
            return {"sop_instance_uid": uid, "archive": archive}

        loop = asyncio.get_running_loop()
        return JSONResponse(await loop.run_in_executor(server.archive_threads, make))

    return router


def _names(answers: str | None) -> list[str] | None:
    return [name for name in (answers or "").split(",") if name] or None


def describe_volume(server: Server, volume_id: str) -> dict[str, Any]:
    """A volume as the API shows it."""
    stored, upload = server.scan_store.read(volume_id)
    grid = server.predictor.as_scored(stored.grid)
    slices = grid_slices(grid)
    _, height, width = grid.voxels.shape
    return {
        "id": volume_id,
        "object": "volume",
        "created": upload["created"],
        "expires_at": server.scan_store.expires_at(volume_id),
        "bytes": upload["bytes"],
        "receipt": grid.receipt,
        "grid": {
            "num_slices": len(slices),
            "height": height,
            "width": width,
            "plane": grid.plane,
            "window": grid.spec.window,
        },
        "grid_slices": slices,
        "notices": server.notices(stored.volume),
    }


async def _receive(request: Request, server: Server) -> str:
    """Take an upload, have it read, keep it -> the volume's id."""
    options = server.options
    content_type = request.headers.get("content-type", "")
    is_form = content_type.partition(";")[0].strip().lower() == "multipart/form-data"
    is_json = content_type.partition(";")[0].strip().lower() == "application/json"
    if not is_form and not is_json:
        raise Refusal(
            415, "expected multipart/form-data with the scan as part `file`, or application/json with a source."
        )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > options.max_upload_bytes + MAX_JSON_BYTES:
        raise Refusal(413, f"the scan is larger than the {options.max_upload_bytes} bytes this server takes.")
    with server.scan_store.receiving() as folder:
        if is_json:
            return await _fetch(request, folder, server)
        upload = await receive_upload(
            request.stream(),
            content_type=content_type,
            folder=folder,
            max_bytes=options.max_upload_bytes,
            min_rate=options.min_upload_rate,
        )
        server.metrics.upload_bytes.inc(upload.num_bytes)
        form = read_scan_form(upload.fields)
        grid = server.predictor.grid_spec_with(window=form.window, plane=form.plane)
        with server.metrics.read_seconds.time():
            reading = server.scans.read(folder, options=form.for_reading, grid=grid, file=upload.file)
            await unless_gone(reading, request.receive)
        return server.scan_store.add(folder, {"created": int(time.time()), "bytes": upload.num_bytes, "archive": None})


async def _fetch(request: Request, folder: Path, server: Server) -> str:
    """Have a series fetched from an archive and read, keep it -> the volume's id."""
    given = await _read_json(request)
    source = given.pop("source", None)
    if not isinstance(source, str):
        raise Refusal(400, "source is missing; send the address of a series in an archive.", param="source")
    form = read_scan_form(given)
    address = read_address(source)
    if not server.options.archives:
        raise Refusal(403, "this server asks no archive; start it with --archive URL.", param="source")
    try:
        read_address(source, allowed=server.options.archives)
    except InputError as error:
        raise Refusal(403, str(error), param="source") from None
    grid = server.predictor.grid_spec_with(window=form.window, plane=form.plane)
    with server.metrics.read_seconds.time():
        reading = server.scans.read(folder, options=form.for_reading, grid=grid, series=address)
        await unless_gone(reading, request.receive)
    num_bytes = (folder / IMAGE_FILE).stat().st_size
    return server.scan_store.add(folder, {"created": int(time.time()), "bytes": num_bytes, "archive": address.archive})


async def _read_json(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not valid JSON; send one JSON object.", code="json_invalid") from None
    if not isinstance(found, dict):
        raise Refusal(400, f"the body is a JSON {type(found).__name__}; send one JSON object.")
    return found


@dataclass(frozen=True, kw_only=True)
class ScanForm:
    """What the client says about a scan."""

    window: str | None
    plane: str | None
    for_reading: dict[str, Any]


def read_scan_form(fields: dict[str, Any]) -> ScanForm:
    """The optional fields of an upload, as the options of `slicesight ask`.

    Raises:
        Refusal: 400 with the field that is wrong.
    """
    unknown = sorted(set(fields) - set(_FIELDS))
    if unknown:
        raise Refusal(400, f"field {unknown[0][:50]!r} is unknown; the fields are {', '.join(_FIELDS)}.")
    given = {name: str(value).strip() for name, value in fields.items() if value not in (None, "")}
    try:
        spacing = given.get("spacing_mm")
        spacing_mm = None if spacing is None else [float(part) for part in spacing.strip("[]() ").split(",")]
        time_point = None if "time_point" not in given else int(given["time_point"])
    except ValueError:
        raise Refusal(
            400, "spacing_mm must be three sizes in mm as Z,Y,X and time_point a whole number.", param="spacing_mm"
        ) from None
    try:
        ReadOptions(
            spacing_mm=None if spacing_mm is None else tuple(spacing_mm),  # type: ignore[arg-type]  # it counts them
            time_point=time_point,
            unit=checked_unit(given.get("unit")),
        )
    except InputError as error:
        raise Refusal(400, f"{error}.") from None
    for_reading = {
        "series": given.get("series"),
        "spacing_mm": spacing_mm,
        "time_point": time_point,
        "unit": given.get("unit"),
    }
    return ScanForm(window=given.get("window"), plane=given.get("plane"), for_reading=for_reading)
