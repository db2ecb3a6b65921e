from __future__ import annotations

import pytest

from graph.engine import Priority
from serve_app.deployments.waiting_line import AGEING_S, WaitingLine


def taken(line: WaitingLine[str]) -> str:
    return "".join(line.take() for _ in range(len(line)))


def test_by_priority_then_by_age() -> None:
    line: WaitingLine[str] = WaitingLine()
    for name, priority in (("x", 2), ("p", 1), ("a", 0), ("b", 0), ("q", 1)):
        line.add(name, Priority(priority), 10.0)
    assert line.first() == "a"
    assert taken(line) == "abpqx"


def test_ageing_lets_none_starve() -> None:
    line: WaitingLine[str] = WaitingLine()
    line.add("q", Priority.QUEUE, 0.0)
    served = []
    for now in range(20):  # a client comes each second, and one call is served
        line.add("h", Priority.INTERACTIVE, float(now))
        served.append(line.take())
    assert served.index("q") == AGEING_S


def test_what_left_is_not_taken() -> None:
    line: WaitingLine[str] = WaitingLine()
    places = [line.add(name, Priority.INTERACTIVE, 1.0) for name in "abc"]
    assert line.remove(places[1])
    assert not line.remove(places[1])
    assert taken(line) == "ac"
    assert not line.remove(places[0])


def test_an_empty_one_has_no_first() -> None:
    with pytest.raises(IndexError):
        WaitingLine().take()
