"""Runs chunks of images in one process, in which all steps of the pipeline are loaded.

Ray starts a process that ended again, and repeats its chunk; then one image at a time is run, so that the one that ends
the process is known. It becomes a failure.
"""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import itertools
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn, Self, TypeVar

import pyarrow as pa

from classifiers import SetupError, VisionError
from classifiers.backends import limit_threads
from classifiers.redaction import without_secrets
from graph import Engine, Frame, LocalBackend, Plan
from graph.engine import checked_metadata
from serve_app.bulk.ledger import Begun, Ledger, PipelineChanged, Run
from serve_app.bulk.sources import read_bytes
from serve_app.config import FetchConfig, SourcesConfig
from serve_app.images import KeptImages, Sources, Uploads, is_final, read_frame
from serve_app.refusals import Forbidden
from serve_app.results import StoreUnavailable, objects_from_uri, uri_below
from serve_app.results.table import row_of, rows_to_table
from serve_app.telemetry.exporting import Exporter, export
from serve_app.telemetry.recording import ImageOutcome, ImageRecorder, StepRecorder, outcome_of

__all__ = ["ChunkRunner", "Job"]

_LOOK_EVERY_S = 0.5
_IDLE_POLL_S = 0.05
_STDERR = 2
"""The file descriptor: ``sys.stderr`` may have been replaced by an object without one."""

_FETCHED_AHEAD = 4
_MOST_DEATHS = 2
"""An image that is run alone has ended the process this often: one more than a kill from outside explains."""

_STORE_ATTEMPTS = 8
_MOST_REASONS = 20

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """What each process of a run needs to know.

    Attributes:
        metadata: of every image.
        timeout_s: longest time for one image in the pipeline.
        max_attempts: tries for a source that fails.
        least_stuck_s: least time for a batch of a model before the process counts as stuck.
        decoders: threads that decode.
        nice: how far other processes go first, 0 to 19.
        session: names the command that was started.
        keep_images: the rule of ``intake.keep_images``.
        images: URI of the images that are kept; ``None``: below ``out``.
    """

    plan: Plan
    out: str
    fetch: SourcesConfig
    metadata: Mapping[str, Any]
    timeout_s: float = 300.0
    max_attempts: int = 8
    least_stuck_s: float = 20.0
    decoders: int = 1
    nice: int = 0
    session: str = ""
    keep_images: str = "never"
    images: str | None = None


@dataclass(frozen=True, slots=True)
class _Ended:
    """How one image ended: with a row of the results or a failure."""

    row: dict[str, Any] | None = None
    failure: dict[str, str] | None = None


