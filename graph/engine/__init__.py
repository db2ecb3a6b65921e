"""Running one image through the plan, and the messages between the engine and its steps."""

from graph.engine.deadline import deadline, expires_at
from graph.engine.engine import Engine, StepBackend
from graph.engine.explanation import Decision, StepExplanation, explain
from graph.engine.frame import Frame
from graph.engine.messages import (
    Carried,
    CropSpec,
    Priority,
    StepAnswer,
    StepError,
    StepInfo,
    StepRequest,
    Target,
    Timings,
)
from graph.engine.metadata import MAX_METADATA_BYTES, MAX_METADATA_TEXT_BYTES, checked_metadata, parse_metadata
from graph.engine.observing import Decisions, StepObserver, StepOutcome
from graph.engine.selection import picks

__all__ = [
    "MAX_METADATA_BYTES",
    "MAX_METADATA_TEXT_BYTES",
    "Carried",
    "CropSpec",
    "Decision",
    "Decisions",
    "Engine",
    "Frame",
    "Priority",
    "StepAnswer",
    "StepBackend",
    "StepError",
    "StepExplanation",
    "StepInfo",
    "StepObserver",
    "StepOutcome",
    "StepRequest",
    "Target",
    "Timings",
    "checked_metadata",
    "deadline",
    "expires_at",
    "explain",
    "parse_metadata",
    "picks",
]
