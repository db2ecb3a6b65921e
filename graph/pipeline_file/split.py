"""A pipeline in two parts: the structure, whose changes restart the deployments, and tunables, applied in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from classifiers.suggestions import did_you_mean
from graph.pipeline_file.classes import constructor_of, import_class
from graph.pipeline_file.report import Report
from graph.pipeline_file.rule_checks import default_crops_problem
from graph.pipeline_file.schema import PipelineConfig, StepConfig

__all__ = ["merge", "structure", "tunables"]

_RULES = ("condition", "crops", "crops_from", "timeout_ms", "on_error")
_BATCHING = ("max_batch_size", "batch_wait_ms", "max_ongoing_requests", "max_queued_requests")


def structure(config: PipelineConfig) -> dict[str, Any]:
    """What cannot change while the application runs: the pipeline without its :func:`tunables`.

    It is a pipeline itself, and the same for every value of the tunables.
    """
    return {**config.to_dict(), "pipeline": [_split(step)[0] for step in config.pipeline]}


def tunables(config: PipelineConfig) -> dict[str, dict[str, Any]]:
    """What can be applied in place, by step.

    Rules, ``timeout_ms``, ``on_error``, batching, and those ``params`` that the class names in ``tunables``. One that
    the constructor requires belongs to the structure.
    """
    return {step.name: _split(step)[1] for step in config.pipeline}


def merge(structure: Mapping[str, Any], tunables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The pipeline of which :func:`structure` and :func:`tunables` are the parts, as a mapping, not checked yet.

    Raises:
        PipelineError: a tunable has no place in the structure.
    """
    steps = {step["name"]: dict(step) for step in structure["pipeline"]}
    merged = {**structure, "pipeline": [*steps.values()]}
    report = Report(None, merged)
    for name, values in tunables.items():
        if name not in steps:
            report.add(("tunables", name), f"unknown step {name!r}{did_you_mean(name, steps)}")
            continue
        for key, value in values.items():
            if key in ("params", "serve"):
                steps[name][key] = {**steps[name].get(key, {}), **value}
            elif key in _RULES:
                steps[name][key] = value
            else:
                report.add(("tunables", name, key), f"not a tunable{did_you_mean(key, (*_RULES, 'params', 'serve'))}")
    report.raise_if_any()
    return merged


def _split(step: StepConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    fixed = step.to_dict()
    moving: dict[str, Any] = {key: fixed.pop(key) for key in _RULES if key in fixed}
    for block, keys in (("params", _tunable_params(step.class_path)), ("serve", _BATCHING)):
        values = fixed.pop(block, {})
        taken = {key: value for key, value in values.items() if key in keys}
        left = {key: value for key, value in values.items() if key not in keys}
        # an empty block is left out: the structure must not show whether a tunable was set
        moving |= {block: taken} if taken else {}
        fixed |= {block: left} if left else {}
    if default_crops_problem(import_class(step.class_path), step.depends_on):
        fixed["crops"] = None  # the class's own rule does not fit in place of the one that was taken out
    return fixed, moving


def _tunable_params(class_path: str) -> frozenset[str]:
    cls = import_class(class_path)
    constructor = constructor_of(cls)
    return frozenset(key for key in cls.tunables if key not in constructor.parameters or not constructor.requires(key))
