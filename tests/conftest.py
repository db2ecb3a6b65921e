"""Fixtures that several test folders use."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on the Ray cluster come first and share a process: it is the longest part, and where other tests have
    loaded OpenVINO before, Ray cannot start any more."""
    on_ray = [item for item in items if "cluster" in getattr(item, "fixturenames", ())]
    for item in on_ray:
        item.add_marker(pytest.mark.xdist_group("ray"))
    items.sort(key=lambda item: item not in on_ray)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos and models beside the repository; without it, tests that ask for it are skipped."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real photos and models are not there: {folder} is no folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _signals_count() -> None:
    """A background job of a shell ignores SIGINT, one of nohup SIGHUP, and so do its children; tests send both."""
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, default)
