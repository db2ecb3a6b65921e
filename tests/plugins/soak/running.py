"""One run: what is changed and what dies, one after the other, and what the clients were answered meanwhile."""

from __future__ import annotations

import asyncio
import json
import math
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import httpx
import psutil
import yaml

from serve_app.config.gateway_config import GatewayConfig
from serve_app.local.cluster import LocalCluster
from serve_app.ray_internals import application_states
from serve_app.rendering.serve_file import render
from soak.clients import Answer, Clients, post, slow_bodies
from soak.steps import picture

__all__ = ["ACTIONS", "Report", "run"]

_NAME = "soak"
_DEPLOYED_S = 120.0
_SETTLE_S = 3.0


@dataclass(frozen=True)
class _Explained:
    """What an action may be answered with beside a 200.

    Attributes:
        statuses: of these responses; each 503 must say when to try again.
        disconnects: connections may break.
        back_s: the first good answer must come within this time.
        refused_s: 95% of the responses with 503 must come within this time.
    """

    statuses: frozenset[int] = frozenset()
    disconnects: bool = False
    back_s: float = 30.0
    refused_s: float = math.inf


_NOTHING = _Explained()
# Those that wait for the step when it is removed take longest: up to 2 s on two cores, which start its successors.
_UNAVAILABLE = _Explained(frozenset({503}), refused_s=1.0)
# A connection or a request in the process that is killed ends with it.
_CUT_OFF = _Explained(frozenset({503}), disconnects=True)


@dataclass
class Report:
    """How a run went.

    Attributes:
        lines: an action a line.
        findings: what is wrong; empty where nothing is.
        counts: of all answers, by status.
    """

    lines: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)


class _Soak:
    def __init__(self, cluster: LocalCluster, clients: Clients, deadline_s: float) -> None:
        self.cluster = cluster
        self.clients = clients
        self._gateway = GatewayConfig.model_validate({"auth": "none", "timeout_ms": round(deadline_s * 1000)})
        self.steps: dict[str, tuple[str, float]] = {"first": ("One", 0.5), "second": ("One", 0.5)}
        self._token = "" if cluster.token_file is None else cluster.token_file.read_text().strip()

    # ---- changes

    def deploy(self, *, wait: bool = True) -> None:
        """Deploy the steps as ``serve deploy`` does."""
        pipeline = {
            "name": _NAME,
            "pipeline": [
                {
                    "name": name,
                    "class": f"soak.steps.{kind}",
                    "params": {"threshold": threshold},
                    "on_error": "fail",
                    "serve": {"num_cpus": 0.1, "max_batch_size": 8},
                }
                for name, (kind, threshold) in self.steps.items()
            ],
        }
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(pipeline, file)
            file.flush()
            port = int(self.cluster.http_url.rsplit(":", 1)[1])
            config = yaml.safe_load(render(file.name, gateway=self._gateway, port=port))
        response = httpx.put(
            f"{self.cluster.dashboard_url}/api/serve/applications/",
            content=json.dumps(config),
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=60,
        )
        response.raise_for_status()
        if wait:
            self._until_deployed("RUNNING")

    def _until_deployed(self, *states: str) -> None:
        time.sleep(0.5)  # until the controller has taken it up
        end = time.monotonic() + _DEPLOYED_S
        while (state := application_states().get(_NAME)) not in states:
            if time.monotonic() > end:
                raise TimeoutError(f"the application is {state} after {_DEPLOYED_S:.0f} s")
            time.sleep(0.2)

    def change_threshold(self) -> None:
        for _ in range(5):
            self.steps = {name: (kind, round(threshold + 0.01, 2)) for name, (kind, threshold) in self.steps.items()}
            self.deploy()
            time.sleep(0.5)

    def add_step(self) -> None:
        self.steps["added"] = ("One", 0.5)
        self.deploy()

    def remove_step(self) -> None:
        self.steps.setdefault("added", ("One", 0.5))
        self.deploy()
        self.steps.pop("added")
        self.deploy()

    def rename_step(self) -> None:
        old = list(self.steps)[-1]
        self.steps[old + "_x" if len(old) < 12 else "second"] = self.steps.pop(old)
        self.deploy()

    def swap_class(self) -> None:
        kind, threshold = self.steps["first"]
        self.steps["first"] = ("Other" if kind == "One" else "One"), threshold
        self.deploy()

    def broken_version(self) -> None:
        before = dict(self.steps)
        self.steps["first"] = ("Broken", 0.5)
        self.deploy(wait=False)
        self._until_deployed("DEPLOY_FAILED")
        self.steps = before
        self.deploy()

    # ---- kills

    def kill_step(self) -> None:
        _kill(f"ray::ServeReplica:{_NAME}:first")

    def kill_gateway(self) -> None:
        _kill(f"ray::ServeReplica:{_NAME}:gateway")

    def kill_controller(self) -> None:
        _kill("ray::ServeController")

    def kill_proxy(self) -> None:
        _kill("ray::HAProxyManager", "ray::ProxyActor")

    def kill_haproxy(self) -> None:
        _kill("haproxy")

    # ---- bad clients

    def image_that_exits(self) -> None:
        self._bad("exits")

    def image_that_segfaults(self) -> None:
        self._bad("segmentation fault")

    def image_that_hangs(self) -> None:
        self._bad("hangs")

    def image_that_blocks(self) -> None:
        self._bad("holds the interpreter")

    def _bad(self, kind: str) -> None:
        body = picture(random.getrandbits(31), kind)
        first = self._post(body)
        if kind in ("hangs", "holds the interpreter"):
            if first.status != 408:
                raise AssertionError(f"it was answered with {first.status}: {first.problem}")
            return
        second = self._post(body)
        took = second.ended - second.began
        if (first.status, second.status) != (422, 422) or took > 2:
            raise AssertionError(
                f"it was answered with {first.status}, a second one with {second.status} after {took:.1f} s"
            )

    def _post(self, body: bytes) -> Answer:
        async def once() -> Answer:
            async with httpx.AsyncClient(base_url=self.clients.url, timeout=120) as client:
                return await post(client, body)

        return asyncio.run(once())

    def slow_clients(self) -> None:
        def p95(seconds: float) -> float:
            began = time.monotonic()
            time.sleep(seconds)
            return _p95(answer for answer in self.clients.answers if answer.began > began)

        tried = []
        for _ in range(3):  # a neighbor on the machine can double it for some seconds, too
            before = p95(5)
            with slow_bodies(self.clients.url, 200, 10):
                during = p95(10)
            tried.append(f"from {before:.3f} to {during:.3f} s")
            if during <= 2 * before:
                return
        raise AssertionError(f"p95 of the others went {', '.join(tried)}")


