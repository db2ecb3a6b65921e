"""``visiongraph plan``: what a load needs, and what it costs."""

from __future__ import annotations

import functools
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.table import Column, Table

from classifiers import SetupError
from graph import Plan, load_plan, mermaid
from serve_app.cli.arguments import PipelineArgument, print_figures, stderr, stdout
from serve_app.cli.input_files import SourceError, expand, read
from serve_app.planning import (
    EXAMPLE_PRICES,
    Cost,
    DayCurve,
    Measurements,
    Prices,
    Sizing,
    cost_of_a_day,
    measure,
    read_measurements,
    read_prices,
    size,
)

__all__ = ["plan"]

_BURSTS = (2, 5, 10)
_BURST_S = 600


def plan(
    pipeline: PipelineArgument,
    images_per_day: Annotated[float, typer.Option(metavar="N", help="Images of a day, for example 10e6.")],
    peak: Annotated[
        float, typer.Option(metavar="X", help="Highest rate of the day by its mean rate; 1: the same all day.")
    ] = 3.0,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Images such as you expect, 200 or more. They are run here, one at a time, to see how often each step "
            "runs and what it costs. Nothing else should run meanwhile.",
        ),
    ] = None,
    measurements: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Measured figures (YAML or JSON) instead of a sample; the only source of GPU figures."
        ),
    ] = None,
    save_measurements: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what the sample showed, to be edited and used again.")
    ] = None,
    nodes: Annotated[
        Path,
        typer.Option(
            "--nodes",
            "--prices",
            metavar="FILE",
            help="Types of nodes, and all prices; by default, examples.",
        ),
    ] = EXAMPLE_PRICES,
    utilisation: Annotated[float, typer.Option(help="Share of the replicas' time to be used at the peak.")] = 0.7,
    queue: Annotated[
        bool, typer.Option("--queue/--http", help="Images come through a queue (workers, requests), or over HTTP.")
    ] = True,
    picture: Annotated[
        bool, typer.Option("--picture", help="Print the graph as Mermaid text, with rates, instead of tables.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Plan a load: replicas, nodes, the bottleneck and the cost, from what a sample of images needs.

    How often a step runs depends on what is in the images, so it is measured and not guessed: a sample is run through
    the pipeline on this machine. Times on other machines differ; measure where it will run, or edit the figures.

    Example: visiongraph plan configs/demo.yaml --images-per-day 10e6 --sample photos/ --save-measurements m.yaml

    Then, without the sample: visiongraph plan configs/demo.yaml --images-per-day 100e6 --measurements m.yaml
    """
    day = DayCurve(images_per_day, peak)  # errors in the numbers before anything is loaded
    prices = read_prices(nodes)
    loaded = load_plan(pipeline)
    measured = _measured(loaded, sample, measurements)
    if save_measurements is not None:
        content = json.loads(measured.model_dump_json())
        save_measurements.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    sizing = size(loaded, measured, day.peak_per_s, float(day.rates().min()), utilisation=utilisation)
    cost = cost_of_a_day(sizing.deployments, day, prices, utilisation, with_requests=queue)
    if as_json:
        sys.stdout.write(json.dumps(_as_json(day, measured, sizing, cost, prices), indent=2) + "\n")
    elif picture:
        rates = {
            step.name: f"{day.peak_per_s * step.share:,.0f} images/s, {step.crops:.1f} crops each"
            for step in sizing.steps
        }
        sys.stdout.write(mermaid(loaded, rates))
    else:
        _print(day, measured, sizing, cost, prices, entry="worker" if queue else "gateway")


def _measured(loaded: Plan, sample: str | None, measurements: str | None) -> Measurements:
    if (sample is None) == (measurements is None):
        raise typer.BadParameter(
            "give one of them: a folder of images, or a file of figures", param_hint="--sample or --measurements"
        )
    if measurements is not None:
        return read_measurements(measurements)
    found = expand([sample or ""])
    uris = [entry for entry in found if isinstance(entry, str)]
    if not uris:
        raise SetupError("the sample has no images: " + "; ".join(str(e) for e in found if isinstance(e, SourceError)))
    stderr.print(f"measuring {len(uris):,} images", highlight=False)
    source = f"{sample}, {datetime.now(UTC):%Y-%m-%d}"
    return measure(loaded, [functools.partial(read, uri) for uri in uris], source)


def _print(day: DayCurve, measured: Measurements, sizing: Sizing, cost: Cost, prices: Prices, *, entry: str) -> None:
    steps = Table(
        "step",
        *(Column(title, justify="right") for title in ("runs on", "crops", "p50", "p99", "batch", "CPU ms", "GPU ms")),
        title=f"For one image ({measured.images:,} images of {escape(measured.source)})",
    )
    for step in sizing.steps:
        steps.add_row(
            escape(step.name),
            f"{step.share:.1%}",
            f"{step.crops:.2f}",
            str(step.crops_p50),
            str(step.crops_p99),
            str(step.batch),
            f"{1000 * step.cpu_s:.1f}",
            f"{1000 * step.gpu_s:.1f}" if step.gpu_s else "",
        )
    stdout.print(steps)
    titles = ("replicas", "at night", "CPUs each", "GPUs each", "GiB each", "most images/s", "used at peak")
    sizes = Table(
        "deployment",
        *(Column(title, justify="right") for title in titles),
        title=f"{day.images_per_day:,.0f} images a day: {day.mean_per_s:,.1f}/s, at the peak {day.peak_per_s:,.1f}/s",
    )
    for each in sizing.deployments:
        sizes.add_row(
            escape(entry if each.name == "gateway" else each.name),
            f"{each.replicas:,}",
            f"{each.least:,}",
            f"{each.item.cpus:g}",
            f"{each.item.gpus:g}",
            f"{each.item.memory_gb:g}",
            f"{each.most_images_per_s:,.1f}",
            f"{each.utilisation:.0%}",
        )
    stdout.print(sizes)
    money = prices.currency
    figures = {
        "nodes at the peak": ", ".join(f"{number:,} x {name}" for name, number in cost.at_peak.by_type().items()),
        "node hours a day": ", ".join(f"{number:,} x {name}" for name, number in cost.node_hours.items()),
        "reserved CPU hours a day": f"{cost.cpu_hours:,.0f}",
        "reserved GPU hours a day": f"{cost.gpu_hours:,.0f}",
        "bottleneck": f"{entry if sizing.bottleneck.name == 'gateway' else sizing.bottleneck.name}, "
        f"{sizing.most_images_per_s:,.1f} images/s",
        "nodes a day": f"{cost.nodes:,.2f} {money} (all day as at the peak: {cost.nodes_fixed:,.2f})",
        "requests a day": f"{cost.requests:,.2f} {money}",
        "in all a day": f"{cost.per_day:,.2f} {money}",
        "a million images": f"{cost.per_million_images:,.2f} {money}",
    }
    for factor in _BURSTS:
        figures[f"{_BURST_S // 60} min of {factor}x the peak"] = _burst_text(sizing, day, factor)
    print_figures({name: escape(text) for name, text in figures.items()})
    for note in sizing.notes:
        stdout.print(f"note: {escape(note)}", highlight=False)
    stdout.print(f"Prices: {escape(prices.source)}, {prices.as_of}.", highlight=False)


def _burst(sizing: Sizing, day: DayCurve, factor: int) -> tuple[float, float | None]:
    """Images that wait after a burst, and the seconds until none does, at the peak's rate; ``None``: never."""
    waiting = sizing.bottleneck.backlog_after(factor * day.peak_per_s, _BURST_S)
    spare = sizing.most_images_per_s - day.peak_per_s
    return waiting, waiting / spare if spare > 1e-9 else None if waiting else 0.0


def _burst_text(sizing: Sizing, day: DayCurve, factor: int) -> str:
    waiting, drained_s = _burst(sizing, day, factor)
    if drained_s is None:
        return f"{waiting:,.0f} images wait, and are not processed while the peak lasts"
    return f"{waiting:,.0f} images wait, for {drained_s / 60:,.0f} more minutes" if waiting else "none waits"


def _as_json(day: DayCurve, measured: Measurements, sizing: Sizing, cost: Cost, prices: Prices) -> dict[str, Any]:
    return {
        "images_per_day": day.images_per_day,
        "mean_images_per_s": day.mean_per_s,
        "peak_images_per_s": day.peak_per_s,
        "measured": {"source": measured.source, "images": measured.images, "failed": measured.failed},
        "steps": {
            step.name: {
                "share_of_images": step.share,
                "crops_per_image": {"mean": step.crops, "p50": step.crops_p50, "p99": step.crops_p99},
                "batch": step.batch,
                "cpu_s_per_image": step.cpu_s,
                "gpu_s_per_image": step.gpu_s,
                "bytes_in_per_image": step.bytes_in,
            }
            for step in sizing.steps
        },
        "deployments": {
            each.name: {
                "replicas": each.replicas,
                "least_replicas": each.least,
                "cpus": each.item.cpus,
                "gpus": each.item.gpus,
                "memory_gb": each.item.memory_gb,
                "most_images_per_s": each.most_images_per_s,
                "utilisation_at_peak": each.utilisation,
            }
            for each in sizing.deployments
        },
        "bottleneck": {"deployment": sizing.bottleneck.name, "images_per_s": sizing.most_images_per_s},
        "nodes_at_peak": cost.at_peak.by_type(),
        "node_hours_per_day": cost.node_hours,
        "cpu_hours_per_day": cost.cpu_hours,
        "gpu_hours_per_day": cost.gpu_hours,
        "cost": {
            "currency": prices.currency,
            "as_of": prices.as_of.isoformat(),
            "source": prices.source,
            "nodes_per_day": cost.nodes,
            "requests_per_day": cost.requests,
            "per_day": cost.per_day,
            "per_million_images": cost.per_million_images,
        },
        "backlog_after_10_min": {
            f"{factor}x": dict(zip(("images", "drained_s"), _burst(sizing, day, factor), strict=True))
            for factor in _BURSTS
        },
        "notes": list(sizing.notes),
    }
