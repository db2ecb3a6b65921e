"""Fixtures that several test folders use."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos and models beside the repository; without it, tests that ask for it are skipped."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real photos and models are not there: {folder} is no folder")
    return folder
