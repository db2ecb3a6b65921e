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

__all__ = ["DeadLetter", "Held", "hold", "retry"]

_NAMES = ("id", "jobs", "type", "reason", "attempts", "time")
_QUIET_S = 1.0
_BATCH = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that is not retried automatically.

    Attributes:
        id: derived from the jobs or the body, so that a letter that a crash duplicates has one id.
        body: the original message, byte for byte.
        jobs: ids of the jobs in it that failed; empty where the body could not be understood.
        type: the error's class.
        reason: what went wrong, for a person.
        attempts: of the workers; deliveries of the message where the broker moved it.
        time: of the dead letter, ISO 8601 in UTC.
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
        """The letter of a message that has just failed for good."""
        identity = hashlib.sha256("\n".join(jobs).encode() if jobs else message.body).hexdigest()[:32]
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return cls(identity, message.body, jobs, kind, reason, attempts, now)

    def as_dict(self) -> dict[str, Any]:
        """JSON values; a body that is not UTF-8 is in ``body_base64``."""
        try:
            body = {"body": self.body.decode()}
        except UnicodeDecodeError:
            body = {"body_base64": base64.b64encode(self.body).decode()}
        named = {name: getattr(self, name) for name in _NAMES}
        return {**named, "jobs": list(self.jobs), **body}

    def encode(self) -> bytes:
        """The form in the queue of dead letters."""
        return json.dumps(self.as_dict()).encode()

    @classmethod
    def decode(cls, message: Message) -> DeadLetter:
        """Read a letter. A message that the broker itself moved there (its delivery limit) gets an envelope."""
        try:
            value = json.loads(message.body)
            body = base64.b64decode(value["body_base64"]) if "body_base64" in value else value["body"].encode()
            return cls(body=body, **{name: value[name] for name in _NAMES} | {"jobs": tuple(value["jobs"])})
        except (ValueError, LookupError, TypeError, AttributeError):
            sent = datetime.fromtimestamp(message.published or time.time(), UTC).isoformat(timespec="milliseconds")
            identity = hashlib.sha256(message.body).hexdigest()[:32]
            reason = "the broker moved it here after too many deliveries; no worker said why"
            return cls(identity, message.body, (), "DeliveryLimit", reason, message.deliveries or 1, sent)


@dataclass(frozen=True, slots=True)
class Held:
    """A letter and its messages: more than one where a crash duplicated it."""

    letter: DeadLetter
    messages: tuple[Message, ...]


@asynccontextmanager
async def hold(dead: Queue, limit: int = 10_000, quiet_s: float = _QUIET_S) -> AsyncIterator[list[Held]]:
    """Lease the letters in an opened queue of dead letters, each once, oldest first; release them at the end.

    The queue has been read to its end when nothing arrived for ``quiet_s``.
    """
    taken: list[Message] = []
    try:
        while len(taken) < limit:
            messages = await dead.receive(min(_BATCH, limit - len(taken)), quiet_s)
            if not messages:
                break
            taken += messages
        found: dict[str, tuple[DeadLetter, list[Message]]] = {}
        for message in taken:
            letter = DeadLetter.decode(message)
            found.setdefault(letter.id, (letter, []))[1].append(message)
        held = [Held(letter, tuple(messages)) for letter, messages in found.values()]
        yield sorted(held, key=lambda one: one.letter.time)
    finally:
        for message in taken:  # of one that was acknowledged the lease has ended, which is no error
            await dead.nack(message)


async def retry(queue: Queue, dead: Queue, held: Held) -> None:
    """Requeue the original message, then delete the letter."""
    await queue.publish([held.letter.body])
    await dead.ack(held.messages)
