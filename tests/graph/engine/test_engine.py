from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from toys import draw

from classifiers import BadImage
from graph import DeadlineExceeded, Engine, Frame, Overloaded, Plan, StepFailed, StepUnavailable, load_plan
from graph.engine.deadline import deadline
from graph.engine.explanation import explain
from graph.engine.messages import Carried, CropSpec, Priority, StepAnswer, StepError, StepInfo, StepRequest

PERSON = {"bbox": [10.0, 10.0, 50.0, 90.0], "confidence": 0.9, "class_id": 1, "class_name": "person"}
CAR = {"bbox": [100.0, 100.0, 180.0, 150.0], "confidence": 0.8, "class_id": 0, "class_name": "car"}
SPEC = CropSpec((8, 8), "stretch", 0.0)
OWN = StepInfo(load_plan({"pipeline": [{"name": "a", "class": "toys.Size"}]}).step_digest("a"), "weights", SPEC)
OTHER = StepInfo("another configuration", "weights", SPEC)
FRAME = Frame.from_array(draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150)))


class Steps:
    """Steps whose answers the test gives, when it wants to."""

    crop_budget_bytes = 1234

    def __init__(self, plan: Plan, **answers: Any) -> None:
        self.infos = {step.name: StepInfo(plan.step_digest(step.name), "weights", SPEC) for step in plan}
        self._answers = answers
        self.requests: dict[str, StepRequest] = {}  # the last one of each step
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    async def describe(self) -> Mapping[str, StepInfo]:
        return self.infos

    async def ready(self) -> None: ...

    async def call(self, step: str, request: StepRequest) -> StepAnswer:
        self.requests[step] = request
        self.started.append(step)
        try:
            if step in self.gates:
                await self.gates[step].wait()
        except asyncio.CancelledError:
            self.cancelled.append(step)
            raise
        answer = self._answers.get(step, {"label": step})
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, StepAnswer):
            return answer
        if isinstance(answer, StepError):
            return StepAnswer(self.infos[step], error=answer)
        return StepAnswer(self.infos[step], result=answer)


def step(name: str, depends_on: list[str] | str = (), **more: Any) -> dict[str, Any]:  # type: ignore[assignment]
    return {"name": name, "class": "toys.Size", **({"depends_on": depends_on} if depends_on else {}), **more}


def make(*steps: dict[str, Any], **answers: Any) -> tuple[Engine, Steps]:
    plan = load_plan({"name": "test", "pipeline": list(steps)})
    backend = Steps(plan, **answers)
    return Engine(plan, backend), backend


