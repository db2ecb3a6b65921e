"""Writes a replica's log lines to its file within a second.

Serve's throughput mode keeps up to 1,000 records of a process in memory and writes them when the buffer is full, so a
process that is killed loses what was logged last (ray-project/ray#57850).
"""

from __future__ import annotations

import copy
import functools
import logging
import threading
import time
from collections.abc import Mapping
from logging.handlers import MemoryHandler

from serve_app.http.access_log import log_to
from serve_app.telemetry.log_fields import FIELDS, fields_of

__all__ = ["flush_logs", "set_up_logs", "stop_buffering_logs"]

_serve = logging.getLogger("ray.serve")

_EXTRA = "ray_serve_extra_fields"
"""What Serve's JSON encoding writes beside the message."""

_OWN = "skip_context_filter"
"""Serve adds nothing of its own: Ray's id of a job would take the place of ours."""

_FLUSH_EVERY_S = 1.0
_flushing = threading.Lock()


class _ToServe(logging.Handler):
    """Hands records to Serve's logger, whose handlers change when its configuration does.

    Args:
        labels: fields of every line of this process.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        super().__init__()
        self._labels = labels

    def emit(self, record: logging.LogRecord) -> None:
        line = copy.copy(record)  # other handlers may get it too
        vars(line).pop(FIELDS, None)
        vars(line).update({_EXTRA: {**self._labels, **fields_of(record)}, _OWN: True})
        _serve.handle(line)


@functools.cache
def set_up_logs(**labels: str) -> None:
    """Send this project's log lines to the replica's file, and write the file every second. Once for each process.

    Serve also copies what is written to stderr there, but with the level INFO, and inspects the whole stack for each
    line: a tenth of the CPU time of a gateway.
    """
    handler = _ToServe(labels)
    for package in ("serve_app", "graph", "classifiers"):
        logging.getLogger(package).addHandler(handler)
    log_to([handler])
    threading.Thread(target=_flush_regularly, name="log-flush", daemon=True).start()


def flush_logs() -> None:
    """Write the records that are in memory, in their order."""
    with _flushing:
        for handler in _serve.handlers:
            if isinstance(handler, MemoryHandler):
                with handler.lock or threading.RLock():
                    records, handler.buffer = handler.buffer, []
                for record in records:  # not under the handler's lock, for which the event loop would wait
                    if handler.target is not None:
                        handler.target.handle(record)


def stop_buffering_logs() -> None:
    """Write each further record at once: the process may be killed at any moment."""
    for handler in _serve.handlers:
        if isinstance(handler, MemoryHandler):
            handler.capacity = 1
    flush_logs()


def _flush_regularly() -> None:
    while True:
        time.sleep(_FLUSH_EVERY_S)
        flush_logs()
