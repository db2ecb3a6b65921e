"""A short soak run; the long ones are ``make soak``. And what its checks would find."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from soak.clients import Answer
from soak.running import ACTIONS, _is_explained, _judge_results, _longest_gap

_ROOT = Path(__file__).parents[2]


def _result(fingerprint: str, threshold: float, *, status: str = "ok", label: str = "One") -> Answer:
    context = {"first": {"label": label, "threshold": threshold}} if status == "ok" else {}
    steps = [{"name": "first", "status": status}]
    return Answer(0, 1, 200, result={"steps": steps, "context": context, "pipeline": {"fingerprint": fingerprint}})


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([_result("a", 0.5), _result("a", 0.5), _result("b", 0.6)], []),
        ([_result("a", 0.5), _result("a", 0.6)], ["fingerprint a stands for 2 behaviours"]),
        ([_result("a", 0.5), _result("a", 0.5, label="Other")], ["fingerprint a stands for 2 behaviours"]),
        ([_result("a", 0.5), _result("b", 0.5, status="failed")], ["a result that is not whole"]),
    ],
    ids=["right", "two thresholds", "two classes", "a step failed"],
)
def test_results_that_are_wrong(answers: list[Answer], found: list[str]) -> None:
    findings = list(_judge_results(answers))
    assert len(findings) == len(found)
    assert all(finding.startswith(start) for finding, start in zip(findings, found, strict=True))


@pytest.mark.parametrize(
    ("action", "answer", "is_explained"),
    [
        ("change threshold", {"status": 503, "retry_after": True}, False),
        ("remove step", {"status": 503, "retry_after": True}, True),
        ("remove step", {"status": 503}, False),
        ("remove step", {"status": 0}, False),
        ("kill haproxy", {"status": 0}, True),
        ("kill haproxy", {"status": 404}, False),
        ("kill step", {"status": 502}, False),
        ("image that hangs", {"status": 408}, True),
    ],
)
def test_answers_that_are_explained(action: str, answer: dict[str, Any], is_explained: bool) -> None:
    assert _is_explained(Answer(0, 1, **answer), ACTIONS[action][1]) == is_explained


def test_the_longest_time_without_a_good_answer() -> None:
    answers = [Answer(0, ended, status) for ended, status in ((1, 200), (2, 200), (3, 503), (6, 200), (7, 200))]
    assert _longest_gap(answers) == 4


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_short_run() -> None:
    actions = ["change threshold", "kill step", "image that exits", "kill haproxy"]
    done = subprocess.run(
        # Replicas start slowly beside the other tests: two restarts in a row can take longer than the default deadline.
        [sys.executable, "-m", "soak", "--clients", "8", "--deadline-s", "90", "--actions", *actions],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tests" / "plugins")])},
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
