"""A bulk run on Ray Data: a task lists the images in chunks, and actors that hold all steps run them.

Only numbers of chunks travel between the two. On one machine a transfer between stages costs about 5 ms per image,
which is as much as a small model takes.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import random
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from classifiers import SetupError, VisionError
from classifiers.redaction import without_secrets
from graph import Plan
from serve_app.bulk.chunk_runner import ChunkRunner, Job
from serve_app.bulk.ledger import Ledger, Run, begin_run
from serve_app.bulk.listing import list_chunks
from serve_app.bulk.sources import Entry, NoSource, open_sources
from serve_app.results import objects_from_uri

__all__ = ["BulkRun", "Progress", "Settings", "TooManyFailures", "process_resources"]

_log = logging.getLogger(__name__)

_KEPT_REASONS = 100
_MOST_DECODERS = 16
_TRIES_WITHOUT_PROGRESS = 3


class TooManyFailures(VisionError):
    """More images failed than may; the run stopped."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run is carried out; none of it changes a result.

    Attributes:
        in_flight: chunks under way at once, at most; each process runs one.
        chunk_size: images of a chunk, at most.
        skip_known: leave out images that the store has a result for.
        restart: begin from the start.
        max_failures: failed images, at most: a whole number, or a share (a float from 0 to 1) of those that have ended.
        least_for_share: ended images from which on the share counts.
    """

    in_flight: int = 8
    chunk_size: int = 2000
    skip_known: bool = True
    restart: bool = False
    max_failures: int | float = 0.5
    least_for_share: int = 1000


@dataclass(slots=True)
class Progress:
    """What has been done so far, of the whole run and by this command.

    Attributes:
        images: that have ended, ``failed`` of them without a result.
        chunks: that are done.
        total: images of the run; ``None`` while they are being listed.
        known: images that were left out, for the store has their results.
        steps: for each step how many images ended in which way, and ``duration_ms``.
        reasons: the most frequent reasons of failures.
        new: images that this command has run, in ``seconds``.
    """

    images: int = 0
    failed: int = 0
    chunks: int = 0
    total: int | None = None
    known: int = 0
    steps: dict[str, Counter[str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    new: int = 0
    seconds: float = 0.0

    @property
    def images_per_s(self) -> float:
        """Of this command."""
        return self.new / self.seconds if self.seconds else 0.0

    @property
    def slowest(self) -> str | None:
        """The step that images have spent most time in."""
        return max(self.steps, key=lambda name: self.steps[name]["duration_ms"], default=None)

    def add(self, counts: dict[str, Any]) -> None:
        """Count a chunk."""
        self.images += counts["images"]
        self.failed += counts["failed"]
        self.chunks += 1
        self.known = max(self.known, counts["known"])
        for name, step in counts["steps"].items():
            self.steps.setdefault(name, Counter()).update(step)
        self.reasons.update(counts["reasons"])
        if len(self.reasons) > 2 * _KEPT_REASONS:
            self.reasons = Counter(dict(self.reasons.most_common(_KEPT_REASONS)))


class BulkRun:
    """One command. Ray must be initialized.

    Args:
        arguments: the sources, as they were typed.

    Raises:
        NoSource: a source names nothing.
        SetupError: the pipeline cannot be loaded, or the cluster has no room.
        PipelineChanged: the run that is to be continued was begun with another pipeline.
    """

    def __init__(self, job: Job, arguments: Sequence[str], settings: Settings) -> None:
        import ray

        cluster: Any = ray
        self._sources = open_sources(arguments, job.fetch)
        self._arguments = arguments
        self._settings = settings
        self._options, self._actors = _actors(job, settings)
        decoders = max(1, min(_MOST_DECODERS, int(cluster.cluster_resources().get("CPU", 1)) // self._actors))
        self._job = replace(job, decoders=decoders, session=uuid.uuid4().hex)
        self.progress = Progress()

    @property
    def processes(self) -> int:
        """How many processes run chunks."""
        return self._actors

    def sample(self, size: int) -> tuple[int, dict[str, Any]]:
        """Run random images and keep nothing; how many there are in all, and the counts of the sample.

        Raises:
            SetupError: the pipeline cannot be loaded.
            NoSource: there are no images.
        """
        chosen: list[Entry] = []
        total = 0
        for entry in (entry for source in self._sources for entry in source.entries()):
            total += 1
            if len(chosen) < size:
                chosen.append(entry)
            elif (place := random.randrange(total)) < size:
                chosen[place] = entry
        if not total:
            raise NoSource(f"there are no images in {', '.join(self._arguments)}")
        chosen.sort(key=lambda entry: (entry.table or "", entry.row or 0))
        records = [
            {"images": [[entry.uri, entry.metadata or {}, entry.row] for entry in entries], "table": table}
            for table, entries in itertools.groupby(chosen, lambda entry: entry.table)
        ]
        return total, self._with_one_actor(lambda actor: actor.try_out.remote(records))

    def chunks(self) -> Iterator[Progress]:
        """Run everything that is not done yet; what has been done after each chunk.

        Raises:
            TooManyFailures: it stopped early.
            VisionError: a source cannot be listed, or the store does not answer.
        """
        objects = objects_from_uri(self._job.out)
        fingerprint = self._with_one_actor(lambda actor: actor.check.remote())["fingerprint"]
        plan, settings = self._job.plan, self._settings
        run = begin_run(objects, plan.name, self._arguments, fingerprint, restart=settings.restart)
        ledger = Ledger(objects, run)
        done: set[int] = set()
        for number, counts in ledger.all_counts():
            done.add(number)
            self.progress.add(counts)
        yield self.progress
        started = time.monotonic()
        idle, error = 0, None
        while (listing := ledger.listing()) is None or len(done) < listing["chunks"]:
            before, error = len(done), None
            try:
                for number, counts in self._dataset(run, _first_missing(done)):
                    if number in done:
                        continue
                    done.add(number)
                    self._count(ledger, counts, time.monotonic() - started)
                    yield self.progress
            except VisionError:
                raise
            except Exception as raised:  # noqa: BLE001 - of Ray: what was lost with a node is run again
                error = raised
            idle = 0 if len(done) > before else idle + 1
            if idle >= _TRIES_WITHOUT_PROGRESS:
                raise VisionError(f"Ray does not run the remaining chunks: {error}; the same command continues")
        self.progress.total = listing["images"]
        if not listing["images"] and not listing["known"]:
            raise NoSource(f"there are no images in {', '.join(self._arguments)}")
        self.progress.known = listing["known"]
        self.progress.seconds = time.monotonic() - started
        yield self.progress
        ledger.end(self.manifest(run))

    def manifest(self, run: Run) -> dict[str, Any]:
        """The summary, as ``manifest.json`` has it."""
        progress = self.progress
        return {
            "pipeline": {"name": run.pipeline, "fingerprint": run.fingerprint},
            "sources": [without_secrets(argument) for argument in self._arguments],
            "images": progress.images,
            "succeeded": progress.images - progress.failed,
            "failed": progress.failed,
            "skipped_known": progress.known,
            "chunks": progress.chunks,
            "duration_s": round(progress.seconds, 1),
            "images_per_s": round(progress.images_per_s, 2),
            "steps": {
                name: {"seconds": round(step["duration_ms"] / 1000, 1), **_without(step, "duration_ms")}
                for name, step in progress.steps.items()
            },
            "failures": dict(progress.reasons.most_common(_KEPT_REASONS)),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _count(self, ledger: Ledger, counts: dict[str, Any], seconds: float) -> None:
        progress, most = self.progress, self._settings.max_failures
        progress.add(counts)
        progress.new += counts["images"]
        progress.seconds = seconds
        if progress.total is None and (listing := ledger.listing()) is not None:
            progress.total = listing["images"]
        is_share = isinstance(most, float)
        if progress.failed > (most * progress.images if is_share else most) and not (
            is_share and progress.images < self._settings.least_for_share
        ):
            reasons = "\n".join(f"  {count:,} x {reason}" for reason, count in progress.reasons.most_common(5))
            raise TooManyFailures(
                f"{progress.failed:,} of {progress.images:,} images failed, more than --max-failures allows; the most "
                f"frequent reasons:\n{reasons}"
            )

    def _dataset(self, run: Run, first: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Run the chunks from a number on, in any order; the number and the counts of each."""
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.target_max_block_size = 1  # each number is a block of its own, which reaches an actor at once
        settings, job, arguments = self._settings, self._job, self._arguments

        def list_images(_: Any) -> Iterator[dict[str, Any]]:
            try:
                ledger, sources = Ledger(objects_from_uri(job.out), run), open_sources(arguments, job.fetch)
                for number in list_chunks(ledger, sources, first, settings.chunk_size, skip_known=settings.skip_known):
                    yield {"number": [number], "error": [""]}
            except Exception as error:  # noqa: BLE001 - ends the run, in words
                yield {"number": [-1], "error": [f"the sources cannot be listed: {error}"]}

        warnings.filterwarnings("ignore", "The minimum number of concurrent actors")  # there may be fewer chunks
        names = "+".join(step.name for step in job.plan)
        dataset = ray.data.from_items([{"start": 0}]).map_batches(list_images, batch_size=None, num_cpus=0)
        dataset = dataset.map(
            type(names, (ChunkRunner,), {}),  # the name that the dashboard shows
            fn_constructor_args=(self._job, run),
            compute=ray.data.ActorPoolStrategy(size=self._actors, max_tasks_in_flight_per_actor=1),
            **self._options,
        )
        for row in dataset.iter_rows():
            if row["error"]:
                raise VisionError(row["error"])
            yield int(row["number"]), json.loads(row["counts"])

    def _with_one_actor(self, call: Callable[[Any], Any]) -> dict[str, Any]:
        import ray

        actor: Any = ray.remote(ChunkRunner).options(**self._options).remote(self._job)
        try:
            checked = ray.get(actor.check.remote())
            if "error" in checked:
                raise SetupError(checked["error"])
            answer: dict[str, Any] = ray.get(call(actor))
            return answer
        except ray.exceptions.RayError as error:
            raise SetupError(f"the process in which the models are tried has ended: {error}") from error
        finally:
            ray.kill(actor)


