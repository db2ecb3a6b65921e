"""What one worker does for the store every few minutes: compaction, deletions, retention."""

from __future__ import annotations

import time

from serve_app.config import IntakeConfig
from serve_app.images import Uploads
from serve_app.results import Objects

__all__ = ["Housekeeping"]


class Housekeeping:
    """Keeps a store in order.

    Args:
        objects: the store of results.
        uploads: the images that came with jobs.
        config: the ``intake:`` block.
    """

    def __init__(self, objects: Objects, uploads: Uploads, config: IntakeConfig) -> None:
        self._objects = objects
        self._uploads = uploads
        self._ages = config.retention.ages
        self._every_s = config.compact_every_s

    def run(self) -> None:
        """Compact, finish deletions, and apply retention to one part of the store; the next run takes the next one.

        Raises:
            StoreUnavailable: the store does not answer; run it again.
            VisionError: a file of the store is damaged; the message names it.
        """
        # here, since importing pyarrow takes a third of a second: the worker processes jobs before
        from serve_app.results.compaction import compact
        from serve_app.results.deletion import purge
        from serve_app.results.retention import PARTS, sweep

        compact(self._objects)
        purge(self._objects, self._uploads.delete)
        part = PARTS[int(time.time() / self._every_s) % len(PARTS)]
        sweep(self._objects, self._uploads.objects, self._ages, [part])
