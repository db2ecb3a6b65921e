"""A TCP proxy whose connections can be dropped, while it keeps listening."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

__all__ = ["TcpProxy"]


class TcpProxy:
    """Forwards a free port of loopback to another one. Used from any thread.

    Args:
        target_port: the server's port on loopback.
        seen: is given the bytes that come from the server, a connection's in order, with the connection's number.
    """

    def __init__(self, target_port: int, seen: Callable[[int, bytes], None] | None = None) -> None:
        self._target_port = target_port
        self._seen = seen
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._writers: dict[int, tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}
        self._accepted = 0
        self.port = 0

    @property
    def accepted(self) -> int:
        """Connections that were accepted so far."""
        return self._accepted

    def drop(self, at_most: int | None = None) -> int:
        """Close the connections that are open, the latest ones first; returns how many."""

        async def close() -> int:
            numbers = sorted(self._writers, reverse=True)[:at_most]
            for number in numbers:
                for writer in self._writers.pop(number):
                    writer.transport.abort()
            return len(numbers)

        return asyncio.run_coroutine_threadsafe(close(), self._loop).result(10)

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self.drop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:  # the server is down: so is the connection to it
            writer.transport.abort()
            return
        self._accepted += 1
        number = self._accepted
        self._writers[number] = (writer, to_server)
        await asyncio.gather(
            self._forward(reader, to_server, lambda _: None),
            self._forward(from_server, writer, lambda data: self._seen(number, data) if self._seen else None),
        )
        self._writers.pop(number, None)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Callable[[bytes], None]
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                seen(data)
                writer.write(data)
                await writer.drain()
        writer.close()