def _actors(job: Job, settings: Settings) -> tuple[dict[str, Any], int]:
    """What each process reserves, and how many there are.

    Raises:
        SetupError: the cluster has not enough for one.
    """
    import ray

    cluster: Any = ray  # these functions of it have no types
    wanted = process_resources(job.plan)
    there, free = cluster.cluster_resources(), cluster.available_resources()
    for name, amount in wanted.items():
        if there.get(name, 0) < amount:
            raise SetupError(
                f"a process with all steps needs {amount:g} {name}, and the cluster has {there.get(name, 0):g}; change "
                "the steps' `serve:` blocks, or add nodes"
            )
    room = min(int(free.get(name, 0) / amount) for name, amount in wanted.items())
    if room < 1:
        words = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
        _log.warning("the cluster has no room now for a process with %s: the run waits for it", words)
    options: dict[str, Any] = {
        "num_cpus": wanted.pop("CPU", 0),
        "num_gpus": wanted.pop("GPU", 0),
        "memory": wanted.pop("memory", None),
        "resources": wanted,
    }
    return {name: value for name, value in options.items() if value is not None}, min(settings.in_flight, max(1, room))


def process_resources(plan: Plan) -> dict[str, float]:
    """What a process with all steps of a plan reserves, by Ray's names of resources; memory in bytes."""
    serve = [step.serve for step in plan]
    resources: Counter[str] = Counter()
    for each in serve:
        resources.update(each.resources)
    gpus = round(sum(each.num_gpus for each in serve), 4)
    wanted: dict[str, float] = {
        "CPU": 0 if gpus else max(1, math.ceil(sum(each.num_cpus for each in serve))),
        "GPU": gpus,
        "memory": sum(each.memory_mb or 0 for each in serve) * 2**20,
        **resources,
    }
    return {name: amount for name, amount in wanted.items() if amount}


def _first_missing(done: set[int]) -> int:
    return next(number for number in itertools.count() if number not in done)


def _without(step: Counter[str], key: str) -> dict[str, int]:
    return {name: count for name, count in step.items() if name != key}
