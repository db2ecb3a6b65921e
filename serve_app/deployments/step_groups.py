"""A group of calls that came in one message, and its answers, which leave in one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from classifiers import VisionError
from graph.engine import StepAnswer, StepError, StepRequest, deadline
from graph.failures import StepUnavailable
from serve_app.ray_internals import CALL_BYTES

if TYPE_CHECKING:
    from serve_app.deployments.hosting import StepHost

__all__ = ["CallOutcome", "StepCall", "answer_group", "call_bytes"]

_log = logging.getLogger(__name__)

CallOutcome = StepAnswer | VisionError
"""What becomes of a call: an error is raised to its caller."""


class StepCall(NamedTuple):
    """One call of a group.

    Attributes:
        step: which step of the deployment is called.
        request: with what.
        is_alone: to be run while no other call is in progress.
        waited_s: since its caller made it.
        left_s: until its caller stops waiting; ``None``: it waits forever.
    """

    step: str
    request: StepRequest
    is_alone: bool = False
    waited_s: float = 0.0
    left_s: float | None = None


def call_bytes(request: StepRequest) -> int:
    """What a call takes of a message."""
    crops = sum(image.nbytes for image in request.crops or ())
    return CALL_BYTES + crops + (0 if request.frame is None else request.frame.nbytes)


async def answer_group(host: StepHost, calls: Sequence[StepCall]) -> list[CallOutcome]:
    """The outcome of each call. One that fails does so alone, and one whose caller has stopped waiting is dropped.

    They are answered together, when the last one is: a group has crops for a few of the model's batches at most, so
    none waits long for the others, and a reply for each would cost as much as a message for each.
    """
    outcomes = await asyncio.gather(*(_answer(host, call) for call in calls))
    return _within_one_message(outcomes, calls)


async def _answer(host: StepHost, call: StepCall) -> CallOutcome:
    if call.step not in host:  # the caller has another version of the pipeline
        return StepUnavailable(f"step '{call.step}' is not in this deployment; try again", step=call.step)
    since = asyncio.get_running_loop().time() - call.waited_s
    try:
        async with deadline(call.left_s):
            return await host.call(call.step, call.request, alone=call.is_alone, since=since)
    except VisionError as error:
        return error
    except Exception as error:  # noqa: BLE001 - this call's failure, and not that of the group
        _log.exception("step '%s' failed on request %s", call.step, call.request.request_id)
        return StepAnswer(host.describe()[call.step], error=StepError(type(error).__name__, str(error)))


def _within_one_message(outcomes: Sequence[CallOutcome], calls: Sequence[StepCall]) -> list[CallOutcome]:
    """Without the crops of the largest answers, where all together are more than one message may carry: the steps that
    would look at these get the encoded image instead."""
    fitting = list(outcomes)
    budgets = [call.request.crop_budget_bytes for call in calls]
    left = min((budget for budget in budgets if budget is not None), default=None)
    if left is None:
        return fitting
    left -= (len(calls) - 1) * CALL_BYTES
    sizes = {index: _crop_bytes(outcome) for index, outcome in enumerate(outcomes)}
    total = sum(sizes.values())
    for index in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if total <= left:
            break
        outcome = fitting[index]
        if isinstance(outcome, StepAnswer):
            fitting[index] = replace(outcome, crops={})
            total -= sizes[index]
    return fitting


def _crop_bytes(outcome: CallOutcome) -> int:
    if not isinstance(outcome, StepAnswer):
        return 0
    return sum(image.nbytes for crops in outcome.crops.values() for image in crops.values())
