"""The steps of one process, without a cluster around them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from typing import Any, ClassVar

import pytest
from ray.serve import context
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.config import DeploymentConfig
from ray.serve.schema import ReplicaRank
from toys import draw, encoded

from classifiers import SetupError
from graph import Frame, load_plan
from graph.messages import CropSpec, StepRequest
from serve_app.hosting import StepHost

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


async def host(*steps: dict[str, Any], of: str = "detect") -> StepHost:
    plan = load_plan({"pipeline": list(steps)})
    made = StepHost(plan, of)
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


async def test_a_model_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.hosting._STUCK_AFTER_S", 0.05)
    steps = await host({"name": "hangs", "class": "toys.Sleeper", "params": {"seconds": 0.5}}, of="hangs")
    steps.check_health()
    task = asyncio.ensure_future(steps.call("hangs", request()))
    await asyncio.sleep(0.3)
    with pytest.raises(RuntimeError, match="step 'hangs': a batch has been in the model"):
        steps.check_health()
    await task
    steps.check_health()


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
        from serve_app.hosting import _cap_gpu_memory

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
