"""The FastAPI application: its routes over an engine, wherever that runs its steps."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from graph import Engine, Frame, Plan, json_schema
from serve_app.access import Clients, Guard
from serve_app.config import GatewayConfig
from serve_app.http.access_log import AccessLog, facts_of
from serve_app.http.arrivals import Arrivals, Slots
from serve_app.http.bodies import BODY_OVERHEAD_BYTES, OPENAPI_BODY, read_upload
from serve_app.http.deadlines import deadline, unless_gone
from serve_app.http.drawing import Drawings
from serve_app.http.job_desk import JobDesk
from serve_app.http.job_routes import add_job_routes
from serve_app.http.middleware import BodyLimit, KnownHosts, LenientRouting, RequestIdentity, Room
from serve_app.http.problems import JsonAnswer, add_problem_handlers, problems
from serve_app.http.route_scopes import SECURITY_SCHEMES, guarded_route
from serve_app.http.schemas import Health, PipelineView, Result
from serve_app.images import Fetcher, read_frame
from serve_app.refusals import NotReady
from serve_app.results import Reuse

__all__ = ["make_app"]

_READY_TIMEOUT_S = 5.0


def make_app(
    engine: Callable[[], Engine],
    config: GatewayConfig,
    *,
    guard: Guard | None = None,
    fetcher: Fetcher | None = None,
    desk: JobDesk | None = None,
    reuse: Reuse | None = None,
    set_request_id: bool = True,
) -> FastAPI:
    """Make the application.

    Args:
        engine: gives the engine that serves now; another one after the pipeline's tunables have changed.
        config: the rules of the entry.
        guard: lets requests in; default: by ``config``.
        fetcher: fetches images; default: by ``config``.
        desk: takes jobs; without one they are switched off.
        reuse: answers images that were seen before; without one each is run.
        set_request_id: off where the server around the application sets ``X-Request-Id`` on responses.

    Raises:
        SetupError: a file that ``config`` names cannot be read.
    """
    app = FastAPI(
        title="visiongraph",
        description="Finds objects in an image, and asks further classifiers where the pipeline's rules call for them.",
        redoc_url=None,
        redirect_slashes=False,  # the address would be made from the client's own Host header
    )
    limits = engine().plan.config.limits
    guard = guard or Guard(config)
    fetcher = fetcher or Fetcher(config.fetch, limits.max_bytes)
    app.router.route_class = guarded_route(guard)
    # base64 makes 4 characters of 3 bytes
    max_body_bytes = limits.max_bytes * 4 // 3 + BODY_OVERHEAD_BYTES
    room = Room(max(max_body_bytes, config.max_bodies_mb * 2**20))
    drawings = Drawings(room)
    app.add_middleware(LenientRouting)
    app.add_middleware(
        BodyLimit,
        max_bytes=max_body_bytes,
        room=room,
        arrivals=Arrivals(config.min_body_bytes_per_s, config.max_arriving_per_client),
        slots=Slots(config.max_ongoing_requests, config.max_queued_requests),
    )
    if config.hosts is not None:
        app.add_middleware(KnownHosts, hosts=config.hosts)
    if config.access_log:
        app.add_middleware(AccessLog)
    app.add_middleware(RequestIdentity, clients=Clients(config.trusted_proxies), set_header=set_request_id)
    add_problem_handlers(app, set_request_id=set_request_id)
    if not guard.is_open:
        _describe_security(app)

    @app.post(
        "/v1/images",
        summary="Run the pipeline on one image",
        response_class=JSONResponse,
        responses={
            200: {
                "model": Result,
                "content": {"image/jpeg": {}},
                "description": "The result, or the annotated picture",
            },
            **problems(400, 401, 403, 408, 413, 415, 422, 429, 502, 503),
        },
        openapi_extra={"requestBody": OPENAPI_BODY},
    )
    async def post_image(
        request: Request,
        annotate_: Annotated[
            bool, Query(alias="annotate", description="Return the picture with boxes and labels")
        ] = False,
        x_request_timeout_ms: Annotated[
            int | None, Header(ge=1, description="Lowers the deadline; in milliseconds")
        ] = None,
    ) -> Response:
        async def work(frame: Frame, metadata: dict[str, Any]) -> Response:
            if annotate_:
                drawings.check(frame, request.state.facts["bytes"])
            run = Engine.run if reuse is None else reuse.run
            result = await run(engine(), frame, metadata=metadata, request_id=request.state.request_id)
            request.state.facts.update(facts_of(result))
            if annotate_:
                return Response(await drawings.draw(frame, result), media_type="image/jpeg")
            return JsonAnswer(result)

        async def fetch_and_work(uri: str, metadata: dict[str, Any]) -> Response:
            client = request.state.principal
            data = await fetcher.fetch(uri, client.key_id, client.tenant)
            return await work(await read_frame(data, limits, uri), metadata)

        limit_ms = min(config.timeout_ms, x_request_timeout_ms or config.timeout_ms)
        async with deadline(request, limit_ms):
            upload = await read_upload(request)
            if upload.uri is not None:
                return await unless_gone(request, fetch_and_work(upload.uri, upload.metadata))
            return await unless_gone(request, work(await read_frame(upload.data, limits), upload.metadata))

    add_job_routes(app, desk, guard, config.timeout_ms)

    @app.get(
        "/v1/pipeline",
        summary="The pipeline that is served, enough to draw it",
        response_model=PipelineView,
        responses=problems(401, 403, 429),
    )
    async def get_pipeline() -> JSONResponse:
        now = engine()
        return JSONResponse(_view(now.plan, await now.fingerprint()))

    @app.get("/v1/schema", summary="JSON schema of the pipeline file")
    async def get_schema() -> JSONResponse:
        return JSONResponse(json_schema())

    @app.get("/healthz", summary="Whether this server is alive", response_model=Health)
    async def get_health() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get(
        "/readyz",
        summary="Whether every step's deployment answers",
        response_model=Health,
        responses=problems(503),
    )
    async def get_ready() -> JSONResponse:
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                await engine().ready()
        except TimeoutError as error:
            raise NotReady(
                "not every step's deployment answers yet; try again", retry_after_s=_READY_TIMEOUT_S
            ) from error
        return JSONResponse({"status": "ready"})

    return app


def _describe_security(app: FastAPI) -> None:
    """Name the credentials in the OpenAPI document."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        document = described()
        document.setdefault("components", {})["securitySchemes"] = SECURITY_SCHEMES
        return document

    app.openapi = openapi  # type: ignore[method-assign]


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
