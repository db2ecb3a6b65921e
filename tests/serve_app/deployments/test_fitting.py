"""Which replicas and which placement are chosen for a machine."""

from __future__ import annotations

from typing import Any

import pytest

from classifiers import SetupError
from graph import Plan, load_plan
from serve_app.config import GatewayConfig
from serve_app.deployments import GATEWAY, deployment_options
from serve_app.deployments.fitting import Machine, fit_to


def _plan(**serve: Any) -> Plan:
    return load_plan(
        {
            "name": "fit",
            "pipeline": [
                {"name": "detect", "class": "toys.Blobs", "serve": {"max_batch_size": 4, "num_cpus": 2}},
                {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect", "serve": serve},
                {"name": "last", "class": "toys.MeanColour", "depends_on": ["colour", "detect"]},
            ],
        }
    )


def _gateway(**options: Any) -> GatewayConfig:
    return GatewayConfig.model_validate({"auth": "none", **options})


@pytest.mark.parametrize("cpus", [1, 2, 64])
def test_all_steps_run_in_one_replica_of_the_gateway_per_core(cpus: int) -> None:
    fitted = fit_to(Machine(cpus), _plan(), _gateway())

    assert fitted.is_changed
    assert fitted.plan.hosts == ()
    options = deployment_options(fitted.plan, fitted.gateway, None)[GATEWAY]
    assert options["num_replicas"] == cpus
    assert options["ray_actor_options"]["num_cpus"] == pytest.approx(1, abs=0.001)


def test_results_are_those_of_the_file() -> None:
    plan = _plan()
    fitted = fit_to(Machine(2), plan, _gateway())

    assert fitted.plan.structure_digest == plan.structure_digest
    assert [step.serve.max_batch_size for step in fitted.plan] == [step.serve.max_batch_size for step in plan]


@pytest.mark.parametrize(
    "chosen",
    [
        {"num_replicas": 1},
        {"autoscaling": {"max_replicas": 2}},
        {"colocate_with": "detect"},
        {"num_gpus": 0.5},
        {"resources": {"a10g": 1}},
        {"max_queued_requests": 5},
    ],
    ids=lambda chosen: next(iter(chosen)),
)
def test_a_file_that_chooses_is_left_as_it_is(chosen: dict[str, Any]) -> None:
    plan, gateway = _plan(**chosen), _gateway()
    fitted = fit_to(Machine(8), plan, gateway)

    assert not fitted.is_changed
    assert fitted.plan is plan
    assert fitted.gateway is gateway
    assert f"sets {next(iter(chosen))} of 'colour'" in fitted.choice


@pytest.mark.parametrize("options", [{"num_replicas": 3}, {"autoscaling": {"max_replicas": 3}}], ids=str)
def test_the_replicas_that_the_gateway_block_chooses_are_kept(options: dict[str, Any]) -> None:
    fitted = fit_to(Machine(8), _plan(), _gateway(**options))

    assert fitted.plan.hosts == ()
    assert fitted.gateway.shares == 3
    assert "3 gateway replicas" in fitted.choice


def test_a_gateway_that_reserves_more_than_a_core_leaves_the_steps_nothing() -> None:
    fitted = fit_to(Machine(8), _plan(), _gateway(num_cpus=2))

    assert {step.serve.num_cpus for step in fitted.plan} == {0}


@pytest.mark.parametrize("text", ["16", "cpus", "cpus=", "cpus=0", "cpus=x", "cores=4", "cpus=2.5", ""])
def test_a_machine_that_cannot_be_read(text: str) -> None:
    with pytest.raises(SetupError, match="such as cpus=16"):
        Machine.parse(text)


def test_a_machine() -> None:
    assert Machine.parse("cpus=16") == Machine(16)
    assert Machine.this().cpus >= 1
