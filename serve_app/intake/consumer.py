"""Takes messages from a queue, runs what they ask for, and lets go of each only when its end is on record.

The order is what nothing is lost by: a result is written, then handed to compaction, then the message is acknowledged;
a failure is written, then the letter, then the message is acknowledged. Wherever a worker dies in between, the message
comes again and finds what is written already.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from serve_app.intake.acknowledging import Acknowledger
from serve_app.intake.broker import QUEUE_AWAY, STORE_AWAY, call_broker
from serve_app.intake.patience import Patience, Stopped, backoff
from serve_app.intake.work import Delivery, JobRunner, TryAgain
from serve_app.queues import DeadLetter, Message, Queue, QueueStats
from serve_app.queues.job_messages import BadMessage, JobRequest, parse_jobs
from serve_app.results import Outcome, ResultStore

__all__ = ["Consumer", "Pace"]

_RECEIVE_HANGS_S = 60.0
_CLOSE_S = 5.0
_BATCH = 10
_LONGEST_DELAY_S = 60.0
_MARK_AFTER_S = 1.0
_STATS_EVERY_S = 2.0
_RATE_OVER_S = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How much, how often, how long.

    Attributes:
        in_flight: images in hand at a time.
        retry_after_s: before the second try; twice as long before each further one.
        stop_s: what is in hand when the consumer is stopped may take so long.
        wait_s: how long to wait at the broker for a message; a worker that stops waits for that, too.
        stuck_after_s: longer than any image takes; without a sign of life for so long the consumer is stuck.
    """

    in_flight: int = 16
    retry_after_s: float = 1.0
    stop_s: float = 30.0
    stuck_after_s: float = 600.0
    wait_s: float = 2.0


