"""The ``intake:`` block: what may stand in it, and what a mistake says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from classifiers import SetupError
from serve_app.app import AppArgs
from serve_app.config.intake_config import IntakeConfig, local_intake, read_intake_config
from serve_app.deployments.options import worker_options
from serve_app.deployments.worker import in_flight
from serve_app.queues.urls import with_prefetch
from serve_app.rendering.serve_file import render

BLOCK: dict[str, Any] = {"queue": "redis://127.0.0.1/0?stream=jobs", "results": "s3://results/jobs"}
PIPELINE: dict[str, Any] = {"name": "toy", "pipeline": [{"name": "detect", "class": "toys.Blobs"}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queue": None}, "intake.queue: is missing; say where images come from: amqp://"),
        ({"results": None}, "intake.results: is missing; say where results go"),
        ({"queue": "kafka://x"}, "intake.queue: the queue URL's scheme is 'kafka'; known forms"),
        ({"queue": "sqlite:///jobs.db"}, "intake.queue: 'sqlite:///jobs.db' must name a file by its absolute path"),
        ({"results": "out"}, "intake.results: 'out' must be an absolute path"),
        ({"results": "ftp://x/y"}, "intake.results: results cannot be kept at ftp://"),
        ({"in_flght": 3}, "intake.in_flght: unknown key; did you mean 'in_flight'?"),
        ({"fetch": {"hots": []}}, "intake.fetch.hots: unknown key; did you mean 'hosts'?"),
        ({"fetch": {"files": ["/photos"]}}, "intake: fetch.files: who can write to the queue could read files"),
        ({"fetch": {"files": ["/photos/*.jpg"]}}, "intake.fetch.files.0: '/photos/*.jpg' is a pattern; a bucket or a"),
        ({"num_replicas": 2, "autoscaling": {"max_replicas": 4}}, "intake: give num_replicas or autoscaling, not both"),
        ({"max_attempts": 0}, "intake.max_attempts: must be at least 1"),
    ],
)
def test_a_mistake_says_where_and_what_to_do(change: dict[str, Any], message: str) -> None:
    block = {key: value for key, value in {**BLOCK, **change}.items() if value is not None}
    with pytest.raises(SetupError) as error:
        read_intake_config(block)
    assert str(error.value).startswith(message)


def test_paths_in_a_file_are_beside_it_and_what_is_given_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "deploy" / "intake.yaml"
    file.parent.mkdir()
    file.write_text("intake:\n  queue: sqlite:///q.db?lease_s=5\n  results: out\n  fetch: {files: [photos]}\n")
    config = read_intake_config(file)
    assert config.queue == f"sqlite:///{tmp_path}/deploy/q.db?lease_s=5"
    assert config.results == f"{tmp_path}/deploy/out"
    assert config.fetch.files == (f"{tmp_path}/deploy/photos",)
    monkeypatch.chdir(tmp_path)
    given = read_intake_config(file, queue="sqlite:///other.db", results=None)
    assert (given.queue, given.results) == (f"sqlite:///{tmp_path}/other.db", config.results)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("queue: sqlite:///a.db\nresults: out\nqueue: sqlite:///b.db\n", ":3: key 'queue': duplicate key 'queue'"),
        ("intake: {fetch: {files: [a], files: [b]}}\n", ":1: key 'intake.fetch.files': duplicate key 'files'"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "intake.yaml"
    file.write_text(text)
    with pytest.raises(SetupError) as caught:
        read_intake_config(file)
    assert f"{file}{says}" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"results": ""}, "intake.results: the address for results is empty"),
        ({"queue": "sqlite:///"}, "intake.queue: 'sqlite:///' must name a file"),
        ({"fetch": {"files": [""]}}, "intake.fetch.files.0: '' must be an absolute path"),
        ({"fetch": {"files": [1]}}, "intake.fetch.files.0"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    file = tmp_path / "intake.yaml"
    file.write_text(json.dumps({"queue": "sqlite:///q.db", "results": "out", **change}))
    with pytest.raises(SetupError, match=says):
        read_intake_config(file)
    if "results" in change:
        with pytest.raises(SetupError, match=says):
            read_intake_config(BLOCK, results="")


def test_keys_that_begin_with_x_are_for_anchors(tmp_path: Path) -> None:
    file = tmp_path / "intake.yaml"
    file.write_text("x-hosts: &hosts [cam.example]\nqueue: sqlite:///q.db\nresults: out\nfetch: {hosts: *hosts}\n")
    assert read_intake_config(file).fetch.hosts == ("cam.example",)


@pytest.mark.parametrize("text", ["[]", "3", "a: [", ""])
def test_a_file_that_has_no_block(tmp_path: Path, text: str) -> None:
    file = tmp_path / "intake.yaml"
    file.write_text(text)
    with pytest.raises(SetupError, match=r"intake.yaml"):
        read_intake_config(file)


def test_jobs_on_this_machine_need_nothing(tmp_path: Path) -> None:
    config = read_intake_config(local_intake(tmp_path / "jobs", tmp_path))
    assert config.queue == f"sqlite:///{tmp_path}/jobs/jobs.db"
    assert config.fetch.files == (str(tmp_path),)
    other = read_intake_config(local_intake(tmp_path / "jobs", None), queue=BLOCK["queue"])
    assert other.queue == BLOCK["queue"]


def test_a_serve_config_with_workers(tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text("name: toy\npipeline:\n  - {name: detect, class: toys.Blobs}\n")
    intake = IntakeConfig.model_validate({**BLOCK, "autoscaling": {"min_replicas": 0, "max_replicas": 4}})
    text = render(file, intake=intake)
    import yaml
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load(text)
    [application] = config["applications"]
    assert AppArgs.model_validate(application["args"]).intake == intake
    [*_, worker] = application["deployments"]
    assert worker["name"] == "worker"
    assert worker["autoscaling_config"]["policy"]["policy_kwargs"]["queue_url"] == BLOCK["queue"]
    ServeDeploySchema.model_validate(config)


def test_a_worker_has_in_hand_what_its_share_of_the_first_step_takes_twice() -> None:
    from graph import load_plan

    def room(serve: dict[str, Any], **more: Any) -> int:
        plan = load_plan({"name": "toy", "pipeline": [{"name": "detect", "class": "toys.Blobs", "serve": serve}]})
        return in_flight(plan, IntakeConfig.model_validate({**BLOCK, **more}))

    assert room({"max_batch_size": 8}) == 32
    assert room({"max_batch_size": 8, "num_replicas": 4}, num_replicas=2) == 64
    assert room({"max_batch_size": 1}, num_replicas=8) == 8
    assert room({"max_batch_size": 8}, in_flight=3) == 3


def test_a_worker_that_stops_gets_the_time_for_it() -> None:
    from graph import load_plan

    options = worker_options(load_plan(PIPELINE), IntakeConfig.model_validate({**BLOCK, "stop_s": 60}))
    assert options["graceful_shutdown_timeout_s"] > 60
    assert options["num_replicas"] == 1


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://u:p@h/v?queue=q", "amqp://u:p@h/v?queue=q&prefetch=40"),
        ("amqp://u:p@h/v?queue=q&prefetch=5", "amqp://u:p@h/v?queue=q&prefetch=5"),
        ("sqlite:////a.db", "sqlite:////a.db"),
    ],
)
def test_only_rabbitmq_is_told_how_much_to_send_ahead(url: str, expected: str) -> None:
    assert with_prefetch(url, 40) == expected
