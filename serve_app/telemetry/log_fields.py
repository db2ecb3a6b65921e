"""What each log line says beside its message: the ids of the request or job that it is about, and of its trace."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from serve_app.telemetry.tracing import current_trace_id

__all__ = ["FIELDS", "fields_of", "log_fields"]

FIELDS = "fields"
"""The attribute of a record with fields of its own: ``logger.info(..., extra={FIELDS: {...}})``."""

_current: ContextVar[Mapping[str, Any]] = ContextVar("log_fields", default={})  # noqa: B039 - never changed


@contextmanager
def log_fields(**fields: Any) -> Iterator[None]:
    """Add fields to all lines that the block logs, in this task and those that it starts."""
    token = _current.set({**_current.get(), **fields})
    try:
        yield
    finally:
        _current.reset(token)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a line, for the handler that gets it in the thread that logs it."""
    trace_id = current_trace_id()
    trace = {} if trace_id is None else {"trace_id": trace_id}
    return {**_current.get(), **trace, **getattr(record, FIELDS, {})}
