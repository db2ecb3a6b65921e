"""The steps of one process, without a cluster around them."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ray.serve import context
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.config import DeploymentConfig
from ray.serve.schema import ReplicaRank
from toys import draw, encoded

from classifiers import SetupError
from graph import Frame, load_plan
from graph.engine.messages import CropSpec, StepRequest, Target
from serve_app.deployments.crashes import Crashes, InProgress
from serve_app.deployments.hosting import StepHost
from serve_app.refusals import Quarantined

STREET = draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150), ("person", 200, 20, 240, 100))
SPEC = CropSpec((8, 8), "stretch", 0.0)

DETECT = {"name": "detect", "class": "toys.Blobs"}
COLOUR = {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect"}
SIZE = {"name": "size", "class": "toys.Size", "depends_on": "detect", "crops": "True"}


@pytest.fixture(autouse=True)
def replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context in which ``@serve.batch`` works: that of a replica."""
    monkeypatch.setattr(context, "_INTERNAL_REPLICA_CONTEXT", None)  # and back again after the test
    context._set_internal_replica_context(
        replica_id=ReplicaID("r", DeploymentID("d", "a")),
        servable_object=StepHost,
        _deployment_config=DeploymentConfig(max_ongoing_requests=64),
        rank=ReplicaRank(rank=0, node_rank=0, local_rank=0),
        world_size=1,
    )


@pytest.fixture(autouse=True)
def interval() -> Iterator[float]:
    """Python's switch interval, which a step on a GPU changes for the whole process; back again after the test."""
    before = sys.getswitchinterval()
    yield before
    sys.setswitchinterval(before)


async def host(
    *steps: dict[str, Any], of: str = "detect", deadline_s: float = 30.0, crashes: Crashes | None = None
) -> StepHost:
    plan = load_plan({"pipeline": list(steps)})
    made = StepHost(plan, of, deadline_s, crashes)
    await made.reconfigure(plan)
    return made


def request(image: Any = STREET, **more: Any) -> StepRequest:
    frame = Frame.from_bytes(encoded(image))
    return StepRequest(image={"width": 320, "height": 240, "metadata": {}}, context={}, frame=frame, **more)


async def test_the_host_answers_its_guest_along_and_keeps_its_crops() -> None:
    steps = await host(DETECT, COLOUR | {"serve": {"colocate_with": "detect"}}, SIZE)
    assert "colour" in steps
    assert "size" not in steps
    answer = await steps.call("detect", request(cut_for={"colour": SPEC, "size": SPEC}))
    assert set(answer.crops) == {"size"}
    carried = answer.carried["colour"]
    assert carried.targets == (0, 1)
    assert carried.answer.result is not None
    assert [found["label"] for found in carried.answer.result["objects"]] == ["person", "person"]
    assert carried.answer.info == steps.describe()["colour"]


async def test_a_guest_that_fails_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    failing = {"name": "bad", "class": "toys.Failing", "depends_on": "detect", "crops": "True"}
    steps = await host(DETECT, failing | {"serve": {"colocate_with": "detect"}})
    answer = await steps.call("detect", request(cut_for={"bad": steps.describe()["bad"].crop}))
    assert answer.error is None
    assert answer.carried["bad"].answer.error is not None
    assert answer.carried["bad"].answer.error.type == "ValueError"


async def test_each_step_has_batches_of_its_own() -> None:
    sleeper = {"class": "toys.Sleeper", "params": {"seconds": 0.02}}
    sizes = [
        {"name": name, **sleeper, "serve": {"colocate_with": "ingress", "max_batch_size": size}}
        for name, size in (("small", 2), ("large", 8))
    ]
    steps = await host(*sizes, of="ingress")
    answers = await asyncio.gather(*(steps.call(name, request()) for name in ("small", "large") for _ in range(8)))
    batches = [answer.result["batch"] for answer in answers if answer.result is not None]
    assert len(batches) == 16
    assert max(batches[:8]) == 2
    assert max(batches[8:]) > 2


