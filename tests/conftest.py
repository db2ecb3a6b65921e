"""Fixtures that several test folders use."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos and models beside the repository; without it, tests that ask for it are skipped."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real photos and models are not there: {folder} is no folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_counts() -> None:
    """A shell's background job ignores SIGINT, and so do its children; tests of Ctrl-C are to work there too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
