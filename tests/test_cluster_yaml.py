"""cluster.yaml against Ray's own schema and defaults, without a network, and what it promises."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from serve_app.local.cluster import FAST_ENVIRONMENT
from serve_app.local.haproxy import INSTALLED_WRAPPER

_ROOT = Path(__file__).parents[1]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def text() -> str:
    return (_ROOT / "cluster.yaml").read_text()


@pytest.fixture
def cluster(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@pytest.fixture(params=["head", "worker"])
def start(request: pytest.FixtureRequest, cluster: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Environment and arguments of ``ray start`` on the head and on a worker."""
    stop, command = cluster[f"{request.param}_start_ray_commands"]
    assert stop == "ray stop"
    environment, arguments = command.split(" ray start ")
    return dict(setting.split("=", 1) for setting in environment.split()), arguments.split()


def test_ray_takes_it(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


@pytest.mark.parametrize("break_it", ["idle_timeout", "docker.images", "available_node_types.head.cpus"])
def test_ray_would_not_take_a_key_that_it_does_not_know(cluster: dict[str, Any], break_it: str) -> None:
    broken = copy.deepcopy(cluster)
    *path, key = break_it.split(".")
    block = broken
    for name in path:
        block = block[name]
    block[key] = 1
    with pytest.raises(Exception, match=key):
        validate_config(prepare_config(broken))


def test_the_head_has_no_gpu_and_the_workers_scale(cluster: dict[str, Any]) -> None:
    types = prepare_config(cluster)["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert "GPU" not in head["resources"]
    (workers,) = types.values()
    assert workers["resources"]["GPU"] == 1
    assert 0 < workers["min_workers"] < workers["max_workers"] <= cluster["max_workers"]


def test_every_node_starts_in_the_fast_configuration(start: tuple[dict[str, str], list[str]]) -> None:
    environment, _ = start
    assert FAST_ENVIRONMENT.items() <= environment.items()
    assert Path(environment["RAY_SERVE_HAPROXY_BINARY_PATH"]).name == INSTALLED_WRAPPER
    assert 0 < int(environment["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"]) < 3600


def test_each_setting_is_explained(text: str, start: tuple[dict[str, str], list[str]]) -> None:
    for setting in start[0]:
        assert re.search(rf"^#   {setting} +\S+ \S+", text, re.MULTILINE), setting


def test_calls_need_the_token_and_every_node_has_it(
    cluster: dict[str, Any], start: tuple[dict[str, str], list[str]]
) -> None:
    assert start[0]["RAY_AUTH_MODE"] == "token"
    assert cluster["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_dashboard_is_on_loopback(cluster: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1].split()


def test_versions_are_pinned_to_one(cluster: dict[str, Any]) -> None:
    (ray,) = (
        re.fullmatch(r"ray\[serve\]>=([\d.]+),<[\d.]+", requirement)
        for requirement in _PROJECT["dependencies"]
        if "ray[" in requirement
    )
    assert ray is not None
    version = f"{ray.group(1)}.0"
    assert cluster["docker"]["image"] == f"rayproject/ray:{version}-py311-gpu"
    assert cluster["docker"]["head_image"] == f"rayproject/ray:{version}-py311"

    install = cluster["setup_commands"][-1].split()
    wheel = f"visiongraph-{_PROJECT['version']}-py3-none-any.whl"
    assert install[-2:] == [f"'ray[serve]=={version}'", f"/home/ray/wheels/{wheel}"]
    assert cluster["file_mounts"][f"/home/ray/wheels/{wheel}"] == f"dist/{wheel}"


def test_opencv_finds_its_libraries(cluster: dict[str, Any]) -> None:
    assert {"libgl1", "libglib2.0-0"} <= set(cluster["setup_commands"][0].split())


def test_models_come_from_the_bucket_to_where_they_are_looked_up(cluster: dict[str, Any]) -> None:
    (fetch,) = cluster["initialization_commands"]
    source, folder = fetch.split()[-2:]
    assert source.startswith("s3://")
    assert {f"--volume {folder}:/models:ro", "--env VISIONGRAPH_MODELS=/models"} <= {
        option.strip() for option in cluster["docker"]["run_options"]
    }
