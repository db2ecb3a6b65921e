"""Commands about queues: ``submit``, ``queue stats``, ``dlq list|show|retry|purge``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer
from rich.markup import escape
from rich.table import Column, Table

from classifiers import InputError, SetupError, VisionError
from classifiers.imaging import DEFAULT_LIMITS
from classifiers.redaction import without_secrets
from graph import Frame, Malformed
from graph.engine import checked_metadata
from serve_app.cli.arguments import line_of, print_figures, progress, stderr, stdout
from serve_app.cli.input_files import SourceError, expand
from serve_app.images import Uploads, upload_address
from serve_app.queues import Queue, QueueStats, QueueUnavailable, queue_from_url
from serve_app.queues.dead_letters import Held, hold
from serve_app.queues.dead_letters import retry as requeue
from serve_app.queues.protocol import chunks
from serve_app.queues.urls import FORMS, QueueUrl, with_prefetch
from serve_app.refusals import Forbidden
from serve_app.results import ResultStore, objects_from_uri
from serve_app.uris import checked_uri, local_path, path_of_file_uri, scheme_of, split_bucket_uri, web_address

__all__ = ["dlq", "queue", "submit"]

_CHUNK = 500
_MOST_HELD = 10_000  # letters that are leased at once
_QUIET_S = 1.0  # a queue of dead letters that delivers nothing for this time has been read to its end
_EVERY_S = 2.0
_MOST_UNANSWERED = 3
_UPLOADED_AT_A_TIME = 8

QueueArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="QUEUE_URL", help=f"For example {FORMS['sqlite']} or {FORMS['redis']}.")
]


FormOption: TypeAlias = Annotated[
    Literal["table", "json"], typer.Option("--format", help="A table to read, or JSON for other programs.")
]


# ---- submit


def submit(
    queue_url: QueueArgument,
    uris: Annotated[
        list[str],
        typer.Argument(
            metavar="URI",
            help="s3:// objects or prefixes (with / at the end), gs://, https://; with an SQLite queue also files, "
            "folders and globs; - for lines of stdin.",
        ),
    ],
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Metadata of the images; may be repeated. The value is JSON or text."),
    ] = None,
    upload: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Upload local files to this store first: the intake block's images, or images/ below its results. "
            "For workers of a gateway with auth: none.",
        ),
    ] = None,
) -> None:
    """Put images on a queue, for the workers of a pipeline that is served with it.

    Prints one line per job on stdout, once the broker has accepted it: {"id": ..., "uri": ...}. Images that cannot be
    submitted are reported on stderr, the others are still sent, and the exit status is 1.

    Example: visiongraph submit 'sqs://photos?region=eu-west-1' s3://bucket/2026/11/ --metadata site=3

    Example: visiongraph submit 'sqs://photos?region=eu-west-1' photos/ --upload s3://bucket/results/images
    """
    to = queue_from_url(queue_url)
    known = _metadata(metadata or ())
    jobs, errors = _jobs(uris, queue_url, known, uploads=upload is not None)
    if upload is not None:
        jobs, failed = _upload(jobs, Uploads(objects_from_uri(upload), DEFAULT_LIMITS.max_bytes))
        errors += failed
    if not jobs:
        errors = errors or [SourceError("stdin names no images")]
        kind = SetupError if any(isinstance(error, SetupError) for error in errors) else VisionError
        raise kind("\n".join(map(str, errors)))
    asyncio.run(_submit(to, jobs))
    if errors:
        sys.stderr.write("".join(f"{error}\n" for error in errors) + f"{len(errors)} were not submitted\n")
        raise typer.Exit(1)


def _metadata(pairs: Iterable[str]) -> dict[str, Any]:
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"'{pair}' is not KEY=VALUE", param_hint="--metadata")
        try:
            found[key] = json.loads(value)
        except (ValueError, RecursionError):
            found[key] = value
    try:
        return checked_metadata(found)
    except Malformed as error:
        raise typer.BadParameter(str(error), param_hint="--metadata") from error


def _jobs(
    arguments: Iterable[str], queue_url: str, metadata: dict[str, Any], *, uploads: bool
) -> tuple[list[dict[str, Any]], list[VisionError]]:
    """The jobs, and the errors of those images that cannot be submitted."""
    jobs: list[dict[str, Any]] = []
    errors: list[VisionError] = []
    for found in expand(_with_stdin(arguments)):
        try:
            if isinstance(found, SourceError):
                raise found
            jobs.append(
                {"id": uuid.uuid4().hex, "uri": _for_workers(found, queue_url, uploads=uploads), "metadata": metadata}
            )
        except VisionError as error:
            errors.append(error)
    return jobs, errors


def _with_stdin(arguments: Iterable[str]) -> Iterator[str]:
    """The arguments, with the lines of stdin in place of ``-``."""
    for argument in arguments:
        if argument == "-":
            lines = (os.fsdecode(line).rstrip("\r\n") for line in sys.stdin.buffer)
            yield from (line for line in lines if line)
        else:
            yield argument


def _upload(jobs: list[dict[str, Any]], uploads: Uploads) -> tuple[list[dict[str, Any]], list[VisionError]]:
    """The jobs with the addresses of what was uploaded, and the errors of files that are no images."""

    def one(job: dict[str, Any]) -> dict[str, Any] | VisionError:
        path = path_of_file_uri(job["uri"])
        if path is None or scheme_of(job["uri"]) != "file":
            return job
        try:
            frame = Frame.from_bytes(path.read_bytes(), DEFAULT_LIMITS)
            uploads.store_now(frame.data, frame.sha256, None)
        except OSError as error:
            return VisionError(f"{path}: {error.strerror}")
        except InputError as error:
            return VisionError(f"{path}: {error}")
        return {**job, "uri": upload_address(frame.sha256)}

    with progress() as bar, ThreadPoolExecutor(_UPLOADED_AT_A_TIME) as threads:
        ended = list(bar.track(threads.map(one, jobs), total=len(jobs), description="uploaded"))
    return [job for job in ended if isinstance(job, dict)], [job for job in ended if isinstance(job, VisionError)]


def _for_workers(uri: str, queue_url: str, *, uploads: bool) -> str:
    """The address as workers understand it: a file's by its URL, and only where they are on this machine, or where it
    is uploaded.

    Raises:
        VisionError: they could not fetch it.
    """
    scheme = scheme_of(uri)
    if scheme in ("s3", "gs"):
        bucket, key = split_bucket_uri(uri)
        if not bucket or not key or key.endswith("/"):
            raise SetupError(f"{uri} names no object; {scheme}://BUCKET/KEY does")
        return checked_uri(uri)
    if scheme in ("http", "https"):
        try:
            web_address(uri)
        except Forbidden as error:
            raise SetupError(f"{uri}: {error}") from error
        return checked_uri(uri)
    path = local_path(uri)
    try:
        is_file = path is not None and path.is_file()
    except OSError:  # a name that is too long, a folder that may not be read
        is_file = False
    if path is None or not is_file:
        what = f"; workers do not fetch {scheme}://" if scheme not in ("", "file") else ""
        raise SetupError(f"there is no file {uri}{what}")
    if scheme_of(queue_url) != "sqlite" and not uploads:
        raise SetupError(
            f"{uri} is a file of this machine, and only workers of a queue in a file (sqlite://) can read it; "
            "upload it with --upload and the store that workers read, or submit an s3://, gs:// or https:// address"
        )
    return path.resolve().as_uri()


async def _submit(to: Queue, jobs: Sequence[dict[str, Any]]) -> None:
    sent = 0
    async with to:
        with progress() as bar:
            task = bar.add_task("submitted", total=len(jobs))
            for chunk in chunks(jobs, _CHUNK):
                try:
                    await to.publish([json.dumps(job).encode() for job in chunk])
                except QueueUnavailable as error:
                    raise VisionError(
                        f"{error}\n{sent} of {len(jobs)} images are on the queue, their lines are on stdout; of the "
                        f"next {len(chunk)}, from {chunk[0]['uri']} on, some may be: submit again from there"
                    ) from error
                _print_lines({"id": job["id"], "uri": without_secrets(job["uri"])} for job in chunk)
                sent += len(chunk)
                bar.advance(task, len(chunk))
        stderr.print(f"{_count(sent, 'image')} put on the queue '{escape(to.name)}'", highlight=False)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _print_lines(values: Iterable[dict[str, Any]]) -> None:
    """One JSON object per line, also while a pipe reads them."""
    for value in values:
        sys.stdout.write(line_of(json.dumps(value, ensure_ascii=False)))
    sys.stdout.flush()


# ---- queue

queue = typer.Typer(name="queue", help="Inspect a queue.", no_args_is_help=True)


@queue.callback()  # so that its one command keeps its name
def _queue() -> None:
    """Inspect a queue."""


@queue.command()
def stats(
    queue_url: QueueArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat every 2 seconds until Ctrl-C.")] = False,
    form: FormOption = "table",
) -> None:
    """Show how many messages are waiting and in progress, the age of the oldest, and how many dead letters there are.

    Example: visiongraph queue stats 'redis://localhost:6379/0?stream=photos' --watch
    """
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_stats(queue_url, watch, form))


async def _stats(queue_url: str, watch: bool, form: str) -> None:
    unanswered = 0
    async with _both(queue_url) as (live, dead):
        while True:
            try:
                _print_stats(live, await live.stats(), await dead.stats(), form)
                unanswered = 0
            except QueueUnavailable as error:
                unanswered += 1
                if not watch or unanswered >= _MOST_UNANSWERED:
                    raise
                stderr.print(escape(str(error)))
            if not watch:
                return
            await asyncio.sleep(_EVERY_S)


def _print_stats(live: Queue, now: QueueStats, letters: QueueStats, form: str) -> None:
    figures = {
        "waiting": now.waiting,
        "in_flight": now.in_flight,
        "oldest_age_s": None if now.oldest_age_s is None else round(now.oldest_age_s, 1),
        "dead_letters": letters.waiting,
    }
    if form == "json":
        _print_lines([{"queue": live.name, "time": round(time.time(), 1), **figures}])
        return
    late = ", some minutes ago" if live.stats_are_late else ""
    names = ("waiting", "in progress or delayed", "age of the oldest, in s", "dead letters")
    values = ("not reported by the broker" if value is None else f"{value:,}" for value in figures.values())
    title = f"{escape(live.name)}, {time.strftime('%H:%M:%S')}{late}"
    print_figures(dict(zip(names, values, strict=True)), title)


def _existing(queue_url: str) -> Queue:
    """The queue; looking at it creates no file."""
    parts = QueueUrl.parse(queue_url)
    if parts.scheme == "sqlite" and "$" not in parts.path and not Path(parts.path).exists():
        raise SetupError(f"there is no queue in the file {parts.path}: no such file")
    return queue_from_url(with_prefetch(queue_url, _MOST_HELD))


@contextlib.asynccontextmanager
async def _both(queue_url: str) -> AsyncIterator[tuple[Queue, Queue]]:
    """The queue, and that of its dead letters."""
    live = _existing(queue_url)
    async with live, live.dead() as dead:
        yield live, dead


# ---- dead letters

dlq = typer.Typer(name="dlq", help="Dead letters: messages that failed, with the reason.", no_args_is_help=True)

IdsArgument: TypeAlias = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Ids as shown by dlq list; the first characters are enough.")
]


@dlq.command("list")
def list_letters(queue_url: QueueArgument, form: FormOption = "table") -> None:
    """List the dead letters of a queue: when, how many tries, and why.

    Example: visiongraph dlq list 'sqs://photos?region=eu-west-1'
    """
    letters = asyncio.run(_letters(queue_url, ()))
    if form == "json":
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
    """Print whole dead letters as JSON, with the original message; without an ID all of them.

    Example: visiongraph dlq show 'sqs://photos?region=eu-west-1' 3f2a
    """
    _print_lines(asyncio.run(_letters(queue_url, ids or ())))


@dlq.command()
def retry(
    queue_url: QueueArgument,
    ids: IdsArgument = None,
    results: Annotated[
        str | None, typer.Option(metavar="URI", help="The results; the recorded failures of the jobs are deleted.")
    ] = None,
) -> None:
    """Requeue the original messages of dead letters; without an ID all of them.

    Example, after fixing the cause: visiongraph dlq retry 'sqs://photos?region=eu-west-1' --results s3://results
    """
    count = asyncio.run(_retry(queue_url, ids or (), results))
    stderr.print(f"{_count(count, 'dead letter')} requeued")


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
    count = asyncio.run(_for_each(queue_url, ids or (), "deleted", lambda _, dead, held: dead.ack(held.messages)))
    stderr.print(f"{_count(count, 'dead letter')} deleted")


async def _letters(queue_url: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    async with _both(queue_url) as (_, dead), hold(dead, _MOST_HELD, _QUIET_S) as held:
        return [each.letter.as_dict() for each in _selected(held, ids)]


async def _retry(queue_url: str, ids: Sequence[str], results: str | None) -> int:
    store = None if results is None else ResultStore.from_uri(results)

    async def requeue_one(live: Queue, dead: Queue, held: Held) -> None:
        if store is not None:
            for job in held.letter.jobs:
                await store.forget_failure(job)
        await requeue(live, dead, held)

    try:
        return await _for_each(queue_url, ids, "requeued", requeue_one)
    finally:
        if store is not None:
            await store.close()


async def _for_each(
    queue_url: str, ids: Sequence[str], done: str, act: Callable[[Queue, Queue, Held], Awaitable[None]]
) -> int:
    """Process the selected letters and return their number. Letters that return meanwhile are not processed again.

    In chunks, unless they have to be searched: their leases expire.
    """
    seen: set[str] = set()
    async with _both(queue_url) as (live, dead):
        with progress() as bar:
            task = bar.add_task(done, total=None)
            while True:
                async with hold(dead, _MOST_HELD if ids else _CHUNK, _QUIET_S) as held:
                    new = [each for each in _selected(held, ids) if each.letter.id not in seen]
                    bar.update(task, total=len(seen) + len(new))
                    for each in new:
                        await act(live, dead, each)
                        seen.add(each.letter.id)
                        bar.advance(task)
                if ids or not new:
                    return len(seen)


def _selected(held: Sequence[Held], ids: Sequence[str]) -> list[Held]:
    """The letters that the ids name, in the order of the letters; all of them without ids.

    Raises:
        SetupError: no letter has an id, or several do.
    """
    for start in ids:
        fits = [each.letter.id for each in held if each.letter.id.startswith(start)]
        if not fits:
            raise SetupError(f"there is no dead letter {start}; visiongraph dlq list shows them")
        if len(fits) > 1:
            raise SetupError(f"{len(fits)} dead letters begin with {start}; use a longer id, such as {fits[0][:16]}")
    return [each for each in held if not ids or each.letter.id.startswith(tuple(ids))]
