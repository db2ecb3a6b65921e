"""The end of a cluster on this machine: gently, then for certain."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import psutil

from serve_app.ray_internals import application_states

__all__ = ["MARK", "stop"]

logger = logging.getLogger(__name__)

MARK = "RAY_TMPDIR"
"""Set to a folder of the cluster's own while Ray starts: its processes inherit it and are found by it, even without
their parent."""

_APPLICATIONS_S = 10.0
_RAY_S = 10.0
_DEAD_RAY_S = 2.0
_KILLED_S = 5.0
_POLL_S = 0.1


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
    """Wait for a call to Ray no longer than this, and no longer than it makes sense: where Ray has died, some of its
    calls return after a minute."""
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
