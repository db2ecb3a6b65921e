from __future__ import annotations

import logging
import re
from typing import Any

import numpy as np
import pytest
from toys import Blobs, MeanColour, draw, encoded
from zoo import Make

from classifiers import ModelNotFound, SetupError
from graph import Frame, Plan, load_plan
from graph.engine.messages import CropSpec, StepAnswer, StepRequest, Target
from graph.runtime.runner import Prepared, StepRunner, load_classifier

IMAGE = draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150), ("person", 200, 20, 240, 100))
FRAME = Frame.from_array(IMAGE)
SEEN = {"width": 320, "height": 240, "metadata": {}}
SPEC = CropSpec((8, 8), "stretch", 0.0)


def runner(step: dict[str, Any], *others: dict[str, Any]) -> StepRunner:
    plan = load_plan({"pipeline": [step, *others]})
    return StepRunner(plan, step["name"], load_classifier(plan[step["name"]]))


def run(step: StepRunner, *requests: StepRequest) -> list[StepAnswer]:
    calls = [step.prepare(request) for request in requests]
    assert all(isinstance(call, Prepared) for call in calls)
    outcomes = step.infer(calls)  # type: ignore[arg-type]
    return [step.finish(call, outcome) for call, outcome in zip(calls, outcomes, strict=True)]  # type: ignore[arg-type]


def request(**more: Any) -> StepRequest:
    return StepRequest(**{"image": SEEN, "context": {}, "frame": FRAME, **more})


DETECT = {"name": "detect", "class": "toys.Blobs"}
COLOUR = {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect"}
SIZE = {"name": "size", "class": "toys.Size", "depends_on": "detect", "crops": "True"}


def detections() -> list[dict[str, Any]]:
    [answer] = run(runner(DETECT), request())
    assert answer.result is not None
    found: list[dict[str, Any]] = answer.result["detections"]
    return found


def targets(*indexes: int) -> tuple[Target, ...]:
    found = detections()
    return tuple(Target(index, found[index]) for index in indexes)


def test_the_whole_image() -> None:
    [answer] = run(runner({"name": "size", "class": "toys.Size"}), request())
    assert answer.result == {"height": 240, "width": 320, "seen": []}
    assert answer.error is None


def test_crops_become_objects_with_the_index_of_their_detection() -> None:
    step = runner(COLOUR | {"crops": "True"}, DETECT)
    [answer] = run(step, request(context={"detect": {}}, targets=targets(1, 2)))
    assert answer.result is not None
    assert [(found["detection"], found["label"]) for found in answer.result["objects"]] == [(1, "person"), (2, "car")]


def test_a_classifiers_own_key_detection_is_overwritten() -> None:
    step = runner({"name": "s", "class": "toys.Says", "params": {"answer": {"detection": "mine"}}})
    [answer] = run(step, request(targets=targets(2)))
    assert answer.result == {"objects": [{"detection": 2}]}


def test_crops_see_their_detection_in_the_context() -> None:
    [answer] = run(runner(SIZE, DETECT), request(context={"detect": {}}, targets=targets(0)))
    assert answer.result == {"objects": [{"height": 80, "width": 40, "seen": ["detect", "detection"], "detection": 0}]}


def test_crops_that_came_along_are_used_and_are_read_only() -> None:
    step = runner(COLOUR, DETECT)
    crop = np.full((8, 8, 3), (200, 30, 30), np.uint8)
    [answer] = run(step, request(frame=None, crops=(crop,), crop=SPEC, targets=targets(0)))
    assert answer.result is not None
    assert answer.result["objects"][0]["label"] == "car"
    assert not crop.flags.writeable


def test_images_of_many_calls_share_batches_of_at_most_the_batch_size() -> None:
    step = runner({"name": "z", "class": "toys.Sleeper", "serve": {"max_batch_size": 4}})
    answers = run(step, request(targets=targets(0, 1, 2)), request(targets=targets(0, 1, 2)))
    sizes = [found["batch"] for answer in answers for found in (answer.result or {})["objects"]]
    assert sizes == [4, 4, 4, 4, 2, 2]


def test_one_bad_image_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    step = runner({"name": "f", "class": "toys.Failing", "params": {"above": 100}})
    white, black = (Frame.from_array(np.full((4, 4, 3), value, np.uint8)) for value in (255, 0))
    with caplog.at_level(logging.ERROR):
        good, bad, also_good = run(
            step, request(frame=black), request(frame=white, request_id="r7"), request(frame=black)
        )
    assert good.result == also_good.result == {"mean": 0.0}
    assert bad.result is None
    assert bad.error is not None
    assert (bad.error.type, bad.error.detail) == ("ValueError", "the image's mean is 255")
    assert "r7" in caplog.text


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"x": float("nan")}, r"toys.Blobs: result\['x'\] must be a finite number or None, but is nan"),
        ({"objects": []}, r"toys.Blobs: result\['objects'\] must be under another key"),
        (None, "toys.Blobs: result must be a dict, but is None"),
    ],
)
def test_a_result_that_does_not_fit_is_the_steps_failure(
    answer: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Blobs, "process", lambda self, image, context: answer)
    [got] = run(runner(DETECT), request())
    assert got.result is None
    assert got.error is not None
    assert got.error.type == "BadResult"
    assert re.match(words, got.error.detail)


