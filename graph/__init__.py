"""The pipeline file, its rules, the plan, and running images through it. Independent of Ray, HTTP and the models."""

from graph.conditions import Rule, RuleError, RuleSyntaxError
from graph.engine import Decision, Engine, Frame, StepBackend, StepExplanation, explain
from graph.failures import DeadlineExceeded, Malformed, Overloaded, StepFailed, StepUnavailable, Unreachable
from graph.pipeline_file import PipelineConfig, PipelineError, json_schema, load
from graph.plan import Plan, PlannedStep, load_plan, mermaid, svg
from graph.runtime import LocalBackend, VisionPipeline, annotate

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
