"""The ingress deployment: the HTTP application and the engine, and nothing that looks at pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from graph import Engine, Plan
from graph.config import merge
from serve_app.backend import ServeBackend
from serve_app.gateway_config import GatewayConfig
from serve_app.http import make_app
from serve_app.http.access_log import log_to_stderr
from serve_app.transport import crop_budget_bytes

__all__ = ["Gateway"]


@serve.ingress()
class Gateway:
    """Takes requests over HTTP and walks each image through the plan.

    Args:
        structure: the pipeline without its tunables.
        config: the rules of the entry.
        handles: a handle to each step's deployment, by the step's name.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, structure: Mapping[str, Any], config: GatewayConfig, handles: dict[str, DeploymentHandle[Any]]
    ) -> None:
        self._structure = structure
        self._config = config
        self._backend = ServeBackend(handles, crop_budget_bytes())
        self._engine = self._engine_with({})
        # In a rolling update the gateway before this one goes on until this one is ready: with all its steps, or
        # requests would wait.
        await self._backend.ready()

    def __serve_build_asgi_app__(self) -> FastAPI:
        log_to_stderr()
        return make_app(lambda: self._engine, self._config, set_request_id=False)  # Serve sets it

    def reconfigure(self, tunables: dict[str, Any]) -> None:
        """Take new tunables; requests under way keep the engine that they began with."""
        self._engine = self._engine_with(tunables)

    def _engine_with(self, tunables: Mapping[str, Any]) -> Engine:
        return Engine(Plan.from_config(merge(self._structure, tunables)), self._backend)
