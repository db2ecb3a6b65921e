"""The FastAPI application: middleware, and the routers with the scope that each requires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from graph import Engine
from serve_app.access import ClientAddresses, Guard
from serve_app.config import GatewayConfig
from serve_app.http import explain_routes, image_routes, job_routes, page_routes, pipeline_routes
from serve_app.http.arrivals import Arrivals, Slots
from serve_app.http.bodies import BODY_OVERHEAD_BYTES
from serve_app.http.drawing import Drawings
from serve_app.http.job_desk import JobDesk
from serve_app.http.middleware import BodyLimit, KnownHosts, LenientRouting, MemoryBudget, RequestIdentity
from serve_app.http.problems import add_problem_handlers
from serve_app.http.route_scopes import access
from serve_app.images import Fetcher, KeptImages, KeptPlaces
from serve_app.results import Reuse
from serve_app.telemetry.recording import ImageRecorder

__all__ = ["ROUTERS", "make_app"]

ROUTERS = (
    (image_routes.router, "infer", 1),
    (explain_routes.router, "infer", 0),
    (job_routes.router, "jobs", 0),
    (pipeline_routes.router, "infer", 0),
    (pipeline_routes.public, None, 0),
    (page_routes.router, None, 0),
)
"""Each with the scope that its routes require, ``None`` for everyone, and the images that a request takes from the
daily quota."""

# beside those that every page may send
_CORS_REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "X-API-Key",
    "X-Request-Id",
    "X-Request-Timeout-Ms",
)


def make_app(
    engine: Callable[[], Engine],
    config: GatewayConfig,
    *,
    desk: JobDesk | None = None,
    reuse: Reuse | None = None,
    kept: KeptPlaces | None = None,
    kept_images: KeptImages | None = None,
    set_request_id: bool = True,
) -> FastAPI:
    """Make the application.

    Args:
        engine: gives the engine that serves now; another one after the pipeline's tunables have changed.
        config: the ``gateway:`` block.
        desk: takes jobs; without it they are switched off.
        reuse: answers images that were seen before; without it each image is run.
        kept: what is not fetched, see :class:`serve_app.images.fetching.Fetcher`.
        kept_images: takes images for later labelling.
        set_request_id: off where the server around the application sets ``X-Request-Id`` on responses.

    Raises:
        SetupError: a file that ``config`` names cannot be read.
    """
    app = FastAPI(
        title="visiongraph",
        description="Finds objects in an image, and runs further classifiers where the pipeline's rules select them.",
        redoc_url=None,
        redirect_slashes=False,  # the address would be made from the client's own Host header
    )
    limits = engine().plan.config.limits
    # base64 makes 4 characters of 3 bytes
    max_body_bytes = limits.max_bytes * 4 // 3 + BODY_OVERHEAD_BYTES
    memory = MemoryBudget(max(max_body_bytes, config.max_bodies_mb * 2**20))
    guard = Guard(config)
    state = app.state  # the routes use it
    state.engine, state.config, state.guard, state.desk, state.reuse = engine, config, guard, desk, reuse
    state.fetcher = Fetcher(config.fetch, limits.max_bytes, kept=kept)
    state.kept_images = kept_images
    state.decoding = asyncio.Lock()  # pixels take 20 times the bytes of a JPEG
    state.drawings = Drawings(memory)
    state.count_image = ImageRecorder(engine().plan.name, "http")
    state.count_explained = ImageRecorder(engine().plan.name, "explain")
    app.add_middleware(LenientRouting)
    app.add_middleware(
        BodyLimit,
        max_bytes=max_body_bytes,
        max_form_bytes=memory.size,
        memory=memory,
        arrivals=Arrivals(config.min_body_bytes_per_s, config.max_arriving_per_client),
        slots=Slots(config.max_ongoing_requests, config.max_queued_requests),
    )
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=_CORS_REQUEST_HEADERS,
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    if config.hosts is not None:
        app.add_middleware(KnownHosts, hosts=config.hosts)
    app.add_middleware(
        RequestIdentity,
        clients=ClientAddresses(config.trusted_proxies),
        set_header=set_request_id,
        log=config.access_log,
    )
    add_problem_handlers(app, set_request_id=set_request_id)
    for router, scope, images in ROUTERS:
        app.include_router(router, dependencies=access(guard, scope, images))
    return app
