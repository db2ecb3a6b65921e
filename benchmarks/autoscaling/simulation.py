"""An hour of a queue, its workers and a step behind them, second by second, under this project's autoscaling decisions.

What is simulated: arrivals, replicas that take time to start, what they can do, what they hold, and numbers that reach
the decision late. What is real: the decision, :mod:`serve_app.autoscaling.decisions`.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from serve_app.autoscaling.decisions import WINDOW_S, Load, Scaler

_TICK_S = 0.5
_METRICS_S = 2.0  # replicas note their numbers every 2 s, and send them every 2 s
_METRICS_LATE_S = 2.0
_LOOK_BACK_S = 10.0
_POLL_S = 2.0
_ENOUGH = 0.9  # of what arrives: the decision's own band is as wide


@dataclass(frozen=True, slots=True)
class Broker:
    """What a broker tells of a queue, and how late."""

    name: str
    late_s: float = 0.0
    noise: float = 0.0
    knows_in_flight: bool = True
    knows_age: bool = True


BROKERS = (
    Broker("sqlite"),
    Broker("redis"),
    Broker("rabbitmq", knows_in_flight=False),
    Broker("sqs", late_s=3.0, noise=0.05),
    Broker("pubsub", late_s=150.0, knows_in_flight=False),
)


@dataclass(frozen=True, slots=True)
class Demand:
    """Images a second over time: a slow wave, and a burst."""

    images_per_s: float = 30.0
    burst: float = 10.0
    burst_from_s: float = 1200.0
    burst_until_s: float = 1800.0
    ends_s: float = math.inf
    lasts_s: float = 3600.0

    def at(self, t: float) -> float:
        """Images a second that arrive then, on average."""
        if t >= self.ends_s:
            return 0.0
        wave = 1 + 0.2 * math.sin(2 * math.pi * t / 1800)
        return self.images_per_s * wave * (self.burst if self.burst_from_s <= t < self.burst_until_s else 1.0)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What replicas can do, how long they take to start, and what is configured."""

    images_per_worker_s: float = 20.0
    room: int = 32
    worker_start_s: tuple[float, float] = (6.0, 12.0)
    min_workers: int = 1
    max_workers: int = 32
    drain_s: float = 60.0
    guess: float = 10.0
    worker_up_s: float = 2.0
    worker_down_s: float = 300.0
    crops_per_replica_s: float = 40.0
    step_start_s: tuple[float, float] = (8.0, 14.0)
    min_steps: int = 1
    max_steps: int = 64
    crops_per_replica: float = 8.0
    step_drain_s: float = 10.0
    step_up_s: float = 2.0
    step_down_s: float = 600.0


@dataclass(slots=True)
class Trace:
    """What happened, a number a second."""

    t: list[float] = field(default_factory=list)
    arriving: list[float] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    oldest_s: list[float] = field(default_factory=list)
    workers_needed: list[float] = field(default_factory=list)
    workers_wanted: list[int] = field(default_factory=list)
    workers_ready: list[int] = field(default_factory=list)
    steps_needed: list[float] = field(default_factory=list)
    steps_wanted: list[int] = field(default_factory=list)
    steps_ready: list[int] = field(default_factory=list)
    crops_under_way: list[int] = field(default_factory=list)


class _Worker:
    def __init__(self, ready_at: float) -> None:
        self.ready_at = ready_at
        self.detecting: deque[tuple[float, int]] = deque()  # (taken at, crops)
        self.classifying = 0  # images whose crops are at the step
        self.budget = 0.0
        self.ended: deque[float] = deque()
        self.reports: deque[tuple[float, float, float]] = deque(maxlen=4)  # (at, rate, in hand)

    @property
    def in_hand(self) -> int:
        return len(self.detecting) + self.classifying


