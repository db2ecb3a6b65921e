"""Gateways over toy classifiers in this process, for tests of the HTTP application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from toys import draw, encoded

from graph import Engine, LocalBackend, load_plan
from serve_app.config.gateway_config import GatewayConfig
from serve_app.http.application import make_app

STREET = draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150))

PIPELINE: dict[str, Any] = {
    "name": "toy",
    "limits": {"max_bytes": 100_000, "max_pixels": 1_000_000},
    "pipeline": [
        {"name": "detect", "class": "toys.Blobs"},
        {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect"},
        {"name": "mean", "class": "toys.Failing", "params": {"above": 200}, "on_error": "fail"},
        {
            "name": "slow",
            "class": "toys.Sleeper",
            "params": {"seconds": 0.3},
            "condition": "'slow' in image['metadata']",
        },
    ],
}


PNG = encoded(STREET)
WHITE = encoded(np.full((32, 32, 3), 255, np.uint8))


def config(**block: Any) -> GatewayConfig:
    """A ``gateway:`` block that lets everybody in, but for what ``block`` says."""
    return GatewayConfig.model_validate({"auth": "none", "timeout_ms": 5_000, **block})


def app_over(backend: LocalBackend, rules: GatewayConfig | None = None, **options: Any) -> FastAPI:
    """The application over a backend of :data:`PIPELINE`."""
    engine = Engine(load_plan(PIPELINE), backend)
    return make_app(lambda: engine, rules or config(), **options)


@asynccontextmanager
async def client_of(app: Any, address: str = "192.0.2.1", **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls the application in this process, from an address."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://test", **options) as client:
        yield client


def problem(response: httpx.Response, status: int, kind: str | None = None) -> dict[str, Any]:
    """The problem document, after checks that hold for every one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert kind is None or body["type"] == f"urn:visiongraph:problem:{kind}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == response.headers["x-request-id"]
    for inside in ("Traceback", "site-packages", "/work/", "/home/", "/tmp/", "serve_app"):
        assert inside not in response.text
    if status in (429, 503):
        assert int(response.headers["retry-after"]) >= 1
    if status == 401:
        assert response.headers["www-authenticate"] == "Bearer"
    return body


async def post(
    client: httpx.AsyncClient,
    data: Any = PNG,
    kind: str | None = "image/png",
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> httpx.Response:
    """Send an image as the body."""
    sent = {**({"Content-Type": kind} if kind else {}), **(headers or {})}
    return await client.post("/v1/images", content=data, headers=sent, **more)
