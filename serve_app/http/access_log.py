"""One line per request, without headers, query and address of the image: all of them may hold secrets. What it says is
in the fields of its record."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from starlette.types import Scope

from serve_app.telemetry.log_fields import FIELDS

__all__ = ["facts_of", "log_request", "log_to"]

_log = logging.getLogger("visiongraph.access")

# no route is longer
_MAX_PATH = 200


def log_request(scope: Scope, status: int | None) -> None:
    """Write the line of a request; ``status``: of its response, ``None``: it has none."""
    if not _log.isEnabledFor(logging.INFO):
        return
    state = scope["state"]
    principal = state.get("principal")
    fields = {
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
    _log.info("%s %s %s", fields["method"], fields["path"], status, extra={FIELDS: fields})


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
