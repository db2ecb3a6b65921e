"""How many replicas there should be: the decision, and an hour of it."""

from __future__ import annotations

import dataclasses
import math

import pytest

from benchmarks.autoscaling.simulation import BROKERS, Demand, Fleet, judge, simulate
from serve_app.autoscaling.decisions import Load, Scaler, Steadied

QUIET = Load(now=0, replicas=1, target=1, waiting=0, held=0, oldest_age_s=0, rate=0, rate_each=0, in_hand=0, room=32)


class TestSteadied:
    def test_up_only_once_it_was_needed_all_along(self) -> None:
        steadied = Steadied(up_s=5, down_s=60)
        assert [steadied.follow(t, 1, need) for t, need in ((0, 4), (3, 3), (4, 4), (7, 5))] == [1, 1, 1, 3]

    def test_down_only_to_the_most_that_was_needed(self) -> None:
        steadied = Steadied(up_s=0, down_s=60)
        assert steadied.follow(0, 8, 8) == 8
        assert steadied.follow(10, 8, 5) == 8
        assert steadied.follow(40, 8, 2) == 8
        assert steadied.follow(61, 8, 2) == 5
        assert steadied.follow(71, 5, 2) == 2

    def test_a_little_above_is_no_reason(self) -> None:
        steadied = Steadied(up_s=0, down_s=0)
        assert steadied.follow(0, 10, 10.9) == 10
        assert steadied.follow(1, 10, 11.1) == 12
        assert steadied.follow(2, 0, 0.01) == 1


def follow(scaler: Scaler, load: Load, seconds: int, **each: object) -> int:
    """The last decision, when things stay as they are for so long."""
    decided = load.target
    for second in range(seconds):
        decided = scaler.decide(dataclasses.replace(load, now=load.now + second, **each))  # type: ignore[arg-type]
    return decided


class TestScaler:
    def test_a_backlog_without_workers_wakes_one(self) -> None:
        asleep = dataclasses.replace(QUIET, replicas=0, target=0, room=0)
        assert follow(Scaler(60, 10, 0, 300), asleep, 5) == 0
        assert follow(Scaler(60, 10, 0, 300), asleep, 5, waiting=1) == 1

    def test_as_many_as_drain_the_backlog_in_time(self) -> None:
        asleep = dataclasses.replace(QUIET, replicas=0, target=0, room=0)
        assert follow(Scaler(60, 10, 0, 300), asleep, 5, waiting=6000) == 10
        assert follow(Scaler(30, 10, 0, 300), asleep, 5, waiting=6000) == 20

    def test_the_measured_rate_replaces_the_guess(self) -> None:
        busy = dataclasses.replace(
            QUIET, replicas=2, target=2, waiting=6000, held=64, rate=100, rate_each=50, in_hand=64, room=64
        )
        # 100 images/s arrive and are done at 50 each, with a fifth to spare: 2.5, and 100 images/s of backlog: 2
        assert follow(Scaler(60, 10, 0, 300), busy, 60) == 5

    def test_what_arrives_counts_before_it_has_piled_up(self) -> None:
        scaler = Scaler(60, 10, 0, 300)
        for t in range(10):
            decided = scaler.decide(
                dataclasses.replace(QUIET, now=t, waiting=100 * t, in_hand=32, held=32, rate=10, rate_each=10)
            )
        assert decided >= math.ceil(110 / 10)

    def test_too_old_is_too_few_whatever_the_rates_say(self) -> None:
        slow = dataclasses.replace(
            QUIET, replicas=4, target=4, waiting=300, held=128, rate=200, rate_each=50, in_hand=128, room=128
        )
        assert follow(Scaler(60, 50, 0, 300), slow, 20, oldest_age_s=30) == 6
        assert follow(Scaler(60, 50, 0, 300), slow, 20, oldest_age_s=300) == 8

    def test_an_old_message_that_is_put_off_again_and_again_is_no_load(self) -> None:
        assert follow(Scaler(60, 10, 0, 300), QUIET, 400, waiting=1, rate=1, in_hand=1, oldest_age_s=90_000) == 1

    def test_workers_that_take_nothing_yet_stay_while_much_waits(self) -> None:
        started = dataclasses.replace(QUIET, replicas=1, target=2, waiting=200)
        assert follow(Scaler(10, 10, 0, 1), started, 20) == 2

    def test_the_last_message_keeps_a_worker(self) -> None:
        assert follow(Scaler(10, 10, 0, 1), QUIET, 20, waiting=1) == 1
        assert follow(Scaler(10, 10, 0, 1), QUIET, 20, held=1) == 1
        assert follow(Scaler(10, 10, 0, 1), QUIET, 20) == 0

    def test_a_queue_that_tells_nothing(self) -> None:
        blind = dataclasses.replace(QUIET, waiting=None, oldest_age_s=None)
        assert follow(Scaler(60, 10, 0, 60), dataclasses.replace(blind, replicas=0, target=0, room=0), 5) == 1
        assert follow(Scaler(60, 10, 0, 60), blind, 5, in_hand=32) == 4
        assert follow(Scaler(60, 10, 0, 60), dataclasses.replace(blind, replicas=4, target=4, room=128), 70) == 3

    def test_a_worker_that_has_not_reported_changes_nothing(self) -> None:
        started = dataclasses.replace(QUIET, replicas=3, target=3, room=0)
        assert follow(Scaler(60, 10, 0, 300), started, 400) == 3


@pytest.mark.parametrize(
    "broker",
    [
        pytest.param(broker, id=broker.name, marks=[] if broker.name == "pubsub" else pytest.mark.slow)
        for broker in BROKERS
        if broker.name in ("redis", "pubsub")
    ],
)
def test_an_hour_with_a_burst(broker: object) -> None:
    """Reacts within 30 s, is not below the need for longer, does not flap; benchmarks/autoscaling has the picture."""
    demand = Demand()
    trace = simulate(demand, Fleet(), broker, seed=1)  # type: ignore[arg-type]
    for needed, wanted, ready in (
        (trace.workers_needed, trace.workers_wanted, trace.workers_ready),
        (trace.steps_needed, trace.steps_wanted, trace.steps_ready),
    ):
        verdict = judge(trace, demand, needed, wanted, ready)
        assert verdict.decided_after_s <= 30
        assert verdict.longest_below_s <= 30
        assert verdict.turns <= 6  # two for the burst, the others for the slow wave
    assert max(trace.oldest_s) <= 30
    assert trace.waiting[-1] < 100


def test_to_zero_and_back() -> None:
    demand = Demand(images_per_s=20, burst=0, burst_from_s=300, burst_until_s=900, lasts_s=1100)
    fleet = Fleet(min_workers=0, min_steps=0, worker_down_s=120, step_down_s=120)
    trace = simulate(demand, fleet, BROKERS[0])
    for wanted in (trace.workers_wanted, trace.steps_wanted):
        assert wanted[299] > 0
        assert wanted[800] == 0
        assert wanted[930] > 0
    assert trace.waiting[-1] < 100
    assert trace.waiting[899] == 0