def test_a_result_that_does_not_fit_names_the_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MeanColour, "process", lambda self, image, context: {"label": len(image)})
    [got] = run(runner(COLOUR, DETECT), request(targets=targets(1)))
    assert got.error is not None
    assert got.error.detail.startswith("toys.MeanColour, detection 1: result['label'] must be a string")


def test_one_bad_result_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Blobs, "process_batch", lambda self, images, contexts: [{"label": "a"}, {"label": 1}, {"label": "c"}]
    )
    answers = run(runner(DETECT), request(), request(), request())
    assert [answer.error is None for answer in answers] == [True, False, True]


@pytest.mark.parametrize(
    ("returned", "words"), [([], "0 results"), (None, "NoneType"), (3, "int"), ([{}, {}], "2 results")]
)
def test_not_one_result_an_image_is_the_steps_failure(
    returned: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Blobs, "process_batch", lambda self, images, contexts: returned)
    [got] = run(runner(DETECT), request())
    assert got.error is not None
    assert f"toys.Blobs.process_batch returned {words} for 1 images" in got.error.detail


def test_an_error_in_words_that_utf8_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no file caf\udce9.txt")

    monkeypatch.setattr(Blobs, "process", fail)
    [got] = run(runner(DETECT), request())
    assert got.error is not None
    assert got.error.detail == "no file caf\\udce9.txt"


def test_an_image_that_cannot_be_decoded_is_answered_before_the_model() -> None:
    truncated = Frame.from_bytes(encoded(IMAGE, "JPEG")[:-500])
    answer = runner(DETECT).prepare(request(frame=truncated))
    assert isinstance(answer, StepAnswer)
    assert answer.error is not None
    assert answer.error.type == type(answer.error.input_error).__name__ == "BadImage"


