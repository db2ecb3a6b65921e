from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
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
