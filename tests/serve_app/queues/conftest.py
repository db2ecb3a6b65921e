from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="module")
def runs() -> dict[Any, Any]:
    """What each case ended with, by broker."""
    return {}