class TestCutting:
    def cut(self, *dependents: dict[str, Any], cut_for: Any = None, **more: Any) -> StepAnswer:
        names = [d["name"] for d in dependents]
        step = runner(DETECT, *dependents)
        [answer] = run(step, request(cut_for=cut_for or dict.fromkeys(names, SPEC), **more))
        return answer

    def test_crops_are_cut_as_each_dependent_wants_them(self) -> None:
        specs = {"colour": SPEC, "size": CropSpec(None, "stretch", 0.5)}
        answer = self.cut(COLOUR, SIZE, cut_for=specs)
        assert {name: sorted(crops) for name, crops in answer.crops.items()} == {"colour": [0, 1], "size": [0, 1, 2]}
        assert answer.crops["colour"][0].shape == (8, 8, 3)
        assert answer.crops["size"][2].shape == (100, 160, 3)

    def test_the_result_is_the_same_as_when_the_dependent_cuts_for_itself(self) -> None:
        answer = self.cut(COLOUR)
        picked = targets(0, 1)
        step = runner(COLOUR, DETECT)
        cut_there = request(
            context={}, frame=None, crops=tuple(answer.crops["colour"].values()), crop=SPEC, targets=picked
        )
        [one] = run(step, cut_there)
        [other] = run(step, request(context={}, targets=picked))
        assert one.result == other.result

    def test_nothing_is_cut_where_the_condition_is_false(self) -> None:
        answer = self.cut(COLOUR | {"condition": "'bus' in context['detect']['detected_classes']"}, SIZE)
        assert list(answer.crops) == ["size"]

    def test_a_rule_that_raises_is_left_to_the_engine(self) -> None:
        answer = self.cut(COLOUR | {"crops": "detection['nothing']"}, SIZE)
        assert answer.error is None
        assert list(answer.crops) == ["size"]

    def test_a_rule_that_does_too_much_is_left_to_the_engine(self) -> None:
        image = {**SEEN, "metadata": {"names": ["x"] * 4_000}}
        slow = "any(name == detection['class_name'] for name in image['metadata']['names'])"
        answer = self.cut(COLOUR | {"crops": f"{slow} or True"}, SIZE, image=image)
        assert answer.error is None
        assert list(answer.crops) == ["size"]

    def test_a_caller_with_a_newer_pipeline_gets_no_crops_for_what_is_not_known_here(self) -> None:
        answer = self.cut(COLOUR, cut_for={"colour": SPEC, "newer": SPEC})
        assert list(answer.crops) == ["colour"]

    def test_crops_over_the_budget_are_left_out(self) -> None:
        two_crops = 2 * 8 * 8 * 3
        assert list(self.cut(COLOUR, crop_budget_bytes=two_crops).crops) == ["colour"]
        assert list(self.cut(COLOUR, crop_budget_bytes=two_crops - 1).crops) == []


class TestIdentity:
    def test_the_digest_covers_parameters_and_weights(self) -> None:
        assert runner(DETECT).info.digest == runner(DETECT).info.digest
        assert runner(DETECT | {"params": {"min_area": 9}}).info.digest != runner(DETECT).info.digest

    def test_the_digest_covers_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = runner(DETECT).info.digest
        monkeypatch.setattr(Blobs, "weights_digest", "abc")
        assert runner(DETECT).info.digest != before

    def test_tunables_are_applied_in_place_and_reset_when_they_go_away(self) -> None:
        step = runner(DETECT)
        classifier, digest = step.classifier, step.info.digest
        step.reconfigure(load_plan({"pipeline": [DETECT | {"params": {"min_area": 5000}}]}), "detect")
        assert run(step, request())[0].result == {"detections": [], "detected_classes": []}
        assert step.info.digest != digest
        step.reconfigure(load_plan({"pipeline": [DETECT]}), "detect")
        assert len((run(step, request())[0].result or {})["detections"]) == 3
        assert step.info.digest == digest
        assert step.classifier is classifier

    def test_a_call_belongs_to_the_configuration_that_the_model_ran_with(self) -> None:
        step = runner(DETECT)
        changed = load_plan({"pipeline": [DETECT | {"params": {"min_area": 5000}}]})
        early, late = step.prepare(request()), step.prepare(request())
        assert isinstance(early, Prepared)
        assert isinstance(late, Prepared)
        before = step.info
        [outcome] = step.infer([early])
        step.reconfigure(changed, "detect")
        answer = step.finish(early, outcome)  # its model ran before
        assert answer.info == before
        assert len((answer.result or {})["detections"]) == 3
        answer = step.finish(late, step.infer([late])[0])  # its model runs after
        assert answer.info == step.info != before
        assert (answer.result or {})["detections"] == []

    @pytest.mark.parametrize("more", [{}, {"decode": "reduced"}], ids=["crops", "the whole image"])
    def test_pixels_that_were_prepared_before_a_change_are_prepared_again(self, more: dict[str, Any]) -> None:
        def plan(scale: int) -> Plan:
            second = {"name": "padded", "class": "toys.Padded", "params": {"scale": scale}, **more}
            return load_plan(
                {"pipeline": [DETECT, second | {"depends_on": "detect", "crops": None if more else "True"}]}
            )

        step = StepRunner(plan(1), "padded", load_classifier(plan(1)["padded"]))
        asked = request(
            context={"detect": {}}, frame=Frame.from_bytes(encoded(IMAGE, "JPEG")), targets=None if more else targets(0)
        )
        call = step.prepare(asked)
        assert isinstance(call, Prepared)
        step.reconfigure(plan(4), "padded")
        answer = step.finish(call, step.infer([call])[0])
        [expected] = run(StepRunner(plan(4), "padded", load_classifier(plan(4)["padded"])), asked)
        assert answer == expected
        assert answer.result != run(StepRunner(plan(1), "padded", load_classifier(plan(1)["padded"])), asked)[0].result

    def test_crops_that_were_cut_for_another_configuration_are_not_looked_at(self) -> None:
        step = runner(COLOUR, DETECT)
        crops = (np.zeros((4, 4, 3), np.uint8),)
        answer = step.prepare(
            request(frame=None, crops=crops, crop=CropSpec((4, 4), "stretch", 0.0), targets=targets(0))
        )
        assert answer == StepAnswer(step.info, wants_frame=True)

    def test_nor_when_the_configuration_changes_while_they_wait(self) -> None:
        def plan(scale: int) -> Plan:
            second = {"name": "padded", "class": "toys.Padded", "depends_on": "detect", "crops": "True"}
            return load_plan({"pipeline": [DETECT, second | {"params": {"scale": scale}}]})

        step = StepRunner(plan(1), "padded", load_classifier(plan(1)["padded"]))
        crops = (np.zeros((8, 8, 3), np.uint8),)
        call = step.prepare(request(frame=None, crops=crops, crop=step.info.crop, targets=targets(0)))
        assert isinstance(call, Prepared)
        step.reconfigure(plan(4), "padded")
        assert step.finish(call, step.infer([call])[0]) == StepAnswer(step.info, wants_frame=True)

    def test_info_says_how_crops_are_wanted(self) -> None:
        assert runner(COLOUR, DETECT).info.crop == SPEC


