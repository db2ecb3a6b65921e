from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from serve_app.config import read_gateway_config, read_intake_config
from serve_app.kubernetes import Target, render_kubernetes

PIPELINE = {
    "name": "street",
    "pipeline": [
        {"name": "detect", "class": "toys.Blobs", "serve": {"num_gpus": 0.5, "num_replicas": 3}},
        {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect", "serve": {"num_cpus": 1}},
    ],
}
INTAKE = {"queue": "amqp://worker:${RABBITMQ_PASSWORD}@rabbit/?queue=photos", "results": "s3://bucket/results"}

Manifests = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def manifests() -> Manifests:
    """Renders the pipeline with changes, and gives the documents."""

    def render(
        steps: dict[str, Any] | None = None,
        gateway: dict[str, Any] | None = None,
        intake: dict[str, Any] | None = None,
        warn: Callable[[str], None] = lambda _: None,
        **target: Any,
    ) -> list[dict[str, Any]]:
        serve = steps or {}
        pipeline = {
            **PIPELINE,
            "pipeline": [{**step, "serve": serve.get(step["name"], step["serve"])} for step in PIPELINE["pipeline"]],
        }
        text = render_kubernetes(
            pipeline,
            Target(image="visiongraph:1", **target),
            gateway=read_gateway_config({"auth": "none", **(gateway or {})}),
            intake=None if intake is None else read_intake_config({**INTAKE, **intake}),
            warn=warn,
        )
        return list(yaml.safe_load_all(text))

    return render


def one(documents: list[dict[str, Any]], kind: str, name: str = "street") -> dict[str, Any]:
    """The document of a kind and a name."""
    (found,) = (each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


@pytest.fixture(name="one")
def _one() -> Callable[..., dict[str, Any]]:
    return one
