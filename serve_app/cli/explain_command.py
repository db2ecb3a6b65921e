"""The command ``explain``: why each step ran or not, on an image or in a stored result."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from classifiers import SetupError, VisionError
from graph import Decision, Plan, VisionPipeline, load_plan
from graph import explain as explain_result
from graph.engine import StepExplanation
from serve_app.cli.arguments import OptionalPipelineArgument, stdout
from serve_app.cli.input_files import read

__all__ = ["explain"]

_MAX_VALUE = 200


def explain(
    pipeline: OptionalPipelineArgument = None,
    image: Annotated[
        str | None, typer.Argument(metavar="[IMAGE]", help="A file, a URL or s3://bucket/key.", show_default=False)
    ] = None,
    request: Annotated[
        str | None, typer.Option(metavar="ID", help="The id of a job whose result is stored, instead of IMAGE.")
    ] = None,
    results: Annotated[
        str | None,
        typer.Option(metavar="URI", envvar="VISIONGRAPH_RESULTS", help="Where results are stored; for --request."),
    ] = None,
) -> None:
    """Show for each step and each detection whether its rule held, and with which values.

    Runs one image, or with --request reads a stored result, and then shows how long each step waited and ran, and on
    which replica. Without PIPELINE the rules of a stored result are left out.

    Example: visiongraph explain configs/demo.yaml --request job-5f2c --results s3://bucket/results
    """
    if request is None:
        if pipeline is None or image is None:
            raise SetupError(
                "name a pipeline and an image: visiongraph explain PIPELINE IMAGE; or a result: --request ID"
            )
        with VisionPipeline(pipeline) as vision:
            result = vision.run(lambda limits: read(image, limits))
            plan: Plan | None = vision.plan
    else:
        if image is not None or results is None:
            raise SetupError("--request needs --results URI, where the result is stored, and no IMAGE")
        result = asyncio.run(_stored_result(results, request))
        plan = None if pipeline is None else _plan_of(pipeline, result)
    explained = {} if plan is None else {step.name: step for step in explain_result(plan, result)}
    for entry in result["steps"]:
        _print_step(entry)
        if entry["name"] in explained:
            _print_rules(explained[entry["name"]])


async def _stored_result(uri: str, request: str) -> dict[str, Any]:
    from serve_app.results import ResultStore

    store = ResultStore.from_uri(uri)
    outcome = await store.outcome(request)
    await store.close()
    if outcome is None:
        raise VisionError(
            f"no result is stored under '{request}' at {uri}; those of jobs are, those of POST /v1/images are not"
        )
    if outcome.result is None:
        error = outcome.error or {}
        raise VisionError(f"job '{request}' has no result, it failed: {error.get('type')}: {error.get('detail')}")
    return outcome.result


def _plan_of(pipeline: str, result: Mapping[str, Any]) -> Plan:
    plan = load_plan(pipeline)
    found, expected = [entry["name"] for entry in result["steps"]], [step.name for step in plan]
    if found != expected:
        raise SetupError(
            f"the result is of another pipeline: its steps are {', '.join(found)}, those of {pipeline} are "
            f"{', '.join(expected)}; leave PIPELINE out to see it without the rules"
        )
    return plan


def _print_step(entry: Mapping[str, Any]) -> None:
    why = entry.get("reason") or entry.get("error", {}).get("detail")
    said = f": {escape(why)}" if why else ""
    stdout.print(f"[bold]{escape(entry['name'])}[/] {entry['status']}{said}", highlight=False)
    if "duration_ms" in entry:
        parts = [f"{entry['duration_ms']:g} ms"]
        parts += [f"{key.removesuffix('_ms')} {value:g} ms" for key, value in entry.get("timings", {}).items()]
        if "replica" in entry:
            parts.append(f"on {entry['replica']}")
        stdout.print(f"  took {escape(', '.join(parts))}", highlight=False)


def _print_rules(step: StepExplanation) -> None:
    if step.condition is not None:
        _print_decision("condition", step.condition)
    for decision in step.crops:
        _print_decision("crops", decision)


def _print_decision(kind: str, decision: Decision) -> None:
    words = {True: "[green]holds[/]", False: "[yellow]does not hold[/]", None: "[red]cannot be evaluated[/]"}
    word = words[decision.held]
    stdout.print(f"  {kind} for {escape(decision.subject)} {word}: {escape(decision.rule)}", highlight=False)
    for source, value in decision.values:
        text = json.dumps(value, ensure_ascii=False, default=str)
        text = text if len(text) <= _MAX_VALUE else text[:_MAX_VALUE] + " …"
        stdout.print(f"      {escape(source)} = {escape(text)}", highlight=False)
    if decision.error is not None:
        stdout.print(f"      {escape(decision.error)}", highlight=False)
