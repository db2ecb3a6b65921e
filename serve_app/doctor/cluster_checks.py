"""Whether a cluster is set up for an application, beyond what is on each node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from graph import Plan
from serve_app.config import LOOPBACK_HOSTS, GatewayConfig, IntakeConfig
from serve_app.deployments import OPEN_GATEWAY, Demand, demands, first_fit
from serve_app.doctor.cluster_facts import ClusterFacts
from serve_app.doctor.findings import Finding, error, ok, warning

__all__ = ["check_cluster", "check_placement"]


def check_cluster(facts: ClusterFacts, intake: IntakeConfig | None) -> Iterator[Finding]:
    """Findings about addresses, authentication, and what all nodes must reach."""
    yield from facts.silent
    yield from _addresses(facts)
    yield from _token(facts)
    if intake is not None and len(facts.nodes) > 1:
        for problem in intake.of_one_node:
            where, _, message = problem.partition(": ")
            message, _, fix = message.partition("; ")
            yield error("services", f"{where}: {message}", fix)


def check_placement(
    facts: ClusterFacts, plan: Plan, gateway: GatewayConfig | None, intake: IntakeConfig | None
) -> Iterator[Finding]:
    """Findings about the room for an application's replicas."""
    wanted = demands(plan, gateway or OPEN_GATEWAY, intake)
    too_large = [each for each in wanted if first_fit([each], map(replace, facts.rooms.values()))]
    for each in too_large:
        yield error(
            "resources", f"no node has {_amount(each)} for a replica of '{each.name}'", "lower its serve: block"
        )
    for each in wanted:
        for name in set(each.resources) - facts.resources:
            yield error("resources", f"no node has the resource '{name}' that '{each.name}' reserves", "add such nodes")
    if too_large or plan.name in facts.applications:
        return
    least = [each for each in wanted for _ in range(each.least)]
    unplaced = first_fit(least, map(replace, facts.free.values()))
    if unplaced:
        names = ", ".join(f"'{each.name}' ({_amount(each)})" for each in unplaced)
        fix = "add nodes, unless the autoscaler does; or reserve less in serve:"
        yield error("resources", f"no room is free for {names}", fix)
    else:
        yield ok("resources", f"there is room for {len(least)} replicas")


def _amount(demand: Demand) -> str:
    amounts = [f"{demand.cpus:g} CPU"]
    if demand.gpus:
        amounts.append(f"{demand.gpus:g} GPU")
    if demand.memory_bytes:
        amounts.append(f"{demand.memory_bytes / 2**20:.0f} MiB")
    return " and ".join(amounts)


def _addresses(facts: ClusterFacts) -> Iterator[Finding]:
    if facts.http_host is None:
        yield warning("Serve", "is not running", "serve deploy a rendered file")
    elif facts.http_host in LOOPBACK_HOSTS and len(facts.nodes) > 1:
        fix = "visiongraph render --host 0.0.0.0, then serve shutdown and deploy again"
        yield error("addresses", f"the endpoint binds {facts.http_host}: other nodes and load balancers miss it", fix)
    else:
        yield ok("addresses", f"the endpoint binds {facts.http_host}")
    for name, state in facts.applications.items():
        if state == "RUNNING":
            yield ok("Serve", f"application '{name}' is running")
        else:
            finding = warning if state == "DEPLOYING" else error
            yield finding("Serve", f"application '{name}' is {state}", "serve status says why")


def _token(facts: ClusterFacts) -> Iterator[Finding]:
    without = [node.name for node in facts.nodes if node.environment.get("RAY_AUTH_MODE") != "token"]
    public = facts.dashboard and facts.dashboard.rpartition(":")[0].strip("[]") not in LOOPBACK_HOSTS
    fix = "RAY_AUTH_MODE=token and a token before 'ray start' on every node"
    if without:
        finding = error if len(facts.nodes) > 1 else warning
        yield finding("token", f"authentication is off on {', '.join(without)}: who reaches Ray's ports runs code", fix)
    else:
        yield ok("token", "Ray's ports ask for the token")
    if public and facts.dashboard_is_open:
        message = f"http://{facts.dashboard} answers without a token: who reaches it runs code"
        yield error("dashboard", message, f"ray start --dashboard-host=127.0.0.1, and {fix}")
    elif facts.dashboard:
        yield ok("dashboard", f"{facts.dashboard} " + ("asks for the token" if public else "is on loopback"))
