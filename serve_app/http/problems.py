"""The status of each error, and the ``application/problem+json`` documents (RFC 9457)."""

from __future__ import annotations

import http
import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from classifiers import BadImage, InputError, TooManyBytes, TooManyPixels, UnsupportedImage, VisionError
from classifiers.validation import sentence
from graph.conditions import RuleError
from graph.failures import DeadlineExceeded, Malformed, Overloaded, StepFailed, StepUnavailable, Unreachable
from serve_app.refusals import (
    FetchFailed,
    Forbidden,
    Gone,
    JobsUnavailable,
    NotFound,
    NotReady,
    NotSupported,
    Quarantined,
    TooManyRequests,
    Unauthorized,
    UnsupportedBody,
)
from serve_app.telemetry.metrics import GATEWAY_REFUSALS

__all__ = [
    "PROBLEM_JSON",
    "STATUS",
    "JsonAnswer",
    "Malformed",
    "Problem",
    "SlowBody",
    "add_problem_handlers",
    "problem_response",
    "problems",
    "status_of",
]

PROBLEM_JSON = "application/problem+json"

# as nginx: only the log has it
_CLIENT_HAS_GONE = 499

_log = logging.getLogger(__name__)


class SlowBody(VisionError):
    """The body arrives too slowly."""


STATUS: dict[type[VisionError], int] = {
    Malformed: 400,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    Gone: 410,
    DeadlineExceeded: 408,
    SlowBody: 408,
    TooManyBytes: 413,
    UnsupportedBody: 415,
    UnsupportedImage: 415,
    BadImage: 422,
    TooManyPixels: 422,
    Quarantined: 422,
    InputError: 422,
    TooManyRequests: 429,
    RuleError: 500,
    NotSupported: 501,
    FetchFailed: 502,
    StepFailed: 502,
    JobsUnavailable: 503,
    NotReady: 503,
    Overloaded: 503,
    StepUnavailable: 503,
    Unreachable: 503,
    VisionError: 500,
}
"""The row of the most derived class applies. Errors without a row are bugs, and answered with 500."""


class JsonAnswer(JSONResponse):
    """JSON of a large result, by pydantic's encoder: the event loop waits for a fifth of the time of the standard one.

    NaN and Infinity are null.
    """

    def render(self, content: Any) -> bytes:
        """See :class:`starlette.responses.JSONResponse`."""
        return to_json(content, inf_nan_mode="null")


class Problem(BaseModel):
    """The body of every error (RFC 9457). Further fields, such as ``limit`` or ``step``, depend on ``type``."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="The kind of problem, for example urn:visiongraph:problem:bad-image")
    title: str = Field(description="A short summary; the same for every problem of a type")
    status: int = Field(description="The HTTP status")
    detail: str = Field(description="What happened and what to do about it")
    instance: str = Field(description="The request id, as in the header X-Request-Id")


_DESCRIPTIONS = {
    400: "Malformed request",
    401: "Missing or invalid credentials",
    403: "Not allowed",
    404: "There is no such job, or not for this key; or jobs are switched off",
    408: "The deadline passed, or the body arrived too slowly",
    410: "The job was deleted",
    413: "Too many bytes",
    415: "Not a type that is served",
    422: "The image cannot be decoded, or has too many pixels",
    429: "The key has used up its budget; try again after Retry-After",
    501: "The store of images cannot sign uploads",
    502: "A step that the request cannot do without failed, or the image could not be fetched",
    503: "Overloaded, or not ready; try again after Retry-After",
}
"""Of the responses in the OpenAPI document. What a client gets as ``detail`` is the message of the error."""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for the OpenAPI document."""
    return {
        status: {"model": Problem, "content": {PROBLEM_JSON: {}}, "description": _DESCRIPTIONS[status]}
        for status in statuses
    }


def status_of(error: VisionError) -> int:
    """The status of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def _in_words(kind: str) -> str:
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in kind).strip()


def problem_response(
    request: Request,
    status: int,
    kind: str,
    detail: str,
    fields: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """The response for an error. ``kind``: in CamelCase, as the exception's class."""
    words = _in_words(kind)
    name = words.replace(" ", "-")
    request.state.facts["problem"] = name
    GATEWAY_REFUSALS.labels(name).inc()
    body = {
        **(fields or {}),
        "type": f"urn:visiongraph:problem:{name}",
        "title": words.capitalize(),
        "status": status,
        "detail": detail,
        "instance": request.state.request_id,
    }
    return JSONResponse(body, status, headers, PROBLEM_JSON)


def add_problem_handlers(app: FastAPI, *, set_request_id: bool = True) -> None:
    """Report every error of ``app``, its own and the framework's, as a problem document.

    ``set_request_id``: whether a 500, which Starlette answers outside every middleware, must set ``X-Request-Id``.
    """
    for kind in STATUS:
        GATEWAY_REFUSALS.labels(_in_words(kind.__name__).replace(" ", "-"))  # Prometheus sees each begin at 0

    async def vision_error(request: Request, error: Any) -> JSONResponse:
        if (status := status_of(error)) == 500:
            raise error  # a bug, and reported as one
        headers = {}
        if status in (429, 503):
            headers["Retry-After"] = str(max(1, math.ceil(float(str(error.fields.get("retry_after_s", 1))))))
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return problem_response(request, status, type(error).__name__, str(error), dict(error.fields), headers)

    async def gone(request: Request, error: Exception) -> Response:  # noqa: ARG001
        return Response(status_code=_CLIENT_HAS_GONE)

    async def invalid(request: Request, error: Any) -> JSONResponse:
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {sentence(e, values=False)}" for e in error.errors())
        return problem_response(request, 400, "Malformed", found)

    async def http_error(request: Request, error: Any) -> JSONResponse:
        kind = http.HTTPStatus(error.status_code).phrase.title().replace(" ", "")
        path = request.scope["path"]  # not request.url, which has the client's Host
        details = {
            404: f"there is no {path}; /docs lists all routes",
            405: f"{request.method} is not a method of {path}",
        }
        detail = details.get(error.status_code, str(error.detail))
        return problem_response(request, error.status_code, kind, detail, headers=dict(error.headers or {}))

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        _log.error("request %s failed", request.state.request_id, exc_info=error)
        detail = "an internal error; the log has it under the request id"
        headers = {"X-Request-Id": request.state.request_id} if set_request_id else None
        return problem_response(request, 500, "InternalError", detail, headers=headers)

    app.add_exception_handler(VisionError, vision_error)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unexpected)
