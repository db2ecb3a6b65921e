"""A Redis server of a test's own, so that it may be killed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest

from serve_app.local.ports import free_port

__all__ = ["RedisServer", "need_redis_server"]

need_redis_server = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="there is no redis-server here: apt-get install redis-server"
)


class RedisServer:
    """On a free port of loopback.

    Args:
        folder: where it may write.
        keeps: it has what it accepted when it is started again; else it keeps nothing.
    """

    def __init__(self, folder: Path, *, keeps: bool = False) -> None:
        self._folder = folder
        self._durability = {"--appendonly": "yes", "--appendfsync": "always"} if keeps else {}
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = {"--port": str(self.port), "--bind": "127.0.0.1", "--save": "", "--dir": str(self._folder)}
        options |= self._durability
        command = ["redis-server", *(word for option in options.items() for word in option)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                time.sleep(0.02)
        raise TimeoutError("redis-server does not listen")

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
