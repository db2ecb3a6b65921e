"""The pipeline file, its rules, the plan, and how one image travels through it. Knows nothing of Ray, HTTP or
models' insides."""

from graph.annotation import annotate
from graph.conditions import Rule, RuleError, RuleSyntaxError
from graph.config import PipelineConfig, json_schema
from graph.diagram import mermaid, svg
from graph.engine import Engine, StepBackend
from graph.errors import DeadlineExceeded, Malformed, Overloaded, StepFailed, StepUnavailable, Unreachable
from graph.explanation import Decision, StepExplanation, explain
from graph.frame import Frame
from graph.loading import PipelineError, load
from graph.local import LocalBackend
from graph.pipeline import VisionPipeline
from graph.plan import Plan, PlannedStep, load_plan

__all__ = [
    "DeadlineExceeded",
    "Decision",
    "Engine",
    "Frame",
    "LocalBackend",
    "Malformed",
    "Overloaded",
    "PipelineConfig",
    "PipelineError",
    "Plan",
    "PlannedStep",
    "Rule",
    "RuleError",
    "RuleSyntaxError",
    "StepBackend",
    "StepExplanation",
    "StepFailed",
    "StepUnavailable",
    "Unreachable",
    "VisionPipeline",
    "annotate",
    "explain",
    "json_schema",
    "load",
    "load_plan",
    "mermaid",
    "svg",
]
