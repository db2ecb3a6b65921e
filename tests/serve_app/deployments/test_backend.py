"""What becomes of calls to steps' deployments, with handles that do as the test says."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError, RequestCancelledError
from toys import draw

from classifiers import SetupError
from graph import Engine, Frame, Overloaded, Plan, StepUnavailable, Unreachable, load_plan
from graph.engine.messages import CropSpec, Priority, StepAnswer, StepInfo, StepRequest, Target
from serve_app.autoscaling import CallerLoad
from serve_app.deployments import backend as module
from serve_app.deployments.backend import ServeBackend
from serve_app.deployments.hosting import StepHost
from serve_app.deployments.step_groups import StepCall

DETECT = {"name": "detect", "class": "toys.Blobs"}
IDLE = {"name": "idle", "class": "toys.Size", "serve": {"autoscaling": {"min_replicas": 0, "max_replicas": 1}}}
GONE = DeploymentUnavailableError(DeploymentID("detect", "app"))


class Response:
    """A call under way."""

    def __init__(self, outcome: Any) -> None:
        self._future = asyncio.get_running_loop().create_future()
        if isinstance(outcome, Exception):
            self._future.set_exception(outcome)
        elif outcome is not None:
            self._future.set_result(outcome)
        self.cancelled = False

    def __await__(self) -> Any:
        try:
            return (yield from self._future.__await__())
        except asyncio.CancelledError:
            if self.cancelled:
                raise RequestCancelledError from None
            raise

    def cancel(self) -> None:
        self.cancelled = True
        self._future.cancel()


class Handle:
    """A deployment with replicas that say ``infos``, and whose calls end as ``outcomes`` say; ``None``: never."""

    def __init__(self, infos: list[dict[str, StepInfo]], *outcomes: Any) -> None:
        self.infos = infos
        self.outcomes = list(outcomes)
        self.responses: list[Response] = []
        self.groups: list[list[StepCall]] = []
        self.loads: list[CallerLoad] = []
        self.woken = False
        self.is_gone = False

    def options(self, **_: Any) -> Handle:
        return self

    @property
    def describe(self) -> Handle:
        self.woken = True
        self.outcomes.append({})
        return self

    def remote(self, *sent: Any) -> Response:
        outcome = self.outcomes.pop(0)
        if sent:
            self.groups.append(sent[0])
            self.loads.append(sent[1])
        if isinstance(outcome, StepAnswer):
            outcome = self.reply(outcome)
        self.responses.append(Response(outcome))
        return self.responses[-1]

    def reply(self, answer: StepAnswer) -> tuple[list[StepAnswer], int]:
        """The same answer to each call of the last group, from a replica where no group waits."""
        return [answer for _ in self.groups[-1]], 0

    def broadcast(self, method: str) -> Handle:
        assert method == "describe"
        return self

    async def results_async(self, *, timeout_s: float) -> list[dict[str, StepInfo]]:
        if not self.infos:
            raise GONE
        return self.infos


@pytest.fixture(autouse=True)
def serve(monkeypatch: pytest.MonkeyPatch) -> None:
    async def is_gone(handle: Handle) -> bool:
        return handle.is_gone

    monkeypatch.setattr(module, "replica_count", lambda handle: len(handle.infos))
    monkeypatch.setattr(module, "is_gone", is_gone)
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(module, "_SAY_EVERY_S", 0.02)


def plan(*steps: dict[str, Any], **params: Any) -> Plan:
    return load_plan({"pipeline": [DETECT | {"params": params}, *steps]})


def info(of: Plan, step: str = "detect") -> dict[str, StepInfo]:
    return {step: StepInfo(of.step_digest(step), "weights", CropSpec(None, "stretch", 0.0))}


def make(of: Plan, **handles: Handle) -> ServeBackend:
    return ServeBackend(of, handles, StepHost(of, "ingress"), 10_000_000, _NoCrashes())  # type: ignore[arg-type]


class _NoCrashes:
    def is_suspect(self, host: str, image: str) -> bool:
        return False

    async def after(self, replica: str, host: str, image: str) -> bool:
        return False


REQUEST = StepRequest(image={}, context={})
ANSWER = StepAnswer(info(plan())["detect"], result={})


class TestAgreeing:
    async def test_every_replica_must_have_the_plans_configuration(self, caplog: pytest.LogCaptureFixture) -> None:
        old, new = plan(), plan(min_area=9)
        handle = Handle([info(new), info(old)])
        backend = make(new, detect=handle)
        waiting = asyncio.create_task(backend.agree(new))
        with caplog.at_level(logging.WARNING):
            await asyncio.sleep(0.1)
        assert not waiting.done()
        assert f"step 'detect' is to have the configuration {new.step_digest('detect')[:12]} and has " in caplog.text
        assert old.step_digest("detect")[:12] in caplog.text
        handle.infos = [info(new)]
        await waiting
        assert await backend.describe() == info(new)

    async def test_a_step_must_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        handle = Handle([])
        waiting = asyncio.create_task(make(plan(), detect=handle).agree(plan()))
        with caplog.at_level(logging.WARNING):
            await asyncio.sleep(0.1)
        assert "step 'detect' does not answer" in caplog.text
        handle.infos = [info(plan())]
        await waiting

    async def test_one_that_never_does_ends_the_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_AGREE_S", 0.05)
        with pytest.raises(SetupError, match="not those of this version of the pipeline: step 'detect' is to have"):
            await make(plan(), detect=Handle([info(plan(min_area=9))])).agree(plan())

    async def test_a_step_at_zero_is_ready_and_stays_there(self) -> None:
        both, idle = plan(IDLE), Handle([])
        backend = make(both, detect=Handle([info(both)]), idle=idle)
        await backend.agree(both)
        await backend.ready()
        assert not idle.woken
        assert idle.responses == []
        unknown = await Engine(both, backend).fingerprint()
        # the first answer says what its weights are
        idle.outcomes.append(StepAnswer(info(both, "idle")["idle"], result={}))
        await backend.call("idle", REQUEST)
        assert await Engine(both, backend).fingerprint() != unknown

    async def test_a_step_that_may_be_at_zero_and_is_not_must_agree_too(self) -> None:
        both = plan(IDLE)
        other = {"idle": StepInfo("other", "", CropSpec(None, "stretch", 0.0))}
        idle = Handle([other])
        waiting = asyncio.create_task(make(both, detect=Handle([info(both)]), idle=idle).agree(both))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        idle.infos = []
        await waiting


class TestCalls:
    async def test_to_a_removed_deployment_end_at_once(self) -> None:
        handle = Handle([], None, None)
        backend = make(plan(), detect=handle)
        calls = [asyncio.create_task(backend.call("detect", REQUEST)) for _ in range(2)]
        await asyncio.sleep(0.1)
        assert not any(call.done() for call in calls)  # it may be starting
        handle.is_gone = True
        async with asyncio.timeout(1):
            for call in calls:
                with pytest.raises(StepUnavailable, match="no deployment that could answer") as caught:
                    await call
                assert caught.value.fields == {"step": "detect", "retry_after_s": 1}
            with pytest.raises(StepUnavailable):
                await backend.call("detect", REQUEST)
        assert all(response.cancelled for response in handle.responses)
        assert len(handle.responses) == 1  # both were in one group, and the last one did not even wait

    async def test_reach_a_deployment_that_came_back(self) -> None:
        handle = Handle([], None, ANSWER)
        handle.is_gone = True
        backend = make(plan(), detect=handle)
        with pytest.raises(StepUnavailable):
            await backend.call("detect", REQUEST)
        handle.infos = [info(plan())]
        assert await backend.call("detect", REQUEST) == ANSWER

    async def test_to_one_with_replicas_are_waited_for(self) -> None:
        handle = Handle([info(plan())], None)
        handle.is_gone = True  # not asked
        call = asyncio.create_task(make(plan(), detect=handle).call("detect", REQUEST))
        await asyncio.sleep(0.1)
        assert not call.done()
        handle.responses[0]._future.set_result(handle.reply(ANSWER))
        assert (await call).result == {}

    @pytest.mark.parametrize(
        ("outcomes", "expected"),
        [
            ([GONE], StepUnavailable),
            ([RequestCancelledError()], StepUnavailable),
            ([ActorUnavailableError("gone", b"0" * 16)] * module._ATTEMPTS, Unreachable),
        ],
        ids=["not there", "cancelled by its replica", "dies again and again"],
    )
    async def test_that_do_not_reach_their_step_fail_the_request(
        self, outcomes: list[Exception], expected: type[Exception]
    ) -> None:
        engine = Engine(plan(), make(plan(), detect=Handle([info(plan())], *outcomes)))
        with pytest.raises(Overloaded) as caught:
            await engine.run(Frame.from_array(draw()))
        assert type(caught.value) is expected

    async def test_that_their_caller_gives_up_are_cancelled(self) -> None:
        handle = Handle([info(plan())], None)
        call = asyncio.create_task(make(plan(), detect=handle).call("detect", REQUEST))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert handle.responses[0].cancelled


def detect_with(**serve: Any) -> Plan:
    return load_plan({"pipeline": [DETECT | {"serve": serve}]})


class TestGroups:
    async def test_calls_that_wait_travel_together_and_say_how_long_they_may_take(self) -> None:
        handle = Handle([info(plan())], None, None, ANSWER)
        backend = make(plan(), detect=handle)
        first = []
        for _ in range(2):
            first.append(asyncio.create_task(backend.call("detect", REQUEST)))
            await asyncio.sleep(0.01)
        now = asyncio.get_running_loop().time()
        requests = [replace(REQUEST, expires_at=at) for at in (None, now + 5)]
        later = [asyncio.create_task(backend.call("detect", request)) for request in requests]
        await asyncio.sleep(0.05)
        handle.responses[0]._future.set_result(([ANSWER], 1))
        assert await asyncio.gather(*later) == [ANSWER, ANSWER]
        assert [len(group) for group in handle.groups] == [1, 1, 2]
        assert handle.groups[2][0].left_s is None
        assert handle.groups[2][1].left_s == pytest.approx(4.95, abs=0.04)
        assert handle.groups[2][1].waited_s == pytest.approx(0.05, abs=0.04)
        assert [load for _, load in handle.loads] == [1, 2, 3]  # and what waits is counted
        first[1].cancel()

    async def test_an_error_that_came_back_is_that_of_its_call(self) -> None:
        late = StepUnavailable("step 'detect' is not in this deployment; try again")
        handle = Handle([info(plan())], ([ANSWER, late], 0))
        backend = make(plan(), detect=handle)
        calls = (backend.call("detect", REQUEST) for _ in range(2))
        assert await asyncio.gather(*calls, return_exceptions=True) == [ANSWER, late]

    async def test_too_many_that_wait_are_refused(self) -> None:
        limited = detect_with(max_batch_size=1, max_ongoing_requests=1, max_queued_requests=2)
        handle = Handle([info(limited)] * 2, *[None] * 2)
        backend = make(limited, detect=handle)
        calls = [asyncio.create_task(backend.call("detect", REQUEST)) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert len(handle.groups) == 2  # one at each replica
        [refused] = [call for call in calls if call.done()]
        with pytest.raises(Overloaded, match="its queue is full") as caught:
            await refused
        assert caught.value.fields == {"step": "detect", "retry_after_s": 1}
        for call in calls:
            call.cancel()

    async def test_a_full_queue_does_not_refuse_what_a_dead_replica_had(self) -> None:
        limited = detect_with(max_batch_size=1, max_ongoing_requests=1, max_queued_requests=1)
        handle = Handle([info(limited)], None, ANSWER, ANSWER)
        backend = make(limited, detect=handle)
        calls = []
        for _ in range(2):
            calls.append(asyncio.create_task(backend.call("detect", REQUEST)))
            await asyncio.sleep(0.01)
        handle.responses[0]._future.set_exception(ActorUnavailableError("gone", b"0" * 16))
        assert await asyncio.gather(*calls) == [ANSWER, ANSWER]

    async def test_new_limits_are_taken_in_place(self) -> None:
        handle = Handle([info(plan())], ANSWER, *[ANSWER] * 4)
        backend = make(plan(), detect=handle)
        backend.reconfigure(detect_with(max_batch_size=1))
        await asyncio.gather(*(backend.call("detect", REQUEST) for _ in range(4)))
        assert [len(group) for group in handle.groups] == [1, 1, 1, 1]

    @pytest.mark.parametrize(("by", "expected"), [("target_ongoing_crops", 3), ("target_ongoing_requests", 1)])
    async def test_the_load_is_counted_as_the_step_is_scaled(self, by: str, expected: int) -> None:
        scaled = detect_with(autoscaling={"max_replicas": 2, by: 4.0})
        handle = Handle([info(scaled)], ANSWER)
        request = replace(REQUEST, targets=tuple(Target(index, {}) for index in range(3)))
        await make(scaled, detect=handle).call("detect", request)
        assert handle.loads[0][1] == expected

    async def test_the_priority_is_that_of_the_engine(self) -> None:
        handle = Handle([info(plan())], ANSWER)
        await Engine(plan(), make(plan(), detect=handle), priority=Priority.QUEUE).run(
            Frame.from_array(draw()), timeout_s=9
        )
        [[call]] = handle.groups
        assert call.request.priority == Priority.QUEUE
        assert call.left_s == pytest.approx(9, abs=1)
