"""Which error gives which status: the one table, and the ``application/problem+json`` documents (RFC 9457)."""

from __future__ import annotations

import http
import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from classifiers import BadImage, InputError, TooManyBytes, TooManyPixels, UnsupportedImage, VisionError
from graph.conditions import RuleError
from graph.errors import DeadlineExceeded, Overloaded, StepFailed

__all__ = [
    "PROBLEM_JSON",
    "STATUS",
    "Forbidden",
    "Malformed",
    "NotReady",
    "Problem",
    "UnsupportedBody",
    "add_problem_handlers",
    "problem_response",
]

PROBLEM_JSON = "application/problem+json"

_log = logging.getLogger(__name__)


class Malformed(VisionError):
    """The request cannot be understood."""


class Forbidden(VisionError):
    """The request is understood, and refused."""


class UnsupportedBody(VisionError):
    """The body's content type is none that the route takes."""


class NotReady(VisionError):
    """Not every step's deployment answers yet."""


STATUS: dict[type[VisionError], int] = {
    Malformed: 400,
    Forbidden: 403,
    DeadlineExceeded: 408,
    TooManyBytes: 413,
    UnsupportedBody: 415,
    UnsupportedImage: 415,
    BadImage: 422,
    TooManyPixels: 422,
    InputError: 422,
    RuleError: 500,
    StepFailed: 502,
    NotReady: 503,
    Overloaded: 503,
    VisionError: 500,
}
"""The most derived class that has a row counts. What is not here is a bug, and answered with 500."""


class Problem(BaseModel):
    """The body of every error (RFC 9457). Further fields, such as ``limit`` or ``step``, depend on ``type``."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Names the kind of problem, for example urn:visiongraph:problem:bad-image")
    title: str = Field(description="The kind of problem in words; the same for every problem of a type")
    status: int = Field(description="The HTTP status")
    detail: str = Field(description="What happened and what to do about it")
    instance: str = Field(description="The request id, as in the header X-Request-Id")


def status_of(error: VisionError) -> int:
    """The status that an error gets."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem_response(
    request_id: str, status: int, kind: str, detail: str, fields: dict[str, Any] | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error as the client sees it. ``kind`` in CamelCase, as the exception's class."""
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in kind).strip()
    body = {
        **(fields or {}),
        "type": f"urn:visiongraph:problem:{words.replace(' ', '-')}",
        "title": words.capitalize(),
        "status": status,
        "detail": detail,
        "instance": request_id,
    }
    return JSONResponse(body, status, headers, PROBLEM_JSON)


def add_problem_handlers(app: FastAPI, *, set_request_id: bool = True) -> None:
    """Let ``app`` answer every error, its own and the framework's, as a problem document.

    ``set_request_id``: whether a 500, which Starlette answers outside every middleware, must set ``X-Request-Id`` itself.
    """

    async def vision_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, VisionError)
        status = status_of(error)
        if status == 500:
            raise error  # a fault of ours, and answered as one
        headers = {}
        if status == 503:
            headers["Retry-After"] = str(math.ceil(float(str(error.fields.get("retry_after_s", 1)))))
        return problem_response(request.state.request_id, status, type(error).__name__, str(error), dict(error.fields), headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors())
        return problem_response(request.state.request_id, 400, "Malformed", found)

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        kind = http.HTTPStatus(error.status_code).phrase.title().replace(" ", "")
        details = {404: f"there is no {request.url.path}; /docs lists what there is", 405: f"{request.method} is not a method of {request.url.path}"}
        detail = details.get(error.status_code, str(error.detail))
        return problem_response(request.state.request_id, error.status_code, kind, detail, headers=dict(error.headers or {}))

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        _log.error("request %s failed", request.state.request_id, exc_info=error)
        detail = "this is a fault of the server; the log has it under the request id"
        headers = {"X-Request-Id": request.state.request_id} if set_request_id else None
        return problem_response(request.state.request_id, 500, "InternalError", detail, headers=headers)

    app.add_exception_handler(VisionError, vision_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unexpected)