class Consumer:
    """Consumes one queue. Use it from one event loop, once: ``start``, then ``stop``.

    Args:
        queue: not opened.
        store: where jobs and results are kept.
        runner: runs a job to its end.
        patience: the one that ``runner`` has.
        pace: how much at a time, and how long.
    """

    def __init__(
        self, queue: Queue, store: ResultStore, runner: JobRunner, patience: Patience, pace: Pace | None = None
    ) -> None:
        self._queue = queue
        self._store = store
        self._runner = runner
        self._patience = patience
        self._pace = pace or Pace()
        self._acknowledger = Acknowledger(queue, store, patience, at=self._pace.in_flight, done=self._let_go)
        self._images = asyncio.Semaphore(self._pace.in_flight)
        self._freed = asyncio.Event()
        self._held: dict[int, Message] = {}  # on lease: those in work, and those whose acknowledgement is due
        self._working: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._progress_at = time.monotonic()
        self._rate = _Rate()
        self.queue_stats: QueueStats | None = None
        """How the queue stands, as it was seen last."""

    @property
    def in_hand(self) -> int:
        """Messages that are being worked on."""
        return len(self._working)

    @property
    def room(self) -> int:
        """Messages that may be in hand at a time."""
        return self._pace.in_flight

    @property
    def rate(self) -> float:
        """Messages a second that left the queue for good, over the last 10 seconds."""
        return self._rate.per_s()

    def start(self) -> None:
        """Begin to consume; the broker may come up later."""
        loops = (self._receive, self._extend, self._mark, self._look_at_queue, self._acknowledger.run)
        self._loops = [asyncio.create_task(loop(), name=loop.__name__) for loop in loops]

    async def stop(self) -> None:
        """Take no more, end what is in hand or give it back, and disconnect."""
        self._patience.stopping.set()
        self._freed.set()
        if self._loops:
            await asyncio.wait(self._loops[:1])  # what it has received is given back
        if self._working:
            _, late = await asyncio.wait(self._working, timeout=self._pace.stop_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        await self._acknowledger.flush()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._disconnect()

    async def _disconnect(self) -> None:
        """The next call connects anew."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._queue.close()

    def stuck(self) -> str | None:
        """Why it will not go on by itself; ``None``: all is well."""
        for loop in self._loops:
            if loop.done() and not self._patience.stopping.is_set():
                error = None if loop.cancelled() else loop.exception()
                return f"the consumer's loop '{loop.get_name()}' has ended: {error!r}"
        idle_s = time.monotonic() - max(self._progress_at, self._patience.waited_at)
        if idle_s > self._pace.stuck_after_s:
            return f"nothing was received, nothing ended and nothing is waited for since {idle_s:.0f} s"
        return None

    async def _receive(self) -> None:
        failures = 0
        while (free := await self._wait_for_room()) > 0:
            try:
                async with asyncio.timeout(self._pace.wait_s + _RECEIVE_HANGS_S):
                    messages = await self._queue.receive(free, self._pace.wait_s)
            except (*QUEUE_AWAY, TimeoutError) as error:
                failures += 1
                _log.warning("no messages for now: %s", str(error) or "the broker does not answer")
                self._progress()
                if isinstance(error, TimeoutError):
                    await self._disconnect()
                await self._patience.sleep(backoff(failures, 0.2, 10.0))
                continue
            failures = 0
            if messages or not self._working:
                self._progress()
            for message in messages:
                self._held[id(message)] = message
                task = asyncio.create_task(self._handle(message))
                self._working.add(task)
                task.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        self._freed.set()
        self._progress()

    async def _wait_for_room(self) -> int:
        """Until a batch fits: asking for each message by itself is what brokers are slow at. 0: it is stopping."""
        batch = min(_BATCH, max(1, self._pace.in_flight // 2))
        while (free := self._pace.in_flight - len(self._working)) < batch and not self._patience.stopping.is_set():
            self._freed.clear()
            await self._freed.wait()
        return 0 if self._patience.stopping.is_set() else free

    async def _handle(self, message: Message) -> None:
        try:
            await self._end(message)
        except (Stopped, asyncio.CancelledError):
            await call_broker(lambda: self._queue.nack(message), "give a message back")
            self._let_go(message)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not cost the message
            _log.exception("a message could not be dealt with")
            await self._put_off(message, error)

    async def _end(self, message: Message) -> None:
        """Take a message to its end here: acknowledged soon, put off, or a dead letter."""
        try:
            jobs = parse_jobs(message.body)
        except BadMessage as error:
            await self._dead_letter(message, (), type(error).__name__, str(error))
            return
        delivery = Delivery(message.deliveries, message.published)
        endings = await asyncio.gather(*(self._run(job, delivery) for job in jobs), return_exceptions=True)
        errors = [ending for ending in endings if isinstance(ending, BaseException)]
        outcomes = [ending for ending in endings if isinstance(ending, Outcome)]
        failed = [outcome for outcome in outcomes if outcome.status == "failed"]
        if any(isinstance(error, Stopped | asyncio.CancelledError) for error in errors):
            raise Stopped
        if errors:
            await self._put_off(message, errors[0])
        elif failed:
            await self._patience.until_it_works(lambda: self._store.journal(outcomes), STORE_AWAY)
            why = failed[0].error or {}
            ids = tuple(outcome.id for outcome in failed)
            await self._dead_letter(message, ids, why.get("type", ""), why.get("detail", ""))
        else:
            self._acknowledger.add(message, outcomes)

    async def _run(self, job: JobRequest, delivery: Delivery) -> Outcome | None:
        async with self._images:
            if self._patience.stopping.is_set():
                raise Stopped
            return await self._runner.run(job, delivery)

    async def _put_off(self, message: Message, error: BaseException) -> None:
        failed = error.failed if isinstance(error, TryAgain) else message.deliveries or 1
        delay_s = backoff(failed, self._pace.retry_after_s, _LONGEST_DELAY_S)
        _log.warning("try %d failed, the next one is in %.1f s: %s", failed, delay_s, error)
        await call_broker(lambda: self._queue.nack(message, delay_s), "put a message off")
        self._let_go(message)

    async def _dead_letter(self, message: Message, jobs: tuple[str, ...], kind: str, reason: str) -> None:
        attempts = await self._patience.until_it_works(lambda: self._attempts(jobs), STORE_AWAY)
        letter = DeadLetter.of(message, jobs, kind, reason, attempts).encode()
        if await call_broker(lambda: self._queue.dead_letter(message, letter), "write a dead letter"):
            self._rate.count()
        self._let_go(message)

    async def _attempts(self, jobs: tuple[str, ...]) -> int:
        """At the one of these failed jobs that took the most; the last attempt is not among those recorded."""
        return 1 + max(await asyncio.gather(*map(self._store.failed_attempts, jobs)), default=0)

    def _let_go(self, message: Message, *, is_ended: bool = False) -> None:
        self._held.pop(id(message), None)
        if is_ended:
            self._rate.count()

    async def _extend(self) -> None:
        """Renew all leases early enough for two tries."""
        while True:
            await asyncio.sleep(self._queue.lease_s / 3)
            held = list(self._held.values())
            if held:
                try:
                    await self._queue.extend(held)
                except QUEUE_AWAY as error:
                    _log.warning("leases could not be renewed; what is in hand may be done twice: %s", error)

    async def _mark(self) -> None:
        while True:
            await asyncio.sleep(_MARK_AFTER_S / 2)
            try:
                await self._runner.mark_running(_MARK_AFTER_S)
            except STORE_AWAY as error:
                _log.debug("a job's state could not be written: %s", error)

    async def _look_at_queue(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_RECEIVE_HANGS_S):
                    self.queue_stats = await self._queue.stats()
            except (*QUEUE_AWAY, TimeoutError):
                self.queue_stats = None
            await asyncio.sleep(_STATS_EVERY_S)

    def _progress(self) -> None:
        self._progress_at = time.monotonic()


class _Rate:
    """Counts what happened in the last seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def count(self) -> None:
        self._times.append(time.monotonic())
        self.per_s()

    def per_s(self) -> float:
        since = time.monotonic() - _RATE_OVER_S
        while self._times and self._times[0] < since:
            self._times.popleft()
        return len(self._times) / _RATE_OVER_S