class TestLoading:
    def test_a_constructor_that_fails_names_the_step(self) -> None:
        plan = load_plan({"pipeline": [{"name": "broken", "class": "toys.Says", "params": {"answer": {}}}]})
        step = plan["broken"]
        object.__setattr__(step, "params", {"answr": {}})
        with pytest.raises(SetupError, match=r"step 'broken': toys\.Says\(answr=\{\}\) failed with TypeError"):
            load_classifier(step)

    def test_a_missing_model_stays_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(self: Blobs, min_area: int = 4) -> None:
            raise ModelNotFound("no blobs.bin here", path="blobs.bin")

        monkeypatch.setattr(Blobs, "__init__", fail)
        with pytest.raises(ModelNotFound, match=r"step 'detect': no blobs\.bin here") as caught:
            load_classifier(load_plan({"pipeline": [DETECT]})["detect"])
        assert caught.value.fields == {"path": "blobs.bin"}


def test_a_tunable_that_a_base_class_takes_has_its_default_too(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: dict[str, Any] = {}
    monkeypatch.setattr("zoo.Make.reconfigure", lambda self, **tunables: applied.update(tunables))
    runner({"name": "make", "class": "zoo.Make", "params": {"makes": 1}, "crops": None, "depends_on": "detect"}, DETECT)
    assert set(applied) == Make.tunables


def reduced(*more: dict[str, Any]) -> StepRunner:
    return runner({"name": "detect", "class": "toys.ReducedBlobs", "decode": "reduced"}, *more)


def test_a_reduced_image_gives_boxes_of_the_full_one_and_crops_of_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = Frame.from_bytes(encoded(IMAGE, "JPEG", quality=95))
    seen = []
    process = Blobs.process
    monkeypatch.setattr(Blobs, "process", lambda *a: (seen.append(a[1].shape), process(*a))[1])
    [answer] = run(reduced(COLOUR), request(frame=frame, cut_for={"colour": CropSpec(None, "stretch", 0.0)}))
    assert seen == [(60, 80, 3)]
    assert answer.result is not None
    found = [detection["bbox"] for detection in answer.result["detections"]]
    expected = [detection["bbox"] for detection in detections()]
    assert np.abs(np.array(found) - np.array(expected)).max() <= 4  # a pixel of the reduced image
    sizes = {index: image.shape[:2] for index, image in answer.crops["colour"].items()}
    assert all(sizes[i] == (box[3] - box[1], box[2] - box[0]) for i, box in enumerate(found) if i in sizes)
    assert len(sizes) == 2


def test_full_pixels_are_decoded_only_where_there_is_something_to_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Frame, "pixels", lambda self: pytest.fail("decoded"))
    frame = Frame.from_bytes(encoded(draw(), "JPEG"))
    [answer] = run(reduced(COLOUR), request(frame=frame, cut_for={"colour": SPEC}))
    assert answer.crops == {"colour": {}}


