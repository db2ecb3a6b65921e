"""Signals that ask this process to end: the first one to stop, another one to hurry."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

__all__ = ["StopRequests"]

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
    # A program that is started with a signal ignored goes on ignoring it; a handler it would not get.
    if _ignoring.is_set() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
