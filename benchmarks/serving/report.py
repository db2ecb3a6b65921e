"""JSON, a table and a plot of what was measured."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serving.systems import NOT_OURS

__all__ = ["summarise", "write_report"]

_SINGLE = (
    "images",
    "images_per_s",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "failures",
    "refused",
    "refused_p95_ms",
    "unanswered",
)
_MORE = ("client_cpu_ms_per_image", "client_late_p99_ms", "elsewhere_cores", "offered_per_s")
_QUIET = 0.1  # cores that others may take before a row is marked


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Write ``report.json`` (every measurement, and their summary), ``report.md`` and ``report.png``."""
    report["summary"] = summarise(report["cells"])
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    (folder / "report.md").write_text(_markdown(report))
    if report["summary"]:
        _plot(report["summary"], folder / "report.png")


def summarise(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Median, least and most of each figure over the rounds, for each system, mix and load.

    ``share_of_limit`` (images a second) and ``cpu_times_bare`` (without Ray's own processes and HAProxy) compare within
    a round: where others use the machine too, rounds differ more than systems.
    """
    limits = {(cell["mix"], cell["round"]): cell for cell in cells if cell["load"] == "most"}
    together: defaultdict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for cell in cells:
        together[cell["mix"], cell["load"], cell["system"]].append(cell)
    rows = []
    for (mix, load, system), rounds in together.items():
        row: dict[str, Any] = {"mix": mix, "load": load, "system": system, "rounds": len(rounds)}
        for key in (*_SINGLE, *_MORE):
            row |= _spread(key, [cell.get(key) for cell in rounds])
        pairs = [(cell, limit) for cell in rounds if (limit := limits.get((mix, cell["round"])))]
        row |= _spread("share_of_limit", [cell["images_per_s"] / limit["images_per_s"] for cell, limit in pairs])
        row |= _spread("cpu_times_bare", [_own_cpu_ms(cell) / _own_cpu_ms(limit) for cell, limit in pairs])
        for key in ("cpu_ms_per_image", "memory_mb"):
            groups = sorted({group for cell in rounds for group in cell[key]})
            row[key] = {group: _spread("of", [cell[key].get(group) for cell in rounds])["of"] for group in groups}
        rows.append(row)
    return rows


def _own_cpu_ms(cell: Mapping[str, Any]) -> float:
    return sum(ms for group, ms in cell["cpu_ms_per_image"].items() if group not in NOT_OURS)


def _spread(key: str, values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {key: {"median": median(known), "least": min(known), "most": max(known)}} if known else {}


def _markdown(report: Mapping[str, Any]) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    lines = [
        "# Serving, against the models alone",
        "",
        f"{machine}. Medians [least, most] of the rounds.",
        "",
    ]
    lines += [f"Not measured: {problem.splitlines()[0]}\n" for problem in report["problems"]]
    for mix, note in report["mixes"].items():
        rows = [row for row in report["summary"] if row["mix"] == mix]
        lines += [f"## {mix}", "", f"{note}.", "", *(_table(rows) if rows else []), ""]
    return "\n".join([*lines, *_overload(report["overload"]), *_memory(report["memory"])])


def _overload(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [
        "## Overload: four times the capacity, open loop",
        "",
        "| system | mix | capacity/s | offered/s | images/s | share | p50 ms | 503 | their p95 ms | others | none |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        refused = row["refused"] / max(1, row["answers"])
        numbers = [f"{row[key]:.1f}" for key in ("capacity_per_s", "offered_per_s", "images_per_s")]
        late = "-" if row["refused_p95_ms"] is None else f"{row['refused_p95_ms']:.0f}"
        p50 = "-" if row["p50_ms"] is None else f"{row['p50_ms']:.0f}"
        lines.append(
            f"| {row['system']} | {row['mix']} | {' | '.join(numbers)} | {row['goodput_share']:.2f} | {p50} "
            f"| {refused:.0%} | {late} | {row['failures']} | {row['unanswered']} |"
        )
    return [*lines, "", "503: with `Retry-After`; others: any other answer but 200; none: no answer at all.", ""]


def _memory(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [
        "## Memory of gateway and steps",
        "",
        "| system | mix | requests | first MiB | last MiB | growth | Ray's own, HAProxy | failures |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['system']} | {row['mix']} | {row['requests']} | {row['first_mb']:.0f} | {row['last_mb']:.0f} "
        f"| {row['growth_share']:+.1%} | {row['others_growth_mb']:+.0f} MiB | {row['failures']} |"
        for row in rows
    ]
    return [*lines, ""]


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = ("load", "system", "images/s", "of the limit", "p50 ms", "p95 ms", "p99 ms")
    columns += ("CPU times bare", "CPU-ms an image", "MB", "failures")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in sorted(rows, key=lambda row: _order(row["load"])):
        share, times = _figure(row, "share_of_limit", 2), _figure(row, "cpu_times_bare", 2)
        noisy = " (noisy)" if row.get("elsewhere_cores", {"median": 0})["median"] > _QUIET else ""
        speed = _figure(row, "images_per_s")
        latencies = " | ".join(_figure(row, f"p{percent}_ms") for percent in (50, 95, 99))
        cpu = ", ".join(f"{group} {spread['median']:.1f}" for group, spread in row["cpu_ms_per_image"].items())
        memory = sum(spread["median"] for spread in row["memory_mb"].values())
        lines.append(
            f"| {row['load']}{noisy} | {row['system']} | {speed} | {share} | {latencies} | {times} | {cpu} "
            f"| {memory:.0f} | {row['failures']['median']:g} |"
        )
    return lines


def _figure(row: Mapping[str, Any], key: str, places: int = 1) -> str:
    if key not in row:
        return "-"
    spread = row[key]
    return f"{spread['median']:.{places}f} [{spread['least']:.{places}f}, {spread['most']:.{places}f}]"


def _order(load: str) -> tuple[int, float]:
    kind, _, number = load.partition(" ")
    return ("most", "single", "closed", "open").index(kind), float(number or 0)


def _plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mixes = list(dict.fromkeys(row["mix"] for row in rows))
    systems = [name for name in dict.fromkeys(row["system"] for row in rows) if name != "bare"]
    colours = {name: f"C{index}" for index, name in enumerate(systems)}
    figure, axes = plt.subplots(
        3, len(mixes), figsize=(2.6 + 4.2 * len(mixes), 10), squeeze=False, layout="constrained"
    )
    for column, mix in enumerate(mixes):
        own = [row for row in rows if row["mix"] == mix]
        _curves(axes[0][column], own, colours, "images_per_s", "most")
        _curves(axes[1][column], own, colours, "p50_ms", "single")
        axes[1][column].set_xlabel("connections")
        _bars(axes[2][column], own, systems)
        axes[0][column].set_title(mix)
    for row, label in enumerate(("images/s", "p50, ms", "CPU-ms an image")):
        axes[row][0].set_ylabel(label)
    axes[0][-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _curves(axis: Any, rows: Sequence[Mapping[str, Any]], colours: Mapping[str, str], key: str, limit: str) -> None:
    for system, colour in colours.items():
        points = sorted(
            (int(row["load"].split()[1]), row[key])
            for row in rows
            if row["system"] == system and row["load"].startswith("closed") and key in row
        )
        at = [point for point, _ in points]
        axis.plot(at, [spread["median"] for _, spread in points], marker="o", ms=3, color=colour, label=system)
        axis.fill_between(
            at,
            [spread["least"] for _, spread in points],
            [spread["most"] for _, spread in points],
            color=colour,
            alpha=0.2,
        )
    for row in rows:
        # Models that do nothing are no limit to compare with: everything else would lie on the axis.
        if row["load"] == limit and row["mix"] != "no-op":
            axis.axhline(row[key]["median"], color="black", linestyle="--", linewidth=1, label="bare models")
    axis.set_xscale("log", base=4)
    axis.xaxis.set_major_formatter("{x:g}")
    if limit == "single":
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)


def _bars(axis: Any, rows: Sequence[Mapping[str, Any]], systems: Sequence[str]) -> None:
    """CPU by group at the concurrency that keeps the cores busy: 16, or the largest there is."""
    loads = [int(row["load"].split()[1]) for row in rows if row["load"].startswith("closed")]
    busiest = 16 if 16 in loads else max(loads, default=0)
    shown = {row["system"]: row for row in rows if row["load"] in ("most", f"closed {busiest}")}
    names = [name for name in ("bare", *systems) if name in shown]
    groups = list(dict.fromkeys(group for name in names for group in shown[name]["cpu_ms_per_image"]))
    bottom = [0.0] * len(names)
    for index, group in enumerate(groups):
        empty = {"median": 0.0}
        heights = [shown[name]["cpu_ms_per_image"].get(group, empty)["median"] for name in names]
        axis.bar(names, heights, bottom=bottom, label=group, color=f"C{index}")
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axis.tick_params(axis="x", rotation=60, labelsize=7)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
