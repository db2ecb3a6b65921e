"""One job, from its request in a message to the one record of its outcome."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from classifiers import VisionError
from graph import Engine, Frame, Overloaded, Unreachable, annotate
from serve_app.images import KeptImages, Sources, is_final
from serve_app.intake.retrying import Retrier, Stopped
from serve_app.queues import Message
from serve_app.queues.job_messages import JobRequest
from serve_app.refusals import Forbidden
from serve_app.results import JOB_PREFIX, JobMarker, Outcome, ResultStore, Reuse
from serve_app.telemetry.recording import ImageOutcome, ImageRecorder, outcome_of
from serve_app.telemetry.tracing import span

__all__ = ["JobRunner", "TryAgain"]

_MOST_DELIVERIES = 80
"""Deliveries without an outcome or a failure. More of them mean that the job crashes its workers; the limit is high
because lost connections and stopped workers add to them too."""

_log = logging.getLogger(__name__)


class TryAgain(Exception):
    """An attempt failed for a transient reason, and is not the last one.

    Attributes:
        failed: attempts that have failed so far, this one included.
    """

    def __init__(self, failed: int, error: Exception) -> None:
        super().__init__(str(error) or type(error).__name__)
        self.failed = failed


@dataclass(slots=True)
class _UnderWay:
    ended: asyncio.Future[Outcome | None]
    since: float = field(default_factory=time.monotonic)
    is_marked: bool = False


class JobRunner:
    """Runs jobs. Use it from one event loop.

    Args:
        engine: gives the current engine, which changes with the pipeline's tunables.
        retrier: waits for the store, and for steps that are overloaded.
        timeout_s: longest time for one image in the pipeline.
        max_attempts: attempts at a job that fails for transient reasons. Only failures that a worker saw count, not
            messages that are delivered again because a connection was lost or a worker stopped.
        reuse_results: take the stored result of an image that was seen before.
        kept_images: takes images for later labelling.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        store: ResultStore,
        sources: Sources,
        retrier: Retrier,
        *,
        timeout_s: float,
        max_attempts: int = 8,
        reuse_results: bool = False,
        kept_images: KeptImages | None = None,
    ) -> None:
        self._engine = engine
        self._store = store
        self._sources = sources
        self._retrier = retrier
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self._reuse = Reuse(store) if reuse_results else None
        self._under_way: dict[str, _UnderWay] = {}
        self._kept_images = kept_images
        self._drawing = asyncio.Lock()
        self._count_image = ImageRecorder(engine().plan.name, "queue")

    async def run(self, job: JobRequest, message: Message) -> Outcome | None:
        """Run a job of a message, or wait for its run that is in progress here because the message was delivered twice.

        Returns:
            Its outcome, which has been written; ``None``: it was withdrawn.

        Raises:
            Stopped: the worker is stopping.
            TryAgain: this attempt failed for a transient reason.
        """
        under_way = self._under_way.get(job.id)
        if under_way is not None:
            return await asyncio.shield(under_way.ended)
        under_way = self._under_way[job.id] = _UnderWay(asyncio.get_running_loop().create_future())
        try:
            outcome = await self._run(job, message)
        except BaseException as error:
            under_way.ended.set_exception(error if isinstance(error, Exception) else Stopped())
            under_way.ended.exception()  # else asyncio warns when nobody waited
            raise
        finally:
            del self._under_way[job.id]
        under_way.ended.set_result(outcome)
        return outcome

    async def mark_running(self, after_s: float) -> None:
        """Mark the jobs as running that have been processed for ``after_s``."""
        since = time.monotonic() - after_s
        late = [
            (job_id, under_way)
            for job_id, under_way in self._under_way.items()
            if under_way.since < since and not under_way.is_marked and job_id.startswith(JOB_PREFIX)
        ]
        for job_id, under_way in late:
            under_way.is_marked = True
            await self._store.mark_running(job_id)

    async def _run(self, job: JobRequest, message: Message) -> Outcome | None:
        early, started = self._fetch_early(job, message), time.monotonic()
        ended: ImageOutcome
        try:
            known, marker, failed = await self._retrier.until_it_works(lambda: self._look_up(job.id, message))
            if known is not None:
                if not _is_retried(known, message):
                    return known
                await self._retrier.until_it_works(lambda: self._store.forget_failure(job.id))
                failed = 0
            if marker is None:
                marker = JobMarker(job.id, job.uri, dict(job.metadata))
            if marker.withdrawn:
                return None
            if message.deliveries is not None and message.deliveries - failed > _MOST_DELIVERIES:
                why = f"delivered {message.deliveries} times without an outcome: it seems to crash the workers"
                poison = Outcome(job.id, "failed", error={"type": "TooManyDeliveries", "detail": why})
                return await self._retrier.until_it_works(lambda: self._store.finish(poison))
            is_last = failed + 1 >= self._max_attempts
            frame = content_key = None
            try:
                frame = await (early or self._fetch(marker.uri, marker.policy, job.version))
                result, content_key = await self._result(frame, marker)
                outcome, ended = Outcome(job.id, "succeeded", result), "ok"
            except Stopped:
                raise
            except Exception as error:
                if not is_final(error) and not is_last:
                    await self._retrier.until_it_works(lambda: self._store.put_failed_attempts(job.id, failed + 1))
                    raise TryAgain(failed + 1, error) from error
                outcome, ended = Outcome(job.id, "failed", error=_error_of(job.id, error)), outcome_of(error, Forbidden)
            with span("store"):
                final = await self._retrier.until_it_works(lambda: self._store.finish(outcome))
            if final is outcome:  # else another worker was first, and has counted it
                self._count_image(ended, time.monotonic() - started)
                # After the outcome, through which a deletion finds them.
                if self._reuse is not None and outcome.result is not None:
                    await self._reuse.keep(content_key, outcome.result)
                if self._kept_images is not None and frame is not None:
                    self._kept_images.offer(frame, marker.owner, outcome.result, job.id)
            elif final.status == "deleted" and marker.annotate:
                await self._retrier.until_it_works(lambda: self._store.delete_picture(job.id))
            return final
        finally:
            if early is not None:
                early.cancel()

    def _fetch_early(self, job: JobRequest, message: Message) -> asyncio.Task[Frame] | None:
        """Begin to fetch before it is known whether the job has an outcome, where that is most unlikely."""
        if (message.deliveries or 1) > 1 or job.id.startswith(JOB_PREFIX):
            return None
        task = asyncio.create_task(self._fetch(job.uri, None, job.version))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # its error may never be retrieved
        return task

    async def _fetch(self, uri: str, policy: dict[str, Any] | None, version: str | None) -> Frame:
        with span("fetch"):
            return await self._sources.frame(uri, policy, version)

    async def _look_up(self, job_id: str, message: Message) -> tuple[Outcome | None, JobMarker | None, int]:
        return await asyncio.gather(
            self._store.outcome(job_id),
            self._store.job(job_id) if job_id.startswith(JOB_PREFIX) else asyncio.sleep(0, None),
            self._store.failed_attempts(job_id) if message.deliveries != 1 else asyncio.sleep(0, 0),
        )

    async def _result(self, frame: Frame, marker: JobMarker) -> tuple[dict[str, Any], str | None]:
        """The result, and the key under which it may be kept for the same image."""

        async def once() -> tuple[dict[str, Any], str | None]:
            about: dict[str, Any] = {"metadata": marker.metadata, "request_id": marker.id, "timeout_s": self._timeout_s}
            if self._reuse is None:
                return await self._engine().run(frame, **about), None
            return await self._reuse.run_or_find(self._engine(), frame, **about)

        result, key = await self._retrier.until_it_works(once, (Overloaded,), but_not=(Unreachable,), longest_s=2.0)
        if marker.annotate:
            async with self._drawing:  # decoding and drawing take several times the pixels' bytes
                picture = await asyncio.to_thread(annotate, frame, result)
            await self._retrier.until_it_works(lambda: self._store.put_picture(marker.id, picture))
        return result, key


def _is_retried(known: Outcome, message: Message) -> bool:
    """Whether the message was published after the job had failed, so that the job runs again.

    Otherwise it is the message of the failure itself, whose worker died before it wrote the dead letter.
    """
    if known.status != "failed":
        return False
    if message.published is None:
        return message.deliveries == 1
    return message.published > known.finished_at


def _error_of(job_id: str, error: Exception) -> dict[str, str]:
    detail = str(error)
    if not isinstance(error, VisionError):
        _log.error("job %s failed", job_id, exc_info=error)
        detail = "an internal error; the workers' log has it under the job's id"
    return {"type": type(error).__name__, "detail": detail}
