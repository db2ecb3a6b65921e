"""Fixtures that several test folders use."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_SERVE_APP = Path(__file__).parent / "serve_app"
_ON_RAY = {_SERVE_APP, *(_SERVE_APP / name for name in ("bulk", "deployments", "local", "rendering"))}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in folders that may start Ray come first: they take longest, and Ray does not start in a process in which
    other tests have loaded OpenVINO."""
    items.sort(key=lambda item: item.path.parent not in _ON_RAY)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Side by side, one process has all tests on the Ray cluster, so that there is one cluster."""
    from xdist.scheduler import LoadFileScheduling

    class RayInOneProcess(LoadFileScheduling):  # its own marks for that (xdist_group) do nothing with pytest 9.2
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "ray" if config.rootpath / Path(file).parent in _ON_RAY else file

    return RayInOneProcess(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos and models beside the repository; without it, tests that ask for it are skipped."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real photos and models are not there: {folder} is no folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _metrics_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Processes of tests announce themselves to no Prometheus of this machine."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VISIONGRAPH_METRICS_DIR", str(tmp_path_factory.mktemp("metrics")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _signals_count() -> None:
    """A background job of a shell ignores SIGINT, one of nohup SIGHUP, and so do its children; tests send both."""
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, default)
