"""The plan: what the engine walks, its identity, and its picture."""

from graph.plan.diagram import mermaid, svg
from graph.plan.plan import Plan, load_plan
from graph.plan.planned_step import PlannedStep

__all__ = ["Plan", "PlannedStep", "load_plan", "mermaid", "svg"]
