from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from brokers import AWS, Broker, all_brokers, moto_server, pubsub_server


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Broker]]:
    folder = str(tmp_path_factory.mktemp("queues"))
    with pytest.MonkeyPatch.context() as patch, moto_server() as moto, pubsub_server() as pubsub:
        for name, value in AWS.items():
            patch.setenv(name, value)
        with all_brokers(folder, moto, pubsub.port) as found:
            yield found


@pytest.fixture(scope="module")
def runs() -> dict[Any, Any]:
    """What each case ended with, by broker."""
    return {}
