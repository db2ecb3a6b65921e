"""What the routes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from graph import Engine
from serve_app.access import Guard
from serve_app.config import GatewayConfig
from serve_app.http.drawing import Drawings
from serve_app.http.job_desk import JobDesk
from serve_app.images import Fetcher
from serve_app.results import Reuse

__all__ = ["Services", "services"]


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of an application; see :func:`serve_app.http.make_app`."""

    engine: Callable[[], Engine]
    config: GatewayConfig
    guard: Guard
    fetcher: Fetcher
    drawings: Drawings
    desk: JobDesk | None
    reuse: Reuse | None


def services(request: Request) -> Services:
    """Those of the application that a request came to."""
    found: Services = request.app.state.services
    return found