def statuses(result: Mapping[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["status"] for entry in result["steps"]}


async def until(what: Any) -> None:
    async with asyncio.timeout(5):
        while not what():  # noqa: ASYNC110 - the condition is the engine's own state
            await asyncio.sleep(0)


class TestWhatTravelsWithACall:
    async def test_its_priority(self) -> None:
        engine, backend = make(step("a"))
        await engine.run(FRAME)
        assert backend.requests["a"].priority == Priority.INTERACTIVE
        await Engine(engine.plan, backend, priority=Priority.BACKGROUND).run(FRAME)
        assert backend.requests["a"].priority == Priority.BACKGROUND

    async def test_when_its_caller_stops_waiting(self) -> None:
        engine, backend = make(step("a"), step("b", timeout_ms=50))
        await engine.run(FRAME)
        began = asyncio.get_running_loop().time()
        assert backend.requests["a"].expires_at is None
        assert backend.requests["b"].expires_at == pytest.approx(began + 0.05, abs=0.04)
        async with deadline(10, since=began - 4), deadline(60):
            await engine.run(FRAME, timeout_s=20)
        assert backend.requests["a"].expires_at == pytest.approx(began + 6, abs=0.1)
        assert backend.requests["b"].expires_at == pytest.approx(began + 0.05, abs=0.04)
        await engine.run(FRAME, timeout_s=20)
        assert backend.requests["a"].expires_at == pytest.approx(began + 20, abs=1)


FOUND = {"detections": [PERSON, CAR], "detected_classes": ["car", "person"]}


async def test_the_result_has_the_shape_of_the_contract() -> None:
    engine, _ = make(
        step("detect"),
        step("make", "detect", condition="'bus' in context['detect']['detected_classes']"),
        step("colour", "detect", crops="detection['class_name'] == 'person'"),
        detect=FOUND,
        colour={"objects": [{"detection": 0, "label": "black"}]},
    )
    result = await engine.run(FRAME, metadata={"camera": 3}, request_id="abc")
    assert list(result) == ["id", "image", "pipeline", "context", "steps", "metadata"]
    assert result["id"] == "abc"
    assert result["image"] == {"uri": None, "sha256": FRAME.sha256, "width": 320, "height": 240}
    assert result["pipeline"]["name"] == "test"
    assert result["pipeline"]["fingerprint"] == await engine.fingerprint()
    assert result["context"] == {"detect": FOUND, "colour": {"objects": [{"detection": 0, "label": "black"}]}}
    assert result["metadata"] == {"camera": 3}
    detect, made, colour = result["steps"]
    assert detect.pop("duration_ms") >= 0
    assert colour.pop("duration_ms") >= 0
    assert detect == {"name": "detect", "status": "ok"}
    assert colour == {"name": "colour", "status": "ok"}
    assert made == {
        "name": "make",
        "status": "skipped",
        "reason": "condition is false: 'bus' in context['detect']['detected_classes']",
    }


async def test_ids_are_new_where_none_is_given() -> None:
    engine, _ = make(step("a"))
    ids = {(await engine.run(FRAME))["id"] for _ in range(3)}
    assert len(ids) == 3


async def test_steps_come_in_the_order_of_the_file_whatever_runs_first() -> None:
    engine, backend = make(step("last", "first"), step("first"))
    result = await engine.run(FRAME)
    assert [entry["name"] for entry in result["steps"]] == ["last", "first"]
    assert backend.started == ["first", "last"]


async def test_independent_steps_run_at_the_same_time_without_a_level_barrier() -> None:
    engine, backend = make(step("a"), step("b"), step("after_a", "a"), step("after_both", ["a", "b"]))
    backend.gates["b"] = asyncio.Event()
    running = asyncio.create_task(engine.run(FRAME))
    # 'after_a' must not wait for 'b', which stands on the level before it
    await until(lambda: backend.started == ["a", "b", "after_a"])
    backend.gates["b"].set()
    await running
    assert backend.started == ["a", "b", "after_a", "after_both"]


async def test_a_step_sees_the_results_of_its_dependencies_only() -> None:
    engine, backend = make(step("a"), step("b", "a"), step("c", "b"))
    await engine.run(FRAME)
    assert backend.requests["c"].context == {"b": {"label": "b"}}


class TestSkipping:
    async def test_what_depends_on_a_skipped_step_is_skipped_too(self) -> None:
        engine, backend = make(step("a"), step("b", "a", condition="False"), step("c", "b"), step("d", ["a", "c"]))
        result = await engine.run(FRAME)
        assert statuses(result) == {"a": "ok", "b": "skipped", "c": "skipped", "d": "skipped"}
        assert [entry.get("reason") for entry in result["steps"]] == [
            None,
            "condition is false: False",
            "depends on b, which was skipped",
            "depends on c, which was skipped",
        ]
        assert backend.started == ["a"]
        assert "duration_ms" not in result["steps"][1]

    async def test_no_matching_detection(self) -> None:
        engine, backend = make(step("d"), step("c", "d", crops="detection['class_name'] == 'bus'"), d=FOUND)
        result = await engine.run(FRAME)
        assert result["steps"][1] == {
            "name": "c",
            "status": "skipped",
            "reason": "no detection matches: detection['class_name'] == 'bus'",
        }
        assert backend.started == ["d"]

    async def test_no_detections_at_all(self) -> None:
        engine, _ = make(step("d"), step("c", "d", crops="True"), d={"detections": [], "detected_classes": []})
        result = await engine.run(FRAME)
        assert statuses(result) == {"d": "ok", "c": "skipped"}
        assert result["context"] == {"d": {"detections": [], "detected_classes": []}}

    async def test_rules_see_the_image_and_its_metadata(self) -> None:
        engine, _ = make(
            step("wide", condition="image['width'] > image['height']"),
            step("north", condition="image['metadata']['site'] == 'north'"),
        )
        result = await engine.run(FRAME, metadata={"site": "south"})
        assert statuses(result) == {"wide": "ok", "north": "skipped"}


class TestFailing:
    async def test_skip_keeps_the_rest(self) -> None:
        engine, _ = make(step("a"), step("b", "a"), step("c", "b"), b=StepError("ValueError", "no good"))
        result = await engine.run(FRAME)
        assert statuses(result) == {"a": "ok", "b": "failed", "c": "skipped"}
        assert result["steps"][1]["error"] == {"type": "ValueError", "detail": "no good"}
        assert result["steps"][2]["reason"] == "depends on b, which failed"
        assert list(result["context"]) == ["a"]

    async def test_fail_fails_the_request_and_cancels_the_others(self) -> None:
        engine, backend = make(step("a"), step("b"), a=StepError("ValueError", "no good"))
        backend.gates["b"] = asyncio.Event()
        with pytest.raises(StepFailed, match="step 'a' failed: no good") as caught:
            await engine.run(FRAME)
        assert caught.value.fields == {"step": "a"}
        assert backend.cancelled == ["b"]

    async def test_on_error_says_which(self) -> None:
        engine, _ = make(step("a", on_error="skip"), a=StepError("ValueError", "no good"))
        assert statuses(await engine.run(FRAME)) == {"a": "failed"}
        engine, _ = make(step("a"), step("b", "a", on_error="fail"), b=StepError("ValueError", "no good"))
        with pytest.raises(StepFailed, match="step 'b'"):
            await engine.run(FRAME)

    async def test_a_rule_that_cannot_be_decided_fails_its_step(self) -> None:
        engine, backend = make(step("a"), step("b", "a", condition="context['a']['nothing'] > 1"), step("c", "b"))
        result = await engine.run(FRAME)
        assert statuses(result) == {"a": "ok", "b": "failed", "c": "skipped"}
        assert result["steps"][1]["error"]["type"] == "RuleError"
        assert "nothing" in result["steps"][1]["error"]["detail"]
        assert backend.started == ["a"]

    async def test_a_crop_rule_that_cannot_be_decided_fails_its_step(self) -> None:
        engine, _ = make(step("d"), step("c", "d", crops="detection['size'] > 1"), d=FOUND)
        result = await engine.run(FRAME)
        assert result["steps"][1]["error"]["type"] == "RuleError"

    @pytest.mark.parametrize(
        "rules",
        [
            {"crops": "detection['class_name'] in [x['name'] for x in image['metadata']['names']]"},
            {"crops": "any(x['name'] == detection['class_name'] for x in image['metadata']['names'])"},
            {"condition": "any(x == 0 for x in image['metadata']['names'] for y in image['metadata']['names'])"},
            {
                "condition": "sum(len(x['name']) for x in image['metadata']['names']) > 0",
                "crops": "any(x['name'] == detection['class_name'] for x in image['metadata']['names'])",
            },
        ],
    )
    async def test_the_work_of_rules_is_bounded_per_image(self, rules: dict[str, str]) -> None:
        crowd = {"detections": [PERSON] * 300, "detected_classes": ["person"]}
        names = {"names": [{"name": f"n{n}"} for n in range(4_000)]}
        others = [step(f"other{n}", "d", crops="detection['class_name'] == 'person'") for n in range(2)]
        others.append(step("other2", "d", condition="'names' in image['metadata']"))
        engine, _ = make(step("d"), step("c", "d", **rules), *others, d=crowd)
        result = await engine.run(FRAME, metadata=names)
        assert statuses(result) == {"d": "ok", "c": "failed", "other0": "ok", "other1": "ok", "other2": "ok"}
        assert "the rules of this step may do 15,000 operations for one image" in result["steps"][1]["error"]["detail"]
        _, explained, *_ = explain(engine.plan, result)
        assert "15,000 operations" in str((explained.crops[-1] if explained.crops else explained.condition).error)

    @pytest.mark.parametrize("steps", [1, 30])
    async def test_ordinary_rules_over_hundreds_of_detections_do_not_come_near_it(self, steps: int) -> None:
        crowd = {"detections": [PERSON] * 300 + [CAR] * 300, "detected_classes": ["car", "person"]}
        rules = {
            "condition": "any(d['class_name'] == 'car' and d['confidence'] > 0.9 for d in context['d']['detections']) "
            "or 'person' in context['d']['detected_classes']",
            "crops": "detection['class_name'] in ('person', 'bus') and detection['confidence'] >= 0.4 "
            "and (detection['bbox'][2] - detection['bbox'][0]) / image['width'] > 0.01",
        }
        engine, _ = make(step("d"), *[step(f"s{n}", "d", **rules) for n in range(steps)], d=crowd)
        assert set(statuses(await engine.run(FRAME)).values()) == {"ok"}

    async def test_long_rules_give_way_to_other_tasks(self) -> None:
        crowd = {"detections": [PERSON] * 300, "detected_classes": ["person"]}
        engine, _ = make(step("d"), step("c", "d", crops="any(x == 'y' for x in image['metadata']['x'])"), d=crowd)

        async def turns(length: int) -> int:
            running, counted = asyncio.create_task(engine.run(FRAME, metadata={"x": ["x"] * length})), 0
            while not running.done():
                await asyncio.sleep(0)
                counted += 1
            assert statuses(running.result())["c"] == "skipped"
            return counted

        assert await turns(20) >= await turns(0) + 2

    async def test_crops_need_detections(self) -> None:
        engine, _ = make(step("d"), step("c", "d", crops="True"), d={"label": "street"})
        result = await engine.run(FRAME)
        assert "no detections to crop from: 'd' has none" in result["steps"][1]["error"]["detail"]

    async def test_several_detectors_need_crops_from(self) -> None:
        detectors = {"d": FOUND, "e": {"detections": [CAR], "detected_classes": ["car"]}}
        engine, _ = make(step("d"), step("e"), step("c", ["d", "e"], crops="True"), **detectors)
        result = await engine.run(FRAME)
        assert "choose one with `crops_from: d`" in result["steps"][2]["error"]["detail"]
        engine, backend = make(step("d"), step("e"), step("c", ["d", "e"], crops="True", crops_from="e"), **detectors)
        assert statuses(await engine.run(FRAME))["c"] == "ok"
        assert [target.detection for target in backend.requests["c"].targets or ()] == [CAR]

    async def test_a_step_that_cannot_be_reached_fails(self) -> None:
        engine, _ = make(step("a", on_error="skip"), a=ConnectionError("gone"))
        result = await engine.run(FRAME)
        assert result["steps"][0]["error"] == {"type": "ConnectionError", "detail": "gone"}

    async def test_a_timeout_of_the_backend_is_no_timeout_of_the_step(self) -> None:
        engine, _ = make(step("a", on_error="skip", timeout_ms=5000), a=TimeoutError("socket"))
        result = await engine.run(FRAME, timeout_s=5)
        assert result["steps"][0]["status"] == "failed"
        assert result["steps"][0]["error"] == {"type": "TimeoutError", "detail": "socket"}

    @pytest.mark.parametrize("on_error", ["fail", "skip"])
    async def test_the_image_at_fault_fails_the_request_whichever_step_saw_it(self, on_error: str) -> None:
        bad = BadImage("truncated")
        engine, _ = make(step("a"), step("b", "a", on_error=on_error), b=StepError("BadImage", "truncated", bad))
        with pytest.raises(BadImage, match="truncated"):
            await engine.run(FRAME)

    async def test_overload_fails_the_request_whatever_on_error_says(self) -> None:
        engine, _ = make(step("a"), step("b", "a", on_error="skip"), b=Overloaded("full"))
        with pytest.raises(Overloaded):
            await engine.run(FRAME)


class TestWhileThePipelineChanges:
    """A step answers with another configuration than the plan's."""

    @pytest.mark.parametrize("on_error", ["fail", "skip"])
    @pytest.mark.parametrize(
        "answers",
        [
            {"a": StepAnswer(OTHER, error=StepError("KeyError", "no such input"))},
            {"a": StepAnswer(OTHER, result={"label": "x"}), "b": StepError("KeyError", "no such input")},
            {"a": StepAnswer(OTHER, result={"label": "x"}), "b": ConnectionError("gone")},
        ],
        ids=["it fails", "what depends on it fails", "what depends on it is gone"],
    )
    async def test_what_fails_then_fails_the_request_for_a_while(self, answers: dict[str, Any], on_error: str) -> None:
        engine, _ = make(step("a", on_error=on_error), step("b", "a", on_error=on_error), **answers)
        with pytest.raises(StepUnavailable, match="while the pipeline is being changed; try again"):
            await engine.run(FRAME)

    async def test_a_rule_that_does_not_fit_the_answer_too(self) -> None:
        engine, _ = make(step("d"), step("c", "d", crops="True"), d=StepAnswer(OTHER, result={"label": "street"}))
        with pytest.raises(StepUnavailable, match="step 'c'"):
            await engine.run(FRAME)

    async def test_what_does_not_fail_is_a_result(self) -> None:
        engine, _ = make(step("a"), step("b", "a", condition="False"), a=StepAnswer(OTHER, result={"label": "x"}))
        assert statuses(await engine.run(FRAME)) == {"a": "ok", "b": "skipped"}

    async def test_a_step_that_wants_other_crops_gets_the_image(self) -> None:
        cut = StepAnswer(OWN, result=FOUND, crops={"c": {0: FRAME.pixels()[:8, :8], 1: FRAME.pixels()[:8, :8]}})
        engine, backend = make(step("d"), step("c", "d", crops="True"), d=cut)
        answers = iter([StepAnswer(OTHER, wants_frame=True), StepAnswer(OTHER, result={"objects": []})])
        asked: list[StepRequest] = []
        call = backend.call

        async def answer(step: str, request: StepRequest) -> StepAnswer:
            if step != "c":
                return await call(step, request)
            asked.append(request)
            return next(answers)

        backend.call = answer  # type: ignore[method-assign]
        result = await engine.run(FRAME)
        assert result["context"]["c"] == {"objects": []}
        assert [request.crop for request in asked] == [SPEC, SPEC]
        assert [request.frame for request in asked] == [None, FRAME]
        assert asked[1].crops is None

    async def test_crops_of_another_version_do_not_come_along(self) -> None:
        along = StepAnswer(OTHER, wants_frame=True)
        engine, _ = make(
            step("d"),
            step("c", "d", crops="True"),
            d=StepAnswer(OWN, result=FOUND, carried={"c": Carried((0, 1), along, 7.5)}),
            c={"objects": [{"detection": 0, "label": "asked"}]},
        )
        assert (await engine.run(FRAME))["context"]["c"]["objects"][0]["label"] == "asked"


class TestTime:
    async def test_a_slow_step_times_out_alone_and_its_work_is_cancelled(self) -> None:
        engine, backend = make(step("a"), step("slow", "a", timeout_ms=20), step("b", "a"), step("c", "slow"))
        backend.gates["slow"] = asyncio.Event()
        result = await engine.run(FRAME)
        assert statuses(result) == {"a": "ok", "slow": "timed_out", "b": "ok", "c": "skipped"}
        assert result["steps"][1]["error"] == {"type": "StepTimeout", "detail": "no answer within 20 ms"}
        assert result["steps"][1]["duration_ms"] >= 20
        assert result["steps"][3]["reason"] == "depends on slow, which timed out"
        assert backend.cancelled == ["slow"]

    async def test_a_timeout_fails_the_request_where_the_step_must_not_fail(self) -> None:
        engine, backend = make(step("slow", timeout_ms=20))
        backend.gates["slow"] = asyncio.Event()
        with pytest.raises(StepFailed, match="timed out: no answer within 20 ms"):
            await engine.run(FRAME)

    async def test_the_deadline_cancels_everything(self) -> None:
        engine, backend = make(step("a"), step("b"), step("c", "a"))
        backend.gates = {"b": asyncio.Event(), "c": asyncio.Event()}
        with pytest.raises(DeadlineExceeded, match="30 ms") as caught:
            await engine.run(FRAME, timeout_s=0.03)
        assert caught.value.fields == {"timeout_ms": 30}
        assert sorted(backend.cancelled) == ["b", "c"]

    async def test_a_caller_that_leaves_cancels_everything(self) -> None:
        engine, backend = make(step("a"), step("b"))
        backend.gates = {"a": asyncio.Event(), "b": asyncio.Event()}
        running = asyncio.create_task(engine.run(FRAME))
        await until(lambda: len(backend.started) == 2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert sorted(backend.cancelled) == ["a", "b"]


class TestPixels:
    RULE = "detection['class_name'] == 'person'"

    async def test_the_detector_is_asked_for_the_crops_of_what_hangs_on_it(self) -> None:
        engine, backend = make(step("d"), step("c", "d", crops=self.RULE), step("whole", "d"), d=FOUND)
        await engine.run(FRAME)
        assert backend.requests["d"].cut_for == {"c": CropSpec((8, 8), "stretch", 0.0)}
        assert backend.requests["d"].crop_budget_bytes == 1234
        assert backend.requests["whole"].frame is FRAME
        assert backend.requests["whole"].targets is None

    async def test_crops_travel_instead_of_the_image(self) -> None:
        pixels = FRAME.pixels()[:8, :8]
        cut = StepAnswer(OWN, result=FOUND, crops={"c": {0: pixels}})
        engine, backend = make(step("d"), step("c", "d", crops=self.RULE), d=cut)
        await engine.run(FRAME)
        request = backend.requests["c"]
        assert request.frame is None
        assert request.crops is not None
        assert request.crops[0] is pixels
        assert [(target.index, target.detection) for target in request.targets or ()] == [(0, PERSON)]

    async def test_without_all_of_its_crops_a_step_gets_the_image(self) -> None:
        cut = StepAnswer(OWN, result=FOUND, crops={"c": {1: FRAME.pixels()[:8, :8]}})
        engine, backend = make(step("d"), step("c", "d", crops=self.RULE), d=cut)
        await engine.run(FRAME)
        assert backend.requests["c"].crops is None
        assert backend.requests["c"].frame is FRAME


class TestFingerprint:
    async def test_is_of_the_answers_that_made_the_result(self) -> None:
        engine, _ = make(step("a"), step("b", "a"), b=StepAnswer(OTHER, result={}))
        result = await engine.run(FRAME)
        assert result["pipeline"]["fingerprint"] != await engine.fingerprint()

    async def test_of_a_skipped_step_the_plan_counts_not_what_it_last_said(self) -> None:
        engine, backend = make(step("a"), step("b", "a", condition="False"))
        expected = await engine.fingerprint()
        backend.infos["b"] = OTHER
        assert (await engine.run(FRAME))["pipeline"]["fingerprint"] == expected == await engine.fingerprint()

    async def test_a_step_that_was_never_loaded_has_no_known_weights(self) -> None:
        engine, backend = make(step("d"), step("c", "d", condition="image['metadata']['c']", crops="True"), d=FOUND)
        known = await engine.fingerprint()
        del backend.infos["c"]
        unknown = await engine.fingerprint()
        assert unknown != known
        skipped = await engine.run(FRAME, metadata={"c": False})
        assert skipped["pipeline"]["fingerprint"] == unknown
        assert backend.requests["d"].cut_for == {}
        backend._answers["c"] = StepAnswer(OWN, result={"objects": []})
        assert (await engine.run(FRAME, metadata={"c": True}))["pipeline"]["fingerprint"] == known
        assert backend.requests["c"].frame is FRAME

    async def test_changes_with_rules_but_not_with_deployment_options(self) -> None:
        async def fingerprint(**more: Any) -> str:
            engine, _ = make(step("a"), step("b", "a", **more))
            return await engine.fingerprint()

        plain = await fingerprint()
        assert await fingerprint() == plain
        assert await fingerprint(serve={"num_cpus": 2, "max_batch_size": 4}) == plain
        assert await fingerprint(condition="True") != plain
        assert await fingerprint(on_error="fail") != plain


@pytest.mark.parametrize(("targets", "asked"), [((0,), False), ((0, 1), True)], ids=["the same", "others"])
async def test_an_answer_that_came_along_is_used_if_it_is_about_the_same_detections(
    targets: tuple[int, ...], asked: bool
) -> None:
    along = StepAnswer(OWN, result={"objects": [{"detection": 0, "label": "along"}]})
    engine, backend = make(
        step("detect"),
        step("colour", "detect", crops="detection['class_name'] == 'person'"),
        detect=StepAnswer(OWN, result=FOUND, carried={"colour": Carried(targets, along, 7.5)}),
        colour={"objects": [{"detection": 0, "label": "asked"}]},
    )
    result = await engine.run(FRAME)
    assert ("colour" in backend.started) == asked
    assert result["context"]["colour"]["objects"][0]["label"] == ("asked" if asked else "along")
    assert (result["steps"][1]["duration_ms"] == 7.5) != asked


async def test_what_came_along_and_is_not_called_for_stays_out() -> None:
    along = StepAnswer(OWN, result={"objects": [{"detection": 0, "label": "along"}]})
    engine, _ = make(
        step("detect"),
        step("colour", "detect", condition="'bus' in context['detect']['detected_classes']", crops="True"),
        detect=StepAnswer(OWN, result=FOUND, carried={"colour": Carried((0,), along, 7.5)}),
    )
    result = await engine.run(FRAME)
    assert "colour" not in result["context"]
    assert statuses(result)["colour"] == "skipped"
