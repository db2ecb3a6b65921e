"""One step of a plan, ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from classifiers.base import BaseClassifier
from graph.conditions import Rule
from graph.pipeline_file import ServeConfig

__all__ = ["PlannedStep"]


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step, ready to run.

    Attributes:
        params: the constructor's arguments, converted to its annotated types, paths absolute.
        crops: the rule that applies, which may be the class's own; ``None``: the step gets the whole image.
        rule_operations: budget of both rules for one image, see :class:`graph.conditions.Budget`. Steps whose rules
            read metadata share what one step may do, so that a client's metadata costs the same in any pipeline.
        crops_from: the step whose detections ``crops`` refers to; ``None``: the only dependency with detections.
        decode: ``"reduced"``: a JPEG may be decoded at a fraction of its size for this step.
        timeout_s: ``None``: only the request's own deadline.
        dependents: the steps that depend on this one, in file order.
        cuts: those of them whose crops this step can cut itself: their crop rules read no other step's result. Empty
            for a step with ``crops``, which has no detections.
        host: the step in whose deployment it runs, by default itself, or ``INGRESS``.
        carries: those of ``cuts`` that are answered in the same call: they run in the same deployment, depend on
            nothing else, and neither step has a time limit. Not in the ingress, where there is no call to save.
    """

    name: str
    class_path: str
    cls: type[BaseClassifier]
    params: Mapping[str, Any]
    depends_on: tuple[str, ...]
    condition: Rule | None
    crops: Rule | None
    rule_operations: int
    crops_from: str | None
    decode: Literal["full", "reduced"]
    timeout_s: float | None
    on_error: Literal["fail", "skip"]
    serve: ServeConfig
    dependents: tuple[str, ...]
    cuts: tuple[str, ...]
    host: str
    carries: tuple[str, ...]
