from __future__ import annotations

from typing import Any

import pytest


def ports(rules: list[dict[str, Any]], peers: str) -> list[int]:
    """Ports of the rules whose peers are from everywhere (``ipBlock``) or that have no peers (``""``)."""
    return [
        port["port"]
        for rule in rules
        if any("ipBlock" in peer and peer["ipBlock"]["cidr"] == "0.0.0.0/0" for peer in rule.get("to", ()))
        or (not peers and "from" not in rule and "to" not in rule)
        for port in rule.get("ports", ())
    ]


def test_everybody_reaches_the_proxy_only(manifests: Any, one: Any) -> None:
    policy = one(manifests(), "NetworkPolicy")["spec"]
    assert ports(policy["ingress"], "") == [8000]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}


def test_the_dashboard_is_for_the_operator(manifests: Any, one: Any) -> None:
    policies = [each["spec"] for each in manifests() if each["kind"] == "NetworkPolicy"]
    rules = [rule for policy in policies for rule in policy["ingress"]]
    (rule,) = (rule for rule in rules if 8265 in [port["port"] for port in rule.get("ports", ())])
    (peer,) = rule["from"]
    assert peer["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}


def test_pods_reach_each_other(manifests: Any, one: Any) -> None:
    policy = one(manifests(), "NetworkPolicy")["spec"]
    assert {"from": [{"podSelector": policy["podSelector"]}]} in policy["ingress"]
    assert {"to": [{"podSelector": policy["podSelector"]}]} in policy["egress"]


@pytest.mark.parametrize(
    ("choice", "out"),
    [
        ({}, []),
        ({"redis": "redis://redis:6380"}, [6380]),
        ({"intake": {}}, [443, 5672]),
        ({"intake": {"queue": "sqs://q?region=r", "results": "gs://b"}}, [443]),
        (
            {"intake": {"queue": "redis://r/0?stream=s", "results": "s3://b?endpoint_url=http://minio:9000"}},
            [6379, 9000],
        ),
        ({"gateway": {"fetch": {"schemes": ["https", "http"], "ports": [80, 443, 8443]}}}, [80, 443, 8443]),
        ({"gateway": {"fetch": {"s3": {"allow": {"*": ["s3://b"]}}}}}, [443]),
        ({"gateway": {"rate_limits": {"redis_url": "rediss://limits/0"}}}, [6379]),
        ({"gateway": {"auth": {"jwt": {"issuer": "i", "audience": "a", "jwks": "https://id.example:444/k"}}}}, [444]),
    ],
    ids=str,
)
def test_out_to_what_is_used(choice: dict[str, Any], out: list[int], manifests: Any, one: Any) -> None:
    policy = one(manifests(**choice), "NetworkPolicy")["spec"]
    assert ports(policy["egress"], "ipBlock") == out


def test_out_to_dns(manifests: Any, one: Any) -> None:
    policy = one(manifests(), "NetworkPolicy")["spec"]
    assert any({"port": 53, "protocol": "UDP"} in rule.get("ports", ()) for rule in policy["egress"])


def test_the_metadata_of_the_cloud_is_out_of_reach(manifests: Any, one: Any) -> None:
    policy = one(manifests(intake={}), "NetworkPolicy")["spec"]
    blocks = [peer["ipBlock"] for rule in policy["egress"] for peer in rule["to"] if "ipBlock" in peer]
    (outside,) = (block for block in blocks if block["cidr"] == "0.0.0.0/0")
    assert outside["except"] == ["169.254.0.0/16"]
    assert not [block for block in blocks if block["cidr"] == "169.254.169.254/32"]


def test_but_where_google_has_the_tokens(manifests: Any, one: Any) -> None:
    policy = one(manifests(intake={"results": "gs://bucket"}), "NetworkPolicy")["spec"]
    blocks = [peer["ipBlock"]["cidr"] for rule in policy["egress"] for peer in rule["to"] if "ipBlock" in peer]
    assert "169.254.169.254/32" in blocks
