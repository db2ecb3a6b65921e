"""The routes of jobs: images that are put on the queue, and what became of them."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, TypeAdapter, ValidationError

from classifiers import InputError, TooManyBytes
from graph.engine import checked_metadata, deadline
from serve_app.http.bodies import OPENAPI_IMAGES, read_images
from serve_app.http.job_desk import JobDesk, JobItem, UploadRequest
from serve_app.http.json_bodies import charset_of, content_type, is_json, mistakes_in, utf8
from serve_app.http.problems import JsonAnswer, Malformed, problems
from serve_app.http.schemas import AcceptedJobs, DeletedJob, JobView, UploadView
from serve_app.images import read_frame, upload_address
from serve_app.queues.job_messages import MAX_ID_CHARACTERS
from serve_app.refusals import Gone, NotFound
from serve_app.results import JobStatus

__all__ = ["router"]

_MAX_JOBS = 1000
# Objects made from JSON can take twenty times its bytes.
_MAX_BODY_BYTES = 4 * 2**20
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_JOBS_DISABLED = (
    "jobs are disabled; the operator enables them with the block 'intake' (a queue, and a place for "
    "results). Send single images to POST /v1/images"
)

_Jobs = Annotated[list[JobItem], Field(min_length=1, max_length=_MAX_JOBS)]
_BODY: TypeAdapter[JobItem | list[JobItem]] = TypeAdapter(JobItem | _Jobs)
_LIST: TypeAdapter[list[JobItem]] = TypeAdapter(_Jobs)

router = APIRouter()


@router.post(
    "/v1/jobs",
    summary="Put images on the queue",
    status_code=202,
    response_model=AcceptedJobs,
    responses=problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _BODY.json_schema()}, **OPENAPI_IMAGES},
        }
    },
)
async def post_jobs(
    request: Request,
    idempotency_key: Annotated[
        str | None, Header(max_length=255, description="The same key gives the same jobs, however often it is sent")
    ] = None,
    annotate: Annotated[bool, Query(description="Keep the pictures with boxes and labels, too")] = False,
) -> JSONResponse:
    """The body is a list of addresses, an image, or a form with up to 100 images. All of them are accepted, or none."""
    here, desk = request.app.state, _desk(request)
    if idempotency_key is not None and not _KEY.fullmatch(idempotency_key):
        raise Malformed("Idempotency-Key must be 1 to 255 printable ASCII characters without spaces")
    images: dict[str, bytes] = {}
    async with deadline(here.config.timeout_ms / 1000, since=request.state.arrived):
        if is_json(content_type(request)):
            items = await _read(request)
        else:
            items, images = await _uploaded(request)
    if annotate:
        items = [item.model_copy(update={"annotate": True}) for item in items]
    client = request.state.principal
    policy = None if here.guard.is_open else {"key_id": client.key_id, "tenant": client.tenant}
    ids = await desk.submit(
        items, policy, idempotency_key, pay=lambda: here.guard.take_images(request, len(items)), images=images
    )
    root = request.scope.get("root_path", "")
    return JSONResponse({"jobs": [{"id": job_id, "status_url": f"{root}/v1/jobs/{job_id}"} for job_id in ids]}, 202)


# Ids that the gateway did not assign may have slashes; this route is matched first.
@router.get(
    "/v1/jobs/{job_id:path}/picture",
    summary="The picture with boxes and labels, of a job that was sent with annotate",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, **problems(401, 403, 404, 410, 429, 503)},
)
async def get_picture(request: Request, job_id: str) -> Response:
    """A JPEG."""
    await _status(request, job_id)
    picture = await _desk(request).picture(job_id)
    if picture is None:
        raise NotFound("the job has no picture, or not yet; send it with 'annotate': true to have one")
    return Response(picture, media_type="image/jpeg")


@router.get(
    "/v1/jobs/{job_id:path}",
    summary="The state of a job",
    response_model=JobView,
    responses=problems(401, 403, 404, 410, 429, 503),
)
async def get_job(request: Request, job_id: str) -> JSONResponse:
    """With its result or its error, once it has one."""
    status = await _status(request, job_id)
    outcome = status.outcome
    return JsonAnswer(
        {
            "id": job_id,
            "status": status.status,
            "result": None if outcome is None else outcome.result,
            "error": None if outcome is None else outcome.error,
        }
    )


@router.delete(
    "/v1/jobs/{job_id:path}",
    summary="Delete a job: its image, its picture and its result",
    status_code=202,
    response_model=DeletedJob,
    responses=problems(401, 403, 404, 410, 429, 503),
)
async def delete_job(request: Request, job_id: str) -> JSONResponse:
    """In whatever state it is. Its row in Parquet goes with the next compaction; queries leave it out at once."""
    await _status(request, job_id)
    client = request.state.principal
    await _desk(request).delete(job_id, f"key {client.key_id} of {client.tenant}")
    return JSONResponse({"id": job_id, "status": "deleted"}, 202)


@router.post(
    "/v1/uploads",
    summary="Upload an image to the store directly",
    status_code=201,
    response_model=UploadView,
    responses=problems(400, 401, 403, 404, 413, 415, 429, 501, 503),
)
async def post_upload(request: Request, body: UploadRequest) -> JSONResponse:
    """For large images. ``PUT`` the bytes to the ``url`` with the ``headers``, then send a job with the ``uri``.

    The image is checked when a worker reads it.
    """
    here, desk, client = request.app.state, _desk(request), request.state.principal
    owner = None if here.guard.is_open else client.tenant
    signed = await desk.presign(owner, body.content_type, body.size)
    answer = {"uri": signed.uri, "method": "PUT", "url": signed.url, "headers": signed.headers}
    return JSONResponse({**answer, "expires": signed.expires.isoformat(timespec="seconds")}, 201)


def _desk(request: Request) -> JobDesk:
    desk: JobDesk | None = request.app.state.desk
    if desk is None:
        raise NotFound(_JOBS_DISABLED)
    return desk


async def _status(request: Request, job_id: str) -> JobStatus:
    """The job, if the client may see it: a tenant sees its own, an administrator those that no tenant sent."""
    desk = _desk(request)
    status = await desk.status(job_id) if len(job_id) <= MAX_ID_CHARACTERS else None
    client = request.state.principal
    owner = None if status is None or status.marker is None else status.marker.owner
    if status is not None and ("admin" in client.scopes if owner is None else owner == client.tenant):
        if status.outcome is not None and status.outcome.status == "deleted":
            raise Gone(f"the job was deleted at {status.outcome.finished}")
        return status
    raise NotFound("there is no such job; it may have been another tenant's, or too old")


async def _uploaded(request: Request) -> tuple[list[JobItem], dict[str, bytes]]:
    """The jobs of images in the body, and the images by hash. They are checked as those of ``POST /v1/images``, and
    decoded once, so that a damaged one is refused here."""
    limits = request.app.state.engine().plan.config.limits
    items: list[JobItem] = []
    images: dict[str, bytes] = {}
    uploads = await read_images(request)
    for index, upload in enumerate(uploads):
        try:
            frame = await read_frame(upload.data, limits)
            async with request.app.state.decoding:
                await asyncio.to_thread(frame.reduced_pixels, (1, 1))  # a JPEG at an eighth of its size
        except InputError as error:
            if len(uploads) == 1:
                raise
            raise type(error)(f"image [{index}]: {error}", **error.fields, index=index) from error
        items.append(JobItem(uri=upload_address(frame.sha256), metadata=upload.metadata))
        images[frame.sha256] = upload.data
    return items, images


async def _read(request: Request) -> list[JobItem]:
    raw = await request.body()
    if len(raw) > _MAX_BODY_BYTES:
        raise TooManyBytes(f"the jobs have more than {_MAX_BODY_BYTES:,} bytes; send parts", limit=_MAX_BODY_BYTES)
    return await asyncio.to_thread(_parse, raw, charset_of(request.headers["content-type"]))


def _parse(raw: bytes, charset: str) -> list[JobItem]:
    raw = utf8(raw, charset)
    try:
        items = _LIST.validate_json(raw) if raw.lstrip()[:1] == b"[" else [JobItem.model_validate_json(raw)]
    except ValidationError as error:
        found = mistakes_in(error, JobItem.model_fields)
        raise Malformed(
            f'the body is not {{"uri": ..., "metadata": {{...}}}} or a list of up to {_MAX_JOBS:,} of them: {found}'
        ) from error
    for index, item in enumerate(items):
        checked_metadata(item.metadata, f"[{index}].metadata")
    return items
