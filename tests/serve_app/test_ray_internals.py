"""What is used of Ray beyond its public interface: a new version that lacks something fails here, by its name."""

from __future__ import annotations

import inspect
import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import ray
from packaging.requirements import Requirement

from serve_app import ray_internals
from serve_app.local.cluster import _LOCAL_ENVIRONMENT, FAST_ENVIRONMENT
from serve_app.local.haproxy import haproxy_environment

_ROOT = Path(__file__).parents[2]
_RAY = Path(ray.__file__).parent

# What each function in ray_internals needs: a module, what is in it, and its parameters where it is called.
_USED = [
    ("application_states", "ray.serve.context", "_get_global_client", ()),
    ("application_states", "ray.serve._private.client", "ServeControllerClient.list_serve_statuses", ("self",)),
    ("bootstrap_address", "ray._private.services", "canonicalize_bootstrap_address_or_die", ("addr",)),
    ("crop_budget_bytes", "ray.serve._private.constants", "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH", None),
    ("free_resources", "ray._private.state", "available_resources_per_node", ()),
    ("http_options", "ray.serve._private.controller", "ServeController.get_http_config", ("self",)),
    ("metrics_discovery_file", "ray._private.ray_constants", "PROMETHEUS_SERVICE_DISCOVERY_FILE", None),
    ("session_dir", "ray._private.worker", "global_worker", None),
    ("session_dir", "ray._private.node", "Node.get_session_dir_path", ("self",)),
    ("ClusterStore", "ray.experimental.internal_kv", "_internal_kv_put", ("key", "value", "overwrite", "namespace")),
    ("ClusterStore", "ray.experimental.internal_kv", "_internal_kv_get", ("key", "namespace")),
    ("ClusterStore", "ray.experimental.internal_kv", "_internal_kv_list", ("prefix", "namespace")),
    ("replica_count", "ray.serve.handle", "DeploymentHandle._init_router", ("self",)),
    ("replica_count", "ray.serve._private.router", "AsyncioRouter.request_router", None),
    ("replica_count", "ray.serve._private.request_router", "RequestRouter.curr_replicas", None),
    ("controller", "ray.serve._private.constants", "SERVE_CONTROLLER_NAME", None),
    ("controller", "ray.serve._private.constants", "SERVE_NAMESPACE", None),
    ("is_gone", "ray.serve._private.controller", "ServeController.get_deployment_status", ("self", "name", "app_name")),
    ("is_gone", "ray.serve._private.common", "DeploymentStatusInfo.from_proto", ("proto",)),
    ("is_gone", "ray.serve._private.common", "DeploymentStatus.DEPLOY_FAILED", None),
    ("is_gone", "ray.serve._private.common", "DeploymentStatusTrigger.DELETING", None),
    ("is_gone", "ray.serve.generated.serve_pb2", "DeploymentStatusInfo", None),
    ("ClusterStore", "ray.experimental.internal_kv", "_internal_kv_del", ("key", "namespace")),
]


@pytest.mark.parametrize(("function", "module", "name", "parameters"), _USED, ids=str)
def test_ray_has_it(function: str, module: str, name: str, parameters: tuple[str, ...] | None) -> None:
    assert hasattr(ray_internals, function)
    broken = f"Ray {ray.__version__}: serve_app.ray_internals.{function} needs {module}.{name}"
    found = import_module(module)
    for part in name.split("."):
        assert hasattr(found, part), f"{broken}, which is gone"
        found = getattr(found, part)
    if parameters is not None:
        has = inspect.signature(found).parameters
        assert set(parameters) <= set(has), f"{broken} with {parameters}; it takes {tuple(has)}"


def test_every_function_is_held_to_ray() -> None:
    functions = {name for name in ray_internals.__all__ if callable(getattr(ray_internals, name))}
    assert {function for function, *_ in _USED} == functions


def test_ray_reads_the_environment_that_is_set(tmp_path: Path) -> None:
    is_set = {*FAST_ENVIRONMENT, *_LOCAL_ENVIRONMENT, *haproxy_environment("haproxy", tmp_path)}
    is_set |= set(re.findall(r"\bRAY_SERVE_[A-Z_]+(?==)", (_ROOT / "cluster.yaml").read_text()))
    sources = "".join(path.read_text() for path in _RAY.joinpath("serve", "_private").glob("*.py"))
    unread = {name for name in is_set if name.startswith("RAY_SERVE_") and f'"{name}"' not in sources}
    assert not unread, f"Ray {ray.__version__} does not read {sorted(unread)}"


def test_only_this_module_uses_what_is_private() -> None:
    private = re.compile(r"^\s*(from|import) ray\.(\S*\.)?(_\w+|context|experimental)|\bray\._\w+", re.MULTILINE)
    using = {path.name for path in _ROOT.joinpath("serve_app").rglob("*.py") if private.search(path.read_text())}
    assert using == {"ray_internals.py"}


def test_the_version_of_ray_is_bounded() -> None:
    requirements = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (bounds,) = (Requirement(text).specifier for text in requirements if text.startswith("ray"))
    assert ray.__version__ in bounds
    major, minor, *_ = ray.__version__.split(".")
    assert f"{major}.{int(minor) + 1}.0" not in bounds
