"""The routes of jobs: images that are put on the queue, and what became of them."""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions that stand in a function.
import asyncio
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, TypeAdapter, ValidationError

from classifiers import TooManyBytes
from classifiers.validation import Closed
from graph.engine import checked_metadata
from serve_app.access import Guard
from serve_app.http.deadlines import deadline
from serve_app.http.job_desk import JobDesk, JobItem
from serve_app.http.json_bodies import JsonBody, content_charset, content_type, is_json, mistakes_in, utf8
from serve_app.http.problems import JsonAnswer, Malformed, problems
from serve_app.http.schemas import Result
from serve_app.queues.job_messages import MAX_ID_CHARACTERS
from serve_app.refusals import Forbidden, NotFound, UnsupportedBody
from serve_app.results import JobStatus

__all__ = ["add_job_routes"]

_MAX_JOBS = 1000
# Objects made from JSON can take twenty times its bytes.
_MAX_BODY_BYTES = 4 * 2**20
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_OFF = (
    "jobs are switched off here; the operator switches them on with the block 'intake' (a queue, and a place for "
    "results). Send single images to POST /v1/images"
)


class JobBody(JsonBody):
    """One image to run."""

    uri: str = Field(min_length=1, max_length=2048, description="Where the image is: https://... or s3://...")
    metadata: dict[str, Any] | None = Field(None, description="Rules see it as image['metadata']")
    annotate: bool | None = Field(False, description="Keep the picture with boxes and labels, too")


class AcceptedJob(Closed):
    """A job that will be run."""

    id: str
    status_url: str = Field(description="Where to ask how it stands")


class Accepted(Closed):
    """The jobs, in the order in which they were sent."""

    jobs: list[AcceptedJob]


class JobError(Closed):
    """Why a job failed."""

    type: str
    detail: str


class JobView(Closed):
    """How a job stands."""

    id: str
    status: Literal["queued", "running", "succeeded", "failed"]
    result: Result | None = Field(description="Of a job that succeeded")
    error: JobError | None = Field(description="Of a job that failed")


_Jobs = Annotated[list[JobBody], Field(min_length=1, max_length=_MAX_JOBS)]
_BODY: TypeAdapter[JobBody | list[JobBody]] = TypeAdapter(JobBody | _Jobs)
_LIST: TypeAdapter[list[JobBody]] = TypeAdapter(_Jobs)
_ONE = TypeAdapter(JobBody)


def add_job_routes(app: FastAPI, desk: JobDesk | None, guard: Guard, timeout_ms: int) -> None:
    """Add them; without a desk they say how jobs are switched on."""

    def the_desk() -> JobDesk:
        if desk is None:
            raise NotFound(_OFF)
        return desk

    @app.post(
        "/v1/jobs",
        summary="Put images on the queue",
        status_code=202,
        response_model=Accepted,
        responses=problems(400, 401, 403, 404, 408, 413, 415, 429, 503),
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": _BODY.json_schema()}}}
        },
    )
    async def post_jobs(
        request: Request,
        idempotency_key: Annotated[
            str | None,
            Header(max_length=255, description="The same key gives the same jobs, however often it is sent"),
        ] = None,
    ) -> JSONResponse:
        open_desk = the_desk()
        if idempotency_key is not None and not _KEY.fullmatch(idempotency_key):
            raise Malformed("Idempotency-Key must be 1 to 255 printable ASCII characters without spaces")
        async with deadline(request, timeout_ms):
            items = await _read(request)
        client = request.state.principal
        policy = None if guard.is_open else {"key_id": client.key_id, "tenant": client.tenant}
        await asyncio.to_thread(_check_sources, open_desk, items, policy)
        ids = await open_desk.submit(
            items,
            None if guard.is_open else client.tenant,
            policy,
            idempotency_key,
            pay=lambda: guard.take_images(request, len(items)),
        )
        root = request.scope.get("root_path", "")
        jobs = [{"id": job_id, "status_url": f"{root}/v1/jobs/{job_id}"} for job_id in ids]
        return JSONResponse({"jobs": jobs}, 202)

    # Ids that others than the gateway give may have slashes; this route is looked at first.
    @app.get(
        "/v1/jobs/{job_id:path}/picture",
        summary="The picture with boxes and labels, of a job that was sent with annotate",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, **problems(401, 403, 404, 429, 503)},
    )
    async def get_picture(request: Request, job_id: str) -> Response:
        await seen(request, job_id)
        picture = await the_desk().picture(job_id)
        if picture is None:
            raise NotFound("the job has no picture, or not yet; send it with 'annotate': true to have one")
        return Response(picture, media_type="image/jpeg")

    @app.get(
        "/v1/jobs/{job_id:path}",
        summary="How a job stands",
        response_model=JobView,
        responses=problems(401, 403, 404, 429, 503),
    )
    async def get_job(request: Request, job_id: str) -> JSONResponse:
        status = await seen(request, job_id)
        outcome = status.outcome
        return JsonAnswer(
            {
                "id": job_id,
                "status": status.status,
                "result": None if outcome is None else outcome.result,
                "error": None if outcome is None else outcome.error,
            }
        )

    async def seen(request: Request, job_id: str) -> JobStatus:
        """The job, where the client may see it: a tenant sees its own, an administrator those that no tenant sent."""
        desk = the_desk()
        status = await desk.status(job_id) if len(job_id) <= MAX_ID_CHARACTERS else None
        client = request.state.principal
        owner = None if status is None or status.marker is None else status.marker.owner
        if status is not None and ("admin" in client.scopes if owner is None else owner == client.tenant):
            return status
        raise NotFound("there is no such job; it may have been another tenant's, or too old")


def _check_sources(desk: JobDesk, items: Sequence[JobItem], policy: dict[str, Any] | None) -> None:
    for index, item in enumerate(items):
        try:
            desk.sources.check(item.uri, policy)
        except Forbidden as error:
            raise Forbidden(f"[{index}].uri: {error}", index=index) from error


async def _read(request: Request) -> list[JobItem]:
    if not is_json(content_type(request)):
        raise UnsupportedBody("send JSON: Content-Type: application/json")
    raw = await request.body()
    if len(raw) > _MAX_BODY_BYTES:
        raise TooManyBytes(
            f"the list of jobs has more than {_MAX_BODY_BYTES:,} bytes; send it in parts", limit=_MAX_BODY_BYTES
        )
    return await asyncio.to_thread(_parse, raw, content_charset(request))


def _parse(raw: bytes, charset: str) -> list[JobItem]:
    """
    Raises:
        Malformed: with the first mistakes.
    """
    raw = utf8(raw, charset)
    is_list = raw.lstrip()[:1] == b"["
    try:
        bodies = _LIST.validate_json(raw) if is_list else [_ONE.validate_json(raw)]
    except ValidationError as error:
        found = mistakes_in(error, JobBody.model_fields)
        raise Malformed(
            f'the body is not {{"uri": ..., "metadata": {{...}}}} or a list of up to {_MAX_JOBS:,} of them: {found}'
        ) from error
    return [
        JobItem(body.uri, checked_metadata(body.metadata, f"[{index}].metadata"), bool(body.annotate))
        for index, body in enumerate(bodies)
    ]
