"""Why each step ran, and what other rules would change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from gateways import PNG, app_over, client_of, problem
from scrapes import growth

from graph import LocalBackend


@pytest.fixture
async def client(backend: LocalBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_over(backend)) as client:
        yield client


async def result_of(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.post("/v1/images", content=PNG, headers={"Content-Type": "image/png"})
    return dict(response.json())


def steps(response: httpx.Response) -> dict[str, dict[str, Any]]:
    assert response.status_code == 200, response.text
    return {step["name"]: step for step in response.json()["steps"]}


async def test_a_result_and_its_image_are_explained_alike(client: httpx.AsyncClient) -> None:
    result = await result_of(client)
    of_result = steps(await client.post("/v1/explain", json={"result": result}))
    of_image = steps(await client.post("/v1/explain", content=PNG, headers={"Content-Type": "image/png"}))
    assert of_result == of_image
    slow = of_result["slow"]
    assert (slow["status"], slow["condition"]["held"]) == ("skipped", False)
    assert slow["condition"]["values"] == [["image['metadata']", {}]]


async def test_an_image_that_is_explained_is_counted_and_a_result_is_not(client: httpx.AsyncClient) -> None:
    result = await result_of(client)
    with growth() as grown:
        assert (await client.post("/v1/explain", json={"result": result})).status_code == 200
        for body, status in ((PNG, 200), (b"no image", 422)):
            response = await client.post("/v1/explain", content=body, headers={"Content-Type": "image/png"})
            assert response.status_code == status
    images = {key: value for key, value in grown.items() if key.startswith("visiongraph_images_total")}
    name = result["pipeline"]["name"]
    assert images == {
        f"visiongraph_images_total{{pipeline={name},source=explain,outcome={outcome}}}": 1
        for outcome in ("ok", "refused")
    }
    assert grown["visiongraph_image_seconds_count{source=explain}"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": [{"name": "other", "status": "ok"}]}, "there is no step 'other' here"),
        ({"context": {"detect": {"detections": [{}]}}}, "this is not a result of this pipeline"),
        ({"image": 3}, "result.image"),
    ],
)
async def test_what_is_no_result_of_this_pipeline_is_refused(
    client: httpx.AsyncClient, change: dict[str, Any], words: str
) -> None:
    result = {**await result_of(client), **change}
    assert words in problem(await client.post("/v1/explain", json={"result": result}), 400, "malformed")["detail"]


async def test_other_rules_are_counted_without_a_model(client: httpx.AsyncClient) -> None:
    result = await result_of(client)
    rules = {
        "slow": {"condition": "'slow' not in image['metadata']"},
        "colour": {"crops": "detection['confidence'] > 2"},
    }
    changed = steps(await client.post("/v1/what-if", json={"results": [result, result], "rules": rules}))
    assert (changed["slow"]["before"]["runs"], changed["slow"]["after"]["runs"]) == (0, 2)
    assert changed["colour"]["before"]["crops"] > 0
    assert changed["colour"]["after"] == {"runs": 0, "crops": 0, "unknown": 0}


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"slow": {"condition": "imag['width']"}}, "did you mean 'image'"),
        ({"slow": {"condition": "__import__('os')"}}, "is not allowed"),
        ({"slow": {"condition": "9**9**9**9"}}, "step 'slow'"),
        ({"slow": {"condition": "1" * 3000}}, "2000"),
        ({"quick": {"condition": "True"}}, "there is no step 'quick'"),
        ({"slow": {"class": "os.system"}}, "class"),
    ],
)
async def test_mistakes_in_rules(client: httpx.AsyncClient, rules: dict[str, Any], words: str) -> None:
    body = {"results": [await result_of(client)], "rules": rules}
    found = problem(await client.post("/v1/what-if", json=body), 400, "malformed")
    assert words in found["detail"]


async def test_the_number_of_results_is_bounded(client: httpx.AsyncClient) -> None:
    body = {"results": [await result_of(client)] * 101, "rules": {}}
    problem(await client.post("/v1/what-if", json=body), 400, "malformed")


async def test_a_result_without_steps_says_nothing_of_them(client: httpx.AsyncClient) -> None:
    result = {**await result_of(client), "steps": []}
    counted = steps(await client.post("/v1/what-if", json={"results": [result], "rules": {}}))
    assert counted["slow"]["before"] == {"runs": 0, "crops": 0, "unknown": 1}
