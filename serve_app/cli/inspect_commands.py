"""Commands that look at a pipeline: ``validate``, ``schema``, ``graph``, ``models``."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Column, Table

from graph import Plan, json_schema, load_plan, mermaid, svg
from graph.pipeline_file import INGRESS
from serve_app.cli.arguments import PipelineArgument, stderr, stdout

__all__ = ["graph", "models", "schema", "validate"]


def validate(pipeline: PipelineArgument) -> None:
    """Check a pipeline file: reports all errors, each with its line and the fix (exit status 2), or "ok" and the plan.

    The classes are imported; no model is loaded.
    """
    plan = load_plan(pipeline)
    stdout.print(f"[green]ok[/] {escape(plan.name)}: {len(plan.steps)} steps")
    for number, level in enumerate(plan.levels(), 1):
        for name in level:
            _print_step(plan, number, name)
    for note in plan.notes:
        stdout.print(f"note: {escape(note)}")


def _print_step(plan: Plan, level: int, name: str) -> None:
    step = plan[name]
    needs = f" after {', '.join(step.depends_on)}" if step.depends_on else ""
    stdout.print(f"  {level}. [bold]{escape(name)}[/] ({step.class_path}){escape(needs)}")
    if step.condition is not None:
        stdout.print(f"       if {escape(step.condition.source)}", highlight=False)
    whole = "the whole image" if step.decode == "full" else "the whole image, large JPEGs reduced"
    looks_at = f"each detection where {step.crops.source}" if step.crops is not None else whole
    stdout.print(f"       on {escape(looks_at)}", highlight=False)
    if step.host != name:
        place = "the ingress" if step.host == INGRESS else f"step {step.host}"
        stdout.print(f"       on Serve in the process of {escape(place)}", highlight=False)


def schema() -> None:
    """Print the JSON schema of the pipeline file, for editors.

    In VS Code, with the YAML extension, the first line of a pipeline file may be:
    # yaml-language-server: $schema=visiongraph.schema.json
    """
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")


def graph(
    pipeline: PipelineArgument,
    form: Annotated[
        Literal["mermaid", "svg"], typer.Option("--format", help="Mermaid text for Markdown, or an SVG picture.")
    ] = "mermaid",
) -> None:
    """Print a picture of the pipeline: its steps, what depends on what, and under which condition."""
    draw = svg if form == "svg" else mermaid
    sys.stdout.write(draw(load_plan(pipeline)).rstrip("\n") + "\n")


def models(
    pipeline: PipelineArgument,
    download: Annotated[bool, typer.Option("--download", help="Download those that are missing.")] = False,
) -> None:
    """List the models that a pipeline needs: source, size, licence, and whether each is on this machine."""
    from serve_app.local.model_downloads import download as fetch
    from serve_app.local.model_downloads import required_models

    plan = load_plan(pipeline)
    if download:
        fetch(required_models(plan), stderr)
    found = required_models(plan)
    table = Table(*(Column(title, overflow="fold") for title in ("model", "for", "there", "size", "from", "licence")))
    for model in found:
        table.add_row(
            model.ref,
            ", ".join(model.steps),
            "[green]yes[/]" if model.is_there else "[yellow]no[/]",
            "?" if model.size_bytes is None else f"{model.size_bytes / 1e6:.1f} MB",
            escape(f"{model.source}, {model.revision[:12]}" if model.revision else model.source),
            model.licence or "?",
        )
    stdout.print(table)
    for model in found:
        if model.note:
            stdout.print(f"{model.ref}: {escape(model.note)}")
    if not all(model.is_there for model in found):
        stdout.print(f"get what is missing with: visiongraph models {pipeline} --download")
