"""What was handed in, what is there at the end, and whether the two agree."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from chaos.plan import Image
from serve_app.queues import DeadLetter, queue_from_url
from serve_app.queues.dead_letters import hold
from serve_app.queues.urls import with_prefetch
from serve_app.results import Objects, Outcome
from serve_app.results.query import query

__all__ = ["Ledger", "Remains", "check", "letters_of"]

_PREFETCH = 10_000


@dataclass
class Ledger:
    """What was accepted: jobs by their ids, and messages in which no job can be read by their bodies."""

    jobs: dict[str, Image] = field(default_factory=dict)
    messages: dict[bytes, Image] = field(default_factory=dict)
    presigned: set[str] = field(default_factory=set)
    """Addresses of images that clients have written to the store themselves."""
    have_appeared: bool = False
    """Whether the missing images have been put in their places."""
    redeliveries: int = 0
    """How often the faults so far may have one message delivered again."""

    def is_good(self, image: Image) -> bool:
        """Whether it has to end with a result."""
        return image.kind == "good" or (image.kind == "missing" and self.have_appeared)

    @property
    def good(self) -> set[str]:
        """Ids of the jobs that have to end with a result."""
        return {job for job, image in self.jobs.items() if self.is_good(image)}

    @property
    def letters(self) -> int:
        """How many dead letters there have to be."""
        return len(self.jobs) - len(self.good) + len(self.messages)


@dataclass
class Remains:
    """What is there.

    Attributes:
        outcomes: by the job's id.
        unreadable: keys of outcomes that are not whole.
        letters: each once, by its id.
        rows: the ids in Parquet.
        deliveries: how often the broker has delivered each job.
    """

    outcomes: dict[str, Outcome]
    unreadable: list[str]
    letters: Sequence[DeadLetter]
    rows: Sequence[str]
    deliveries: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(
        cls, objects: Objects, letters: Sequence[DeadLetter], deliveries: Mapping[str, int] | None = None
    ) -> Remains:
        """Take outcomes and rows from the store, all of them."""
        keys = list(objects.keys("outcomes/"))
        with ThreadPoolExecutor(8) as pool:
            texts = list(pool.map(objects.get, keys))
        outcomes, unreadable = {}, []
        for key, text in zip(keys, texts, strict=True):
            try:
                outcome = Outcome(**json.loads(text or b""))
                is_whole = outcome.status == "failed" or outcome.result is not None
            except (ValueError, TypeError):
                is_whole = False
            if not is_whole or outcome.id in outcomes:
                unreadable.append(key)
                continue
            outcomes[outcome.id] = outcome
        return cls(outcomes, unreadable, letters, parquet_ids(objects), deliveries or {})


def parquet_ids(objects: Objects) -> list[str]:
    """The ids of all rows."""
    return [row[0] for row in query(objects, "SELECT id FROM results").rows]


async def letters_of(queue_url: str, quiet_s: float = 1.0) -> list[DeadLetter]:
    """The dead letters of a queue, each once: a crash may have doubled one, with the same id."""
    queue = queue_from_url(with_prefetch(queue_url, _PREFETCH))
    async with queue, queue.dead() as dead, hold(dead, quiet_s=quiet_s) as held:
        return [each.letter for each in held]


def check(ledger: Ledger, found: Remains) -> list[str]:
    """What is wrong, a line each; nothing where every job has its one end."""
    return [
        *_outcomes(ledger, found),
        *_letters(ledger, found),
        *_rows(ledger, found.rows),
        *_deliveries(ledger, found.deliveries),
    ]


def _outcomes(ledger: Ledger, found: Remains) -> Iterator[str]:
    for key in found.unreadable:
        yield f"{key} is not a whole outcome, or the second one of its job"
    for job, image in ledger.jobs.items():
        outcome = found.outcomes.get(job)
        if outcome is None:
            yield f"lost: {job} ({image.way}, {image.kind}) was accepted and has no outcome"
        elif (outcome.status == "succeeded") != ledger.is_good(image):
            yield f"{job} ({image.way}, {image.kind}) has {outcome.status}: {outcome.error}"
    for job in found.outcomes.keys() - ledger.jobs.keys():
        yield f"{job} has an outcome, and nobody was told that it was accepted"


def _letters(ledger: Ledger, found: Remains) -> Iterator[str]:
    letters = found.letters
    poison = {job for job, image in ledger.jobs.items() if not ledger.is_good(image)}
    of_jobs = Counter(job for letter in letters for job in letter.jobs)
    of_messages = Counter(letter.body for letter in letters if not letter.jobs)
    for job in poison - of_jobs.keys():
        yield f"lost: {job} ({ledger.jobs[job].kind}) has no dead letter"
    for job, count in of_jobs.items():
        if job in found.outcomes and found.outcomes[job].status == "succeeded":
            yield f"false: {job} succeeded, and has a dead letter"
        elif job not in poison:
            yield f"{job} has a dead letter, and should have none"
        elif count > 1:
            yield f"doubled: {job} has {count} dead letters of different ids"
    for body in ledger.messages.keys() - of_messages.keys():
        yield f"lost: the message {body!r} has no dead letter"
    for body, count in of_messages.items():
        if body not in ledger.messages or count > 1:
            yield f"{count} dead letters have the message {body!r}"
    for letter in letters:
        if letter.jobs and _id_in(letter.body) not in letter.jobs:
            yield f"the dead letter of {letter.jobs} has another message: {letter.body!r}"
        if not _is_readable(letter):
            yield f"a dead letter says nothing that helps: {letter.type}: {letter.reason}"


def _id_in(body: bytes) -> str | None:
    try:
        identity: str = json.loads(body)["id"]
    except (ValueError, LookupError, TypeError):
        return None
    return identity


def _is_readable(letter: DeadLetter) -> bool:
    # "an internal error": what a worker reports for an error that it does not know
    is_ours = "Traceback" in letter.reason or "an internal error" in letter.reason
    return bool(letter.type) and len(letter.reason.split()) >= 3 and not is_ours


def _rows(ledger: Ledger, rows: Sequence[str]) -> Iterator[str]:
    counts = Counter(rows)
    for job in ledger.good - counts.keys():
        yield f"lost: {job} is not in Parquet"
    for job, count in counts.items():
        if count > 1:
            yield f"doubled: {job} has {count} rows in Parquet"
        if job not in ledger.good:
            yield f"{job} is in Parquet, and should not be"


def _deliveries(ledger: Ledger, deliveries: Mapping[str, int]) -> Iterator[str]:
    for job, image in ledger.jobs.items():
        brought_in = image.kind == "missing" and ledger.have_appeared
        most = image.messages + brought_in + ledger.redeliveries
        if deliveries.get(job, 0) > most:
            yield f"{job} was delivered {deliveries[job]} times, and the faults explain {most}"
