"""What a replica makes of a group of calls."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest

from graph.engine.messages import CropSpec, StepAnswer, StepInfo, StepRequest
from graph.failures import DeadlineExceeded, StepUnavailable
from serve_app.deployments.hosting import StepHost
from serve_app.deployments.step_groups import CallOutcome, StepCall, answer_group, call_bytes
from serve_app.ray_internals import CALL_BYTES

INFO = StepInfo("config", "weights", CropSpec(None, "stretch", 0.0))
CROP = np.zeros((10, 100, 3), np.uint8)


class Host:
    """Has one step, which does as its request says."""

    def __init__(self) -> None:
        self.waited: list[float] = []
        self.alone: list[bool] = []
        self.finished: list[str] = []

    def __contains__(self, step: object) -> bool:
        return step == "step"

    def describe(self) -> Mapping[str, StepInfo]:
        return {"step": INFO}

    async def call(self, step: str, request: StepRequest, *, alone: bool, since: float) -> StepAnswer:
        self.waited.append(asyncio.get_running_loop().time() - since)
        self.alone.append(alone)
        await asyncio.sleep(request.image.get("seconds", 0))
        if "bug" in request.image:
            raise KeyError("bug")
        self.finished.append(request.request_id)
        crops = {"next": dict.fromkeys(range(request.image.get("crops", 0)), CROP)}
        return StepAnswer(INFO, result={"id": request.request_id}, crops=crops)


def call(
    name: str, step: str = "step", budget: int | None = None, left_s: float | None = None, **image: Any
) -> StepCall:
    request = StepRequest(image=image, context={}, request_id=name, crop_budget_bytes=budget)
    return StepCall(step, request, left_s=left_s, waited_s=0.5)


async def outcomes(*calls: StepCall, host: Host | None = None) -> list[CallOutcome]:
    return await answer_group(cast("StepHost", host or Host()), calls)


async def test_each_call_gets_its_own_outcome() -> None:
    found = await outcomes(call("a"), call("other", step="elsewhere"), call("bad", bug=1), call("b", seconds=0.01))
    assert [outcome.result for outcome in found if isinstance(outcome, StepAnswer)] == [{"id": "a"}, None, {"id": "b"}]
    assert isinstance(found[1], StepUnavailable)
    assert "step 'elsewhere' is not in this deployment" in str(found[1])
    assert isinstance(found[2], StepAnswer)
    assert found[2].error is not None
    assert (found[2].error.type, found[2].error.detail) == ("KeyError", "'bug'")
    assert [str(outcome) for outcome in pickle.loads(pickle.dumps(found))] == [str(outcome) for outcome in found]


async def test_what_is_late_is_dropped_and_the_rest_is_answered() -> None:
    host = Host()
    late, past = call("late", left_s=0.01, seconds=60), call("past", left_s=0.0, seconds=60)
    found = await outcomes(late, past, call("a"), host=host)
    assert [type(outcome) for outcome in found] == [DeadlineExceeded, DeadlineExceeded, StepAnswer]
    assert host.finished == ["a"]


async def test_a_group_that_is_cancelled_cancels_its_calls() -> None:
    host = Host()
    group = asyncio.create_task(outcomes(call("a", seconds=0.05), call("b", seconds=0.05), host=host))
    await asyncio.sleep(0.01)
    group.cancel()
    with pytest.raises(asyncio.CancelledError):
        await group
    await asyncio.sleep(0.1)
    assert host.finished == []


async def test_waits_are_added_up() -> None:
    host = Host()
    await outcomes(call("a"), call("b")._replace(is_alone=True), host=host)
    assert host.waited == pytest.approx([0.5, 0.5], abs=0.1)
    assert host.alone == [False, True]


@pytest.mark.parametrize(
    ("budget", "kept"), [(None, [4, 1, 3]), (8, [4, 1, 3]), (7, [0, 1, 3]), (1, [0, 1, 0]), (0, [0, 0, 0])]
)
async def test_crops_that_do_not_fit_into_one_message_are_left_out(budget: int | None, kept: list[int]) -> None:
    given = None if budget is None else budget * CROP.nbytes + 2 * CALL_BYTES
    found = await outcomes(*(call(str(crops), budget=given, crops=crops) for crops in (4, 1, 3)))
    assert [len(outcome.crops.get("next", {})) for outcome in found if isinstance(outcome, StepAnswer)] == kept


def test_what_a_call_takes_of_a_message() -> None:
    request = StepRequest(image={}, context={}, crops=(CROP, CROP))
    assert call_bytes(request) == CALL_BYTES + 2 * CROP.nbytes
