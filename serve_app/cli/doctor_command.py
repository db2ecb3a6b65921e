"""The command ``doctor``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.arguments import DashboardPortOption, GatewayOption, IntakeOption, PortOption, stdout

if TYPE_CHECKING:
    from serve_app.doctor import Finding

__all__ = ["doctor"]

_COLORS = {"ok": "green", "warning": "yellow", "error": "red"}


def doctor(
    pipeline: Annotated[
        str | None, typer.Argument(metavar="[PIPELINE]", help="Also check models and resources for this pipeline file.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A running cluster: HOST:6379, or auto for the one of this machine."),
    ] = None,
    gateway: GatewayOption = None,
    intake: IntakeOption = None,
    port: PortOption = 8000,
    dashboard_port: DashboardPortOption = 8265,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine, or with --address a running cluster, before and after a deployment.

    Each line is ok, a warning or an error with its fix; the exit status is 1 on an error. Versions, environment, models
    and clocks of all nodes are compared. With --gateway and --intake, Redis, the broker and the store are tried once.
    """
    from serve_app.config import read_gateway_config, read_intake_config
    from serve_app.doctor import examine_cluster, examine_machine

    entry = None if gateway is None else read_gateway_config(gateway)
    jobs = None if intake is None else read_intake_config(intake)
    if address is not None:
        findings = examine_cluster(address, pipeline, entry, jobs)
    else:
        findings = examine_machine(pipeline, entry, jobs, {"--port": port, "--dashboard-port": dashboard_port})
    found = _print_json(findings) if as_json else _print_lines(findings)
    raise typer.Exit(1 if found["error"] else 0)


def _print_lines(findings: Iterable[Finding]) -> Counter[str]:
    found: Counter[str] = Counter()
    for each in findings:
        found[each.status] += 1
        stdout.print(f"[{_COLORS[each.status]}]{each.status:8}[/]", end="")
        stdout.print(f"{each.check:12}{each.message}", markup=False, highlight=False)
        if each.fix:
            stdout.print(f"{'':20}fix: {each.fix}", markup=False, highlight=False)
    stdout.print(f"{found['ok']} ok, {found['warning']} warnings, {found['error']} errors")
    return found


def _print_json(findings: Iterable[Finding]) -> Counter[str]:
    every = [asdict(each) for each in findings]
    found = Counter(each["status"] for each in every)
    typer.echo(json.dumps({"ok": not found["error"], "findings": every}, indent=2))
    return found
