"""What a run does, from its seed: the images, and the faults."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Literal

__all__ = ["BROKERS", "UPLOADS", "Fault", "Image", "Plan"]

_KILLS = ("kill worker", "kill step", "kill gateway")
_ROLLS = ("restart workers", "redeploy")
_STORE = ("store answers 500", "store hangs", "drop store connections")
_BROKER = ("restart broker", "drop broker connections")
_FAULTS = {
    "sqlite": (*_KILLS, *_ROLLS),
    "redis": (*_KILLS, *_ROLLS, *_BROKER, *_STORE),
    "amqp": (*_KILLS, *_ROLLS, *_BROKER, *_STORE),
    "sqs": (*_KILLS, *_ROLLS, "drop broker connections", *_STORE),
}
_FAULTS_OF_UPLOADS = {**_FAULTS, "sqlite": (*_FAULTS["sqlite"], *_STORE)}  # their store is S3 with every broker
BROKERS = tuple(_FAULTS)

_LONGEST_S = {"restart broker": 4.0, "store answers 500": 8.0, "store hangs": 10.0}

_REDELIVERIES = {
    "kill worker": 1,
    "kill step": 4,  # an attempt fails, and is repeated after 1, 2, 4 s while Serve replaces the replica
    "kill gateway": 1,  # a client that heard nothing hands its images in again
    "restart workers": 2,  # what one gives back the next one may get, and give back, too
    "redeploy": 3,
    "restart broker": 2,
    "drop broker connections": 2,
    "store answers 500": 4,
    "store hangs": 2,
    "drop store connections": 2,
}
"""How often a fault may have one message delivered again."""

Kind = Literal["good", "missing", "text", "cut", "huge", "forbidden", "no json", "no uri"]
_BAD_IMAGES: tuple[Kind, ...] = ("missing", "text", "cut", "huge")
_BAD_MESSAGES: tuple[Kind, ...] = ("forbidden", "no json", "no uri")  # the gateway would refuse them

_POISON = 0.05
_TWICE = 0.02
_SLOW = 0.04
_FORM = 0.3
_CLIENTS_OF_UPLOADS = 8

Way = Literal["http", "raw", "bytes", "form", "presigned"]
UPLOADS: tuple[Way, ...] = ("bytes", "form", "presigned")
"""The ways of images that are stored when they are handed in."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that dies.

    Attributes:
        at: when: the share of the images that have ended.
        kind: what: a replica is killed, workers stop gracefully, the application is deployed anew, connections are
            closed while both ends live, or the broker or the store fails.
        seconds: for how long; 0 for replicas, which Serve replaces.
        which: of several replicas, counted round.
    """

    at: float
    kind: str
    seconds: float = 0.0
    which: int = 0

    @property
    def redeliveries(self) -> int:
        """How often it may have one message delivered again."""
        return _REDELIVERIES[self.kind]

    def __str__(self) -> str:
        return f"at {self.at:4.0%} {self.kind}" + (f" for {self.seconds:.1f} s" if self.seconds else "")


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is handed in.

    Attributes:
        way: its address over HTTP, its bytes over HTTP (alone, in a form, or to the store), or by a message that is
            put on the queue.
        kind: what it is; all but ``good`` is poison. ``missing`` ones appear in the end.
        messages: how many say the same.
        is_slow: whether its second step takes seconds.
    """

    name: str
    way: Way
    kind: Kind
    messages: int = 1
    is_slow: bool = False

    @property
    def is_upload(self) -> bool:
        """Whether it is stored when it is handed in."""
        return self.way in UPLOADS

    @property
    def is_job(self) -> bool:
        """Whether it can be read from the message what is wanted."""
        return self.kind not in ("no json", "no uri")


@dataclass(frozen=True, slots=True)
class Plan:
    """A run; ``clients``: how many hand in images at once."""

    seed: int
    broker: str
    images: tuple[Image, ...]
    faults: tuple[Fault, ...]
    clients: int = 1

    @classmethod
    def of(cls, seed: int, broker: str, images: int, faults: int, *, uploads: bool = False) -> Plan:
        """The plan of a seed: each kind of fault that the broker has once, before any comes twice.

        Args:
            uploads: all images are good ones, and stored when they are handed in, by several clients.
        """
        chance = random.Random(f"{seed} {broker}")
        kinds = list((_FAULTS_OF_UPLOADS if uploads else _FAULTS)[broker])
        chance.shuffle(kinds)
        times = sorted(chance.uniform(0.03, 0.85) for _ in range(faults))
        struck = [
            Fault(
                round(at, 3),
                kind,
                round(chance.uniform(1.0, _LONGEST_S[kind]), 1) if kind in _LONGEST_S else 0.0,
                chance.randrange(8),
            )
            for at, kind in zip(times, itertools.cycle(kinds), strict=False)
        ]
        if uploads:
            load = tuple(Image(f"{index:05d}", chance.choice(UPLOADS), "good") for index in range(images))
            return cls(seed, broker, load, tuple(struck), _CLIENTS_OF_UPLOADS)
        poison = iter(chance.sample(range(images), round(_POISON * images)))
        bad = dict(zip(poison, itertools.cycle(_BAD_IMAGES + _BAD_MESSAGES), strict=False))
        load = tuple(_image(chance, f"{index:05d}", bad.get(index, "good")) for index in range(images))
        return cls(seed, broker, load, tuple(struck))

    def __str__(self) -> str:
        lines = [f"seed {self.seed}, {self.broker}, {len(self.images)} images:", *map(str, self.faults)]
        return "\n  ".join(lines)


def _image(chance: random.Random, name: str, kind: Kind) -> Image:
    way: Way = "raw" if kind in _BAD_MESSAGES or chance.random() < 0.5 else "http"
    is_doubled = way == "raw" and kind == "good" and chance.random() < 2 * _TWICE
    is_slow = kind == "good" and chance.random() < _SLOW
    if kind == "good" and way == "http" and not is_slow and chance.random() < _FORM:
        way = "form"
    return Image(name, way, kind, 2 if is_doubled else 1, is_slow)