ACTIONS: dict[str, tuple[Callable[[_Soak], None], _Explained]] = {
    "change threshold": (_Soak.change_threshold, _NOTHING),
    "add step": (_Soak.add_step, _NOTHING),
    "remove step": (_Soak.remove_step, _UNAVAILABLE),
    "rename step": (_Soak.rename_step, _UNAVAILABLE),
    "swap class": (_Soak.swap_class, _NOTHING),
    "broken version": (_Soak.broken_version, _NOTHING),
    "kill step": (_Soak.kill_step, _NOTHING),
    "kill gateway": (_Soak.kill_gateway, _CUT_OFF),
    "kill controller": (_Soak.kill_controller, _NOTHING),
    "kill proxy": (_Soak.kill_proxy, _CUT_OFF),
    # 3 to 5 s where nothing else keeps the cores busy
    "kill haproxy": (_Soak.kill_haproxy, _Explained(frozenset({503}), disconnects=True, back_s=10.0)),
    "image that exits": (_Soak.image_that_exits, _NOTHING),
    "image that segfaults": (_Soak.image_that_segfaults, _NOTHING),
    # those that wait for the model meanwhile run into their deadline
    "image that hangs": (_Soak.image_that_hangs, _Explained(frozenset({408}), back_s=75.0)),
    "image that blocks": (_Soak.image_that_blocks, _Explained(frozenset({408}), back_s=75.0)),
    "slow clients": (_Soak.slow_clients, _NOTHING),
}


def run(
    cluster: LocalCluster, actions: Sequence[str], clients: int, deadline_s: float, say: Callable[[str], None]
) -> Report:
    """Carry out the actions, one after the other, while the clients are at work.

    Args:
        cluster: with a dashboard.
        actions: keys of ``ACTIONS``.
        clients: how many.
        deadline_s: of each request.
        say: called with a line after each action.
    """
    report = Report()
    soak = _Soak(cluster, Clients(cluster.http_url, clients), deadline_s)
    soak.deploy()
    with soak.clients.running():
        if soak.clients.until(_is_good, 0.0, 30) is None:
            report.findings.append("no good answer before anything was done")
            return report
        time.sleep(_SETTLE_S)
        for action in actions:
            line = _carry_out(soak, action, report)
            report.lines.append(line)
            say(line)
    report.findings += _judge_results(soak.clients.answers)
    report.counts = Counter(answer.status for answer in soak.clients.answers)
    return report


