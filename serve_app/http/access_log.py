"""One JSON line per request, without headers, query and address of the image: all of them may hold secrets."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["AccessLog", "facts_of", "log_to"]

_log = logging.getLogger("visiongraph.access")

_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode

# no route is longer
_MAX_PATH = 200


class AccessLog:
    """Writes a line when a request has ended, in whatever way."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or not _log.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        status: int | None = None

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            _log.info(_encode(_line(scope, status)))


def _line(scope: Scope, status: int | None) -> dict[str, Any]:
    state = scope["state"]
    principal = state.get("principal")
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": state["request_id"],
        "client": state["client"],
        "method": scope["method"],
        "path": scope["path"][:_MAX_PATH],
        "status": status,
        "outcome": "cancelled" if status is None else "ok" if status < 400 else "refused" if status < 500 else "failed",
        "key": principal.key_id if principal is not None else None,
        "tenant": principal.tenant if principal is not None else None,
        "duration_ms": round((time.monotonic() - state["arrived"]) * 1000, 1),
        **state["facts"],
    }


def facts_of(result: dict[str, Any]) -> dict[str, Any]:
    """The part of the line about a result: the image's hash, and the duration of each step, or its status."""
    return {
        "image": result["image"]["sha256"],
        "steps": {
            step["name"]: step["duration_ms"] if step["status"] == "ok" else step["status"] for step in result["steps"]
        },
    }


def log_to(handlers: Iterable[logging.Handler]) -> None:
    """Send the lines to these handlers and nowhere else."""
    for handler in handlers:
        _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False
