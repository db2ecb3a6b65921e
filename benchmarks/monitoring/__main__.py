"""python -m benchmarks.monitoring PROMETHEUS_URL PICTURE: plots the panels of the dashboard. See README.md."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import httpx
import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, PercentFormatter

from serve_app.monitoring.panels import ROWS, Panel

_COLUMNS = 4
_POINTS = 120
_UNITS = {"s": "s", "bytes": "B", "reqps": "/s", "ops": "/s", "short": ""}
_MOST_SERIES = 6


def series(url: str, expression: str, minutes: float) -> list[dict[str, Any]]:
    """The series of a panel's query over the last minutes, for all applications."""
    step_s = max(5, round(minutes * 60 / _POINTS))
    expression = expression.replace("$application", ".*").replace("$__rate_interval", f"{max(60, 4 * step_s)}s")
    now = time.time()
    parameters: dict[str, str | float] = {"query": expression, "start": now - minutes * 60, "end": now, "step": step_s}
    answer = httpx.get(f"{url}/api/v1/query_range", params=parameters, timeout=60).json()
    if answer["status"] != "success":
        raise RuntimeError(f"{expression}: {answer['error']}")
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def draw(axes: Axes, panel: Panel, url: str, minutes: float) -> None:
    """One panel."""
    axes.set_title(panel.title, fontsize=9, loc="left", fontweight="bold")
    lines: dict[str, list[tuple[float, float]]] = {}
    for legend, expression in panel.queries.items():
        for each in series(url, expression, minutes):
            points = [((moment - time.time()) / 60, float(value)) for moment, value in each["values"]]
            lines[_label(legend, each["metric"])] = points
    if len(lines) > _MOST_SERIES:  # those that say something
        lines = {label: points for label, points in lines.items() if any(value for _, value in points)}
    for label, points in lines.items():
        axes.plot(*zip(*points, strict=True), linewidth=1.2, label=label)
    unit = panel.unit
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0) if unit == "percentunit" else EngFormatter(_UNITS[unit]))
    axes.set_xlim(-minutes, 0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=7)
    if lines:
        axes.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncol=2, frameon=False)
    else:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color="gray")


def _label(legend: str, labels: Mapping[str, str]) -> str:
    for name, value in labels.items():
        legend = legend.replace(f"{{{{{name}}}}}", value)
    return legend


def main() -> None:
    """Draw all rows."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("url", metavar="PROMETHEUS_URL")
    arguments.add_argument("picture", metavar="PICTURE", help="A .png or .svg file.")
    arguments.add_argument("--minutes", type=float, default=10)
    given = arguments.parse_args()
    mpl.use("agg")
    heights = [-(-len(row) // _COLUMNS) for row in ROWS.values()]
    figure = plt.figure(figsize=(17, 3 * sum(heights)), layout="constrained")
    parts = figure.subfigures(len(ROWS), 1, height_ratios=heights)
    for part, (question, row), height in zip(parts, ROWS.items(), heights, strict=True):
        part.suptitle(question, x=0.01, ha="left", fontsize=12)
        places = part.subplots(height, _COLUMNS, squeeze=False).flat
        for axes, panel in zip(places, row, strict=False):
            draw(axes, panel, given.url, given.minutes)
        for axes in list(part.axes)[len(row) :]:
            axes.set_visible(False)
    figure.savefig(given.picture, dpi=80)


if __name__ == "__main__":
    main()
