"""What every system under test is told: which models, how crops are to look, how many processes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["DETECTOR", "RULES", "Settings", "pipeline_of", "placed"]

VARIABLE = "VISIONGRAPH_BENCH_SETTINGS"

DETECTOR = "object_detection"

RULES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "car_make_classification": ("car", ("car", "truck")),
    "tshirt_color_classification": ("person", ("person",)),
}
"""Step: the class that an image must show for it to run, and the classes that it looks at."""


@dataclass(frozen=True)
class Settings:
    """One set of models.

    Attributes:
        steps: of each step its ``class`` and ``params``.
        crops: of each step that looks at crops their ``size`` (H, W), ``resize`` and ``padding``. A pipeline written by
            hand for another server would have these as constants.
        workers: processes that a server may have for each heavy step: the machine's cores.
    """

    steps: dict[str, dict[str, Any]]
    crops: dict[str, dict[str, Any]]
    workers: int

    def write(self, path: Path) -> dict[str, str]:
        """Write them; returns the environment variable by which :meth:`read` finds them in another process."""
        path.write_text(json.dumps(asdict(self)))
        return {VARIABLE: str(path)}

    @classmethod
    def read(cls) -> Settings:
        """The settings that this process was started with."""
        return cls(**json.loads(Path(os.environ[VARIABLE]).read_text()))


def pipeline_of(settings: Settings, serve: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The same as a pipeline of this project; ``serve``: the deployment options of its steps."""
    pipeline = []
    for name, step in settings.steps.items():
        entry: dict[str, Any] = {"name": name, **step, "serve": dict(serve.get(name, {}))}
        if name in RULES:
            shown, looked_at = RULES[name]
            entry["depends_on"] = DETECTOR
            entry["condition"] = f"{shown!r} in context[{DETECTOR!r}]['detected_classes']"
            entry["crops"] = f"detection['class_name'] in {looked_at!r}"
        pipeline.append(entry)
    return {"name": "bench", "pipeline": pipeline}


def placed(placement: str, workers: int) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Options of the process that has the entry, and of each step: ``separate`` or ``colocated``."""
    if placement == "separate":
        return {}, {name: {"num_replicas": workers} for name in (DETECTOR, "car_make_classification")}
    with_the_detector = {step: {"colocate_with": DETECTOR} for step in RULES}
    return {"num_replicas": workers}, {DETECTOR: {"colocate_with": "ingress"}, **with_the_detector}
