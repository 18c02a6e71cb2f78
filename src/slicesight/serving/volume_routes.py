"""/v1/volumes: bring a scan, look at it, take its report, take it away."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from slicesight.serving.completions import grid_slices
from slicesight.serving.event_stream import unless_gone
from slicesight.serving.fairness import client_of
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
from slicesight.serving.response_models import REFUSALS, StoredShape, VolumeShape
from slicesight.serving.scan_form import UPLOAD_BODY, ScanForm, read_form, read_source_form
from slicesight.serving.server import Server
from slicesight.serving.stored_scan import IMAGE_FILE, read_instance_numbers
from slicesight.serving.uploads import receive_upload

AnswersQuery = Annotated[str | None, Query(max_length=10_000, description="chatcmpl-a,chatcmpl-b; else all.")]


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
        return JSONResponse(
            found, status_code=201, headers={"Location": f"{request.scope['root_path']}/v1/volumes/{volume_id}"}
        )

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
        "instance_numbers": read_instance_numbers(server.scan_store.volumes / volume_id),
        "notices": server.notices(stored.volume),
    }


async def _receive(request: Request, server: Server) -> str:
    """Take an upload or have a series fetched, have it read, keep it -> the volume's id."""
    options = server.options
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/json"):
        raise Refusal(
            415, "expected multipart/form-data with the scan as part `file`, or application/json with a source."
        )
    length = request.headers.get("content-length", "")
    announced = int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else 0
    if announced > options.max_upload_bytes + MAX_JSON_BYTES:
        raise Refusal(413, f"the scan is larger than the {options.max_upload_bytes} bytes this server takes.")
    client = client_of(request.scope)
    with server.scan_store.receiving(client, num_bytes=announced) as folder:
        upload, address = None, None
        if kind == "application/json":
            form, address = read_source_form(await request.body(), archives=options.archives)
        else:
            upload = await receive_upload(
                request.stream(),
                content_type=content_type,
                folder=folder,
                max_bytes=options.max_upload_bytes,
            )
            server.metrics.upload_bytes.inc(upload.num_bytes)
            form = read_form(ScanForm, upload.fields)
        reading = server.scans.read(
            folder,
            options=form.for_reading(),
            grid=server.predictor.grid_spec_with(window=form.window, plane=form.plane),
            client=client,
            file=None if upload is None else upload.file,
            series=address,
        )
        with server.metrics.read_seconds.time():
            await unless_gone(reading, request.receive)
        facts = {
            "created": int(time.time()),
            "client": client,
            "bytes": (folder / IMAGE_FILE).stat().st_size if upload is None else upload.num_bytes,
            "archive": None if address is None else address.archive,
        }
        return server.scan_store.add(folder, facts)