def _carry_out(soak: _Soak, action: str, report: Report) -> str:
    act, explained = ACTIONS[action]
    began, seen = time.monotonic(), len(soak.clients.answers)
    try:
        act(soak)
    except Exception as error:  # a finding; the others are tried all the same
        report.findings.append(f"{action}: {type(error).__name__}: {error}")
    acted = time.monotonic()
    back_s = soak.clients.until(_is_good, began, explained.back_s + 30)
    time.sleep(_SETTLE_S)
    if (after_s := soak.clients.until(_is_good, time.monotonic(), 120)) is None:
        report.findings.append(f"{action}: no good answer any more")
    answers = soak.clients.answers[seen:]
    others = [answer for answer in answers if answer.status != 200]
    wrong = [answer for answer in others if not _is_explained(answer, explained)]
    report.findings += [
        f"{action}: {count} x {status} {problem}"
        for (status, problem), count in Counter((answer.status, answer.problem[:200]) for answer in wrong).items()
    ]
    gap = _longest_gap(answers)
    if back_s is None or gap > explained.back_s:
        report.findings.append(f"{action}: {gap:.1f} s without a good answer; {explained.back_s:.0f} s are allowed")
    refused_s = _p95(answer for answer in answers if answer.status == 503)
    if refused_s > explained.refused_s:
        report.findings.append(f"{action}: p95 of the 503s is {refused_s:.1f} s, over {explained.refused_s:.0f} s")
    counts = Counter(answer.status for answer in answers)
    return (
        f"{action}: {acted - began:.1f} s, {gap:.1f} s without a good answer, "
        + ", ".join(f"{count} x {status or 'no answer'}" for status, count in sorted(counts.items()))
        + (f", p95 of 503 {refused_s:.2f} s" if refused_s else "")
        + (f", WRONG: {len(wrong)}" if wrong or after_s is None else "")
    )


def _p95(answers: Iterable[Answer]) -> float:
    times = sorted(answer.ended - answer.began for answer in answers)
    return times[len(times) * 95 // 100] if times else 0.0


def _is_good(answer: Answer) -> bool:
    return answer.status == 200


def _is_explained(answer: Answer, explained: _Explained) -> bool:
    if answer.status == 0:
        return explained.disconnects
    return answer.status in explained.statuses and (answer.status != 503 or answer.retry_after)


def _longest_gap(answers: Sequence[Answer]) -> float:
    good = sorted(answer.ended for answer in answers if _is_good(answer))
    return max((later - earlier for earlier, later in pairwise(good)), default=0.0)


def _judge_results(answers: Sequence[Answer]) -> Iterator[str]:
    """Each result must be whole, and all with one fingerprint must be of one behaviour."""
    behaviours: dict[str, set[str]] = defaultdict(set)
    for answer in answers:
        if answer.result is None:
            continue
        steps = [step["name"] for step in answer.result["steps"]]
        context = answer.result["context"]
        if any(step["status"] != "ok" for step in answer.result["steps"]) or sorted(context) != sorted(steps):
            yield f"a result that is not whole: {answer.result['steps']}"
        behaviour = {name: (context.get(name) or {}).get("label") for name in steps}
        thresholds = {name: (context.get(name) or {}).get("threshold") for name in steps}
        behaviours[answer.result["pipeline"]["fingerprint"]].add(json.dumps([behaviour, thresholds]))
    for fingerprint, found in behaviours.items():
        if len(found) > 1:
            yield f"fingerprint {fingerprint[:12]} stands for {len(found)} behaviours: {' and '.join(sorted(found))}"


def _kill(*titles: str) -> None:
    """SIGKILL one process of this cluster whose title begins so."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for process in psutil.Process().children(recursive=True):
            try:
                title = " ".join(process.cmdline()) or process.name()
                if process.status() != psutil.STATUS_ZOMBIE and (title.startswith(titles) or process.name() in titles):
                    process.kill()
                    return
            except psutil.Error:
                continue
        time.sleep(0.2)
    raise AssertionError(f"there is no process {titles}")
