from __future__ import annotations

from collections.abc import Iterator

import pytest
from gateways import PIPELINE

from graph import LocalBackend, load_plan


@pytest.fixture(scope="session")
def backend() -> Iterator[LocalBackend]:
    """The toy pipeline's steps, for any number of applications."""
    backend = LocalBackend(load_plan(PIPELINE))
    yield backend
    backend.close()
