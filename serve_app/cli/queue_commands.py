"""Commands about queues: ``submit``, ``queue stats``, ``dlq list|show|retry|purge``."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from classifiers import SetupError, VisionError
from classifiers.masking import without_secrets
from graph import Malformed
from graph.engine import checked_metadata
from serve_app.cli.arguments import line_of, stderr, stdout
from serve_app.cli.input_files import SourceError, expand
from serve_app.queues import Queue, QueueStats, QueueUnavailable, queue_from_url
from serve_app.queues.letters import Held, hold
from serve_app.queues.letters import purge as throw_away
from serve_app.queues.letters import retry as put_back
from serve_app.queues.urls import FORMS, QueueUrl, with_prefetch
from serve_app.refusals import Forbidden
from serve_app.results import ResultStore
from serve_app.uris import checked_uri, path_of_file_uri, scheme_of, split_bucket_uri, web_address

__all__ = ["dlq", "queue", "submit"]

_CHUNK = 500
_AT_A_TIME = 10_000  # letters that are held at a time
_QUIET_S = 1.0  # a queue of dead letters from which nothing comes for so long has been read to its end
_EVERY_S = 2.0
_MOST_UNANSWERED = 3

QueueArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="QUEUE_URL", help=f"For example {FORMS['sqlite']} or {FORMS['redis']}.")
]


class Form(enum.StrEnum):
    """How something is printed."""

    TABLE = "table"
    JSON = "json"


FormOption: TypeAlias = Annotated[Form, typer.Option("--format", help="A table to read, or JSON to go on with.")]


# ---- submit


def submit(
    queue_url: QueueArgument,
    uris: Annotated[
        list[str],
        typer.Argument(
            metavar="URI",
            help="s3:// objects or prefixes (with / at the end), gs://, https://; files, "
            "folders and globs for a queue in a file; - for lines of stdin.",
        ),
    ],
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="What is known about the images, for rules; may be repeated. A value is "
            "JSON where it can be read as such: site=3 is a number.",
        ),
    ] = None,
) -> None:
    """Put images on a queue, for the workers of a pipeline that was served with it.

    One line a job on stdout, once the broker has accepted it: {"id": ..., "uri": ...}. What cannot be submitted is
    said on stderr, the others are still sent, and the exit status is 1.

    Example: visiongraph submit 'sqs://photos?region=eu-west-1' s3://bucket/2026/11/ --metadata site=3
    """
    to = queue_from_url(queue_url)
    known = _metadata(metadata or ())
    jobs, mistakes = _jobs(uris, queue_url, known)
    if not jobs:
        mistakes = mistakes or [SourceError("stdin names no images")]
        kind = SetupError if any(isinstance(mistake, SetupError) for mistake in mistakes) else VisionError
        raise kind("\n".join(map(str, mistakes)))
    asyncio.run(_submit(to, jobs))
    if mistakes:
        sys.stderr.write("".join(f"{mistake}\n" for mistake in mistakes) + f"{len(mistakes)} were not submitted\n")
        raise typer.Exit(1)


def _metadata(pairs: Iterable[str]) -> dict[str, Any]:
    try:
        return checked_metadata(dict(map(_pair, pairs)))
    except Malformed as error:
        raise typer.BadParameter(str(error), param_hint="--metadata") from error


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"'{text}' is not KEY=VALUE", param_hint="--metadata")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value


def _jobs(
    arguments: Iterable[str], queue_url: str, metadata: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[VisionError]]:
    """The jobs, and what is wrong with those images that cannot be one."""
    jobs: list[dict[str, Any]] = []
    mistakes: list[VisionError] = []
    for argument in _with_stdin(arguments):
        for found in expand([argument]):
            try:
                if isinstance(found, SourceError):
                    raise found
                jobs.append({"id": uuid.uuid4().hex, "uri": _for_workers(found, queue_url), "metadata": metadata})
            except VisionError as error:
                mistakes.append(error)
    return jobs, mistakes


def _with_stdin(arguments: Iterable[str]) -> Iterator[str]:
    """The arguments; in the place of ``-`` the lines of stdin."""
    for argument in arguments:
        if argument == "-":
            lines = (os.fsdecode(line).rstrip("\r\n") for line in sys.stdin.buffer)
            yield from (line for line in lines if line)
        else:
            yield argument


def _for_workers(uri: str, queue_url: str) -> str:
    """The address as workers understand it: a file's by its URL, and only where they are on this machine.

    Raises:
        VisionError: they could not fetch it.
    """
    scheme = scheme_of(uri)
    if scheme in ("s3", "gs"):
        bucket, key = split_bucket_uri(uri)
        if not bucket or not key or key.endswith("/"):
            raise SetupError(f"{uri} names no object; {scheme}://BUCKET/KEY does")
    if scheme in ("http", "https"):
        try:
            web_address(uri)
        except Forbidden as error:
            raise SetupError(f"{uri}: {error}") from error
    if scheme in ("s3", "gs", "http", "https"):
        return checked_uri(uri)
    path = path_of_file_uri(uri) if scheme == "file" else Path(uri)
    try:
        is_file = path is not None and path.is_file()
    except OSError:  # a name that is too long, a folder that may not be looked into
        is_file = False
    if path is None or not is_file:
        what = f"; workers do not fetch {scheme}://" if scheme not in ("", "file") else ""
        raise SetupError(f"there is no file {uri}{what}")
    if scheme_of(queue_url) != "sqlite":
        raise SetupError(
            f"{uri} is a file of this machine, and only workers of a queue in a file (sqlite://) can read it; "
            "upload it, and submit its s3://, gs:// or https:// address"
        )
    return path.resolve().as_uri()


async def _submit(to: Queue, jobs: Sequence[dict[str, Any]]) -> None:
    sent = 0
    async with to:
        with _progress() as progress:
            bar = progress.add_task("submitted", total=len(jobs))
            for start in range(0, len(jobs), _CHUNK):
                chunk = jobs[start : start + _CHUNK]
                try:
                    await to.publish([json.dumps(job).encode() for job in chunk])
                except QueueUnavailable as error:
                    raise VisionError(
                        f"{error}\n{sent} of {len(jobs)} images are on the queue, their lines are on stdout; of the "
                        f"next {len(chunk)}, from {chunk[0]['uri']} on, some may be: submit again from there"
                    ) from error
                for job in chunk:
                    sys.stdout.write(
                        line_of(json.dumps({"id": job["id"], "uri": without_secrets(job["uri"])}, ensure_ascii=False))
                    )
                sent += len(chunk)
                progress.advance(bar, len(chunk))
        stderr.print(f"{_count(sent, 'image')} put on the queue '{escape(to.name)}'", highlight=False)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=stderr
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# ---- queue

queue = typer.Typer(name="queue", help="Inspect a queue.", no_args_is_help=True)


@queue.callback()
def _queue() -> None:
    """Inspect a queue."""


@queue.command()
def stats(
    queue_url: QueueArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every 2 seconds until Ctrl-C.")] = False,
    form: FormOption = Form.TABLE,
) -> None:
    """Say how many messages wait, how many are in work, how old the oldest is, and how many dead letters there are.

    Example: visiongraph queue stats 'redis://localhost:6379/0?stream=photos' --watch
    """
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_stats(queue_url, watch, form))


async def _stats(queue_url: str, watch: bool, form: Form) -> None:
    unanswered = 0
    async with _both(queue_url) as (live, dead):
        while True:
            try:
                now, letters = await live.stats(), await dead.stats()
                unanswered = 0
            except QueueUnavailable as error:
                unanswered += 1
                if not watch or unanswered >= _MOST_UNANSWERED:
                    raise
                stderr.print(escape(str(error)))
            else:
                _print_stats(live, now, letters, form)
            if not watch:
                return
            await asyncio.sleep(_EVERY_S)


def _print_stats(live: Queue, now: QueueStats, letters: QueueStats, form: Form) -> None:
    figures = {
        "waiting": now.waiting,
        "in_flight": now.in_flight,
        "oldest_age_s": None if now.oldest_age_s is None else round(now.oldest_age_s, 1),
        "dead_letters": letters.waiting,
    }
    if form is Form.JSON:
        sys.stdout.write(json.dumps({"queue": live.name, "time": round(time.time(), 1), **figures}) + "\n")
        sys.stdout.flush()
        return
    words = {
        "waiting": "waiting",
        "in_flight": "in work or put off",
        "oldest_age_s": "age of the oldest, in s",
        "dead_letters": "dead letters",
    }
    late = ", some minutes ago" if live.stats_are_late else ""
    table = Table(
        "", Column(justify="right"), show_header=False, title=f"{escape(live.name)}, {time.strftime('%H:%M:%S')}{late}"
    )
    for key, value in figures.items():
        table.add_row(words[key], "the broker does not tell" if value is None else f"{value:,}")
    stdout.print(table)


def _existing(queue_url: str) -> Queue:
    """The queue; who looks makes no file of it."""
    parts = QueueUrl.parse(queue_url)
    if parts.scheme == "sqlite" and "$" not in parts.path and not Path(parts.path).exists():
        raise SetupError(f"there is no queue in the file {parts.path}: no such file")
    return queue_from_url(with_prefetch(queue_url, _AT_A_TIME))


@contextlib.asynccontextmanager
async def _both(queue_url: str) -> AsyncIterator[tuple[Queue, Queue]]:
    """The queue, and that of its dead letters."""
    live = _existing(queue_url)
    async with live, live.dead() as dead:
        yield live, dead


# ---- dead letters

dlq = typer.Typer(
    name="dlq",
    help="Dead letters: messages that no worker could bring to an end, whole and with the reason.",
    no_args_is_help=True,
)

IdsArgument: TypeAlias = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Ids as dlq list shows them; the first characters do.")
]


@dlq.command("list")
def list_letters(queue_url: QueueArgument, form: FormOption = Form.TABLE) -> None:
    """List the dead letters of a queue: when, how many tries, and why.

    Example: visiongraph dlq list 'sqs://photos?region=eu-west-1'
    """
    letters = asyncio.run(_letters(queue_url, ()))
    if form is Form.JSON:
        _print_lines(letters)
        return
    table = Table("id", "time", "tries", "type", Column("reason", overflow="fold"))
    for letter in letters:
        table.add_row(
            letter["id"][:12],
            letter["time"][:19],
            str(letter["attempts"]),
            escape(letter["type"]),
            escape(letter["reason"]),
        )
    stdout.print(table if letters else "no dead letters")


@dlq.command()
def show(queue_url: QueueArgument, ids: IdsArgument = None) -> None:
    """Print dead letters whole, as JSON, with the original message; without an ID all of them.

    Example: visiongraph dlq show 'sqs://photos?region=eu-west-1' 3f2a
    """
    _print_lines(asyncio.run(_letters(queue_url, ids or ())))


@dlq.command()
def retry(
    queue_url: QueueArgument,
    ids: IdsArgument = None,
    results: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="Where results are kept: the jobs' failures are taken off the record at once."
        ),
    ] = None,
) -> None:
    """Requeue the original messages of dead letters; without an ID all of them.

    Example, after fixing the cause: visiongraph dlq retry 'sqs://photos?region=eu-west-1' --results s3://results
    """
    count = asyncio.run(_retry(queue_url, ids or (), results))
    stderr.print(f"{_count(count, 'dead letter')} put back on the queue")


@dlq.command()
def purge(
    queue_url: QueueArgument,
    ids: IdsArgument = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete dead letters permanently; without an ID all of them.

    Example: visiongraph dlq purge 'sqs://photos?region=eu-west-1' 3f2a --yes
    """
    if not yes:
        what = f"{_count(len(ids), 'dead letter')}" if ids else "all dead letters"
        typer.confirm(f"Delete {what} of this queue? This cannot be undone", abort=True, err=True)
    count = asyncio.run(_purge(queue_url, ids or ()))
    stderr.print(f"{_count(count, 'dead letter')} deleted")


