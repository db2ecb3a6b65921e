"""``POST /v1/images``: one image, one result."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterator
from typing import Annotated, Any, TypeVar, cast

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from classifiers import VisionError
from graph import Engine, Frame, StepFailed
from graph.engine import deadline
from graph.failures import DeadlineExceeded
from serve_app.http.access_log import facts_of
from serve_app.http.bodies import OPENAPI_BODY, Upload, read_upload
from serve_app.http.problems import JsonAnswer, problems, status_of
from serve_app.http.schemas import Result
from serve_app.images import read_frame
from serve_app.telemetry.recording import ImageOutcome, ImageRecorder
from serve_app.telemetry.tracing import span

__all__ = ["counted", "frame_of", "router"]

T = TypeVar("T")

router = APIRouter()


@router.post(
    "/v1/images",
    summary="Run the pipeline on one image",
    response_class=JSONResponse,
    responses={
        200: {"model": Result, "content": {"image/jpeg": {}}, "description": "The result, or the annotated picture"},
        **problems(400, 401, 403, 408, 413, 415, 422, 429, 502, 503),
    },
    openapi_extra={"requestBody": OPENAPI_BODY},
)
async def post_image(
    request: Request,
    annotate: Annotated[bool, Query(description="Return the picture with boxes and labels")] = False,
    x_request_timeout_ms: Annotated[
        int | None, Header(ge=1, description="Lowers the deadline; in milliseconds")
    ] = None,
) -> Response:
    """The body is the image itself, a form, or JSON with the image or its address."""
    limit_ms = request.app.state.config.timeout_ms
    if x_request_timeout_ms is not None:
        limit_ms = min(limit_ms, x_request_timeout_ms)
    with counted(request, request.app.state.count_image):
        async with deadline(limit_ms / 1000, since=request.state.arrived):
            upload = await read_upload(request)
            return await unless_gone(request, _answer(request, upload, as_picture=annotate))


@contextlib.contextmanager
def counted(request: Request, count: ImageRecorder) -> Iterator[None]:
    """Count the image by how the block ends, which has the deadline in it."""
    outcome: ImageOutcome = "failed"
    try:
        yield
        outcome = "ok"
    except (asyncio.CancelledError, ClientDisconnect):
        outcome = "cancelled"
        raise
    except DeadlineExceeded:
        outcome = "timed_out"
        raise
    except VisionError as error:
        outcome = "refused" if status_of(error) < 500 else "failed"
        raise
    finally:
        count(outcome, time.monotonic() - request.state.arrived)


async def frame_of(request: Request, upload: Upload) -> Frame:
    """The image of a request, fetched where the client sent its address.

    Raises:
        Forbidden, FetchFailed: the address is not allowed, or does not answer with the image.
        InputError: too many bytes or pixels, a type that is not served, or not an image.
    """
    here, data = request.app.state, upload.data
    if upload.uri is not None:
        client = request.state.principal
        with span("fetch"):
            data = await here.fetcher.fetch(upload.uri, client.key_id, client.tenant)
    return await read_frame(data, here.engine().plan.config.limits, upload.uri)


async def _answer(request: Request, upload: Upload, *, as_picture: bool) -> Response:
    here, facts = request.app.state, request.state.facts
    frame = await frame_of(request, upload)
    if as_picture:
        here.drawings.check(frame, facts["bytes"])
    run = Engine.run if here.reuse is None else here.reuse.run
    try:
        result = await run(here.engine(), frame, metadata=upload.metadata, request_id=request.state.request_id)
    except StepFailed:
        _keep(request, frame, None)
        raise
    _keep(request, frame, result)
    facts.update(facts_of(result))
    if as_picture:
        return Response(await here.drawings.draw(frame, result), media_type="image/jpeg")
    return JsonAnswer(result)


def _keep(request: Request, frame: Frame, result: dict[str, Any] | None) -> None:
    here = request.app.state
    if here.kept_images is not None:
        owner = None if here.guard.is_open else request.state.principal.tenant
        here.kept_images.offer(frame, owner, result)


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Do the work, and cancel it when the client disconnects. The request's body must have been read.

    Serve cancels too, but a client can switch that off with the header ``x-request-disconnect-disabled``.

    Raises:
        ClientDisconnect: the client has disconnected.
    """
    worker = cast("asyncio.Task[object]", asyncio.current_task())
    before, gone = worker.cancelling(), False

    async def watch() -> None:
        nonlocal gone
        with contextlib.suppress(Exception):  # a server that cannot tell any more has lost the client
            while (await request.receive())["type"] != "http.disconnect":
                pass
        gone = True
        worker.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone and worker.uncancel() == before:  # else something else has cancelled it too
            raise ClientDisconnect from None
        raise
    finally:
        watcher.cancel()