def test_shapes_are_brought_to_the_full_image_too() -> None:
    box = {"bbox": [1, 2, 3, 4], "confidence": 0.5, "class_id": 0, "class_name": "car"}
    points = [[10.5, 20], [30, 20], [30, 40], [10, 40]]
    shapes = {"mask": [points[:3]], "keypoints": [[1, 2, 0.5]], "corners": points}
    step = {"name": "says", "class": "toys.SaysOfReduced", "decode": "reduced"}
    frame = Frame.from_bytes(encoded(draw(size=(800, 800)), "JPEG"))

    [answer] = run(runner(step | {"params": {"answer": {"detections": [box | shapes]}}}), request(frame=frame))

    [found] = answer.result["detections"]
    assert found["bbox"] == [8, 16, 24, 32]
    assert found["mask"] == [[[84, 160], [240, 160], [240, 320]]]
    assert found["keypoints"] == [[8, 16, 0.5]]
    assert found["corners"][3] == [80, 320]


def test_a_class_that_cannot_take_a_reduced_image_says_so() -> None:
    with pytest.raises(SetupError, match=r"step 'size': decode: reduced .* toys.Size has none; remove it"):
        runner({"name": "size", "class": "toys.Size", "decode": "reduced"})


def test_the_calls_that_are_answered_along() -> None:
    detect = runner(DETECT, COLOUR | {"serve": {"colocate_with": "detect"}}, SIZE)
    call = detect.prepare(request(cut_for={"colour": SPEC, "size": SPEC}))
    assert isinstance(call, Prepared)
    answer = detect.finish(call, detect.infer([call])[0])
    along = detect.calls_along(call, answer)
    assert set(along) == {"colour"}
    assert along["colour"].context == {"detect": answer.result}
    assert [target.index for target in along["colour"].targets or ()] == [0, 1]
    assert along["colour"].crops == tuple(answer.crops["colour"].values())


def test_where_nothing_was_found_nothing_is_answered_along() -> None:
    detect = runner(DETECT, COLOUR | {"serve": {"colocate_with": "detect"}})
    call = detect.prepare(request(frame=Frame.from_array(draw()), cut_for={"colour": SPEC}))
    assert isinstance(call, Prepared)
    assert detect.calls_along(call, detect.finish(call, detect.infer([call])[0])) == {}


class TestTimings:
    def test_an_answer_says_how_long_its_pixels_and_its_model_took(self) -> None:
        slow = {"name": "slow", "class": "toys.Sleeper", "params": {"seconds": 0.02}}
        (answer,) = run(runner(slow), request(), request())[:1]
        assert answer.timings is not None
        assert answer.timings.model_ms >= 20
        assert 0 < answer.timings.decode_ms < 20_000

    def test_calls_that_are_tried_alone_have_the_time_of_both_tries(self) -> None:
        failing = {"name": "failing", "class": "toys.Failing", "params": {"above": 200}}
        white = Frame.from_bytes(encoded(draw() + 255))
        step = runner(failing)
        good, bad = run(step, request(), request(frame=white))
        assert good.error is None
        assert bad.error is not None
        assert bad.timings is not None

    def test_batches_are_reported_with_their_size(self) -> None:
        sizes = {"name": "size", "class": "toys.Size", "serve": {"max_batch_size": 2}}
        plan = load_plan({"pipeline": [sizes]})
        done: list[tuple[int, float]] = []
        step = StepRunner(
            plan, "size", load_classifier(plan["size"]), batch_done=lambda *batch: done.append(batch), replica="size-1"
        )
        answers = run(step, request(), request(), request())
        assert [images for images, _ in done] == [2, 1]
        assert all(duration_s > 0 for _, duration_s in done)
        assert {answer.info.replica for answer in answers} == {"size-1"}
