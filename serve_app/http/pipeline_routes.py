"""The routes about the pipeline that is served, and the probes."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from graph import Engine, Plan, json_schema
from serve_app.http.problems import problems
from serve_app.http.schemas import Health, PipelineView
from serve_app.refusals import NotReady

__all__ = ["public", "router"]

_READY_TIMEOUT_S = 5.0

router = APIRouter()
public = APIRouter()


@router.get(
    "/v1/pipeline",
    summary="The pipeline that is served, enough to draw it",
    response_model=PipelineView,
    responses=problems(401, 403, 429),
)
async def get_pipeline(request: Request) -> JSONResponse:
    """Name, fingerprint, steps, edges."""
    engine: Engine = request.app.state.engine()
    return JSONResponse(_view(engine.plan, await engine.fingerprint()))


@public.get("/v1/schema", summary="JSON schema of the pipeline file")
async def get_schema() -> JSONResponse:
    """For editors."""
    return JSONResponse(json_schema())


@public.get("/healthz", summary="Whether this server is alive", response_model=Health)
async def get_health() -> JSONResponse:
    """For liveness probes."""
    return JSONResponse({"status": "ok"})


@public.get("/readyz", summary="Whether each step's deployment answers", response_model=Health, responses=problems(503))
async def get_ready(request: Request) -> JSONResponse:
    """For readiness probes."""
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            await request.app.state.engine().ready()
    except TimeoutError as error:
        raise NotReady("not every step's deployment answers yet; try again", retry_after_s=_READY_TIMEOUT_S) from error
    return JSONResponse({"status": "ready"})


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
