from __future__ import annotations

import pytest

from serve_app.access.client_addresses import ClientAddresses, budget_key


def address(trusted: list[str], peer: str | None, *forwarded: str) -> str:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    return ClientAddresses(trusted).address({"type": "http", "headers": headers, "client": peer and (peer, 1)})


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "expected"),
    [
        ([], "192.0.2.1", ["203.0.113.9"], "192.0.2.1"),
        (["10.0.0.0/8"], "192.0.2.1", ["203.0.113.9"], "192.0.2.1"),
        (["10.0.0.0/8"], "10.0.0.1", [], "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        (["10.0.0.0/8"], "10.0.0.1", ["1.2.3.4, 203.0.113.9"], "203.0.113.9"),
        (["10.0.0.0/8"], "10.0.0.1", ["1.2.3.4, 203.0.113.9, 10.0.0.7"], "203.0.113.9"),
        (["10.0.0.0/8"], "10.0.0.1", ["1.2.3.4", "203.0.113.9"], "203.0.113.9"),
        (["10.0.0.0/8"], "10.0.0.1", ["10.9.9.9, 10.0.0.7"], "10.9.9.9"),
        (["10.0.0.0/8"], "10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        (["10.0.0.0/8"], "10.0.0.1", ['"[2001:db8::1]:4711"'], "2001:db8::1"),
        (["10.0.0.0/8"], "10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        (["10.0.0.0/8"], "10.0.0.1", ["203.0.113.9, unknown"], "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", ["', DROP TABLE"], "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", ["", ","], "10.0.0.1"),
        (["::1/128"], "::1", ["203.0.113.9"], "203.0.113.9"),
        (["10.0.0.0/8"], None, ["203.0.113.9"], "unknown"),
        (["10.0.0.0/8"], "testclient", ["203.0.113.9"], "testclient"),
    ],
)
def test_who_is_believed(trusted: list[str], peer: str | None, forwarded: list[str], expected: str) -> None:
    assert address(trusted, peer, *forwarded) == expected


def test_budgets_of_addresses() -> None:
    assert budget_key("192.0.2.1") == "192.0.2.1"
    assert budget_key("2001:db8::1") == budget_key("2001:db8::ffff") == "2001:db8::/64"
    assert budget_key("unknown") == "unknown"
