"""The embedded queue: an SQLite file on one machine, for any number of processes. Nothing to install."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, TypeVar

from serve_app.queues.protocol import Message, Queue, QueueStats, QueueUnavailable
from serve_app.queues.urls import FORMS, BadQueueUrl, QueueUrl

__all__ = ["SqliteQueue"]

_POLL_S = 0.05
_BUSY_TIMEOUT_S = 20.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  queue TEXT NOT NULL,
  body BLOB NOT NULL,
  published REAL NOT NULL,
  visible REAL NOT NULL,   -- when it may be delivered
  attempts INTEGER NOT NULL DEFAULT 0,  -- deliveries
  receipt TEXT             -- of the delivery that holds the lease
);
CREATE INDEX IF NOT EXISTS messages_visible ON messages (queue, visible);
"""

_INSERT = "INSERT INTO messages (queue, body, published, visible) VALUES (?, ?, ?, ?)"

T = TypeVar("T")


class _File:
    """A connection to the file, and the one thread that uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-queue")
        self._db: sqlite3.Connection | None = None

    def transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            db = self._db or self._connect()
            db.execute("BEGIN IMMEDIATE")
            with db:
                return work(db)
        except (sqlite3.Error, OSError) as error:
            raise QueueUnavailable(f"the queue file {self._path} cannot be used: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        _log_ahead(db)
        db.execute("PRAGMA synchronous = FULL")  # what was accepted survives a power cut
        db.executescript(_SCHEMA)
        self._db = db
        return db

    def close(self) -> None:
        if self._db is not None:
            self._db.close()


class SqliteQueue(Queue):
    """``sqlite:///relative.db`` or ``sqlite:////absolute.db``: a table in a file that is created when it is missing.

    Several queues share a file with ``?queue=NAME``.
    """

    kind: ClassVar[str] = "SQLite queue"

    def __init__(self, url: QueueUrl, name: str | None = None) -> None:
        url.only("queue", "lease_s")
        if url.host or not url.path:
            raise BadQueueUrl(
                f"{url.base} names no file; it looks like {FORMS['sqlite']}, with four slashes for an absolute path"
            )
        super().__init__(url, name or url.options.get("queue", "jobs"))
        self.lease_s = url.number("lease_s", 60.0, 0.1, 43_200)
        self._file: _File | None = None

    @property
    def dead_name(self) -> str:
        return f"{self.name}.dead"

    async def open(self) -> None:
        await self._run(lambda _: None)

    async def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            await asyncio.get_running_loop().run_in_executor(file.thread, file.close)
            file.thread.shutdown()

    async def publish(self, bodies: Sequence[bytes]) -> None:
        now = time.time()
        rows = [(self.name, body, now, now) for body in bodies]
        await self._run(lambda db: db.executemany(_INSERT, rows))

    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        until = time.monotonic() + wait_s
        while True:
            messages = await self._run(lambda db: self._lease(db, limit))
            if messages or time.monotonic() >= until:
                return messages
            await asyncio.sleep(_POLL_S)

    def _lease(self, db: sqlite3.Connection, limit: int) -> list[Message]:
        now, receipt = time.time(), secrets.token_hex(8)
        rows = db.execute(
            "UPDATE messages SET visible = ?, attempts = attempts + 1, receipt = ? WHERE seq IN "
            "(SELECT seq FROM messages WHERE queue = ? AND visible <= ? ORDER BY seq LIMIT ?) "
            "RETURNING seq, body, attempts, published",
            (now + self.lease_s, receipt, self.name, now, limit),
        ).fetchall()
        return [Message(body, count, published, (seq, receipt)) for seq, body, count, published in sorted(rows)]

    async def ack(self, messages: Sequence[Message]) -> None:
        receipts = [message.receipt for message in messages]
        await self._run(lambda db: db.executemany("DELETE FROM messages WHERE seq = ? AND receipt = ?", receipts))

    async def nack(self, message: Message, delay_s: float = 0.0) -> None:
        values = (time.time() + delay_s, *message.receipt)
        await self._run(
            lambda db: db.execute(
                "UPDATE messages SET visible = ?, receipt = NULL WHERE seq = ? AND receipt = ?", values
            )
        )

    async def extend(self, messages: Sequence[Message]) -> None:
        until = time.time() + self.lease_s
        rows = [(until, *message.receipt) for message in messages]
        await self._run(
            lambda db: db.executemany("UPDATE messages SET visible = ? WHERE seq = ? AND receipt = ?", rows)
        )

    async def dead_letter(self, message: Message, letter: bytes) -> None:
        now, dead = time.time(), self.dead_name

        def move(db: sqlite3.Connection) -> None:
            if db.execute("DELETE FROM messages WHERE seq = ? AND receipt = ?", message.receipt).rowcount:
                db.execute(_INSERT, (dead, letter, now, now))

        await self._run(move)

    async def stats(self) -> QueueStats:
        now = time.time()
        total, waiting, oldest = await self._run(
            lambda db: db.execute(
                "SELECT count(*), total(visible <= ?), min(CASE WHEN visible <= ? THEN published END) "
                "FROM messages WHERE queue = ?",
                (now, now, self.name),
            ).fetchone()
        )
        return QueueStats(int(waiting), total - int(waiting), 0.0 if oldest is None else max(0.0, now - oldest))

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do work in one transaction, in the thread that owns the connection."""
        if self._file is None:
            self._file = _File(Path(self._url.path))
        return await asyncio.get_running_loop().run_in_executor(self._file.thread, self._file.transact, work)


def _log_ahead(db: sqlite3.Connection) -> None:
    """Switch the file to write-ahead logging.

    When two processes open a new file at the same time, SQLite refuses one of them at once: for this change it ignores
    the connection's timeout (https://sqlite.org/c3ref/busy_handler.html).
    """
    until = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(_POLL_S)
        else:
            return
