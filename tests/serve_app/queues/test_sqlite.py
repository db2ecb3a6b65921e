"""What only the queue in a file has; the rest is in test_conformance.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

from serve_app.queues import queue_from_url


async def test_several_may_open_a_new_file_at_the_same_moment(tmp_path: Path) -> None:
    for turn in range(25):
        queues = [queue_from_url(f"sqlite:///{tmp_path}/{turn}.db") for _ in range(4)]
        await asyncio.gather(*(queue.open() for queue in queues))
        await asyncio.gather(*(queue.close() for queue in queues))
