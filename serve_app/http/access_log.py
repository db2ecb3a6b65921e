"""One JSON line a request. It holds no header, no query, no address of an image: secrets travel in all of them."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["AccessLog", "facts_of", "log_to_serve", "log_to_stderr"]

_log = logging.getLogger("visiongraph.access")

# Longer ones are nobody's route.
_MAX_PATH = 200


class AccessLog:
    """Writes a line when a request has ended, however it has."""

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
            _log.info(json.dumps(_line(scope, status), ensure_ascii=True, separators=(",", ":")))


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
    """What the line says about a result: the image's hash, and how long each step took or how else it ended."""
    return {
        "image": result["image"]["sha256"],
        "steps": {
            step["name"]: step["duration_ms"] if step["status"] == "ok" else step["status"] for step in result["steps"]
        },
    }


def log_to_serve() -> None:
    """Send the lines to the log of this replica, in Serve's format and, as its own lines, several at a time.

    Serve sends what is written to stderr there too, but looks through the whole stack for each line: a tenth of the
    CPU time of a gateway.
    """
    for handler in logging.getLogger("ray.serve").handlers:
        if handler not in _log.handlers:
            _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False


def log_to_stderr() -> None:
    """Send the lines to stderr as they are, for a process that nobody has set up logging for."""
    if not _log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        _log.addHandler(handler)
        _log.setLevel(logging.INFO)
        _log.propagate = False
