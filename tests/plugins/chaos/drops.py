"""python -m chaos.drops: what one lost connection to the broker costs while steps take seconds.

Each broker has two runs on Serve: one undisturbed, one in which all connections to the broker are dropped once, when a
quarter of the messages have ended. Exit code 1 if a job failed, a dead letter was written, or the second run took more
than 1.5 times as long.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import boto3
import numpy as np
from brokers import AWS, all_brokers, moto_server
from tcp_proxy import TcpProxy
from toys import encoded

from chaos.ledger import letters_of
from serve_app.queues import QueueUnavailable, queue_from_url
from serve_app.results import ResultStore

__all__ = ["BROKERS", "Run", "run"]

BROKERS = ("redis", "amqp", "sqs")
"""Those that have connections."""

MOST_TIMES_AS_LONG = 1.5

_ROOT = Path(__file__).parents[3]
_REPLICAS = 6
_LONGEST_S = 600.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Run:
    """How a run went.

    Attributes:
        statuses: how many jobs ended how.
        letters: dead letters.
        seconds: from the first message to an empty queue.
        dropped: connections that were closed.
        begun: how often the step ran.
    """

    statuses: Counter[str]
    letters: int
    seconds: float
    dropped: int
    begun: int

    def is_right(self, messages: int) -> bool:
        """Whether all jobs succeeded, without a dead letter."""
        return self.statuses == Counter(succeeded=messages) and self.letters == 0

    def __str__(self) -> str:
        statuses = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))
        return (
            f"{self.seconds:5.1f} s, {statuses}, {self.letters} dead letters, {self.dropped} connections dropped, "
            f"the step ran {self.begun} times"
        )


def run(broker: str, messages: int, longest_s: float, *, drop: bool) -> Run:
    """Carry out one run on the cluster of this process.

    Args:
        broker: the scheme of its URL.
        messages: how many.
        longest_s: the step takes from a sixth of this to this, the same for the same message.
        drop: whether the connections to the broker are dropped.
    """
    from ray import serve

    from serve_app.app import AppArgs, build

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drops-")))
        moto = stack.enter_context(moto_server())
        queue_url = stack.enter_context(all_brokers(str(folder), moto, 0))[broker].new_url()
        port = re.search(r"127\.0\.0\.1:(\d+)", queue_url)
        assert port is not None
        proxy = stack.enter_context(TcpProxy(int(port[1])))
        _put_images(moto, messages)
        name, log = f"drops-{os.urandom(3).hex()}", folder / "begun"
        step = {
            "name": "slow",
            "class": "toys.Patient",
            "params": {"longest_s": longest_s, "log": str(log)},
            "serve": {"num_replicas": _REPLICAS, "num_cpus": 0.1, "max_batch_size": 1},
        }
        intake = {
            "queue": queue_url.replace(port[0], f"127.0.0.1:{proxy.port}"),
            "results": str(folder / "results"),
            "fetch": {"s3": {"allow": {"*": ["s3://photos"]}, "endpoint_url": moto}},
            "num_cpus": 0.1,
            "max_attempts": 1,
        }
        args = {"pipeline": {"name": name, "pipeline": [step]}, "gateway": {"auth": "none", "num_cpus": 0.1}}
        serve.run(build(AppArgs.model_validate(args | {"intake": intake})), name=name, route_prefix=f"/{name}")
        try:
            return asyncio.run(_carry_out(queue_url, str(folder / "results"), messages, log, proxy if drop else None))
        finally:
            serve.delete(name)


def _put_images(moto: str, images: int) -> None:
    s3 = boto3.client("s3", region_name="eu-west-1", endpoint_url=moto)
    s3.create_bucket(Bucket="photos", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    chance = random.Random(1)
    for index in range(images):
        pixels = np.full((16, 16, 3), chance.randrange(256), np.uint8)
        s3.put_object(Bucket="photos", Key=f"{index}.png", Body=encoded(pixels))


async def _carry_out(queue_url: str, results: str, messages: int, log: Path, proxy: TcpProxy | None) -> Run:
    store = ResultStore.from_uri(results)
    jobs = [f"job-{index}" for index in range(messages)]
    bodies = [json.dumps({"id": job, "uri": f"s3://photos/{index}.png"}) for index, job in enumerate(jobs)]
    dropped = 0
    async with queue_from_url(queue_url) as queue:
        await queue.publish([body.encode() for body in bodies])
        started = time.monotonic()
        while time.monotonic() < started + _LONGEST_S:
            await asyncio.sleep(_POLL_S)
            ended = sum(1 for _ in store.objects.keys("outcomes/"))
            if proxy is not None and not dropped and ended >= messages // 4:
                dropped = proxy.drop()  # SQS has a connection only for as long as a call takes
            if ended == messages:
                try:
                    stats = await queue.stats()
                except QueueUnavailable:
                    continue
                if not stats.waiting and not stats.in_flight:
                    break
        seconds = time.monotonic() - started
    outcomes = await asyncio.gather(*map(store.outcome, jobs))
    await store.close()
    statuses = Counter("none" if outcome is None else outcome.status for outcome in outcomes)
    letters = await letters_of(queue_url)
    return Run(statuses, len(letters), seconds, dropped, len((await asyncio.to_thread(log.read_text)).split()))


def main() -> int:
    """Both runs at each broker, and a line for each."""
    parser = argparse.ArgumentParser(prog="chaos.drops", description="What one lost connection to the broker costs.")
    parser.add_argument("--brokers", nargs="+", choices=BROKERS, default=BROKERS)
    parser.add_argument("--messages", type=int, default=64)
    parser.add_argument("--longest-s", type=float, default=6.0, help="the step takes from a sixth of this to this")
    options = parser.parse_args()

    from serve_app.local.cluster import local_cluster
    from serve_app.local.ports import free_port

    os.environ |= AWS | {"PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tests" / "plugins")])}
    for name in ("aiormq", "aio_pika", "werkzeug"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # else a traceback for each connection that is lost
    is_right = True
    with local_cluster(http_port=free_port(), dashboard_port=None, min_cpus=8, keep_logs=False):
        for broker in options.brokers:
            calm, lost = (run(broker, options.messages, options.longest_s, drop=drop) for drop in (False, True))
            times = lost.seconds / calm.seconds
            fine = lost.is_right(options.messages) and calm.is_right(options.messages) and times <= MOST_TIMES_AS_LONG
            is_right = is_right and fine
            sys.stdout.write(
                f"{broker} undisturbed: {calm}\n{broker} with a drop: {lost}\n"
                f"{broker}: {'ok' if fine else 'FAILED'}, {times:.2f} times as long\n"
            )
            sys.stdout.flush()
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