@pytest.mark.parametrize(
    ("cores", "options", "threads"),
    [("1", {}, 1), ("2", {}, 2), ("1", {"num_gpus": 0.25}, 2)],
    ids=["one core", "two cores", "a GPU to keep busy"],
)
async def test_steps_that_share_a_core_take_turns(
    cores: str, options: dict[str, Any], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", cores)
    names, serve = ("first", "second"), {"colocate_with": "ingress", **options}
    steps = await host(*({"name": name, "class": "toys.Where", "serve": serve} for name in names), of="ingress")
    answers = [await steps.call(name, request()) for name in names]
    assert len({answer.result["thread"] for answer in answers if answer.result is not None}) == threads


async def test_the_event_loop_is_free_while_a_model_works() -> None:
    steps = await host(DETECT, {"name": "slow", "class": "toys.Sleeper", "params": {"seconds": 0.3}}, of="slow")
    task, turns = asyncio.ensure_future(steps.call("slow", request())), 0
    while not task.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert turns >= 10


class TestTunables:
    """``toys.Loaded`` says how it was made, warmed up and configured."""

    STEP: ClassVar[dict[str, Any]] = {"name": "loaded", "class": "toys.Loaded"}

    async def say(self, steps: StepHost) -> dict[str, Any]:
        return (await steps.call("loaded", request())).result or {}

    async def test_the_model_is_loaded_and_warmed_up_with_what_is_deployed(self) -> None:
        steps = await host(self.STEP | {"params": {"level": 7}, "serve": {"max_batch_size": 32}}, of="loaded")
        assert await self.say(steps) == {"made_with": 7, "level": 7, "warmed_up": [32]}

    async def test_later_ones_are_taken_without_loading_it_again(self) -> None:
        steps = await host(self.STEP | {"params": {"level": 7}}, of="loaded")
        await steps.reconfigure(load_plan({"pipeline": [self.STEP | {"params": {"level": 8}}]}))
        assert await self.say(steps) == {"made_with": 7, "level": 8, "warmed_up": [8]}

    async def test_a_larger_batch_is_warmed_up_a_smaller_one_is_not(self) -> None:
        steps = await host(self.STEP, of="loaded")
        for size in (32, 4):
            await steps.reconfigure(load_plan({"pipeline": [self.STEP | {"serve": {"max_batch_size": size}}]}))
        assert (await self.say(steps))["warmed_up"] == [8, 32]

    async def test_under_load_every_answer_carries_the_configuration_that_computed_it(self) -> None:
        plans = [load_plan({"pipeline": [self.STEP | {"params": {"level": level}}]}) for level in range(4)]
        configs = {plan.step_digest("loaded"): level for level, plan in enumerate(plans)}
        steps, seen = await host(self.STEP, of="loaded"), set()

        async def ask() -> None:
            for _ in range(40):
                answer = await steps.call("loaded", request())
                assert answer.result is not None
                assert answer.result["level"] == configs[answer.info.config]
                seen.add(answer.result["level"])

        async def change() -> None:
            for _ in range(8):
                for plan in plans:
                    await steps.reconfigure(plan)

        await asyncio.gather(change(), *(ask() for _ in range(8)))
        assert len(seen) > 1


SLEEPS = {"name": "sleeps", "class": "toys.Sleeper", "params": {"seconds": 0.4}}


async def _complaint(steps: StepHost, step: str, call: StepRequest) -> str | None:
    """What the health check says while a call is under way."""
    steps.check_health()
    task = asyncio.ensure_future(steps.call(step, call))
    said = None
    while not task.done():
        try:
            steps.check_health()
        except RuntimeError as error:
            said = str(error)
        await asyncio.sleep(0.02)
    steps.check_health()
    return said


@pytest.mark.parametrize(
    ("options", "deadline_s", "limit"),
    [({}, 0.2, r"0\.2"), ({"timeout_ms": 300}, 30.0, r"0\.3"), ({"timeout_ms": 60_000}, 0.1, None), ({}, 30.0, None)],
    ids=["the deadline", "the step's own", "it may take long", "in time"],
)
async def test_a_model_that_hangs_is_named(
    options: dict[str, Any], deadline_s: float, limit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.deployments.hosting._LEAST_STUCK_S", 0.05)
    steps = await host(SLEEPS | options, of="sleeps", deadline_s=deadline_s)
    said = await _complaint(steps, "sleeps", request())
    if limit is None:
        assert said is None
    else:
        assert said is not None
        assert re.match(rf"step 'sleeps' has been working on one batch for over {limit} s", said)


async def test_a_decoder_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.deployments.hosting._LEAST_STUCK_S", 0.05)
    monkeypatch.setattr(Frame, "pixels", lambda self: time.sleep(0.4) or draw())
    steps = await host(DETECT, deadline_s=0.1)
    assert "step 'detect' has been" in (await _complaint(steps, "detect", request()) or "")


async def test_a_call_of_many_batches_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.deployments.hosting._LEAST_STUCK_S", 0.05)
    sleeps = SLEEPS | {"params": {"seconds": 0.1}, "depends_on": "detect", "crops": "True"}
    sleeps |= {"serve": {"max_batch_size": 1}}
    steps = await host(DETECT, sleeps, of="sleeps", deadline_s=0.25)
    crops = tuple(STREET[:8, :8].copy() for _ in range(5))
    crop = steps.describe()["sleeps"].crop
    call = request(targets=tuple(Target(index, {}) for index in range(5)), crops=crops, crop=crop)
    assert await _complaint(steps, "sleeps", call) is None


async def test_what_a_process_works_on_is_recorded(tmp_path: Path) -> None:
    in_progress = InProgress(tmp_path, "me", "sleeps")
    steps = await host(SLEEPS, of="sleeps", crashes=Crashes(tmp_path, {}, in_progress))
    call = replace(request(), sha256="ab" * 32)
    record = in_progress.path
    before = record.read_bytes()
    task = asyncio.ensure_future(steps.call("sleeps", call, alone=True))
    for _ in range(500):
        if b"\xab" * 32 in record.read_bytes():
            break
        await asyncio.sleep(0.01)
    assert record.read_bytes()[1] == 1
    await task
    assert record.read_bytes() == before


async def test_a_suspect_is_run_alone_and_acquitted(tmp_path: Path) -> None:
    suspects = _Suspects(tmp_path, {})
    steps = await host(SLEEPS, of="sleeps", crashes=suspects)
    calls = [replace(request(), sha256=sha) for sha in ("suspect", "other", "other", "refused")]
    answers = await asyncio.gather(*(steps.call("sleeps", call) for call in calls))
    assert answers[0].result == {"batch": 1}
    assert [answer.result is None for answer in answers] == [False, False, False, True]
    assert answers[3].error is not None
    assert isinstance(answers[3].error.input_error, Quarantined)
    assert suspects.acquitted_since("sleeps", "suspect", 1.0)
    assert not suspects.acquitted_since("sleeps", "other", 1.0)


async def test_one_that_came_many_times_is_run_alone_once(tmp_path: Path) -> None:
    suspects = _Suspects(tmp_path, {})
    steps = await host(SLEEPS, of="sleeps", crashes=suspects)
    began = time.monotonic()
    calls = [replace(request(), sha256="suspect") for _ in range(8)]
    answers = await asyncio.gather(*(steps.call("sleeps", call, alone=True) for call in calls))
    assert [answer.result for answer in answers].count({"batch": 1}) >= 1
    assert time.monotonic() - began < 5 * 0.4


class _Suspects(Crashes):
    def is_suspect(self, host: str, image: str) -> bool:
        if image == "refused":
            raise Quarantined("refused")
        return image == "suspect"


async def test_a_model_that_cannot_be_loaded_is_named() -> None:
    step = {"name": "size", "class": "toys.Size", "decode": "reduced"}
    with pytest.raises(SetupError, match="step 'size'"):
        await host(step, of="size")


async def test_a_process_that_feeds_a_gpu_gets_the_interpreter_back_sooner(interval: float) -> None:
    await host(DETECT)
    assert sys.getswitchinterval() == interval
    await host(DETECT | {"serve": {"num_gpus": 0.25}})
    assert sys.getswitchinterval() < interval / 5


def test_a_replica_is_held_to_its_share_of_the_memory() -> None:
    if not import_module("torch").cuda.is_available():
        pytest.skip("there is no GPU here")
    program = """
        import torch
        from serve_app.deployments.hosting import _cap_gpu_memory

        _cap_gpu_memory(0.05)
        total = torch.cuda.get_device_properties(0).total_memory
        torch.empty(int(total * 0.03), dtype=torch.uint8, device="cuda")
        try:
            torch.empty(int(total * 0.08), dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError:
            print("held")
    """
    # in a process of its own: the cap stays
    command = [sys.executable, "-c", textwrap.dedent(program)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "held"
