"""Images that crash the process that works on them: found, run alone to be sure, and quarantined for a time.

A process that hosts steps records in a small file which images its threads are working on. The file outlives it, and
its lock does not, so another process on the node finds out which images were in progress when it died, and tells all
others through the cluster's key-value store. These images are suspects: each is run again with no other image in the
process. An image that was alone when a process died again is quarantined.

A crash (a fatal signal, ``os._exit``, a thread that hangs) is distinguished from a process that was killed from
outside. An image is quarantined after two crashes, or after three deaths of which some may be either.
"""

from __future__ import annotations

import asyncio
import faulthandler
import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from pydantic import TypeAdapter

from serve_app.refusals import Quarantined

__all__ = ["Crashes", "Death", "InProgress", "Turns", "crashes_of_this_replica"]

_log = logging.getLogger(__name__)

_REFUSED_S = 600.0
_POLL_S = 1.0
_SWEPT_WITHIN_S = 1.0
_MOST_DEATHS = 256

# The head of a process's record: whether it called os._exit or hung, whether an image had it to itself, and the SHA-256
# of its images, zero where a place is free. The host follows, as text.
_PLACES = 64
_HEAD = np.dtype([("ended", "?"), ("alone", "?"), ("images", "V32", _PLACES)])


@dataclass(frozen=True, slots=True)
class Death:
    """A process that died while it worked on images.

    Attributes:
        process: Ray's id of the actor.
        host: the step that has its deployment, or ``INGRESS``.
        images: SHA-256 of the images that its threads were working on, once per thread.
        is_crash: it ended by itself: a fatal signal, ``os._exit``, or a thread that hung. Otherwise it may have been
            killed from outside.
        was_alone: there was only one image.
        at: when it was found, in seconds since the epoch.
    """

    process: str
    host: str
    images: tuple[str, ...]
    is_crash: bool
    was_alone: bool
    at: float


_DEATH = TypeAdapter(Death)


