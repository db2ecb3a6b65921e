"""Processes the calls of one step: cut or decode, classify many at once, make the answers.

This is the core of a step in every runtime. It has no threads and no event loop; the runtime decides where each part
runs: :meth:`StepRunner.prepare` and :meth:`StepRunner.finish` may run anywhere, :meth:`StepRunner.infer` in one thread
at a time.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from classifiers import BaseClassifier, Image, InputError, SetupError
from classifiers.imaging import crop
from graph.conditions import Budget, RuleError
from graph.engine import CropSpec, StepAnswer, StepError, StepInfo, StepRequest, Target, Timings, picks
from graph.pipeline_file import constructor_of
from graph.plan import Plan, PlannedStep
from graph.runtime.result import BadResult, normalise

__all__ = ["Prepared", "StepRunner", "load_classifier"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Configuration:
    """Everything about a step that tunables change. Replaced as a whole, so that each call sees a consistent one."""

    step: PlannedStep
    cuts: Mapping[str, PlannedStep]
    frame_size: tuple[int, int] | None
    info: StepInfo


@dataclass(slots=True)
class Prepared:
    """One call, ready for the model: N images with their contexts. ``len()`` is N, its share of a batch.

    Attributes:
        configuration: what ``images`` were made for; after :meth:`StepRunner.infer`, what the model ran with.
        divisor: the whole image was decoded at 1/divisor of its size.
        decode_s: spent on its pixels so far.
        model_s: spent in the model's batches that it was in.
        ready_ns: when it was prepared, since the epoch.
    """

    request: StepRequest
    configuration: _Configuration
    images: tuple[Image, ...]
    contexts: tuple[Mapping[str, Any], ...]
    divisor: int
    decode_s: float = 0.0
    model_s: float = 0.0
    ready_ns: int = field(default_factory=time.time_ns)

    def __len__(self) -> int:
        return len(self.images)


def load_classifier(step: PlannedStep) -> BaseClassifier:
    """Make a step's classifier, which loads its model.

    Raises:
        SetupError: the constructor failed; the message names the step. A ``ModelNotFound`` stays one.
    """
    try:
        return step.cls(**step.params)
    except SetupError as error:
        raise type(error)(f"step '{step.name}': {error}", **error.fields) from error
    except Exception as error:  # a plug-in's constructor may raise anything
        arguments = ", ".join(f"{key}={value!r}" for key, value in step.params.items())
        raise SetupError(
            f"step '{step.name}': {step.class_path}({arguments}) failed with {type(error).__name__}: {error}",
            step=step.name,
        ) from error


class StepRunner:
    """A loaded step.

    Args:
        plan: the pipeline; the step's own part and the crop rules of its dependents are read from it.
        name: which step this is.
        classifier: the loaded model, see :func:`load_classifier`.
        progress: called before each batch of the model; one call may need several.
        batch_done: called after each of them with its number of images and its duration in seconds.
        replica: names this process in answers.
    """

    def __init__(
        self,
        plan: Plan,
        name: str,
        classifier: BaseClassifier,
        progress: Callable[[], None] = lambda: None,
        *,
        batch_done: Callable[[int, float], None] = lambda images, duration_s: None,  # noqa: ARG005
        replica: str | None = None,
    ) -> None:
        self.classifier = classifier
        self._progress = progress
        self._batch_done = batch_done
        self._replica = replica
        self.reconfigure(plan, name)

    @property
    def info(self) -> StepInfo:
        """The configuration of the next batch."""
        return self._configuration.info

    def reconfigure(self, plan: Plan, name: str) -> None:
        """Take rules, batch size and tunables from ``plan``. Not during :meth:`infer`."""
        step = plan[name]
        self.classifier.reconfigure(**_tunables(step))
        if step.decode == "reduced" and self.classifier.frame_size is None:
            raise SetupError(
                f"step '{name}': decode: reduced is for classes whose `frame_size` says how large an image they need; "
                f"{step.class_path} has none; remove it",
                step=name,
            )
        spec = CropSpec(self.classifier.input_size, self.classifier.resize, self.classifier.crop_padding)
        self._configuration = _Configuration(
            step,
            {dependent: plan[dependent] for dependent in step.cuts},
            self.classifier.frame_size,
            StepInfo(plan.step_digest(name), self.classifier.weights_digest, spec, self._replica),
        )

    def warm_up(self) -> None:
        """Run the model once with the largest batch."""
        self.classifier.warm_up(self._configuration.step.serve.max_batch_size)

    def prepare(self, request: StepRequest) -> Prepared | StepAnswer:
        """Get the pixels of a call: decoded, cut, or as received; if that fails, the answer with the error."""
        configuration, started = self._configuration, time.perf_counter()
        if _cut_otherwise(request, configuration):
            return StepAnswer(configuration.info, wants_frame=True)
        contexts: tuple[Mapping[str, Any], ...] = (request.context,)
        if request.targets is not None:
            contexts = tuple({**request.context, "detection": target.detection} for target in request.targets)
        try:
            images, divisor = _pixels(request, configuration)
        except Exception as error:  # noqa: BLE001 - a failure of this call, not of the others
            return StepAnswer(configuration.info, error=self._error(error, request))
        return Prepared(request, configuration, images, contexts, divisor, time.perf_counter() - started)

    def infer(self, batch: Sequence[Prepared]) -> list[list[Any] | StepError]:
        """Classify the images of many calls at once. Returns for each call its results, or its error.

        Images of different calls share the model's batches of at most ``max_batch_size``. When a batch raises, its
        calls are tried one at a time, so that one bad image fails alone. Calls that were prepared before tunables
        changed are prepared again.
        """
        started = time.perf_counter()
        try:
            for call in batch:
                if call.configuration is not self._configuration:
                    call.images, call.divisor = _pixels(call.request, self._configuration)
                    call.configuration = self._configuration
            results = self._classify(
                [i for call in batch for i in call.images], [c for call in batch for c in call.contexts]
            )
        except Exception as error:  # noqa: BLE001 - anything that a plug-in raises is a failure of its step
            _add_model_time(batch, started)
            if len(batch) == 1:
                return [self._error(error, batch[0].request)]
            return [outcome for call in batch for outcome in self.infer([call])]
        _add_model_time(batch, started)
        left = iter(results)
        return [list(islice(left, len(call))) for call in batch]

    def _classify(self, images: list[Image], contexts: list[Mapping[str, Any]]) -> list[Any]:
        step = self._configuration.step
        size = step.serve.max_batch_size
        results: list[Any] = []
        for start in range(0, len(images), size):
            chunk = images[start : start + size]
            self._progress()
            began = time.perf_counter()
            answers: object = self.classifier.process_batch(chunk, contexts[start : start + size])
            self._batch_done(len(chunk), time.perf_counter() - began)
            returned = list(answers) if isinstance(answers, Iterable) else []
            if len(returned) != len(chunk):
                what = f"{len(returned)} results" if isinstance(answers, Iterable) else type(answers).__name__
                raise BadResult(
                    f"{step.class_path}.process_batch returned {what} for {len(chunk)} images; it must return a "
                    "list with a dict for each image"
                )
            results += returned
        return results

    def finish(self, call: Prepared, outcome: list[Any] | StepError) -> StepAnswer:
        """Make the answer of one call, and cut the crops of the dependent steps."""
        info, started = call.configuration.info, time.perf_counter()
        if _cut_otherwise(call.request, call.configuration):
            return StepAnswer(info, wants_frame=True)
        if isinstance(outcome, StepError):
            return StepAnswer(info, error=outcome, timings=_timings(call, started))
        source = call.configuration.step.class_path
        try:
            if call.request.targets is None:
                result = _at_full_size(normalise(outcome[0], source), call)
            else:
                found = [
                    {**normalise(answer, f"{source}, detection {target.index}"), "detection": target.index}
                    for target, answer in zip(call.request.targets, outcome, strict=True)
                ]
                result = {"objects": found}
        except BadResult as error:
            return StepAnswer(info, error=self._error(error, call.request), timings=_timings(call, started))
        crops = self._cut_for_dependents(call, result)
        return StepAnswer(info, result=result, crops=crops, timings=_timings(call, started))

    def calls_along(self, call: Prepared, answer: StepAnswer) -> dict[str, StepRequest]:
        """The calls of the steps that are answered with this one (``PlannedStep.carries``), by name, without those that
        have no crops."""
        calls = {}
        step = call.configuration.step
        for name in step.carries:
            if answer.result is not None and (crops := answer.crops.get(name)):
                detections = answer.result["detections"]
                calls[name] = StepRequest(
                    image=call.request.image,
                    context={step.name: answer.result},
                    targets=tuple(Target(index, detections[index]) for index in crops),
                    crops=tuple(crops.values()),
                    crop=call.request.cut_for[name],
                    request_id=call.request.request_id,
                    sha256=call.request.sha256,
                    priority=call.request.priority,
                    traceparent=call.request.traceparent,
                )
        return calls

    def _error(self, error: Exception, request: StepRequest) -> StepError:
        """The error as it is sent: without the traceback, which is only logged here."""
        if isinstance(error, InputError):
            return StepError(type(error).__name__, str(error), error)
        # Escaped, because results and logs are UTF-8, and an error may quote a file name or data of any bytes.
        detail = _as_utf8(str(error))
        said = detail if isinstance(error, BadResult) else _as_utf8("".join(traceback.format_exception(error)))
        name, ids = self._configuration.step.name, {"request_id": request.request_id}
        if request.traceparent:
            ids["trace_id"] = request.traceparent.split("-")[1]
        _log.error("step '%s' failed on request %s: %s", name, request.request_id, said, extra={"fields": ids})
        return StepError(type(error).__name__, detail)

    def _cut_for_dependents(self, call: Prepared, result: dict[str, Any]) -> dict[str, dict[int, Image]]:
        request = call.request
        if not request.cut_for or request.frame is None or "detections" not in result:
            return {}
        left = request.crop_budget_bytes
        answer: dict[str, dict[int, Image]] = {}
        for name, spec in request.cut_for.items():
            dependent = call.configuration.cuts.get(name)
            if dependent is None or dependent.crops is None:
                continue  # the caller's pipeline is newer than this replica's
            context = {call.configuration.step.name: result}
            condition, budget = dependent.condition, Budget(dependent.rule_operations)
            try:
                if (
                    condition is not None
                    and condition.reads <= context.keys()
                    and not condition(context=context, image=request.image, budget=budget)
                ):
                    continue
                found = picks(dependent.crops, context, request.image, result["detections"], budget)
                targets = [target for target in found if target is not None]
            except RuleError:
                continue  # the engine evaluates the rule again, and the failure is that step's
            crops = {target.index: _cut(request.frame.pixels(), target.detection, spec) for target in targets}
            if left is not None:
                left -= sum(image.nbytes for image in crops.values())
                if left < 0:
                    break  # the dependent step gets the encoded image and cuts its crops itself
            answer[name] = crops
        return answer


def _add_model_time(batch: Sequence[Prepared], since: float) -> None:
    for call in batch:
        call.model_s += time.perf_counter() - since


def _timings(call: Prepared, finishing_since: float) -> Timings:
    decode_s = call.decode_s + time.perf_counter() - finishing_since
    return Timings(1000 * decode_s, 1000 * call.model_s)


def _cut_otherwise(request: StepRequest, configuration: _Configuration) -> bool:
    """Whether the crops were cut in another way than the step wants them: the caller has another version."""
    return request.crops is not None and request.crop != configuration.info.crop


def _pixels(request: StepRequest, configuration: _Configuration) -> tuple[tuple[Image, ...], int]:
    """The images of a call, and the divisor of the whole image's size."""
    if request.crops is not None:
        for image in request.crops:
            image.flags.writeable = False  # unpickled arrays are writable
        return request.crops, 1
    if request.frame is None:  # a bug in the caller, not a user's mistake
        raise RuntimeError("the engine sent neither the image nor its crops")
    if request.targets is not None:
        pixels, spec = request.frame.pixels(), configuration.info.crop
        return tuple(_cut(pixels, target.detection, spec) for target in request.targets), 1
    if configuration.step.decode == "reduced" and configuration.frame_size is not None:
        image, divisor = request.frame.reduced_pixels(configuration.frame_size)
        return (image,), divisor
    return (request.frame.pixels(),), 1


def _tunables(step: PlannedStep) -> dict[str, Any]:
    """The value of every tunable: from the file, else the constructor's default, so that removing one from the file
    resets it."""
    parameters = constructor_of(step.cls).parameters
    return {key: step.params.get(key, parameters[key].default) for key in sorted(step.cls.tunables)}


def _as_utf8(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _at_full_size(result: dict[str, Any], call: Prepared) -> dict[str, Any]:
    """Convert boxes and shapes to pixels of the full image if the classifier got a reduced one."""
    if call.divisor > 1:
        limits = [call.request.image["width"], call.request.image["height"]] * 2
        for detection in result.get("detections", ()):
            sides = zip(detection["bbox"], limits, strict=True)
            detection["bbox"] = [round(max(-limit, min(side * call.divisor, limit)), 2) for side, limit in sides]
            for points in (*detection.get("mask", ()), detection.get("keypoints", ()), detection.get("corners", ())):
                for point in points:
                    point[:2] = [round(coordinate * call.divisor, 2) for coordinate in point[:2]]
    return result


def _cut(pixels: Image, detection: Mapping[str, Any], spec: CropSpec) -> Image:
    return crop(pixels, detection["bbox"], spec.size, spec.resize, spec.padding)
