"""Signals that ask this process to end: the first one to stop, another one to hurry."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["StopRequests"]

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequests:
    """What SIGINT, SIGTERM and SIGHUP do in each part of a cluster's life.

    Python lets only the main thread have handlers; in another one all of this does nothing.

    Attributes:
        hurry: set once there was a signal that did more than ask to stop.
    """

    def __init__(self) -> None:
        self.hurry = threading.Event()
        self._asked = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """The block runs to its end before the first signal raises ``KeyboardInterrupt``; a second one raises at once.

        Processes that start in the block do not see the terminal's SIGINT and SIGHUP: it sends them to all processes
        behind it, and those are to go when they are told to.
        """
        with _handler(self._note), _terminal_ignored_by_children():
            yield
        if self._asked:
            raise KeyboardInterrupt

    @contextmanager
    def raised(self) -> Iterator[None]:
        """The first signal raises ``KeyboardInterrupt``; another one hurries what follows, wherever that is."""
        with _handler(self._raise_once):
            yield

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """A signal sets ``hurry`` and nothing else."""
        with _handler(self._hurry):
            yield

    def _note(self, *_: object) -> None:
        if self._asked:
            self.hurry.set()
            raise KeyboardInterrupt
        self._asked = True

    def _raise_once(self, *_: object) -> None:
        if self._asked:
            self.hurry.set()
            return
        self._asked = True
        raise KeyboardInterrupt

    def _hurry(self, *_: object) -> None:
        self.hurry.set()


@contextmanager
def _handler(handler: Callable[..., None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # One that is ignored stays so: nohup ignores SIGHUP, a script's background jobs SIGINT.
    before = {number: current for number in _STOPPING if (current := signal.getsignal(number)) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            # None is a handler that Python did not set, and cannot set again
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


_ignoring = threading.Event()
_registered = threading.Event()


@contextmanager
def _terminal_ignored_by_children() -> Iterator[None]:
    if not _registered.is_set():  # it cannot be taken back, so once
        _registered.set()
        os.register_at_fork(after_in_child=_ignore_terminal)
    _ignoring.set()
    try:
        yield
    finally:
        _ignoring.clear()


def _ignore_terminal() -> None:
    # A program that is started with a signal ignored goes on ignoring it; a handler it would not get.
    if _ignoring.is_set() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