class InProgress:
    """The images that the threads of this process are working on, in a file that outlives the process. Costs 3
    microseconds per image.

    Args:
        folder: of the node's records.
        process: names this process.
        host: the step that has its deployment, or ``INGRESS``.
    """

    def __init__(self, folder: Path, process: str, host: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{process}.running"
        new = self.path.with_suffix(".new")  # no other process sees it before it is locked
        self._file = new.open("w+b")
        self._file.write(bytes(_HEAD.itemsize) + host.encode())
        self._file.flush()
        fcntl.lockf(self._file, fcntl.LOCK_EX)  # not inherited by a child that this process forks
        self._head = np.memmap(self._file, _HEAD, mode="r+", shape=1)
        self._images = self._head["images"][0].view(np.ndarray)  # faster than a view of a memmap
        self._free = deque(range(_PLACES))  # its methods are atomic
        new.rename(self.path)

    def watch_exits(self) -> None:
        """Record whether this process ends by itself. Once per process: it changes the handlers of fatal signals."""
        self._fault = self.path.with_suffix(".fault").open("w")
        faulthandler.enable(self._fault, all_threads=False)
        me, exit_now = os.getpid(), os._exit

        def exit_noted(status: int) -> Any:
            if os.getpid() == me:
                self.hangs(True)
            exit_now(status)

        os._exit = exit_noted

    @contextmanager
    def __call__(self, images: Iterable[str]) -> Iterator[None]:
        """This thread works on these images (SHA-256, hex) while the block lasts. Thread-safe."""
        taken = []
        for image in images:
            if not self._free or not image:
                break
            taken.append(self._free.popleft())
            self._images[taken[-1]] = bytes.fromhex(image)
        try:
            yield
        finally:
            for place in taken:
                self._images[place] = bytes(32)
                self._free.append(place)

    def hangs(self, is_stuck: bool) -> None:
        """Record whether a thread hangs, for which Serve kills this process; it counts as a crash."""
        self._head["ended"] = is_stuck

    def alone(self, is_alone: bool) -> None:
        """Record whether an image has the process to itself."""
        self._head["alone"] = is_alone


def _sweep(folder: Path, own: Path | None = None) -> Iterator[Death]:
    """The deaths on the node since the last sweep; each is reported to one caller.

    Args:
        folder: of the node's records.
        own: the record of this process, which must not be opened again: closing it would release the lock.
    """
    for path in folder.glob("*.running"):
        if path == own:
            continue
        try:
            file = path.open("r+b")
        except FileNotFoundError:
            continue
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # its process is alive, or another process reads it
            if os.fstat(file.fileno()).st_nlink == 0:
                continue  # another process has read it
            content = file.read()
            fault = path.with_suffix(".fault")
            trace = fault.read_text(errors="replace") if fault.exists() else ""
            path.unlink()
            fault.unlink(missing_ok=True)
        [head] = np.frombuffer(content, _HEAD, count=1)
        images = tuple(image.hex() for image in head["images"].tolist() if any(image))
        if images:
            host = content[_HEAD.itemsize :].decode()
            alone = len(set(images)) == 1 and bool(head["alone"] or len(images) == 1)
            yield Death(path.stem, host, images, bool(head["ended"] or trace), alone, time.time())
            _log.error("a process of '%s' died while it worked on images %s\n%s", host, ", ".join(images), trace)


class Crashes:
    """Which images are suspects, and which are quarantined.

    Args:
        folder: of the node's records; it need not exist.
        store: the deaths that are known in the cluster, by process. Its methods may block.
        in_progress: the record of this process; ``None``: it has none.
    """

    def __init__(self, folder: Path, store: MutableMapping[str, bytes], in_progress: InProgress | None = None) -> None:
        self.in_progress = in_progress
        self._folder = folder
        self._store = store
        self._found: list[Death] = []
        self._deaths: dict[str, Death] = {}  # those that count, the oldest first
        self._images: frozenset[str] = frozenset()  # of these
        self._acquitted: dict[tuple[str, str], float] = {}
        self._refreshing = threading.Lock()
        self._refreshed_at = 0.0
        self._failed = False

    def start(self) -> None:
        """Refresh now, and from now on every second in a daemon thread."""
        self._look()
        threading.Thread(target=self._poll, name="crashes", daemon=True).start()

    def _poll(self) -> None:
        while True:
            time.sleep(_POLL_S)
            self._look()

    def _look(self) -> None:
        try:
            self.refresh()
            self._failed = False
        except Exception as error:  # noqa: BLE001 - the store's client may raise anything while the head is down
            if not self._failed:
                _log.warning("crashes elsewhere are not known for now: %s", error)
            self._failed = True

    def refresh(self) -> None:
        """Find deaths on this node, store them, and read those of other nodes. Blocks for milliseconds."""
        asked = time.monotonic()
        with self._refreshing:
            if self._refreshed_at > asked:
                return  # another thread did meanwhile
            self._refreshed_at = time.monotonic()
            self._found += _sweep(self._folder, None if self.in_progress is None else self.in_progress.path)
            while self._found:  # the store may not answer now, and a death is found only once
                self._store[self._found[0].process] = _DEATH.dump_json(self._found[0])
                del self._found[0]
            deaths = [self._deaths.get(process) or self._read(process) for process in list(self._store)]
            latest = sorted((death for death in deaths if death is not None), key=lambda death: death.at)
            kept = [death for death in latest[-_MOST_DEATHS:] if death.at > time.time() - _REFUSED_S]
            for death in latest:
                if death not in kept:
                    self._store.pop(death.process, None)
            self._deaths = {death.process: death for death in kept}
            self._images = frozenset(image for death in kept for image in death.images)
            self._acquitted = {key: at for key, at in self._acquitted.items() if at > time.time() - _REFUSED_S}

    def _read(self, process: str) -> Death | None:
        value = self._store.get(process)
        return None if value is None else _DEATH.validate_json(value)

    def is_suspect(self, host: str, image: str) -> bool:
        """Whether an image (SHA-256, hex) must be run alone by the host's steps.

        Raises:
            Quarantined: the image is quarantined.
        """
        if image not in self._images:
            return False
        deaths = [death for death in self._deaths.values() if image in death.images]
        deaths = [death for death in deaths if death.at > self._acquitted.get((death.host, image), 0.0)]
        for died in {death.host for death in deaths}:
            counted = [death for death in deaths if death.host == died]
            if _is_guilty(counted):
                until = time.strftime("%H:%M:%S UTC", time.gmtime(counted[-1].at + _REFUSED_S))
                raise Quarantined(
                    f"this image has crashed the process of '{died}' {len(counted)} times and is refused "
                    f"until {until}; the log has the reason",
                    sha256=image,
                    until=until,
                )
        return any(death.host == host for death in deaths)

    def acquit(self, host: str, image: str) -> None:
        """The image has been run alone, and the process survived."""
        self._acquitted[host, image] = time.time()

    def acquitted_since(self, host: str, image: str, since: float) -> bool:
        """Whether the image was acquitted after this time, in seconds since the epoch."""
        return self._acquitted.get((host, image), 0.0) >= since

    async def after(self, process: str | None, host: str, image: str) -> bool:
        """Whether a call must be run alone after its process has died: its image was being worked on, or that is not
        known.

        Raises:
            Quarantined: the image is quarantined.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_SWEPT_WITHIN_S):
                while process is not None and process not in self._deaths:
                    await asyncio.to_thread(self._look)
                    await asyncio.sleep(0.05)
        return self.is_suspect(host, image) or process not in self._deaths


def _is_guilty(deaths: list[Death]) -> bool:
    crashes = [death for death in deaths if death.is_crash]
    alone = [death for death in deaths if death.was_alone]
    return (len(crashes) > 1 and any(death.is_crash for death in alone)) or (len(deaths) > 2 and len(alone) > 1)


class Turns:
    """Lets many calls in together, or one alone. Use it from one event loop."""

    def __init__(self, alone: Callable[[bool], None] = lambda _: None) -> None:
        self._alone = alone
        self._inside = 0
        self._door = asyncio.Lock()  # held by the call that is alone; others pass through
        self._empty = asyncio.Event()

    @asynccontextmanager
    async def __call__(self, alone: bool, still: Callable[[], bool] = lambda: True) -> AsyncIterator[None]:
        """Wait for a turn, and hold it until the block ends.

        Args:
            alone: let no other call in.
            still: whether it must still be alone; called when its turn has come.
        """
        async with self._door:
            if alone and still():
                while self._inside:
                    self._empty.clear()
                    await self._empty.wait()
                self._alone(True)
                try:
                    yield
                finally:
                    self._alone(False)
                return
            self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._empty.set()


def crashes_of_this_replica(host: str) -> Crashes:
    """What this replica, which hosts the steps of ``host``, knows of crashes in its application."""
    import ray
    from ray import serve

    from serve_app.ray_internals import ClusterStore, session_dir

    name = quote(serve.get_replica_context().app_name, safe="")
    folder = session_dir() / "visiongraph" / name
    in_progress = InProgress(folder, str(ray.get_runtime_context().get_actor_id()), host)
    in_progress.watch_exits()
    crashes = Crashes(folder, ClusterStore(f"deaths/{name}/"), in_progress)
    crashes.start()
    return crashes
