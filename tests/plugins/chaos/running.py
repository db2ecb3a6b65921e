"""One run: deploy, hand in, let things die, wait for the end, and look at what is there."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from chaos.clients import Clients, NotAccepted
from chaos.ledger import Ledger, Remains, check, letters_of, parquet_ids
from chaos.places import Place, count_deliveries, place
from chaos.plan import Fault, Plan
from classifiers import VisionError
from serve_app.queues import QueueUnavailable, queue_from_url
from serve_app.results.compaction import compact
from serve_app.results.retention import Ages, sweep

__all__ = ["Report", "run"]

_STEP, _SLOW_STEP = "size", "slow"
_DEPLOYMENTS = {"kill worker": "worker", "kill step": _STEP, "kill gateway": "gateway"}
_MAX_BYTES = 100_000
_GOOD = Place.good
_FILES = {"good": _GOOD, "text": b"no image", "cut": _GOOD[:60], "huge": bytes(_MAX_BYTES + 1)}

_LOOK_S = 0.3
_LOOK_S_OF_UPLOADS = 3.0  # moto takes a quarter of a second for a thousand keys
_LONGEST_S = 900.0
_LONGEST_S_OF_UPLOADS = 2400.0
_SETTLE_S = 180.0
_REPLACED_S = 60.0


class NotReplaced(Exception):
    """Serve started no replica in the place of one that died."""


@dataclass
class Report:
    """How a run went.

    Attributes:
        findings: what is wrong at the end; empty where nothing is.
        struck: the faults, with what they hit.
        tried_again: what the clients had to try again for.
        seconds: from the first image to the last end, but for the images that appeared later.
        brought_in: results of images that appeared later.
        deliveries: how often the job that came most often was delivered.
    """

    plan: Plan
    findings: list[str] = field(default_factory=list)
    struck: list[str] = field(default_factory=list)
    tried_again: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    results: int = 0
    letters: int = 0
    brought_in: int = 0
    deliveries: int = 0

    def __str__(self) -> str:
        images, kinds = len(self.plan.images), Counter(fault.kind for fault in self.plan.faults)
        faults = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
        again = ", ".join(f"{count} x {what}" for what, count in sorted(self.tried_again.items())) or "nothing"
        return (
            f"{'FAILED' if self.findings else 'ok'}: seed {self.plan.seed}, {self.plan.broker}, {images} images, "
            f"{self.results} results ({self.brought_in} by dlq retry), {self.letters} dead letters, "
            f"{self.seconds:.0f} s, {images / max(self.seconds, 0.001):.0f} images/s; "
            f"a job was delivered at most {self.deliveries} times; faults: {faults}; "
            f"clients tried again for: {again}"
        )


def run(plan: Plan, folder: Path, http_url: str) -> Report:
    """Carry out a plan on the cluster of this process.

    Args:
        plan: what to do.
        folder: empty; the broker, or a queue and results in files, have it.
        http_url: where Serve answers.
    """
    from ray import serve

    from serve_app.app import AppArgs, build

    name = f"chaos-{plan.broker}-{plan.seed}-{os.urandom(3).hex()}"

    def deploy() -> None:
        serve.run(build(AppArgs.model_validate(_application(name, at, plan))), name=name, route_prefix=f"/{name}")

    with place(plan.broker, folder, uploads=plan.clients > 1) as at:
        for kind, data in _FILES.items():
            at.put(kind, data)
        asyncio.run(_make_queue(at.queue))
        if plan.broker == "sqlite":
            count_deliveries(folder / "jobs.db")
        deploy()
        one = _Run(plan, at, name, f"{http_url}/{name}/v1/jobs", deploy)
        try:
            asyncio.run(one.until_settled())
        finally:
            serve.delete(name)
        asyncio.run(one.look_at_the_end())
    return one.report


def _application(name: str, at: Place, plan: Plan) -> dict[str, Any]:
    steps = [
        {"name": _STEP, "class": "toys.Size", "serve": {"num_replicas": 2, "num_cpus": 0.1}},
        {
            "name": _SLOW_STEP,
            "class": "toys.Lingerer",
            "depends_on": _STEP,
            "condition": "'slow' in image['metadata']",
            "serve": {"num_replicas": 3, "num_cpus": 0.1, "max_batch_size": 1},
        },
    ]
    return {
        "pipeline": {"name": name, "limits": {"max_bytes": _MAX_BYTES}, "pipeline": steps},
        "gateway": {"auth": "none", "num_replicas": 2, "num_cpus": 0.1, "access_log": False},
        "intake": {
            "queue": at.queue_of_workers,
            "results": at.results,
            "fetch": at.fetch,
            "num_replicas": 2,
            "num_cpus": 0.1,
            "in_flight": 16,
            "stop_s": 10,
            "compact_every_s": 1 if plan.clients == 1 else 5,  # moto is slow at listings
        },
    }


class _Run:
    def __init__(self, plan: Plan, at: Place, name: str, jobs_url: str, deploy: Callable[[], None]) -> None:
        self._plan, self._at, self._name, self._deploy = plan, at, name, deploy
        self._ledger = Ledger()
        self._clients = Clients(at, jobs_url, name, self._ledger)
        of_uploads = plan.clients > 1
        self._look_s = _LOOK_S_OF_UPLOADS if of_uploads else _LOOK_S
        self._longest_s = _LONGEST_S_OF_UPLOADS if of_uploads else _LONGEST_S
        self._ended = 0
        self._moved = asyncio.Condition()
        self.report = Report(plan, tried_again=self._clients.tried_again)

    async def until_settled(self) -> None:
        """All of it, until nothing changes any more."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._longest_s), asyncio.TaskGroup() as around:
                looking = around.create_task(self._look())
                async with asyncio.TaskGroup() as group:
                    for number in range(clients := self._plan.clients):
                        share = self._plan.images[number::clients]
                        group.create_task(self._clients.hand_in(share, self._room))
                    group.create_task(self._let_things_die())
                looking.cancel()
        except* (NotAccepted, NotReplaced, TimeoutError) as errors:
            self.report.findings += [str(error) or f"not over after {self._longest_s:.0f} s" for error in _each(errors)]
        if not self.report.findings and await self._settled():
            self.report.seconds = time.monotonic() - started
            if any(image.kind == "missing" for image in self._plan.images):
                await self._bring_in()

    async def look_at_the_end(self) -> None:
        """Nothing runs any more: what is there now is what counts."""
        await asyncio.to_thread(compact, self._at.objects)
        # what is compacted twice must not be there twice
        await asyncio.to_thread(compact, self._at.objects)
        found = await self._remains()
        self.report.results = sum(outcome.status == "succeeded" for outcome in found.outcomes.values())
        self.report.letters = len(found.letters)
        self.report.deliveries = max(found.deliveries.values(), default=0)
        self.report.findings += check(self._ledger, found)
        self.report.findings += await asyncio.to_thread(self._check_images)

    def _check_images(self) -> Iterator[str]:
        """Each image that was accepted is stored once, no other one is, and retention leaves none."""
        images, sent = self._at.images_kept, (image for image in self._plan.images if image.way in ("bytes", "form"))
        wanted = {hashlib.sha256(self._at.bytes_of(image)).hexdigest() for image in sent}
        wanted |= {address.rpartition("/")[2] for address in self._ledger.presigned}
        stored = [key.rsplit("/", 1)[-1] for key in images.keys("")]
        for name in wanted.symmetric_difference(stored):
            yield f"an image was accepted and not stored, or the reverse: {name}"
        if len(stored) > len(wanted):
            yield f"{len(stored) - len(wanted)} images are stored twice"
        # all, as some days later; what compaction needs for its next run stays
        day = timedelta(days=1)
        sweep(self._at.objects, images, Ages(day, day, day), now=datetime.now(UTC) + 3 * day)
        if left := [key for key in self._at.objects.keys("") if not key.startswith("compaction/")]:
            yield f"retention has left {len(left)} objects: {left[:20]}"

    async def _room(self) -> None:
        """So that there are clients during the whole run: they stay a little ahead of the workers."""
        ahead = max(60, len(self._plan.images) // 8)
        await self._when(lambda: len(self._ledger.jobs) - self._ended < ahead)

    async def _when(self, is_so: Callable[[], bool]) -> None:
        async with self._moved:
            await self._moved.wait_for(is_so)

    async def _look(self) -> None:
        while True:
            ended = await asyncio.to_thread(self._count)
            async with self._moved:
                self._ended = ended
                self._moved.notify_all()
            await asyncio.sleep(self._look_s)

    def _count(self) -> int:
        return sum(1 for _ in self._at.objects.keys("outcomes/"))

    # ---- faults

    async def _let_things_die(self) -> None:
        for fault in self._plan.faults:
            due = fault.at * len(self._plan.images)
            await self._when(lambda due=due: self._ended >= due)  # type: ignore[misc]
            self._ledger.redeliveries += fault.redeliveries
            hit = await asyncio.to_thread(self._strike, fault)
            self.report.struck.append(f"{fault}{hit}")

    def _strike(self, fault: Fault) -> str:
        at = self._at
        if fault.kind in _DEPLOYMENTS:
            return f" (process {_kill(self._name, _DEPLOYMENTS[fault.kind], fault.which)})"
        if fault.kind == "restart workers":
            return f" ({_stop_workers(self._name)} of them)"
        if fault.kind == "redeploy":
            self._deploy()
        elif fault.kind.startswith("drop "):
            return f" ({at.proxies[fault.kind.split()[1]].drop()} of them)"
        elif fault.kind == "restart broker":
            assert at.server is not None
            at.server.stop()
            time.sleep(fault.seconds)
            at.server.start()
        else:
            assert at.aws is not None
            at.aws.fail(fault.kind, fault.seconds)
        return ""

    # ---- the end

    async def _bring_in(self) -> None:
        """The missing images appear, and an operator puts their messages back with the command that there is."""
        missing = {job for job, image in self._ledger.jobs.items() if image.kind == "missing"}
        ids = [letter.id for letter in await letters_of(self._at.queue) if missing & set(letter.jobs)]
        for image in self._plan.images:
            if image.kind == "missing":
                self._at.put(image.name, _GOOD)
        self._ledger.have_appeared = True
        program = str(Path(sys.executable).with_name("visiongraph"))
        command = [program, "dlq", "retry", self._at.queue, *ids, "--results", self._at.results]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            self.report.findings.append(f"visiongraph dlq retry: {done.stderr}")
        elif await self._settled():
            self.report.brought_in = len(missing)

    async def _settled(self) -> bool:
        """Wait until everything is as it should be, or a finding that it is not after a long time."""
        until = time.monotonic() + _SETTLE_S
        while time.monotonic() < until:
            if await self._is_quiet() and not check(self._ledger, await self._remains()):
                return True
            await asyncio.sleep(2 * self._look_s)
        queue = await _stats(self._at.queue)
        self.report.findings.append(f"not right {_SETTLE_S:.0f} s after the last image was handed in; {queue}")
        return False

    async def _is_quiet(self) -> bool:
        """Whether it is worth looking closely, which leases the dead letters and reads every outcome."""
        if await asyncio.to_thread(self._count) < len(self._ledger.jobs):
            return False
        try:
            async with queue_from_url(self._at.queue) as queue, queue.dead() as dead:
                stats, letters = await queue.stats(), await dead.stats()
        except QueueUnavailable:
            return False
        if stats.waiting or stats.in_flight or (letters.waiting or 0) < self._ledger.letters:
            return False
        try:
            return self._ledger.good <= set(await asyncio.to_thread(parquet_ids, self._at.objects))
        except (VisionError, OSError):  # a file was replaced meanwhile
            return False

    async def _remains(self) -> Remains:
        letters = await letters_of(self._at.queue)
        return await asyncio.to_thread(Remains.read, self._at.objects, letters, self._at.deliveries())


async def _make_queue(queue_url: str) -> None:
    async with queue_from_url(queue_url):
        pass


async def _stats(queue_url: str) -> str:
    async with queue_from_url(queue_url) as queue:
        return str(await queue.stats())


def _stop_workers(application: str) -> int:
    """Stop all workers of an application as Serve does when it scales down; it starts others. Returns how many."""
    import ray

    prefix = f"SERVE_REPLICA::{application}#worker#"
    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    workers = []
    for name in names:
        if name.startswith(prefix):
            with suppress(ValueError):  # it was killed, and is not listed any more
                workers.append(ray.get_actor(name, namespace="serve"))
    stopping = [worker.perform_graceful_shutdown.remote() for worker in workers]
    stopped = 0
    for worker, end in zip(workers, stopping, strict=True):
        with suppress(ray.exceptions.RayActorError):  # one that was killed is not replaced yet
            ray.get(end, timeout=_REPLACED_S)
            stopped += 1
        ray.kill(worker)
    return stopped


def _kill(application: str, deployment: str, which: int) -> int:
    """SIGKILL one of the deployment's replicas, which are processes below this one; waits until there is one."""
    title = f"ray::ServeReplica:{application}:{deployment}"
    return _until(lambda: _kill_now(title, which), f"a process {title}")


def _kill_now(title: str, which: int) -> int | None:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and " ".join(process.cmdline()).startswith(title):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    if not found:
        return None
    victim = sorted(found, key=lambda process: process.pid)[which % len(found)]
    victim.kill()
    return victim.pid


def _until(what: Callable[[], int | None], wanted: str) -> int:
    end = time.monotonic() + _REPLACED_S
    while time.monotonic() < end:
        if (answer := what()) is not None:
            return answer
        time.sleep(0.1)
    raise NotReplaced(f"there is no {wanted} after {_REPLACED_S:.0f} s")


def _each(errors: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _each(error)
        else:
            yield error