class ChunkRunner:
    """Runs one chunk at a time. A process of its own needs no :meth:`close`.

    Args:
        run: the run; ``None``: there is none yet, and only :meth:`check` and :meth:`try_out` are called.
    """

    def __init__(self, job: Job, run: Run | None = None) -> None:
        os.nice(job.nice)
        limit_threads()
        self._job = job
        self._closed = threading.Event()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="bulk", daemon=True).start()
        window = max(4, *(step.serve.max_batch_size for step in job.plan))  # as VisionPipeline.stream
        self._turns = asyncio.Semaphore(window)
        self._ahead = _FETCHED_AHEAD * window
        self._sources = Sources(job.fetch, FetchConfig(), job.plan.config.limits, self._ahead)
        self._ledger = Ledger(objects_from_uri(job.out), run) if run is not None else None
        uploads = Uploads(
            objects_from_uri(job.images or uri_below(job.out, "images")), job.plan.config.limits.max_bytes
        )
        # a row has the hash of its image, by which a deletion finds the image
        self._kept_images = KeptImages(uploads, objects_from_uri(job.out), job.keep_images if run else "never")
        if run is not None:
            _export_metrics(job.plan.name)
        self._count_image = ImageRecorder(job.plan.name, "bulk")
        self._alone: tuple[int, Begun] | None = None
        self._error: str | None = None
        try:
            self._backend = LocalBackend(job.plan, job.decoders)
            self._engine = Engine(job.plan, self._backend, observer=StepRecorder(job.plan))
            if run is not None and self._wait(self._engine.fingerprint()) != run.fingerprint:
                raise PipelineChanged("this node has other models or other code than the one where the run began")
        except SetupError as error:
            self._error = str(error)  # raised by a call: an actor whose constructor fails is made again and again
            return
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._watchdog.start()

    def close(self) -> None:
        """Stop the watchdog, which would go on to end this process, and the models."""
        self._closed.set()
        if self._error is None:
            self._watchdog.join()
            self._backend.close()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> dict[str, str]:
        """The ``fingerprint`` of the pipeline with the weights that are loaded, or the ``error``."""
        return {"error": self._error} if self._error else {"fingerprint": self._wait(self._engine.fingerprint())}

    def try_out(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Run the images of chunks without keeping results; the counts."""
        started = time.monotonic()
        ended = [each for record in records for each in self._wait(self._images(record, 0, Begun(), alone=False))]
        return _counts(ended, time.monotonic() - started)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Run the chunk of a row, unless it is done. The answer has its number, and its counts or the error that ends
        the run."""
        number = int(row["number"])
        if row["error"]:
            return {"number": number, "counts": "{}", "error": row["error"]}
        try:
            if self._error is not None or self._ledger is None:
                raise SetupError(self._error or "there is no run")
            return {"number": number, "counts": json.dumps(self._run(number, self._ledger)), "error": ""}
        except VisionError as error:
            return {"number": number, "counts": "{}", "error": str(error)}

    def _run(self, number: int, ledger: Ledger) -> dict[str, Any]:
        started = time.monotonic()
        if (done := _patiently(lambda: ledger.done(number))) is not None:
            return done
        record = _patiently(lambda: ledger.chunk(number))
        begun = _patiently(lambda: ledger.begun(number))
        # this command has begun it before: its process ended, or was killed from outside
        is_repeated = begun.session == self._job.session
        if is_repeated and begun.alone is not None:
            image = str(begun.alone)
            begun.deaths[image] = begun.deaths.get(image, 0) + 1
            if begun.deaths[image] >= _MOST_DEATHS:
                begun.given_up[image] = "the process ended each time that the image was run"
        begun.session, begun.alone = self._job.session, None
        _patiently(lambda: ledger.put_begun(number, begun))
        ended = self._wait(self._images(record, number, begun, alone=is_repeated))
        table, failures = _table(ended, record)
        counts = _counts(ended, time.monotonic() - started)
        counts |= {"failed": len(failures), "known": record["known"], "listed": record["listed"]}
        _patiently(lambda: ledger.put_done(number, begun, table, failures, counts))
        return counts

    async def _images(self, record: Mapping[str, Any], number: int, begun: Begun, *, alone: bool) -> list[_Ended]:
        """How each image of a chunk ended, in order."""
        room = asyncio.Semaphore(1 if alone else self._ahead)
        images: list[tuple[str, dict[str, Any], int]] = record["images"]
        contents = read_bytes(record["table"], [row for _, _, row in images]) if record["table"] else None
        tasks = []
        for index, (uri, metadata, _) in enumerate(images):
            await room.acquire()
            content = await asyncio.to_thread(next, contents, b"") if contents is not None else None
            if alone:
                await self._idle()
                begun.alone = index
                if str(index) not in begun.given_up and self._ledger is not None:
                    await asyncio.to_thread(self._ledger.put_begun, number, begun)
                    self._alone = number, begun
            reason = begun.given_up.get(str(index))
            task = asyncio.create_task(self._one(uri, metadata, content, reason))
            task.add_done_callback(lambda _: room.release())
            tasks.append(task)
        ended = await asyncio.gather(*tasks)
        if alone:
            await self._idle()
        self._alone = None
        return ended

    async def _idle(self) -> None:
        """Wait for models that still work on an image whose step timed out."""
        while self._backend.busy_since:  # noqa: ASYNC110 - threads change it
            await asyncio.sleep(_IDLE_POLL_S)

    async def _one(self, uri: str, metadata: dict[str, Any], content: bytes | None, given_up: str | None) -> _Ended:
        if given_up is not None:
            return _Ended(failure=_failure(uri, VisionError(given_up)))
        started = time.monotonic()
        outcome: ImageOutcome = "failed"
        frame = None
        try:
            known = checked_metadata({**self._job.metadata, **metadata})
            if content is None:
                frame = await self._fetch(uri)
            else:
                frame = await read_frame(content, self._job.plan.config.limits, uri)
            async with self._turns:
                result = await self._engine.run(frame, metadata=known, timeout_s=self._job.timeout_s)
            row = row_of({"id": result["id"], "finished": datetime.now(UTC).isoformat(), "result": result})
            outcome = "ok"
            await self._kept_images.keep(frame, None, result)
            return _Ended(row)
        except Exception as error:  # noqa: BLE001 - this image's, and ends no other
            if not isinstance(error, VisionError):
                _log.error("%s failed", without_secrets(uri), exc_info=error)
            outcome = outcome_of(error, Forbidden)
            if frame is not None:
                await self._kept_images.keep(frame, None, None)
            return _Ended(failure=_failure(uri, error))
        finally:
            self._count_image(outcome, time.monotonic() - started)

    async def _fetch(self, uri: str) -> Frame:
        for attempt in itertools.count(1):
            try:
                return await self._sources.frame(uri, None)
            except Exception as error:
                if is_final(error) or attempt >= self._job.max_attempts:
                    raise
                await asyncio.sleep(2 ** (attempt - 1))
        raise AssertionError

    def _watch(self) -> None:
        job = self._job
        limits = {step.name: max(job.least_stuck_s, step.timeout_s or job.timeout_s) for step in job.plan}
        while True:
            # by a thread that needs no Python: code that never gives up Python's lock stops this one
            faulthandler.dump_traceback_later(max(limits.values()) + job.least_stuck_s, exit=True, file=_STDERR)
            if self._closed.wait(_LOOK_EVERY_S):
                break
            now = time.monotonic()
            for step, since in tuple(self._backend.busy_since.items()):
                if now - since > limits[step]:
                    self._end(f"step '{step}' worked on one batch for over {limits[step]:g} s")
        faulthandler.cancel_dump_traceback_later()

    def _end(self, reason: str) -> NoReturn:
        _log.error("%s: the process ends, and its chunk is repeated", reason)
        try:
            if self._alone is not None and self._ledger is not None:
                number, begun = self._alone
                begun.given_up[str(begun.alone)], begun.alone = reason, None
                self._ledger.put_begun(number, begun)
        finally:
            os._exit(1)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


@functools.cache
def _export_metrics(pipeline: str) -> Exporter | None:
    return export({"application": pipeline, "deployment": "bulk", "replica": str(os.getpid())})


def _failure(uri: str, error: Exception) -> dict[str, str]:
    detail = str(error) if isinstance(error, VisionError) else f"an unexpected error, which the log has: {error}"
    return {"uri": without_secrets(uri), "type": type(error).__name__, "detail": detail}


def _table(ended: Sequence[_Ended], record: Mapping[str, Any]) -> tuple[pa.Table, list[dict[str, str]]]:
    """The results, and the failures, those among them whose result does not fit into the table."""
    uris = {each.row["id"]: image[0] for image, each in zip(record["images"], ended, strict=True) if each.row}
    table, misfits = rows_to_table([each.row for each in ended if each.row])
    failures = [each.failure for each in ended if each.failure is not None]
    for row, error in misfits:
        failures.append(_failure(uris[row["id"]], VisionError(f"the result does not fit into the table: {error}")))
    return table, failures


def _counts(ended: Sequence[_Ended], seconds: float) -> dict[str, Any]:
    """What the manifest sums up of images."""
    steps: dict[str, Counter[str]] = {}
    reasons = Counter(f"{each.failure['type']}: {each.failure['detail'][:200]}" for each in ended if each.failure)
    for each in ended:
        for step in each.row["steps"] if each.row else ():
            steps.setdefault(step["name"], Counter()).update(
                {step["status"]: 1, "duration_ms": step.get("duration_ms", 0.0)}
            )
    return {
        "images": len(ended),
        "failed": sum(each.failure is not None for each in ended),
        "seconds": round(seconds, 3),
        "steps": {name: dict(counter) for name, counter in steps.items()},
        "reasons": dict(reasons.most_common(_MOST_REASONS)),
    }


def _patiently(call: Callable[[], T]) -> T:
    """Repeat a call to the store for some minutes while it does not answer."""
    for attempt in range(_STORE_ATTEMPTS - 1):
        try:
            return call()
        except StoreUnavailable as error:
            _log.warning("%s; trying again", error)
            time.sleep(2**attempt)
    return call()
