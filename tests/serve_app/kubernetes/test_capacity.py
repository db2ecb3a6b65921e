from __future__ import annotations

from typing import Any

import pytest

from classifiers import SetupError
from graph import load_plan
from serve_app.config import read_gateway_config, read_intake_config
from serve_app.deployments import demands
from serve_app.kubernetes.capacity import worker_groups
from serve_app.kubernetes.target import Target


def groups(
    serve: dict[str, Any], gateway: dict[str, Any] | None = None, intake: dict[str, Any] | None = None, **target: Any
) -> dict[str, tuple[int, int]]:
    """Least and most pods of each group, for a pipeline with one step."""
    plan = load_plan({"pipeline": [{"name": "detect", "class": "toys.Blobs", "serve": serve}]})
    wanted = demands(
        plan,
        read_gateway_config({"auth": "none", **(gateway or {})}),
        None if intake is None else read_intake_config({"queue": "sqs://q?region=r", "results": "s3://b", **intake}),
    )
    found = worker_groups(wanted, Target(image="i", **target))
    return {group.name: (group.min_pods, group.max_pods) for group in found}


def test_what_reserves_no_gpu_is_on_cpu_pods() -> None:
    assert groups({"num_cpus": 0.25}) == {"cpu": (1, 1)}


def test_shares_of_a_gpu_fill_one() -> None:
    assert groups({"num_gpus": 0.25, "num_replicas": 4}) == {"cpu": (1, 1), "gpu": (1, 2)}


def test_replicas_that_do_not_share_a_gpu_have_one_each() -> None:
    assert groups({"num_gpus": 0.6, "num_replicas": 4})["gpu"] == (4, 8)


def test_an_update_has_room_for_twice_the_replicas() -> None:
    assert groups({"num_cpus": 4, "num_replicas": 3})["cpu"] == (4, 7)  # three or six, and the gateways


def test_autoscaling_moves_between_least_and_most() -> None:
    serve = {"num_gpus": 1, "autoscaling": {"min_replicas": 0, "max_replicas": 5}}
    assert groups(serve)["gpu"] == (0, 10)


def test_memory_fills_a_pod_too() -> None:
    assert groups({"num_cpus": 0, "memory_mb": 9 * 1024, "num_replicas": 3})["cpu"] == (3, 6)


def test_two_gateways_are_on_two_pods() -> None:
    assert groups({}, gateway={"num_replicas": 2})["cpu"] == (2, 2)


def test_queue_workers_are_on_cpu_pods() -> None:
    assert groups({"num_gpus": 1}, intake={"num_cpus": 1, "num_replicas": 8})["cpu"] == (3, 5)


def test_a_gateway_with_the_detector_in_its_process_is_on_gpu_pods() -> None:
    assert groups({"num_gpus": 0.5, "colocate_with": "ingress"}) == {"gpu": (1, 1)}


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        ({"num_cpus": 6}, "'detect' reserves 6 CPUs; a worker pod has 4: raise --worker-cpus"),
        ({"num_gpus": 2}, "'detect' reserves 2 GPUs; a worker pod has 1: raise --worker-gpus"),
        ({"memory_mb": 20_000}, "'detect' reserves 19.5 GiB of memory; a worker pod has 16"),
        ({"resources": {"a10g": 1}}, "the custom resource 'a10g', which no pod has: use num_gpus with --gpu-type"),
    ],
)
def test_a_step_that_fits_no_pod_is_refused(serve: dict[str, Any], words: str, manifests: Any) -> None:
    with pytest.raises(SetupError) as error:
        manifests(steps={"detect": serve})
    assert words in str(error.value)