def _print_lines(letters: Iterable[dict[str, Any]]) -> None:
    for letter in letters:
        sys.stdout.write(line_of(json.dumps(letter, ensure_ascii=False)))


async def _letters(queue_url: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    async with _both(queue_url) as (_, dead), hold(dead, _AT_A_TIME, _QUIET_S) as held:
        return [each.letter.as_dict() for each in _picked(held, ids)]


async def _retry(queue_url: str, ids: Sequence[str], results: str | None) -> int:
    store = None if results is None else ResultStore.from_uri(results)
    try:
        async with _both(queue_url) as (live, dead):

            async def retry_one(held: Held) -> None:
                if store is not None:
                    for job in held.letter.jobs:
                        await store.forget_failure(job)
                await put_back(live, dead, held)

            return await _for_each(dead, ids, "put back", retry_one)
    finally:
        if store is not None:
            await store.close()


async def _purge(queue_url: str, ids: Sequence[str]) -> int:
    async with _both(queue_url) as (_, dead):
        return await _for_each(dead, ids, "deleted", lambda held: throw_away(dead, held))


async def _for_each(dead: Queue, ids: Sequence[str], done: str, act: Callable[[Held], Awaitable[None]]) -> int:
    """Act on the letters that are meant, and count them; what comes back meanwhile is not meant.

    Few at a time, unless they have to be looked for: they are on lease only for a while.
    """
    seen: set[str] = set()
    with _progress() as progress:
        bar = progress.add_task(done, total=None)
        while True:
            async with hold(dead, _AT_A_TIME if ids else _CHUNK, _QUIET_S) as held:
                new = [each for each in _picked(held, ids) if each.letter.id not in seen]
                progress.update(bar, total=len(seen) + len(new))
                for each in new:
                    await act(each)
                    seen.add(each.letter.id)
                    progress.advance(bar)
            if ids or not new:
                return len(seen)


def _picked(held: Sequence[Held], ids: Sequence[str]) -> list[Held]:
    """Those that the ids mean, in the order of the letters.

    Raises:
        SetupError: an id is nobody's, or that of several.
    """
    for start in ids:
        fits = [each.letter.id for each in held if each.letter.id.startswith(start)]
        if len(fits) != 1:
            raise SetupError(
                f"there is no dead letter {start}; visiongraph dlq list shows them"
                if not fits
                else f"{len(fits)} dead letters begin with {start}; give more of the id, such as {fits[0][:16]}"
            )
    return [each for each in held if not ids or each.letter.id.startswith(tuple(ids))]
