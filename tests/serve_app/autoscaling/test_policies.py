"""The policies as Serve's controller calls them: never raising, never waiting."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.config import AutoscalingConfig as ServeAutoscaling
from ray.serve.config import AutoscalingContext

from graph.engine.messages import StepRequest, Target
from graph.pipeline_file.serve_options import AutoscalingConfig
from serve_app.autoscaling import (
    BacklogAutoscaling,
    LoadInProgress,
    ReplicaLoad,
    call_load,
    entry_replicas,
    step_replicas,
    worker_replicas,
    worker_stats,
)
from serve_app.autoscaling.policies import BacklogPolicy, QueueWatcher, StepPolicy
from serve_app.queues import QueueStats, queue_from_url

NOW = 1_800_000_000.0


def context(target: int, *reports: dict[str, float], requests: float = 0.0, at: float = NOW) -> AutoscalingContext:
    """What Serve gives a policy: one report a replica."""
    deployment = DeploymentID("step", "app")
    replicas = [ReplicaID(f"r{i}", deployment) for i in range(len(reports))]
    metrics: dict[str, dict[ReplicaID, list[TimeStampedValue]]] = {}
    for replica, report in zip(replicas, reports, strict=True):
        for name, value in report.items():
            metrics.setdefault(name, {})[replica] = [TimeStampedValue(at - 2, value), TimeStampedValue(at, value)]
    return AutoscalingContext(
        deployment_id=deployment,
        deployment_name="step",
        app_name="app",
        current_num_replicas=len(reports),
        target_num_replicas=target,
        running_replicas=replicas,
        total_num_requests=requests,
        total_queued_requests=0.0,
        aggregated_metrics=None,
        raw_metrics=lambda: metrics,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=100,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=NOW,
        config=None,
    )


class TestCounts:
    def test_a_step_hears_what_its_callers_have_under_way(self) -> None:
        now = 0.0
        heard, gateway, worker = ReplicaLoad(lambda: now), LoadInProgress(), LoadInProgress()
        with gateway.call("step", 50), gateway.call("step", 3), worker.call("step", 1):
            assert gateway.at("step")[1] == 53
            with heard.calls(gateway.at("step"), 3), heard.calls(worker.at("step"), 1):
                stats = heard.stats()
                assert sorted(v for k, v in stats.items() if k.startswith("crops:")) == [1.0, 53.0]
        assert sum(v for k, v in heard.stats().items() if k.startswith("crops:")) == 50.0  # the other call is elsewhere
        assert heard.stats()["rate"] == pytest.approx(0.4)
        now = 11.0
        assert heard.stats() == {"alive": 1.0, "rate": 0.0}

    def test_other_steps_count_by_themselves(self) -> None:
        caller = LoadInProgress()
        with caller.call("makes", 5), caller.call("colours", 2):
            assert caller.at("colours")[1] == 2
        assert caller.at("makes")[1] == 0

    @pytest.mark.parametrize(
        ("crops", "by", "load"), [(None, "crops", 1), (5, "crops", 5), (None, "requests", 1), (5, "requests", 1)]
    )
    def test_a_call_counts_as_its_step_is_scaled(self, crops: int | None, by: str, load: int) -> None:
        targets = None if crops is None else tuple(Target(i, {}) for i in range(crops))
        scaling = AutoscalingConfig.model_validate({"max_replicas": 2, f"target_ongoing_{by}": 2.0})
        assert call_load(StepRequest(image={}, context={}, targets=targets), scaling) == load

    def test_a_worker_leaves_out_what_it_does_not_know(self) -> None:
        stats = worker_stats(QueueStats(7, None, None), rate=1.5, in_hand=3, room=8)
        assert stats == {"alive": 1.0, "rate": 1.5, "in_hand": 3.0, "room": 8.0, "waiting": 7.0}
        assert all(isinstance(value, float) for value in stats.values())


def decided(policy: Any, make: Callable[[], AutoscalingContext], monkeypatch: pytest.MonkeyPatch, seconds: int) -> int:
    """The last of so many decisions, one a second."""
    number = -1
    for second in range(seconds):
        monkeypatch.setattr(time, "monotonic", lambda second=second: 1000.0 + second)
        number, state = policy(make())
        assert state == {}
    return number


class TestStepPolicy:
    def test_by_crops_and_not_by_replies_of_each_replica(self, monkeypatch: pytest.MonkeyPatch) -> None:
        policy = StepPolicy(crops_per_replica=8, upscale_delay_s=2, downscale_delay_s=60)
        # two callers; each replica has heard of both, and the second more of one
        reports = (
            {"alive": 1, "rate": 9, "crops:a": 30, "crops:b": 2},
            {"alive": 1, "rate": 9, "crops:a": 40, "crops:b": 2},
        )
        assert decided(policy, lambda: context(2, *reports), monkeypatch, 5) == 6  # 42 crops, 8 each

    def test_nothing_published_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        policy = StepPolicy(crops_per_replica=8, upscale_delay_s=0, downscale_delay_s=0)
        assert decided(policy, lambda: context(3), monkeypatch, 5) == 3
        assert decided(policy, lambda: context(3, {"alive": 1, "rate": 0}, at=NOW - 60), monkeypatch, 5) == 3

    def test_idle_goes_to_zero_but_not_while_a_request_is_on_its_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        idle = {"alive": 1.0, "rate": 0.0}
        policy = StepPolicy(crops_per_replica=8, upscale_delay_s=0, downscale_delay_s=3)
        assert decided(policy, lambda: context(1, idle, requests=1), monkeypatch, 10) == 1
        assert decided(policy, lambda: context(1, idle), monkeypatch, 20) == 0

    def test_never_raises(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        policy = StepPolicy(crops_per_replica=8, upscale_delay_s=0, downscale_delay_s=0)
        broken, asked = context(3, {"alive": 1}), []

        def fail() -> None:
            asked.append(1)
            raise ZeroDivisionError

        broken._raw_metrics_value = fail
        assert decided(policy, lambda: broken, monkeypatch, 3) == 3
        for _ in range(10):
            assert policy(broken) == (3, {})
        assert len(asked) == 3  # once a second, and not at every call


class TestBacklogPolicy:
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:////{tmp_path}/jobs.db"

    @pytest.fixture
    def policies(self) -> Iterator[Callable[..., BacklogPolicy]]:
        made: list[BacklogPolicy] = []

        def make(url: str, **settings: float) -> BacklogPolicy:
            kwargs = {"drain_s": 10, "images_per_s": 5, "downscale_delay_s": 60, **settings}
            made.append(BacklogPolicy(url, **kwargs))
            return made[-1]

        yield make
        for policy in made:
            policy._watcher.stop()

    async def test_wakes_the_first_worker(self, url: str, policies: Callable[..., BacklogPolicy]) -> None:
        async with queue_from_url(url) as queue:
            await queue.publish([b"{}"] * 200)
        policy = policies(url)
        assert policy(context(0))[0] == 0  # nobody has looked yet: as it is
        until(lambda: policy._watcher.stats is not None)
        until(lambda: policy(context(0))[0] > 0)
        assert policy(context(0))[0] == 4  # 200 messages in 10 s, 5 a second each

    def test_a_broker_that_is_away_changes_nothing(
        self, policies: Callable[..., BacklogPolicy], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        policy = policies("redis://127.0.0.1:1/0?stream=jobs")
        until(lambda: "autoscaling cannot read the queue" in caplog.text)
        assert decided(policy, lambda: context(3), monkeypatch, 5) == 3

    def test_what_workers_saw_counts_while_the_broker_is_away(
        self, policies: Callable[..., BacklogPolicy], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy = policies("redis://127.0.0.1:1/0?stream=jobs")
        report = worker_stats(QueueStats(1000, 16, 9.0), rate=20, in_hand=16, room=16)
        assert decided(policy, lambda: context(1, report), monkeypatch, 30) > 3

    def test_a_new_configuration_ends_the_old_thread(self, url: str) -> None:
        policy = BacklogPolicy(url, drain_s=10, images_per_s=5, downscale_delay_s=60)
        stopped = policy._watcher._stop
        del policy
        gc.collect()
        assert stopped.is_set()

    def test_a_call_takes_no_time(self, url: str, policies: Callable[..., BacklogPolicy]) -> None:
        policy = policies(url)
        blocked = threading.Lock()
        with blocked:  # the watcher's thread would have to be waited for if a call asked the queue itself
            assert isinstance(policy(context(2))[0], int)


class TestWatcher:
    async def test_sees_the_queue_and_forgets_what_is_old(self, tmp_path: Path) -> None:
        url = f"sqlite:////{tmp_path}/jobs.db"
        now = 0.0
        watcher = QueueWatcher(url, every_s=0.02, clock=lambda: now)
        watcher.start()
        async with queue_from_url(url) as queue:
            await queue.publish([b"one", b"two"])
        until(lambda: watcher.stats is not None and watcher.stats.waiting == 2)
        watcher.stop()
        now = 21.0
        until(lambda: watcher.stats is None)

    def test_comes_back_when_the_broker_does(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        in_the_way = tmp_path / "jobs.db"
        in_the_way.mkdir()
        watcher = QueueWatcher(f"sqlite:////{in_the_way}", every_s=0.02)
        watcher.start()
        until(lambda: "autoscaling cannot read the queue" in caplog.text)
        in_the_way.rmdir()
        until(lambda: watcher.stats is not None)
        watcher.stop()


class TestOptions:
    """What Serve is told must be what Serve takes: its own model says so."""

    @pytest.mark.parametrize(
        "options",
        [
            worker_replicas(None, BacklogAutoscaling(min_replicas=0, max_replicas=9), "sqlite:////jobs.db"),
            step_replicas(None, AutoscalingConfig(max_replicas=4, initial_replicas=2), 8),
            step_replicas(None, AutoscalingConfig(max_replicas=4, target_ongoing_requests=2.0), 8),
            entry_replicas(None, AutoscalingConfig(max_replicas=4), 32),
        ],
    )
    def test_serve_takes_it(self, options: dict[str, Any]) -> None:
        json.dumps(options)
        config = ServeAutoscaling(**options["autoscaling_config"])
        assert config.model_fields_set == set(options["autoscaling_config"])
        if not config.policy.is_default_policy_function():
            made = cloudpickle.loads(cloudpickle.dumps(config.policy.get_policy()))(**config.policy.policy_kwargs)
            assert made(context(2))[0] == 2

    def test_a_number_stays_a_number(self) -> None:
        assert worker_replicas(3, None, "") == {"num_replicas": 3}
        assert step_replicas(None, None, 8) == {"num_replicas": 1}

    @pytest.mark.parametrize(
        ("given", "target"), [({}, 8), ({"target_ongoing_crops": 3.0}, 3), ({"target_ongoing_requests": 2.0}, 2)]
    )
    def test_a_step_by_crops_unless_it_says_requests(self, given: dict[str, float], target: float) -> None:
        scaling = AutoscalingConfig.model_validate({"max_replicas": 4, **given})
        options = step_replicas(None, scaling, 8)["autoscaling_config"]
        assert options["policy"]["policy_kwargs"]["crops_per_replica"] == target

    def test_at_most_below_at_least_is_a_mistake(self) -> None:
        with pytest.raises(ValueError, match="at least min_replicas"):
            BacklogAutoscaling(min_replicas=3, max_replicas=2)


def until(what: Callable[[], Any], timeout_s: float = 10) -> None:
    end = time.perf_counter() + timeout_s
    while not what():
        assert time.perf_counter() < end, "never came true"
        time.sleep(0.01)
