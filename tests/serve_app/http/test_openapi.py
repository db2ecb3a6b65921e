"""Requests generated from the OpenAPI document: no fault of ours, and every answer as the document says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest
import schemathesis
from gateways import PIPELINE, PNG, config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from classifiers.imaging.decoding import ImageLimits
from graph import Engine, LocalBackend, load_plan
from serve_app.access.key_file import create_key
from serve_app.config.intake_config import SourcesConfig
from serve_app.http.application import make_app
from serve_app.http.job_desk import JobDesk
from serve_app.images import Sources, Uploads
from serve_app.queues import queue_from_url
from serve_app.results import ResultStore, objects_from_uri

pytestmark = pytest.mark.filterwarnings("ignore")

# What the document promises. Generated images are none, so that hardly any is answered with 200.
CHECKS = [
    schemathesis.checks.not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory, moto: str) -> Any:
    folder: Path = tmp_path_factory.mktemp("keys")
    file = folder / "keys.json"
    key = create_key(file, "acme", ["infer", "jobs", "admin"])
    rules = config(
        auth={"keys_file": str(file)},
        rate_limits={"default": {"requests_per_second": 200, "burst": 20, "concurrent": 2}},
        fetch={"schemes": ["https"], "hosts": ["images.example"]},
    )
    plan = load_plan(PIPELINE)
    backend = LocalBackend(plan)
    engine = Engine(plan, backend)
    boto3.client("s3", endpoint_url=moto, region_name="us-east-1").create_bucket(Bucket="uploads")
    uploads = Uploads(objects_from_uri(f"s3://uploads?endpoint_url={moto}"), ImageLimits().max_bytes)
    sources = Sources(SourcesConfig(), rules.fetch, ImageLimits(), 4, uploads)
    store = ResultStore.from_uri(str(folder / "results"))
    desk = JobDesk(queue_from_url(f"sqlite:///{folder}/jobs.db"), store, sources, uploads)
    yield make_app(lambda: engine, rules, desk=desk), key
    backend.close()


OPERATIONS = [
    "POST /v1/jobs",
    "GET /v1/jobs/{job_id}",
    "DELETE /v1/jobs/{job_id}",
    "GET /v1/jobs/{job_id}/picture",
    "POST /v1/uploads",
    "POST /v1/images",
    "POST /v1/explain",
    "GET /v1/pipeline",
    "GET /v1/schema",
    "GET /healthz",
    "GET /readyz",
]


@pytest.fixture(scope="module")
def document(application: Any) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", application[0])


LARGE = ["POST /v1/what-if"]
"""Bodies of many results, which take minutes to generate; see test_explain_routes.py."""


@pytest.mark.parametrize("label", OPERATIONS)
@pytest.mark.parametrize("with_key", [True, False], ids=["key", "no-key"])
def test_generated_requests(application: Any, document: Any, label: str, with_key: bool) -> None:
    _, key = application
    method, path = label.split()
    operation = document[path][method]
    examples = 80 if method == "POST" and with_key else 15 if method == "POST" or "{" in path else 3

    # not schemathesis's own marks, which want another pytest
    @given(case=st.data())
    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def run(case: Any) -> None:
        drawn = case.draw(operation.as_strategy(generation_mode=case.draw(st.sampled_from(list(GenerationMode)))))
        response = drawn.call(headers={"Authorization": f"Bearer {key}"} if with_key else None)
        drawn.validate_response(response, checks=CHECKS)
        as_promised(response)

    run()


def test_no_operation_is_left_out(application: Any) -> None:
    paths = application[0].openapi()["paths"]
    assert {f"{method.upper()} {path}" for path, item in paths.items() for method in item} == {*OPERATIONS, *LARGE}


def as_promised(response: Any) -> None:
    """The error contract, which the document says in words."""
    assert response.headers["x-request-id"]
    if response.status_code >= 400:
        assert response.headers["content-type"] == ["application/problem+json"]
        body = response.json()
        assert body["status"] == response.status_code
        assert body["instance"] == response.headers["x-request-id"][0]


def test_a_result_is_as_the_document_says(application: Any, document: Any) -> None:
    from starlette.testclient import TestClient

    app, key = application
    with TestClient(app) as client:
        response = client.post("/v1/images", content=PNG, headers={"X-API-Key": key, "Content-Type": "image/png"})
    assert response.status_code == 200
    document["/v1/images"]["POST"].validate_response(response)
