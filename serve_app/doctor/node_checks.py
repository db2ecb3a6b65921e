"""Whether nodes are alike, and have what they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from serve_app.doctor.findings import Finding, error, ok, warning
from serve_app.doctor.node_facts import NodeFacts
from serve_app.local import FAST_ENVIRONMENT

__all__ = ["check_nodes"]

_SKEW_WARNING_S, _SKEW_ERROR_S = 1.0, 5.0

_FOR_ONE_NODE = ("RAY_SERVE_HAPROXY_", "RAY_SERVE_WORKER_PROXY_", "RAY_SERVE_FALLBACK_PROXY_")
"""Ports and files that nodes on one host cannot share."""


def check_nodes(nodes: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Findings about the nodes of a cluster, or about one machine."""
    yield from _versions(nodes)
    yield from _environment(nodes)
    yield from _haproxy(nodes)
    yield from _models([node for node in nodes if node.runs_replicas])
    yield from _clocks(nodes)


def _versions(nodes: Sequence[NodeFacts]) -> Iterator[Finding]:
    names = sorted({name for node in nodes for name in node.packages})
    different = [
        _differing("Python", {node.name: node.python for node in nodes}),
        *(_differing(name, {node.name: node.packages.get(name, "not installed") for node in nodes}) for name in names),
        _differing("the code of visiongraph", {node.name: node.code[:8] for node in nodes}),
    ]
    found = [each for each in different if each]
    for each in found:
        yield error("versions", each, "use one image, or install the same versions on every node")
    if not found:
        first = nodes[0]
        versions = f"Python {first.python}, Ray {first.packages.get('ray')}"
        yield ok("versions", versions + (f" on all {len(nodes)} nodes" if len(nodes) > 1 else ""))


def _differing(what: str, values: Mapping[str, str]) -> str | None:
    """In words, where the nodes' values differ."""
    by_value: dict[str, list[str]] = {}
    for name, value in values.items():
        by_value.setdefault(value, []).append(name)
    if len(by_value) == 1:
        return None
    return f"{what} differs: " + "; ".join(f"{each} on {', '.join(names)}" for each, names in by_value.items())


def _environment(nodes: Sequence[NodeFacts]) -> Iterator[Finding]:
    keys = {key for node in nodes for key in node.environment if key.startswith("RAY_SERVE_")}
    different = [
        _differing(key, {node.name: node.environment.get(key, "not set") for node in nodes})
        for key in sorted(keys)
        if not key.startswith(_FOR_ONE_NODE)
    ]
    found = [each for each in different if each]
    for each in found:
        yield error("environment", each, "set it before 'ray start' on every node alike, and start Ray again there")
    if found:
        return
    environment = nodes[0].environment
    missing = [key for key, value in FAST_ENVIRONMENT.items() if environment.get(key) != value]
    if missing:
        settings = " ".join(f"{key}={FAST_ENVIRONMENT[key]}" for key in missing)
        yield warning("environment", f"not the fast configuration: {', '.join(missing)}", f"set {settings}")
    else:
        yield ok("environment", "the fast configuration")


def _haproxy(nodes: Sequence[NodeFacts]) -> Iterator[Finding]:
    without = [node.name for node in nodes if not node.haproxy]
    if without:
        fix = "install ray[serve] on Linux, which has it, and see that RAY_SERVE_HAPROXY_BINARY_PATH names a program"
        yield error("HAProxy", f"does not run on {', '.join(without)}", fix)
    else:
        yield ok("HAProxy", "runs")


def _models(nodes: Sequence[NodeFacts]) -> Iterator[Finding]:
    refs = sorted({ref for node in nodes for ref in node.models})
    for ref in refs:
        digests = {node.name: node.models[ref] for node in nodes if ref in node.models}
        missing = [name for name, digest in digests.items() if digest is None]
        if missing:
            fix = "visiongraph models PIPELINE --download there, or put it where VISIONGRAPH_MODELS points"
            yield error("models", f"{ref} is missing on {', '.join(missing)}", fix)
        elif differing := _differing(f"the content of {ref}", {name: str(d)[:12] for name, d in digests.items()}):
            yield error("models", differing, "copy one of them to all nodes: results would depend on the node")
        else:
            yield ok("models", f"{ref} is there" + (" on all nodes" if len(digests) > 1 else ""))


def _clocks(nodes: Sequence[NodeFacts]) -> Iterator[Finding]:
    for node in nodes:
        skew = abs(node.clock_offset_s)
        if skew >= _SKEW_WARNING_S:
            finding = error if skew >= _SKEW_ERROR_S else warning
            direction = "ahead" if node.clock_offset_s > 0 else "behind"
            message = f"{node.name} is {skew:.1f} s {direction}"
            yield finding("clocks", message, "run an NTP client there; tokens, leases and ages depend on it")
    if len(nodes) > 1 and all(abs(node.clock_offset_s) < _SKEW_WARNING_S for node in nodes):
        yield ok("clocks", f"within {_SKEW_WARNING_S:g} s")