class _Simulation:
    def __init__(self, demand: Demand, fleet: Fleet, broker: Broker, seed: int) -> None:
        self.demand, self.fleet, self.broker = demand, fleet, broker
        self.random = random.Random(seed)
        self.queue: deque[float] = deque()
        self.workers = [_Worker(0.0) for _ in range(fleet.min_workers)]
        self.leaving: list[_Worker] = []
        self.workers_wanted = fleet.min_workers
        self.steps = [0.0] * fleet.min_steps  # when each is ready
        self.steps_wanted = fleet.min_steps
        self.at_step: deque[tuple[_Worker, int]] = deque()
        self.step_budget = 0.0
        self.crops = 0
        self.crops_done: deque[tuple[float, int, int]] = deque()  # (at, crops, replicas that did them)
        self.crops_noted: deque[tuple[float, int]] = deque()
        self.seen: deque[tuple[float, int, int, float]] = deque()  # (at, waiting, leased, age)
        self.worker_scaler = Scaler(fleet.drain_s, fleet.guess, fleet.worker_up_s, fleet.worker_down_s)
        self.step_scaler = Scaler(fleet.step_drain_s, None, fleet.step_up_s, fleet.step_down_s)
        self.trace = Trace()

    def run(self) -> Trace:
        ticks = round(self.demand.lasts_s / _TICK_S)
        for tick in range(ticks):
            t = tick * _TICK_S
            self._arrive(t)
            self._work(t)
            self._classify(t)
            if _due(t, _METRICS_S):
                self._report(t)
            if _due(t, _POLL_S):
                leased = sum(worker.in_hand for worker in self.workers + self.leaving)
                self.seen.append((t, len(self.queue), leased, t - self.queue[0] if self.queue else 0.0))
            if _due(t, 1.0):
                self._scale_workers(t)
                self._scale_steps(t)
                self._note(t)
        return self.trace

    def _arrive(self, t: float) -> None:
        for _ in range(_poisson(self.random, self.demand.at(t) * _TICK_S)):
            self.queue.append(t)

    def _work(self, t: float) -> None:
        ready = [worker for worker in self.workers if worker.ready_at <= t]
        self.random.shuffle(ready)
        for worker in ready:
            while self.queue and worker.in_hand < self.fleet.room:
                self.queue.popleft()
                worker.detecting.append((t, self._crops_in_image()))
        for worker in ready + self.leaving:
            worker.budget = min(worker.budget, 1.0) + self.fleet.images_per_worker_s * _TICK_S
            while worker.budget >= 1 and worker.detecting:
                worker.budget -= 1
                _, crops = worker.detecting.popleft()
                if crops:
                    worker.classifying += 1
                    self.at_step.append((worker, crops))
                    self.crops += crops
                else:
                    worker.ended.append(t)
        self.leaving = [worker for worker in self.leaving if worker.in_hand]

    def _classify(self, t: float) -> None:
        ready = sum(ready_at <= t for ready_at in self.steps)
        self.step_budget = min(self.step_budget, 50.0) + ready * self.fleet.crops_per_replica_s * _TICK_S
        while self.at_step and self.step_budget >= self.at_step[0][1]:
            worker, crops = self.at_step.popleft()
            self.step_budget -= crops
            self.crops -= crops
            self.crops_done.append((t, crops, ready))
            worker.classifying -= 1
            worker.ended.append(t)

        while self.crops_done and self.crops_done[0][0] < t - WINDOW_S - _METRICS_LATE_S:
            self.crops_done.popleft()

    def _crops_in_image(self) -> int:
        return 0 if self.random.random() < 0.6 else min(50, 1 + int(self.random.expovariate(1 / 5)))

    def _report(self, t: float) -> None:
        for worker in self.workers:
            if worker.ready_at <= t:
                while worker.ended and worker.ended[0] < t - WINDOW_S:
                    worker.ended.popleft()
                worker.reports.append((t, len(worker.ended) / WINDOW_S, float(worker.in_hand)))
        self.crops_noted.append((t, self.crops))

    def _scale_workers(self, t: float) -> None:
        reports = [
            (worker.ready_at, *max(known)[1:])
            for worker in self.workers
            if (known := [report for report in worker.reports if report[0] <= t - _METRICS_LATE_S])
        ]
        seasoned = [rate for ready_at, rate, _ in reports if t - ready_at > WINDOW_S + _METRICS_LATE_S]
        waiting, in_flight, age = self._stats(t)
        in_hand = sum(in_hand for _, _, in_hand in reports)
        wanted = self.worker_scaler.decide(
            Load(
                now=t,
                replicas=len(reports),
                target=self.workers_wanted,
                waiting=waiting,
                held=in_hand if in_flight is None else in_flight,
                oldest_age_s=age,
                rate=sum(rate for _, rate, _ in reports),
                rate_each=sum(seasoned) / len(seasoned) if seasoned else None,
                in_hand=in_hand,
                room=float(self.fleet.room * len(reports)),
            )
        )
        self.workers_wanted = max(self.fleet.min_workers, min(self.fleet.max_workers, wanted))
        while len(self.workers) < self.workers_wanted:
            self.workers.append(_Worker(t + self.random.uniform(*self.fleet.worker_start_s)))
        while len(self.workers) > self.workers_wanted:
            self.leaving.append(self.workers.pop())

    def _stats(self, t: float) -> tuple[int | None, int | None, float | None]:
        known = [seen for seen in self.seen if seen[0] <= t - self.broker.late_s]
        while len(self.seen) > 1 and self.seen[1][0] <= t - self.broker.late_s:
            self.seen.popleft()
        _, waiting, leased, age = max(known, default=(0.0, 0, 0, 0.0))
        if self.broker.noise:
            waiting = round(waiting * self.random.uniform(1 - self.broker.noise, 1 + self.broker.noise))
        if self.broker.late_s > 60 and any(worker.reports for worker in self.workers):
            return None, None, None  # as BacklogPolicy does with numbers that are minutes old
        return (
            waiting,
            leased if self.broker.knows_in_flight else None,
            age if self.broker.knows_age else None,
        )

    def _scale_steps(self, t: float) -> None:
        seen = t - _METRICS_LATE_S
        while self.crops_noted and self.crops_noted[0][0] < seen - _LOOK_BACK_S:
            self.crops_noted.popleft()
        ready = [ready_at for ready_at in self.steps if ready_at <= seen]
        noted = [crops for at, crops in self.crops_noted if at <= seen]
        if noted and ready:
            crops, room = noted[-1], self.fleet.crops_per_replica * len(ready)
            done = [(crops, by) for at, crops, by in self.crops_done if seen - WINDOW_S < at <= seen]
            seasoned = any(t - ready_at > WINDOW_S + _METRICS_LATE_S for ready_at in ready)
            wanted = self.step_scaler.decide(
                Load(
                    now=t,
                    replicas=len(ready),
                    target=self.steps_wanted,
                    waiting=max(0.0, crops - room),
                    held=min(crops, room),
                    oldest_age_s=None,
                    rate=sum(crops for crops, _ in done) / WINDOW_S,
                    rate_each=sum(crops / by for crops, by in done) / WINDOW_S if seasoned else None,
                    in_hand=min(crops, room),
                    room=room,
                )
            )
        else:  # as Serve does: from zero by requests
            wanted = max(self.steps_wanted, int(bool(self.at_step)))
        self.steps_wanted = max(self.fleet.min_steps, min(self.fleet.max_steps, wanted))
        while len(self.steps) < self.steps_wanted:
            self.steps.append(t + self.random.uniform(*self.fleet.step_start_s))
        del self.steps[self.steps_wanted :]

    def _note(self, t: float) -> None:
        trace, rate = self.trace, self.demand.at(t)
        trace.t.append(t)
        trace.arriving.append(rate)
        trace.waiting.append(len(self.queue))
        trace.oldest_s.append(t - self.queue[0] if self.queue else 0.0)
        trace.workers_needed.append(rate / self.fleet.images_per_worker_s)
        trace.workers_wanted.append(self.workers_wanted)
        trace.workers_ready.append(sum(worker.ready_at <= t for worker in self.workers))
        sent = min(rate, trace.workers_ready[-1] * self.fleet.images_per_worker_s)
        trace.steps_needed.append(sent * CROPS_PER_IMAGE / self.fleet.crops_per_replica_s)
        trace.steps_wanted.append(self.steps_wanted)
        trace.steps_ready.append(sum(ready_at <= t for ready_at in self.steps))
        trace.crops_under_way.append(self.crops)


