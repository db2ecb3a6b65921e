"""The same results wherever the steps run: each in its deployment, in that of another one, or in the ingress."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from toys import draw, encoded

from graph import VisionPipeline
from graph.plan.plan import load_plan
from serve_app.deployments.options import OPEN_GATEWAY, gateway_options, step_options
from serve_app.rendering.serve_file import render

STREET = draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150), ("person", 200, 20, 240, 100))
PERSONS = draw(("person", 10, 10, 50, 90), ("person", 200, 20, 240, 100))
NOTHING = draw()

STEPS: list[dict[str, Any]] = [
    {"name": "detect", "class": "toys.Blobs"},
    {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect"},
    {
        "name": "car_size",
        "class": "toys.Size",
        "depends_on": "detect",
        "condition": "'car' in context['detect']['detected_classes']",
        "crops": "detection['class_name'] == 'car'",
    },
    {"name": "failing", "class": "toys.Failing", "depends_on": "detect", "crops": "True"},
    {"name": "whole", "class": "toys.Size", "depends_on": ["detect", "colour"]},
]

PLACEMENTS: dict[str, dict[str, str]] = {
    "step": {"colour": "detect", "car_size": "detect", "failing": "detect", "whole": "colour"},
    "ingress": {"detect": "ingress", "colour": "detect", "failing": "detect"},
}


def pipeline(name: str) -> dict[str, Any]:
    steps = copy.deepcopy(STEPS)
    for step in steps:
        if step["name"] in PLACEMENTS[name]:
            step["serve"] = {"colocate_with": PLACEMENTS[name][step["name"]]}
    return {"name": f"with_{name}", "pipeline": steps}


Deploy = Callable[[dict[str, Any]], httpx.Client]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, serve_deploy: Callable[[str], httpx.Client]) -> Iterator[Deploy]:
    from ray import serve

    folder, names = tmp_path_factory.mktemp("placed"), set()

    def deploy(pipeline: dict[str, Any]) -> httpx.Client:
        names.add(pipeline["name"])
        file = folder / f"{pipeline['name']}.yaml"
        file.write_text(yaml.safe_dump(pipeline))
        return serve_deploy(render(file))

    yield deploy
    for name in names:
        serve.delete(name, _blocking=False)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in PLACEMENTS])
def served(request: pytest.FixtureRequest, deployed: Deploy) -> tuple[str, httpx.Client]:
    return request.param, deployed(pipeline(request.param))


def post(client: httpx.Client, image: np.ndarray) -> dict[str, Any]:
    response = client.post("/v1/images", content=encoded(image), headers={"Content-Type": "image/png"})
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


def test_the_results_and_their_identity_are_those_of_steps_apart(
    served: tuple[str, httpx.Client], cluster: Any
) -> None:
    name, client = served
    with VisionPipeline({"name": f"with_{name}", "pipeline": STEPS}) as local:
        for image in (STREET, PERSONS, NOTHING, STREET[:1, :1]):
            result, expected = post(client, image), local.run(encoded(image))
            assert result["context"] == expected["context"]
            assert result["pipeline"] == expected["pipeline"]
            ends = [
                [(s["name"], s["status"], s.get("reason"), s.get("error")) for s in r["steps"]]
                for r in (result, expected)
            ]
            assert ends[0] == ends[1]
    assert client.get("/v1/pipeline").json()["fingerprint"] == expected["pipeline"]["fingerprint"]
    deployments = set(cluster.applications()[f"with_{name}"]["deployments"])
    assert deployments == {"step": {"detect", "gateway"}, "ingress": {"car_size", "whole", "gateway"}}[name]


def test_images_that_are_none_are_refused(served: tuple[str, httpx.Client]) -> None:
    _, client = served
    response = client.post("/v1/images", content=encoded(STREET)[:-40], headers={"Content-Type": "image/png"})
    assert response.status_code == 422
    assert client.get("/readyz").status_code == 200


def test_tunables_reach_the_steps_of_every_process(
    served: tuple[str, httpx.Client], deployed: Deploy, cluster: Any, poll: Callable[..., Any]
) -> None:
    name, client = served
    before = post(client, STREET)
    replicas = {
        key: cluster.replicas(f"with_{name}", key) for key in cluster.applications()[f"with_{name}"]["deployments"]
    }
    changed = pipeline(name)
    changed["pipeline"][0]["params"] = {"min_area": 3500}  # the car only
    changed["pipeline"][1]["crops"] = "detection['class_name'] == 'car'"
    deployed(changed)
    poll(lambda: post(client, STREET)["context"]["detect"]["detected_classes"] == ["car"])
    poll(lambda: [o["label"] for o in post(client, STREET)["context"].get("colour", {}).get("objects", [])] == ["car"])
    assert post(client, STREET)["pipeline"]["fingerprint"] != before["pipeline"]["fingerprint"]
    assert {key: cluster.replicas(f"with_{name}", key) for key in replicas} == replicas


def test_what_shares_a_process_reserves_the_sum() -> None:
    steps = pipeline("step")["pipeline"]
    steps[0]["serve"] = {"num_cpus": 1, "memory_mb": 100, "num_replicas": 3, "resources": {"a10g": 1}}
    steps[1]["serve"] |= {"num_cpus": 0.1, "num_gpus": 0.25, "memory_mb": 28, "resources": {"a10g": 1}}
    plan = load_plan({"pipeline": steps})
    options = step_options(plan, "detect")
    reserved = {"num_cpus": 1.85, "num_gpus": 0.25, "memory": 128 * 2**20, "resources": {"a10g": 2}}
    assert options["ray_actor_options"] == reserved
    assert options["num_replicas"] == 3


def test_the_gateway_reserves_its_steps_too() -> None:
    steps = pipeline("ingress")["pipeline"]
    options = gateway_options(load_plan({"pipeline": steps}), OPEN_GATEWAY)
    assert options["ray_actor_options"] == {"num_cpus": 1.0, "num_gpus": 0}


def test_who_finds_no_room_is_told_when_to_try_again() -> None:
    options = gateway_options(load_plan({"pipeline": STEPS}), OPEN_GATEWAY)
    assert options["max_queued_requests"] > 0
    assert options["backpressure_config"] == {"status_code": 503, "retry_after_s": 1}
