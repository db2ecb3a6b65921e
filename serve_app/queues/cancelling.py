"""Telling a task that was cancelled from a call that ended because its connection was closed."""

from __future__ import annotations

import asyncio

__all__ = ["is_cancelled"]


def is_cancelled() -> bool:
    """Whether the current task was asked to cancel.

    Clients end the calls of a connection that is closed with ``CancelledError``, too. To their callers that is a lost
    connection.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
