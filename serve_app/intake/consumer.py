"""Receives messages from a queue, runs their jobs, and acknowledges each only after its outcome was written.

Nothing is lost because of the order: a result is written, then its line in the journal, then the message is
acknowledged; a failure is written, then the dead letter, then the message is acknowledged. Wherever a worker dies in
between, the message is delivered again, and what has been written is found.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass

from opentelemetry.trace import SpanKind

from serve_app.autoscaling.stats import Rate, worker_stats
from serve_app.intake.acknowledging import Acknowledger
from serve_app.intake.job_runner import JobRunner, TryAgain
from serve_app.intake.retrying import QUEUE_ERRORS, STORE_ERRORS, Retrier, Stopped, backoff, call_broker
from serve_app.queues import DeadLetter, Message, Queue, QueueStats
from serve_app.queues.job_messages import BadMessage, JobRequest, parse_jobs
from serve_app.results import Outcome, ResultStore
from serve_app.telemetry.log_fields import log_fields
from serve_app.telemetry.queue_recording import DeliveryOutcome, QueueRecorder
from serve_app.telemetry.tracing import current_traceparent, record, span, traceparent_or_none

__all__ = ["Consumer", "Pace"]

_RECEIVE_HANGS_S = 60.0
_CANCEL_AGAIN_S = 1.0
_CLOSE_S = 5.0
_BATCH = 10
_LONGEST_DELAY_S = 60.0
_MARK_AFTER_S = 1.0
_STATS_EVERY_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """Limits of a consumer.

    Attributes:
        in_flight: images that are processed at a time.
        retry_after_s: before the second try; twice as long before each further one.
        stop_s: time for images that are being processed when the consumer is stopped.
        wait_s: how long a call to the broker waits for a message; a worker that stops waits for it, too.
        stuck_after_s: without any progress for this time the consumer is stuck; longer than any image takes.
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
        retrier: the runner's.
    """

    def __init__(
        self, queue: Queue, store: ResultStore, runner: JobRunner, retrier: Retrier, pace: Pace | None = None
    ) -> None:
        self._queue = queue
        self._store = store
        self._runner = runner
        self._retrier = retrier
        self._pace = pace or Pace()
        self._acknowledger = Acknowledger(queue, store, retrier, at=self._pace.in_flight, done=self._acknowledged)
        self._images = asyncio.Semaphore(self._pace.in_flight)
        self._freed = asyncio.Event()
        self._held: dict[int, Message] = {}  # leased: being processed, or about to be acknowledged
        self._traces: dict[
            int, list[tuple[str, int]]
        ] = {}  # of each message's jobs: their spans, and since when they end
        self._working: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._progress_at = time.monotonic()
        self._rate = Rate()
        self._recorder = QueueRecorder(queue.name)
        self._queue_stats: QueueStats | None = None

    @property
    def in_hand(self) -> int:
        """Messages that are being processed."""
        return len(self._working)

    def stats(self) -> dict[str, float]:
        """The load of this worker, and the most recent statistics of the queue; see :func:`worker_stats`."""
        room = self._pace.in_flight
        return worker_stats(self._queue_stats, rate=self._rate.per_s(), in_hand=self.in_hand, room=room)

    def start(self) -> None:
        """Begin to consume; the broker may start later."""
        loops = (self._receive, self._extend, self._mark, self._look_at_queue, self._acknowledger.run)
        self._loops = [asyncio.create_task(loop(), name=loop.__name__) for loop in loops]

    async def stop(self) -> None:
        """Receive no more, finish or requeue messages that are being processed, and disconnect."""
        self._retrier.stopping.set()
        self._freed.set()
        if self._loops:
            await asyncio.wait(self._loops[:1])  # messages that it still receives are requeued
        if self._working:
            _, late = await asyncio.wait(self._working, timeout=self._pace.stop_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        await self._acknowledger.flush()
        running = set(self._loops)
        while running:  # a broker's client may swallow a cancellation, and the loop goes on
            for loop in running:
                loop.cancel()
            _, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_S)
        await self._disconnect()

    async def _disconnect(self) -> None:
        """The next call connects again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._queue.close()

    def stuck(self) -> str | None:
        """Why it makes no progress; ``None``: it does."""
        for loop in self._loops:
            if loop.done() and not self._retrier.stopping.is_set():
                error = None if loop.cancelled() else loop.exception()
                return f"the consumer's loop '{loop.get_name()}' has ended: {error!r}"
        idle_s = time.monotonic() - max(self._progress_at, self._retrier.waited_at)
        if idle_s > self._pace.stuck_after_s:
            return f"no message was received or finished, and no call was retried, for {idle_s:.0f} s"
        return None

    async def _receive(self) -> None:
        failures = 0
        while (free := await self._wait_for_room()) > 0:
            try:
                async with asyncio.timeout(self._pace.wait_s + _RECEIVE_HANGS_S):
                    messages = await self._queue.receive(free, self._pace.wait_s)
            except (*QUEUE_ERRORS, TimeoutError) as error:
                failures += 1
                _log.warning("no messages can be received: %s", str(error) or "the broker does not answer")
                self._progress()
                if isinstance(error, TimeoutError):
                    await self._disconnect()
                await self._retrier.sleep(backoff(failures, 0.2, 10.0))
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
        """Wait until a batch fits, since brokers are slow with single messages. 0: the consumer is stopping."""
        batch = min(_BATCH, max(1, self._pace.in_flight // 2))
        while (free := self._pace.in_flight - len(self._working)) < batch and not self._retrier.stopping.is_set():
            self._freed.clear()
            await self._freed.wait()
        return 0 if self._retrier.stopping.is_set() else free

    async def _handle(self, message: Message) -> None:
        try:
            await self._process(message)
        except (Stopped, asyncio.CancelledError):
            if (task := asyncio.current_task()) is not None:
                task.uncancel()  # the message is requeued before the task ends
            await call_broker(lambda: self._queue.nack(message), "requeue a message")
            self._release(message, "requeued")
        except Exception as error:  # noqa: BLE001 - a bug must not lose the message
            _log.exception("a message could not be processed")
            await self._retry_later(message, error)

    async def _process(self, message: Message) -> None:
        """Run the jobs of a message; it is then acknowledged, requeued with a delay, or a dead letter."""
        try:
            jobs = parse_jobs(message.body)
        except BadMessage as error:
            await self._dead_letter(message, (), type(error).__name__, str(error))
            return
        endings = await asyncio.gather(*(self._run(job, message) for job in jobs), return_exceptions=True)
        errors = [ending for ending in endings if isinstance(ending, BaseException)]
        outcomes = [ending for ending in endings if isinstance(ending, Outcome)]
        failed = [outcome for outcome in outcomes if outcome.status == "failed"]
        if any(isinstance(error, Stopped | asyncio.CancelledError) for error in errors):
            raise Stopped
        if errors:
            await self._retry_later(message, errors[0])
        elif failed:
            await self._retrier.until_it_works(lambda: self._store.journal(outcomes))
            why = failed[0].error or {}
            ids = tuple(outcome.id for outcome in failed)
            await self._dead_letter(message, ids, why.get("type", ""), why.get("detail", ""))
        else:
            self._acknowledger.add(message, outcomes)

    async def _run(self, job: JobRequest, message: Message) -> Outcome | None:
        async with self._images:
            if self._retrier.stopping.is_set():
                raise Stopped
            facts = {
                "messaging.destination.name": self._queue.name,
                "messaging.message.delivery_count": message.deliveries or 1,
                "visiongraph.job_id": job.id,
            }
            parent = traceparent_or_none(job.traceparent) or ""
            traced = span("process", facts, parent=parent, root=True, identity=job.id, kind=SpanKind.CONSUMER)
            with log_fields(job_id=job.id, request_id=job.id), traced:
                outcome = await self._runner.run(job, message)
                self._traces.setdefault(id(message), []).append((current_traceparent(), time.time_ns()))
            return outcome

    async def _retry_later(self, message: Message, error: BaseException) -> None:
        failed = error.failed if isinstance(error, TryAgain) else message.deliveries or 1
        delay_s = backoff(failed, self._pace.retry_after_s, _LONGEST_DELAY_S)
        _log.warning("try %d failed, the next one is in %.1f s: %s", failed, delay_s, error)
        await call_broker(lambda: self._queue.nack(message, delay_s), "requeue a message")
        self._release(message, "retried")

    async def _dead_letter(self, message: Message, jobs: tuple[str, ...], kind: str, reason: str) -> None:
        recorded = await self._retrier.until_it_works(lambda: asyncio.gather(*map(self._store.failed_attempts, jobs)))
        attempts = 1 + max(recorded, default=0)  # the last one is not recorded
        letter = DeadLetter.of(message, jobs, kind, reason, attempts).encode()
        written = await call_broker(lambda: self._queue.dead_letter(message, letter), "write a dead letter")
        self._release(message, "dead_letter" if written else "requeued")

    def _acknowledged(self, message: Message, is_ended: bool) -> None:
        self._release(message, "acknowledged" if is_ended else "requeued")

    def _release(self, message: Message, outcome: DeliveryOutcome) -> None:
        self._held.pop(id(message), None)
        for traceparent, since_ns in self._traces.pop(id(message), ()):
            record(outcome, traceparent, since_ns)
        self._recorder.delivery(outcome)
        if outcome in ("acknowledged", "dead_letter"):
            self._rate.count()

    async def _extend(self) -> None:
        """Extend all leases, early enough for two tries."""
        while True:
            await asyncio.sleep(self._queue.lease_s / 3)
            held = list(self._held.values())
            if held:
                try:
                    await self._queue.extend(held)
                except QUEUE_ERRORS as error:
                    _log.warning("leases could not be extended; messages may be delivered twice: %s", error)

    async def _mark(self) -> None:
        while True:
            await asyncio.sleep(_MARK_AFTER_S / 2)
            try:
                await self._runner.mark_running(_MARK_AFTER_S)
            except STORE_ERRORS as error:
                _log.debug("a job's state could not be written: %s", error)

    async def _look_at_queue(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_RECEIVE_HANGS_S):
                    self._queue_stats = await self._queue.stats()
            except (*QUEUE_ERRORS, TimeoutError):
                self._queue_stats = None
            stats = self._queue_stats or QueueStats(None, None, None)
            self._recorder.stats(stats.waiting, stats.in_flight, stats.oldest_age_s)
            await asyncio.sleep(_STATS_EVERY_S)

    def _progress(self) -> None:
        self._progress_at = time.monotonic()
