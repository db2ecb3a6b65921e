"""python -m monitored_gateway PORT FOLDER: a gateway and a worker in one process, which exports its metrics.

The first pixels of an image say what their steps do to it, so that a test can plant a fault at any moment.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from intakes import consuming, place
from toys import draw, encoded

from classifiers import BaseClassifier, Image
from graph import Engine, LocalBackend, load_plan
from serve_app.config.gateway_config import GatewayConfig
from serve_app.http.application import make_app
from serve_app.queues import queue_from_url
from serve_app.telemetry.exporting import Exporter, ExportSettings
from serve_app.telemetry.metrics import WORKERS_MAX
from serve_app.telemetry.recording import StepRecorder


class Obedient(BaseClassifier):
    """Has the confidence of the first pixel, sleeps for as many tenths of a second as the second one says, and fails
    where the third one is ``fails_on``."""

    def __init__(self, fails_on: int) -> None:
        self.fails_on = fails_on

    @property
    def name(self) -> str:
        return "obedient"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        confidence, tenths, fails = image[0, :3, 0]
        time.sleep(int(tenths) / 10)
        if fails == self.fails_on:
            raise ValueError("the image says so")
        return {"label": "told", "confidence": float(confidence) / 255}


def image(*, person: bool = True, confidence: float = 0.8, tenths: int = 0, fails: int = 0) -> bytes:
    """An image that has this done to it."""
    pixels = draw(*([("person", 10, 10, 50, 90)] if person else []), ("car", 100, 100, 180, 150))
    pixels[0, :3, 0] = np.round(255 * confidence), tenths, fails
    return encoded(pixels)


PIPELINE: dict[str, Any] = {
    "name": "monitored",
    "pipeline": [
        {"name": "detect", "class": "toys.Blobs"},
        {
            "name": "people",
            "class": "toys.MeanColour",
            "depends_on": "detect",
            "condition": "'person' in context['detect']['detected_classes']",
        },
        {
            "name": "fragile",
            "class": "monitored_gateway.Obedient",
            "params": {"fails_on": 1},
            "depends_on": "detect",
            "crops": None,
        },
        {"name": "required", "class": "monitored_gateway.Obedient", "params": {"fails_on": 2}},
    ],
}
OF_QUEUE: dict[str, Any] = {
    "name": "queued",
    "pipeline": [{"name": "queued", "class": "monitored_gateway.Obedient", "params": {"fails_on": 3}}],
}


async def run(port: int, folder: Path) -> None:
    """Serve until the process ends; jobs are in ``folder``."""
    plan, of_queue = load_plan(PIPELINE), load_plan(OF_QUEUE)
    engine = Engine(plan, LocalBackend(plan), observer=StepRecorder(plan))
    app = make_app(lambda: engine, GatewayConfig.model_validate({"auth": "none", "access_log": False}))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    async with place(folder) as at, consuming(at, LocalBackend(of_queue), plan=of_queue, in_flight=2):
        WORKERS_MAX.labels(queue_from_url(at.url).name).set(1)
        Exporter(ExportSettings.from_environment(), {"application": "monitored", "deployment": "all"})
        await server.serve()


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), Path(sys.argv[2])))
