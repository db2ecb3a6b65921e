"""Why each step ran, and what would have run under other rules: from a result, without running a model again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import Field, ValidationError

from classifiers import TooManyBytes
from classifiers.validation import Closed
from graph import PipelineError, Plan, load_plan
from graph.engine import deadline, explain
from serve_app.http.bodies import OPENAPI_BODY, read_upload
from serve_app.http.image_routes import counted, frame_of
from serve_app.http.json_bodies import JsonBody, charset_of, content_type, is_json, mistakes_in, utf8
from serve_app.http.problems import JsonAnswer, Malformed, problems
from serve_app.http.schemas import Explanation, Result, WhatIf

__all__ = ["router"]

_MAX_BODY_BYTES = 4 * 2**20
_MAX_RESULTS = 100
_MAX_RULE = 2000

router = APIRouter()


class ResultBody(JsonBody):
    """A result that is to be explained."""

    result: Result


class Rules(Closed):
    """Other rules for a step. A rule that is left out stays; ``null`` removes it."""

    condition: str | None = Field(None, max_length=_MAX_RULE)
    crops: str | None = Field(None, max_length=_MAX_RULE)


class WhatIfBody(Closed):
    """Results, and the rules that are to be tried on them."""

    results: list[Result] = Field(min_length=1, max_length=_MAX_RESULTS)
    rules: dict[str, Rules] = Field(description="By the step's name")


@router.post(
    "/v1/explain",
    summary="Why each step ran, or not",
    response_model=Explanation,
    responses=problems(400, 401, 403, 408, 413, 415, 422, 429, 502, 503),
    openapi_extra={
        "requestBody": {
            **OPENAPI_BODY,
            "content": {
                **OPENAPI_BODY["content"],  # type: ignore[dict-item]
                "application/json": {"schema": {"anyOf": [{"type": "object"}, ResultBody.model_json_schema()]}},
            },
        }
    },
)
async def post_explain(request: Request) -> JSONResponse:
    """The body is ``{"result": ...}`` with a result of this pipeline, or an image as for ``POST /v1/images``, which is
    run first."""
    here = request.app.state
    limit_s, arrived = here.config.timeout_ms / 1000, request.state.arrived
    async with deadline(limit_s, since=arrived):
        result = await _sent_result(request)
    if result is None:
        with counted(request, here.count_explained):
            async with deadline(limit_s, since=arrived):
                upload = await read_upload(request)
                frame = await frame_of(request, upload)
                result = await here.engine().run(frame, metadata=upload.metadata, request_id=request.state.request_id)
    async with deadline(limit_s, since=arrived):
        steps = await asyncio.to_thread(_explained, here.engine().plan, result)
    return JsonAnswer({"result": result, "steps": steps})


@router.post(
    "/v1/what-if",
    summary="Which steps would run under other rules",
    response_model=WhatIf,
    responses=problems(400, 401, 403, 408, 413, 415, 429),
)
async def post_what_if(request: Request, body: WhatIfBody) -> JSONResponse:
    """Each rule is evaluated on the detections of up to 100 results; no model runs. A step whose dependencies did not
    run in a result is not counted there."""
    here = request.app.state
    async with deadline(here.config.timeout_ms / 1000, since=request.state.arrived):
        return JsonAnswer(await asyncio.to_thread(_what_if, here.engine().plan, body))


async def _sent_result(request: Request) -> dict[str, Any] | None:
    """The result in a body; ``None``: it is an image."""
    if not is_json(content_type(request)):
        return None
    raw = await request.body()
    if b'"result"' not in raw[:64]:
        return None
    if len(raw) > _MAX_BODY_BYTES:
        raise TooManyBytes(f"the result has more than {_MAX_BODY_BYTES:,} bytes", limit=_MAX_BODY_BYTES)
    try:
        body = ResultBody.model_validate_json(utf8(raw, charset_of(request.headers["content-type"])))
    except ValidationError as error:
        found = mistakes_in(error, ResultBody.model_fields)
        raise Malformed(f'the body is not {{"result": ...}} with a result of POST /v1/images: {found}') from error
    return body.result.model_dump(exclude_unset=True)


def _explained(plan: Plan, result: dict[str, Any]) -> list[dict[str, Any]]:
    if unknown := {step["name"] for step in result["steps"]} - {step.name for step in plan}:
        raise Malformed(f"the result is of another pipeline: there is no step '{min(unknown)[:80]}' here")
    try:
        return [asdict(step) for step in explain(plan, result)]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise Malformed(f"this is not a result of this pipeline: {type(error).__name__}: {error}") from error


def _what_if(plan: Plan, body: WhatIfBody) -> dict[str, Any]:
    changed = _with_rules(plan, body.rules)
    results = [result.model_dump(exclude_unset=True) for result in body.results]
    before, after = _counts(plan, results), _counts(changed, results)
    return {
        "results": len(results),
        "steps": [{"name": step.name, "before": before[step.name], "after": after[step.name]} for step in plan],
    }


def _with_rules(plan: Plan, rules: dict[str, Rules]) -> Plan:
    """The plan with other rules.

    Raises:
        Malformed: a rule is invalid, or a step unknown (field ``mistakes``).
    """
    config = plan.config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    steps = {step["name"]: step for step in config["pipeline"]}
    for name, changed in rules.items():
        if name not in steps:
            raise Malformed(f"there is no step '{name[:80]}'; there are {', '.join(steps)}")
        steps[name].update(changed.model_dump(exclude_unset=True))
    try:
        return load_plan(config)
    except PipelineError as error:
        mistakes = [{"step": each.step, "key": each.key, "message": each.message} for each in error.mistakes]
        raise Malformed(str(error), mistakes=mistakes) from error


def _counts(plan: Plan, results: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """For each step in how many results it would run, on how many crops in all, and in how many that cannot be said."""
    counts = {step.name: {"runs": 0, "crops": 0, "unknown": 0} for step in plan}
    for result in results:
        explained = {step["name"]: step for step in _explained(plan, result)}

        def crops_of(name: str, explained: dict[str, Any] = explained) -> int | None:
            """0: it would not run; else its crops, 1 for the whole image; ``None``: its input is not in the result."""
            inputs = [crops_of(each) for each in plan[name].depends_on]
            if 0 in inputs:
                return 0
            if name not in explained or not all(each in result["context"] for each in plan[name].depends_on):  # noqa: B023
                return None
            step = explained[name]
            if step["condition"] is not None and not step["condition"]["held"]:
                return 0
            return 1 if plan[name].crops is None else sum(bool(crop["held"]) for crop in step["crops"])

        for name, count in counts.items():
            crops = crops_of(name)
            count["unknown"] += crops is None
            count["runs"] += bool(crops)
            count["crops"] += 0 if plan[name].crops is None else crops or 0
    return counts
