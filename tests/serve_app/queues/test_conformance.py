"""The same tests for all five queues, each against a real server.

Most of a queue's time is waiting, so a case runs on all brokers at once; it is reported for each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from brokers import BROKERS, Broker

from serve_app.queues import DeadLetter, Message, Queue, QueueUnavailable, queue_from_url
from serve_app.queues.dead_letters import hold, retry

NewUrl = Callable[..., str]

QUIET_S = 0.3  # longer than any of them needs to hand out what is there


async def take(queue: Queue, count: int, timeout_s: float = 10.0) -> list[Message]:
    """Receive until ``count`` messages are there."""
    messages: list[Message] = []
    until = time.monotonic() + timeout_s
    while len(messages) < count:
        assert time.monotonic() < until, f"got {len(messages)} of {count} messages"
        messages += await queue.receive(count - len(messages), 1.0)
    return messages


async def is_empty(queue: Queue) -> bool:
    return not await queue.receive(10, QUIET_S)


async def what_is_published_is_received_whole(new_url: NewUrl) -> None:
    bodies = [b'{"id": "1"}', "ключ 車 \\ \n".encode(), b"x" * 100_000]
    before = time.time()
    async with queue_from_url(new_url()) as queue:
        await queue.publish(bodies)
        messages = await take(queue, 3)
        assert sorted(message.body for message in messages) == sorted(bodies)
        assert {message.deliveries for message in messages} == {1}
        assert all(
            message.published is not None and before - 2 <= message.published <= time.time() + 2 for message in messages
        )


async def no_message_is_an_empty_list(new_url: NewUrl) -> None:
    async with queue_from_url(new_url()) as queue:
        started = time.monotonic()
        assert await queue.receive(10, 1.0) == []
        assert time.monotonic() - started < 3


async def many_at_once_and_never_more_than_asked(new_url: NewUrl) -> None:
    async with queue_from_url(new_url()) as queue:
        await queue.publish([f"{n}".encode() for n in range(57)])
        bodies: set[bytes] = set()
        while len(bodies) < 57:
            messages = await queue.receive(25, 2.0)
            assert 1 <= len(messages) <= 25
            bodies |= {message.body for message in messages}
            await queue.ack(messages)
        assert await is_empty(queue)


async def acknowledged_is_gone_for_the_next_consumer(new_url: NewUrl) -> None:
    url = new_url(lease_s=1)
    async with queue_from_url(url) as queue:
        await queue.publish([b"done", b"held"])
        messages = await take(queue, 2)
        await queue.ack([message for message in messages if message.body == b"done"])
    async with queue_from_url(url) as other:  # closing gave the other one back, or its lease runs out
        (again,) = await take(other, 1)
        assert (again.body, again.deliveries) == (b"held", 2)
        await other.ack([again])
        assert await is_empty(other)


async def two_consumers_share(new_url: NewUrl) -> None:
    url = new_url()
    async with queue_from_url(url) as queue:
        await queue.publish([f"{n}".encode() for n in range(20)])
        async with queue_from_url(url) as other:
            mine = await queue.receive(5, 2.0)
            if not url.startswith("amqp"):  # RabbitMQ sends ahead up to the prefetch
                theirs = await take(other, 15)
                assert len({message.body for message in mine + theirs}) == 20


async def given_back_comes_again_with_its_count(new_url: NewUrl) -> None:
    async with queue_from_url(new_url()) as queue:
        await queue.publish([b"again"])
        published = None
        for attempt in (1, 2, 3):
            (message,) = await take(queue, 1)
            assert (message.body, message.deliveries) == (b"again", attempt)
            assert message.published is not None
            assert published is None or abs(message.published - published) < 0.01
            published = message.published
            await queue.nack(message)
        (message,) = await take(queue, 1)
        await queue.ack([message])
        assert await is_empty(queue)


async def a_delay_is_kept(new_url: NewUrl) -> None:
    async with queue_from_url(new_url()) as queue:
        await queue.publish([b"later"])
        (message,) = await take(queue, 1)
        started = time.monotonic()
        await queue.nack(message, 1.0)
        (again,) = await take(queue, 1)
        assert 0.9 < time.monotonic() - started < 5
        assert (again.body, again.deliveries) == (b"later", 2)
        await queue.ack([again])
        assert await is_empty(queue)


async def an_extended_lease_holds(new_url: NewUrl) -> None:
    url = new_url(lease_s=1)
    async with queue_from_url(url) as queue, queue_from_url(url) as other:
        await queue.publish([b"mine"])
        (message,) = await take(queue, 1)
        for _ in range(3):
            await asyncio.sleep(0.5)
            await queue.extend([message])
        assert await other.receive(10, 0.0) == []
        await queue.ack([message])
        assert await is_empty(other)


async def a_lease_that_runs_out_gives_the_message_to_another(new_url: NewUrl) -> None:
    url = new_url(lease_s=1)
    if url.startswith("amqp"):
        pytest.skip("RabbitMQ's leases end with the channel, not with time")
    async with queue_from_url(url) as queue, queue_from_url(url) as other:
        await queue.publish([b"stuck"])
        (message,) = await take(queue, 1)
        (again,) = await take(other, 1)
        assert again.body == message.body
        if not url.startswith("pubsub"):  # counts there need more than this server remembers of a stranger
            assert again.deliveries == 2
        await other.ack([again])
        await queue.extend([message])  # too late, and no harm done
        assert await is_empty(queue)


async def dead_letters_are_kept_whole_and_come_back(new_url: NewUrl) -> None:
    body = '{"uri": "s3://b/ü.jpg"}'.encode()
    async with queue_from_url(new_url()) as queue, queue.dead() as dead:
        await queue.publish([body, b"other"])
        messages = await take(queue, 2)
        for message in messages:
            letter = DeadLetter.of(message, (f"job-{message.body[:1].decode()}",), "BadImage", "not an image: text")
            await queue.dead_letter(message, letter.encode())
        assert await is_empty(queue)

        for _ in range(2):  # looking changes nothing
            async with hold(dead, quiet_s=QUIET_S) as held:
                assert {one.letter.body for one in held} == {body, b"other"}
                (letter,) = (one.letter for one in held if one.letter.body == body)
                assert (letter.reason, letter.type, letter.attempts) == ("not an image: text", "BadImage", 1)
                assert letter.jobs == ("job-{",)
                assert letter.time.startswith("20")

        async with hold(dead, quiet_s=QUIET_S) as held:
            for one in held:
                await (retry(queue, dead, one) if one.letter.body == body else dead.ack(one.messages))
        async with hold(dead, quiet_s=QUIET_S) as held:
            assert held == []
        (message,) = await take(queue, 1)
        assert (message.body, message.deliveries) == (body, 1)
        await queue.ack([message])


async def depth_and_age(new_url: NewUrl) -> None:
    async with queue_from_url(new_url()) as queue:
        stats = await queue.stats()
        assert (stats.waiting, stats.oldest_age_s) == (0, 0.0)
        await queue.publish([f"{n}".encode() for n in range(7)])
        stats = await queue.stats()
        until = time.monotonic() + 5
        while stats.waiting != 7 or (stats.oldest_age_s or 0) < 1:
            assert time.monotonic() < until, stats
            await asyncio.sleep(0.1)
            stats = await queue.stats()
        assert stats.oldest_age_s is not None
        assert stats.oldest_age_s < 6
        await queue.ack(await take(queue, 7))
        until = time.monotonic() + 5
        while (await queue.stats()).waiting:
            assert time.monotonic() < until
            await asyncio.sleep(0.1)


async def a_letter_that_a_crash_doubled_is_one(new_url: NewUrl) -> None:
    async with queue_from_url(new_url()) as queue, queue.dead() as dead:
        letter = DeadLetter.of(Message(b"body", 3), ("job",), "BadImage", "no image").encode()
        await dead.publish([letter, letter])
        async with hold(dead, quiet_s=QUIET_S) as held:
            assert [one.letter.body for one in held] == [b"body"]
            await dead.ack(held[0].messages)
        async with hold(dead, quiet_s=QUIET_S) as held:
            assert held == []
        assert (await queue.stats()).waiting == 0


async def closing_under_calls_is_a_lost_connection_to_them(new_url: NewUrl) -> None:
    async with queue_from_url(new_url()) as queue:
        await queue.publish([b"held"])
        [held] = await take(queue, 1)

        async def keeps_calling(call: Callable[[], Any]) -> list[BaseException]:
            errors = []
            for _ in range(3):
                try:
                    await call()
                except (QueueUnavailable, asyncio.CancelledError) as error:
                    errors.append(error)
            return errors

        calls = (
            queue.stats,
            lambda: queue.extend([held]),
            lambda: queue.publish([b"1"]),
            lambda: queue.receive(1, 0.05),
        )
        loops = [asyncio.create_task(keeps_calling(call)) for call in (*calls, *calls[:3] * 4)]
        while not all(loop.done() for loop in loops):
            await queue.close()
            await asyncio.sleep(0.1)
        errors = [error for loop in loops for error in loop.result()]
        assert not [error for error in errors if not isinstance(error, QueueUnavailable)]
        await queue.publish([b"later"])
        while b"later" not in [message.body for message in await take(queue, 1)]:
            pass


async def a_lease_that_ran_out_changes_nothing(new_url: NewUrl) -> None:
    url = new_url(lease_s=1)
    if not url.startswith(("redis", "sqlite")):
        pytest.skip("this broker looks at receipts itself")
    async with queue_from_url(url) as queue, queue_from_url(url) as other, queue.dead() as dead:
        await queue.publish([b"1", b"2"])
        late = await take(queue, 2)
        again = await take(other, 2)
        await queue.nack(late[0])
        await queue.dead_letter(late[1], b"letter")
        await other.extend(again)
        assert await is_empty(queue)
        assert await is_empty(dead)
        await other.ack(again)
        assert (await other.stats()).in_flight == 0


CASES = (
    what_is_published_is_received_whole,
    no_message_is_an_empty_list,
    many_at_once_and_never_more_than_asked,
    acknowledged_is_gone_for_the_next_consumer,
    two_consumers_share,
    given_back_comes_again_with_its_count,
    a_delay_is_kept,
    an_extended_lease_holds,
    a_lease_that_runs_out_gives_the_message_to_another,
    dead_letters_are_kept_whole_and_come_back,
    depth_and_age,
    a_letter_that_a_crash_doubled_is_one,
    closing_under_calls_is_a_lost_connection_to_them,
    a_lease_that_ran_out_changes_nothing,
)


@pytest.mark.parametrize("scheme", BROKERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_queue(
    case: Callable[[NewUrl], Any], scheme: str, brokers: dict[str, Broker], runs: dict[Any, Any]
) -> None:
    brokers[scheme].need()
    if case not in runs:
        there = [broker for broker in brokers.values() if broker.is_there()]
        outcomes = await asyncio.gather(*(case(broker.new_url) for broker in there), return_exceptions=True)
        runs[case] = dict(zip((broker.scheme for broker in there), outcomes, strict=True))
    if (error := runs[case][scheme]) is not None:
        raise error


async def test_messages_of_an_answer_of_sqs_that_was_lost_come_again_soon(brokers: dict[str, Broker]) -> None:
    """Nobody can renew them: nobody knows of them."""
    async with queue_from_url(brokers["sqs"].new_url(lease_s=6)) as queue:
        await queue.publish([b"1", b"2"])
        _, renewed = [*await take(queue, 2)]
        received = time.monotonic()
        await queue.extend([renewed])
        [again] = await take(queue, 1)
        assert again.body != renewed.body
        assert time.monotonic() - received < 5
        assert await queue.receive(1, 0) == []
