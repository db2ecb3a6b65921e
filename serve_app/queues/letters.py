"""Dead letters: the original message, whole, with the reason; and what an operator does with them."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from serve_app.queues.protocol import Message, Queue

__all__ = ["DeadLetter", "Held", "hold", "purge", "retry"]

_QUIET_S = 1.0
_BATCH = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that will not be tried again by itself.

    Attributes:
        id: derived from the jobs or the body: what a crash doubles has one id.
        body: the original message, byte for byte.
        jobs: ids of the jobs in it that failed; empty where the body could not be understood.
        type: the error's class.
        reason: what went wrong, for a person.
        attempts: how often a worker tried; deliveries of the message where the broker moved it.
        time: when it was given up, ISO 8601 in UTC.
    """

    id: str
    body: bytes
    jobs: tuple[str, ...]
    type: str
    reason: str
    attempts: int
    time: str

    @classmethod
    def of(cls, message: Message, jobs: tuple[str, ...], kind: str, reason: str, attempts: int = 1) -> DeadLetter:
        """The letter of a message that is given up now."""
        identity = hashlib.sha256("\n".join(jobs).encode() if jobs else message.body).hexdigest()[:32]
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return cls(identity, message.body, jobs, kind, reason, attempts, now)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; a body that is not UTF-8 stands as ``body_base64``."""
        try:
            body = {"body": self.body.decode()}
        except UnicodeDecodeError:
            body = {"body_base64": base64.b64encode(self.body).decode()}
        return {
            "id": self.id,
            "jobs": list(self.jobs),
            "type": self.type,
            "reason": self.reason,
            "attempts": self.attempts,
            "time": self.time,
            **body,
        }

    def encode(self) -> bytes:
        """As it lies in the queue of dead letters."""
        return json.dumps(self.as_dict()).encode()

    @classmethod
    def decode(cls, message: Message) -> DeadLetter:
        """Read a letter back. What the broker itself moved there (its delivery limit) has no envelope and gets one."""
        try:
            value = json.loads(message.body)
            body = base64.b64decode(value["body_base64"]) if "body_base64" in value else value["body"].encode()
            return cls(
                value["id"],
                body,
                tuple(value["jobs"]),
                value["type"],
                value["reason"],
                value["attempts"],
                value["time"],
            )
        except (ValueError, LookupError, TypeError, AttributeError):
            sent = datetime.fromtimestamp(message.published or time.time(), UTC).isoformat(timespec="milliseconds")
            identity = hashlib.sha256(message.body).hexdigest()[:32]
            reason = "the broker moved it here after too many deliveries; no worker said why"
            return cls(identity, message.body, (), "DeliveryLimit", reason, message.deliveries or 1, sent)


@dataclass(frozen=True, slots=True)
class Held:
    """A letter, and the messages that it lies in: more than one where a crash doubled it."""

    letter: DeadLetter
    messages: tuple[Message, ...]


@asynccontextmanager
async def hold(dead: Queue, limit: int = 10_000, quiet_s: float = _QUIET_S) -> AsyncIterator[list[Held]]:
    """Lease what is in an opened queue of dead letters, each letter once, oldest first; the rest goes back at the end.

    The queue has been read to its end when nothing came for ``quiet_s``.
    """
    taken: list[Message] = []
    try:
        while len(taken) < limit:
            messages = await dead.receive(min(_BATCH, limit - len(taken)), quiet_s)
            if not messages:
                break
            taken += messages
        letters: dict[str, DeadLetter] = {}
        copies: dict[str, list[Message]] = {}
        for message in taken:
            letter = DeadLetter.decode(message)
            letters.setdefault(letter.id, letter)
            copies.setdefault(letter.id, []).append(message)
        yield [
            Held(letter, tuple(copies[identity]))
            for identity, letter in sorted(letters.items(), key=lambda item: item[1].time)
        ]
    finally:
        for message in taken:  # one that was acknowledged has no lease any more: no broker minds
            await dead.nack(message)


async def retry(queue: Queue, dead: Queue, held: Held) -> None:
    """Requeue the original message, then delete the letter."""
    await queue.publish([held.letter.body])
    await dead.ack(held.messages)


async def purge(dead: Queue, held: Held) -> None:
    """Delete a letter."""
    await dead.ack(held.messages)
