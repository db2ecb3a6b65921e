"""The FastAPI application: its routes over an engine, wherever that runs its steps."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from classifiers.images import ImageLimits
from graph import Engine, Frame, Plan, annotate, json_schema
from serve_app.http.bodies import OPENAPI_BODY, read_upload
from serve_app.http.middleware import BodyLimit, RequestIdentity
from serve_app.http.problems import PROBLEM_JSON, NotReady, Problem, add_problem_handlers
from serve_app.http.schemas import Health, PipelineView, Result

__all__ = ["make_app"]

_READY_TIMEOUT_S = 5.0

# base64 makes 4 characters of 3 bytes; the rest is room for metadata and the form's own lines
_BODY_OVERHEAD_BYTES = 64 * 1024

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {PROBLEM_JSON: {}}, "description": words}
    for status, words in {
        400: "Malformed request",
        403: "Not allowed",
        408: "The deadline passed",
        413: "Too many bytes",
        415: "Not a type that is served",
        422: "The image cannot be decoded, or has too many pixels",
        502: "A step that the request cannot do without failed",
        503: "Overloaded; try again after Retry-After",
    }.items()
}


def make_app(engine: Callable[[], Engine], timeout_ms: int, *, set_request_id: bool = True) -> FastAPI:
    """Make the application.

    Args:
        engine: gives the engine that serves now; another one after the pipeline's tunables have changed.
        timeout_ms: deadline of a request; ``X-Request-Timeout-Ms`` lowers it, never raises it.
        set_request_id: off where the server around the application sets ``X-Request-Id`` on responses.
    """
    app = FastAPI(
        title="visiongraph",
        description="Finds objects in an image, and asks further classifiers where the pipeline's rules call for them.",
        redoc_url=None,
    )
    limits = engine().plan.config.limits
    image_limits = ImageLimits(max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)
    app.add_middleware(BodyLimit, max_bytes=limits.max_bytes * 4 // 3 + _BODY_OVERHEAD_BYTES)
    app.add_middleware(RequestIdentity, set_header=set_request_id)
    add_problem_handlers(app, set_request_id=set_request_id)

    @app.post(
        "/v1/images",
        summary="Run the pipeline on one image",
        response_class=JSONResponse,
        responses={
            200: {"model": Result, "content": {"image/jpeg": {}}, "description": "The result, or the annotated picture"},
            **_PROBLEMS,
        },
        openapi_extra={"requestBody": OPENAPI_BODY},
    )
    async def post_image(
        request: Request,
        annotate_: Annotated[bool, Query(alias="annotate", description="Return the picture with boxes and labels")] = False,
        x_request_timeout_ms: Annotated[int | None, Header(ge=1, description="Lowers the deadline; in milliseconds")] = None,
    ) -> Response:
        upload = await read_upload(request)
        frame = Frame.from_bytes(upload.data, image_limits)
        limit_ms = min(timeout_ms, x_request_timeout_ms or timeout_ms)
        result = await engine().run(
            frame, metadata=upload.metadata, request_id=request.state.request_id, timeout_s=limit_ms / 1000
        )
        if annotate_:
            return Response(await asyncio.to_thread(annotate, frame, result), media_type="image/jpeg")
        return JSONResponse(result)

    @app.get("/v1/pipeline", summary="The pipeline that is served, enough to draw it", response_model=PipelineView)
    async def get_pipeline() -> JSONResponse:
        now = engine()
        return JSONResponse(_view(now.plan, await now.fingerprint()))

    @app.get("/v1/schema", summary="JSON schema of the pipeline file")
    async def get_schema() -> JSONResponse:
        return JSONResponse(json_schema())

    @app.get("/healthz", summary="Whether this server is alive", response_model=Health)
    async def get_health() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", summary="Whether every step's deployment answers", response_model=Health, responses={503: _PROBLEMS[503]})
    async def get_ready() -> JSONResponse:
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                await engine().ready()
        except TimeoutError as error:
            raise NotReady("not every step's deployment answers yet; try again", retry_after_s=_READY_TIMEOUT_S) from error
        return JSONResponse({"status": "ready"})

    return app


def _view(plan: Plan, fingerprint: str) -> dict[str, Any]:
    return {
        "name": plan.name,
        "fingerprint": fingerprint,
        "steps": [
            {
                "name": step.name,
                "class": step.class_path,
                "depends_on": list(step.depends_on),
                "condition": step.condition.source if step.condition else None,
                "crops": step.crops.source if step.crops else None,
                "on_error": step.on_error,
                "timeout_ms": None if step.timeout_s is None else round(step.timeout_s * 1000),
            }
            for step in plan
        ],
        "edges": [{"source": source, "target": step.name} for step in plan for source in step.depends_on],
    }