CROPS_PER_IMAGE = 0.4 * (1 + 1 / (math.exp(1 / 5) - 1))
"""On average: none in 60% of the images, up to 50 in the others."""


def simulate(demand: Demand, fleet: Fleet, broker: Broker, seed: int = 1) -> Trace:
    """One run; the same seed gives the same trace."""
    return _Simulation(demand, fleet, broker, seed).run()


def _due(t: float, every_s: float) -> bool:
    return t % every_s == 0


def _poisson(source: random.Random, mean: float) -> int:
    if mean > 50:
        return max(0, round(source.gauss(mean, math.sqrt(mean))))
    product, count, limit = source.random(), 0, math.exp(-mean)
    while product > limit:
        product *= source.random()
        count += 1
    return count


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trace says of one of the two numbers.

    Attributes:
        decided_after_s: from the start of the burst until more replicas were wanted.
        longest_below_s: longest time in which fewer were ready than nine tenths of what arrived needs.
        turns: how often the wanted number changed direction.
        most: replicas wanted at most.
        replica_hours: of what was wanted.
    """

    decided_after_s: float
    longest_below_s: float
    turns: int
    most: int
    replica_hours: float


def judge(trace: Trace, demand: Demand, needed: list[float], wanted: list[int], ready: list[int]) -> Verdict:
    """Look at one number."""
    start = trace.t.index(demand.burst_from_s)
    raised = next((i for i in range(start, len(wanted)) if wanted[i] > wanted[start - 1]), len(wanted) - 1)
    return Verdict(
        decided_after_s=trace.t[raised] - demand.burst_from_s,
        longest_below_s=float(_longest(range(len(ready)), lambda i: ready[i] < _ENOUGH * needed[i])),
        turns=_turns(wanted),
        most=max(wanted),
        replica_hours=round(sum(wanted) / 3600, 2),
    )


def _longest(moments: range, holds: Callable[[int], bool]) -> int:
    longest = run = 0
    for moment in moments:
        run = run + 1 if holds(moment) else 0
        longest = max(longest, run)
    return longest


def _turns(numbers: list[int]) -> int:
    moves = [later - earlier for earlier, later in itertools.pairwise(numbers) if later != earlier]
    return sum((move > 0) != (before > 0) for before, move in itertools.pairwise(moves))
