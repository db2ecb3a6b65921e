"""What may stand in a pipeline file. Closed and frozen; the descriptions become the JSON schema that editors use.

Whether the parts fit each other (classes, dependencies, rules) is checked in :mod:`graph.loading`.
"""

from __future__ import annotations

from typing import Any

from graph._serve_config import INGRESS, AutoscalingConfig, ServeConfig
from graph._split import merge, structure, tunables
from graph._step_config import PipelineConfig, StepConfig

__all__ = [
    "INGRESS",
    "AutoscalingConfig",
    "PipelineConfig",
    "ServeConfig",
    "StepConfig",
    "json_schema",
    "merge",
    "structure",
    "tunables",
]


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of the pipeline file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **PipelineConfig.model_json_schema(by_alias=True),
    }
