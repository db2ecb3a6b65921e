"""The end of a cluster on this machine: the signals that request it, and how everything is stopped."""

from __future__ import annotations

import functools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import psutil

from serve_app.ray_internals import application_states

__all__ = ["MARK", "StopRequests", "stop"]

logger = logging.getLogger(__name__)

MARK = "RAY_TMPDIR"
"""Set to a folder of the cluster's own while Ray starts: its processes inherit it and are found by it, even without
their parent."""

_APPLICATIONS_S = 10.0
_RAY_S = 10.0
_DEAD_RAY_S = 2.0
_KILLED_S = 5.0
_POLL_S = 0.1

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stop(folder: Path, hurry: threading.Event) -> None:
    """Stop Serve and Ray in this process, and every process whose ``MARK`` is this folder.

    Requests in progress may finish, for some seconds or until ``hurry`` is set. Where Ray has died, or dies meanwhile,
    nothing waits for it.
    """
    import ray

    processes = _processes(folder)
    if ray.is_initialized():
        _call(lambda: _delete_applications(hurry), _APPLICATIONS_S + _RAY_S, lambda: _is_alive(processes))
    processes |= _processes(folder)
    alive = _is_alive(processes)
    if not alive:
        _kill(processes)
    _call(lambda: ray.shutdown(wait_for_processes=True), _RAY_S if alive else _DEAD_RAY_S, lambda: True)
    _kill(processes | _processes(folder))


def _call(call: Callable[[], object], timeout_s: float, makes_sense: Callable[[], bool]) -> None:
    """Wait for a call to Ray, up to a timeout and while it makes sense: where Ray has died, some of its calls return
    after a minute."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    end = time.monotonic() + timeout_s
    while thread.is_alive() and time.monotonic() < end and makes_sense():
        thread.join(_POLL_S)


def _kill(processes: Collection[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=_KILLED_S)


def _delete_applications(hurry: threading.Event) -> None:
    """Let requests in progress finish; HAProxy still carries them."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        for name in application_states():
            serve.delete(name, _blocking=False)
        end = time.monotonic() + _APPLICATIONS_S
        while application_states() and time.monotonic() < end and not hurry.wait(_POLL_S):
            pass
    except (RayError, RayServeException) as error:
        logger.debug("Serve did not start, or has died: %s", error)


def _processes(folder: Path) -> set[psutil.Process]:
    """The marked processes, and their children: a process that gives itself a title may lose its environment."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == str(folder):
                found.update([process, *process.children(recursive=True)])
    return found


def _is_alive(processes: Collection[psutil.Process]) -> bool:
    """Whether Ray's two servers run."""
    running = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                running.add(process.name())
    return {"gcs_server", "raylet"} <= running


class StopRequests:
    """What SIGINT, SIGTERM and SIGHUP do in each part of a cluster's life.

    Python lets only the main thread have handlers; in another one all of this does nothing.

    Attributes:
        hurry: set by every signal after the first one.
    """

    def __init__(self) -> None:
        self.hurry = threading.Event()
        self._received = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """The block runs to its end before the first signal raises ``KeyboardInterrupt``; a second one raises at once.

        Processes that start in the block do not see the terminal's SIGINT and SIGHUP, which it sends to all processes
        of its session: these processes are stopped in order instead.
        """
        with self._handled(raises_at=2), _terminal_ignored_by_children():
            yield
        if self._received:
            raise KeyboardInterrupt

    def raised(self) -> AbstractContextManager[None]:
        """The first signal raises ``KeyboardInterrupt``; each further one sets ``hurry``."""
        return self._handled(raises_at=1)

    def hurried(self) -> AbstractContextManager[None]:
        """A signal sets ``hurry`` and nothing else."""
        return self._handled(raises_at=0)

    @contextmanager
    def _handled(self, raises_at: int) -> Iterator[None]:
        def handle(*_: object) -> None:
            if self._received or not raises_at:
                self.hurry.set()
            if raises_at:
                self._received += 1
                if self._received == raises_at:
                    raise KeyboardInterrupt

        in_main_thread = threading.current_thread() is threading.main_thread()
        before = {number: signal.getsignal(number) for number in _STOPPING if in_main_thread}
        for number, previous in before.items():
            if previous != signal.SIG_IGN:  # nohup ignores SIGHUP, a script's background jobs SIGINT
                signal.signal(number, handle)
        try:
            yield
        finally:
            for number, previous in before.items():
                # None is a handler that Python did not set, and cannot set again
                signal.signal(number, signal.SIG_DFL if previous is None else previous)


_ignoring = threading.Event()


@contextmanager
def _terminal_ignored_by_children() -> Iterator[None]:
    _register_at_fork()
    _ignoring.set()
    try:
        yield
    finally:
        _ignoring.clear()


@functools.cache  # it cannot be undone, so once
def _register_at_fork() -> None:
    os.register_at_fork(after_in_child=_ignore_terminal)


def _ignore_terminal() -> None:
    # A program inherits that a signal is ignored, but no handler.
    if _ignoring.is_set() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
