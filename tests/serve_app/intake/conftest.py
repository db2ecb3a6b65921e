from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from brokers import AWS, Broker, all_brokers, moto_server, pubsub_server
from intakes import PIPELINE, Place, Site, place

from graph import LocalBackend, load_plan


@pytest.fixture(scope="session")
def toys() -> Iterator[LocalBackend]:
    """The toy pipeline's steps."""
    backend = LocalBackend(load_plan(PIPELINE))
    yield backend
    backend.close()


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Place]:
    """A queue in a file, and results in a folder."""
    async with place(tmp_path) as found:
        yield found


@pytest.fixture
def site() -> Iterator[Site]:
    """A web server that answers as it is told."""
    site = Site()
    yield site
    site.close()


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """S3 and SQS at a URL."""
    with pytest.MonkeyPatch.context() as patch, moto_server() as url:
        for name, value in AWS.items():
            patch.setenv(name, value)
        yield url


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory, moto: str) -> Iterator[dict[str, Broker]]:
    folder = str(tmp_path_factory.mktemp("queues"))
    with pubsub_server() as pubsub, all_brokers(folder, moto, pubsub.port) as found:
        yield found
