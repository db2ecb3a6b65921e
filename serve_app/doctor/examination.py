"""All checks of a cluster or of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from graph import load_plan
from graph.pipeline_file import structure
from serve_app.config import GatewayConfig, IntakeConfig
from serve_app.doctor.cluster_checks import check_cluster, check_placement
from serve_app.doctor.cluster_facts import cluster_facts, connected, on_each
from serve_app.doctor.findings import Finding
from serve_app.doctor.machine_checks import check_machine
from serve_app.doctor.node_checks import check_nodes
from serve_app.doctor.node_facts import node_facts
from serve_app.doctor.service_checks import check_services

__all__ = ["examine_cluster", "examine_machine"]


def examine_cluster(
    address: str, pipeline: str | None, gateway: GatewayConfig | None, intake: IntakeConfig | None
) -> Iterator[Finding]:
    """Check a running cluster.

    Args:
        address: of its head, ``HOST:6379``; ``auto``: the one of this machine.
        pipeline: the file; without it, models and room for replicas are not checked.
        gateway: without it, its Redis is not checked.
        intake: without it, its broker and store are not checked.

    Raises:
        SetupError: no cluster answers there.
        PipelineError: the file has mistakes.
    """
    plan = None if pipeline is None else load_plan(pipeline)
    inline: dict[str, Any] | None = None if plan is None else structure(plan.config)
    with connected(address) as dashboard:
        facts = cluster_facts(dashboard, inline)
        yield from check_cluster(facts, intake)
        if facts.nodes:
            yield from check_nodes(facts.nodes)
        if plan is not None:
            yield from check_placement(facts, plan, gateway, intake)
        workers = {node.name: facts.node_ids[node.name] for node in facts.nodes if node.runs_replicas}
        answers, silent = on_each(workers, check_services, gateway, intake)
        yield from silent
        yield from _merged(answers)


def examine_machine(
    pipeline: str | None, gateway: GatewayConfig | None, intake: IntakeConfig | None, ports: dict[str, int]
) -> Iterator[Finding]:
    """Check this machine, where Ray is not running yet.

    Args:
        pipeline: the file; without it, models and GPUs are not checked.
        gateway: without it, its Redis is not checked.
        intake: without it, its broker and store are not checked.
        ports: what must be free, by the option that chooses another.

    Raises:
        PipelineError: the file has mistakes.
    """
    plan = None if pipeline is None else load_plan(pipeline)
    yield from check_machine(plan, ports)
    yield from check_nodes([node_facts(pipeline)])
    yield from check_services(gateway, intake)


def _merged(found: Mapping[str, list[Finding]]) -> Iterator[Finding]:
    """What all nodes say is said once; what some say, with their names."""
    by_finding: dict[Finding, list[str]] = {}
    for name, findings in found.items():
        for finding in findings:
            by_finding.setdefault(finding, []).append(name)
    for finding, names in by_finding.items():
        everywhere = len(names) == len(found)
        yield finding if everywhere else replace(finding, message=f"{finding.message} (on {', '.join(names)})")
