"""A model composition as the documentation of Ray Serve teaches it, with Ray's default settings."""

# No `from __future__ import annotations`: Serve reads annotations at run time.
import asyncio
import json
import sys
import time
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request

from benchmarks.serving.settings import DETECTOR, RULES, Settings
from benchmarks.serving.straight import load
from classifiers.imaging.crops import crop
from classifiers.imaging.decoding import decode


@serve.deployment
class Model:
    """One step's model; one image a call."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._model = load(settings, name)

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        return self._model.process(image, {})


@serve.deployment
class Ingress:
    """Decodes, asks the detector, then every classifier about every object."""

    def __init__(self, settings: Settings, models: dict[str, DeploymentHandle]) -> None:
        self._crops = settings.crops
        self._models = models

    async def __call__(self, request: Request) -> bytes:
        image = decode(await request.body())
        found = await self._models[DETECTOR].remote(image)
        context = {DETECTOR: found}
        for name, wanted in self._crops.items():
            shown, looked_at = RULES[name]
            if shown not in found["detected_classes"]:
                continue
            picked = [i for i, detection in enumerate(found["detections"]) if detection["class_name"] in looked_at]
            boxes = [found["detections"][i]["bbox"] for i in picked]
            crops = [crop(image, box, wanted["size"], wanted["resize"], wanted["padding"]) for box in boxes]
            answers = await asyncio.gather(*(self._models[name].remote(one) for one in crops))
            context[name] = {"objects": [{**answer, "detection": i} for i, answer in zip(picked, answers, strict=True)]}
        return json.dumps(context).encode()


def main(port: int) -> None:
    """Serve until the process is told to stop."""
    settings = Settings.read()
    ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    models = {
        name: Model.options(name=name, num_replicas=settings.workers).bind(settings, name) for name in settings.steps
    }
    serve.run(Ingress.options(name="gateway").bind(settings, models), name="bench")
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
