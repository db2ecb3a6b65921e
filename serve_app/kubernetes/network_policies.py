"""NetworkPolicies: the proxy's port in, the pods among each other, and out to what the application uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from serve_app.config import FetchConfig, GatewayConfig, IntakeConfig
from serve_app.kubernetes.pods import DASHBOARD_PORT, HTTP_PORT, METRICS_PORTS
from serve_app.kubernetes.target import Target, labels, metadata

__all__ = ["network_policies", "outside_ports"]

_PORTS = {"amqp": 5672, "amqps": 5671, "redis": 6379, "rediss": 6379, "http": 80}
_HTTPS = 443

_API_SERVER_PORTS = (443, 6443)
_LINK_LOCAL = "169.254.0.0/16"  # a cloud's metadata, with the node's credentials
_NODE_LOCAL_DNS = "169.254.20.10/32"
_GOOGLE_METADATA = "169.254.169.254/32"


def network_policies(
    target: Target, gateway: GatewayConfig, intake: IntakeConfig | None, more: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """One for all pods of a target, and one for its head; ``more``: other addresses that they use."""
    ours = {"podSelector": {"matchLabels": labels(target)}}
    outside = sorted({*outside_ports(target, gateway, intake), *map(_port, more)})
    egress = [{"to": [ours]}, _dns()]
    if outside:
        egress.append({"to": _anywhere(), "ports": _tcp(outside)})
    if any(url.startswith(("gs:", "pubsub:")) for url in (*_urls(target, gateway, intake), *more)):
        # tokens of the workload identity
        egress.append({"to": [{"ipBlock": {"cidr": _GOOGLE_METADATA}}], "ports": _tcp((80, 988))})
    scraped = sorted({port for ports in METRICS_PORTS.values() for port in ports.values()})
    all_pods = {
        "podSelector": ours["podSelector"],
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [ours]},
            {"ports": _tcp([HTTP_PORT])},
            {"from": [_pods_of_any_namespace("prometheus")], "ports": _tcp(scraped)},
        ],
        "egress": egress,
    }
    head = {
        "podSelector": {"matchLabels": labels(target, "head")},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [_pods_of_any_namespace("kuberay-operator")], "ports": _tcp([DASHBOARD_PORT])}],
        "egress": [{"to": _anywhere(), "ports": _tcp(_API_SERVER_PORTS)}],  # the autoscaler
    }
    return [_policy(target, "", all_pods), _policy(target, "-head", head)]


def outside_ports(target: Target, gateway: GatewayConfig, intake: IntakeConfig | None) -> list[int]:
    """TCP ports outside of the cluster that the application connects to."""
    ports = {_port(url) for url in _urls(target, gateway, intake)}
    if target.models == "download":
        ports.add(_HTTPS)
    return sorted(ports)


def _urls(target: Target, gateway: GatewayConfig, intake: IntakeConfig | None) -> Iterator[str]:
    """Addresses that the application uses; of those of clients, one for each scheme."""
    yield from filter(None, (target.redis, gateway.rate_limits.redis_url))
    if gateway.auth.jwt is not None and "://" in gateway.auth.jwt.jwks:
        yield gateway.auth.jwt.jwks
    yield from _fetched(gateway.fetch)
    if intake is not None:
        yield from (intake.queue, intake.results)
        yield from _fetched(intake.fetch)


def _fetched(fetch: FetchConfig) -> Iterator[str]:
    yield from (f"{scheme}://" for scheme in fetch.schemes)
    if fetch.schemes:
        yield from (f"https://:{port}" for port in fetch.ports if port not in (80, 443))
    for scheme, store in (("s3", fetch.s3), ("gs", fetch.gs)):
        if store.allow:
            yield f"{scheme}://?endpoint_url={store.endpoint_url or ''}"


def _port(url: str) -> int:
    parts = urlsplit(url)
    endpoint = parse_qs(parts.query).get("endpoint_url")
    if endpoint:
        return _port(endpoint[0])
    return parts.port or _PORTS.get(parts.scheme, _HTTPS)


def _policy(target: Target, suffix: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(target, suffix),
        "spec": spec,
    }


def _dns() -> dict[str, Any]:
    system = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    return {
        "to": [system, {"ipBlock": {"cidr": _NODE_LOCAL_DNS}}],
        "ports": [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")],
    }


def _anywhere() -> list[dict[str, Any]]:
    # some networks match pods by selectors only
    outside = {"ipBlock": {"cidr": "0.0.0.0/0", "except": [_LINK_LOCAL]}}
    return [outside, {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10"]}}, {"namespaceSelector": {}}]


def _pods_of_any_namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": name}}}


def _tcp(ports: Iterable[int]) -> list[dict[str, Any]]:
    return [{"port": port, "protocol": "TCP"} for port in ports]
