"""What one step does with the calls that reach it: cut or decode, classify many at once, and shape the answers.

This is the core of a step in every runtime. It has no threads and no event loop; the runtime decides where each part
runs:
:meth:`StepRunner.prepare` and :meth:`StepRunner.finish` may run anywhere, :meth:`StepRunner.infer` in one thread at
a time.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from classifiers import BaseClassifier, Image, InputError, SetupError
from classifiers.crops import crop
from graph._classes import constructor_of
from graph.conditions import Budget, RuleError
from graph.frame import Frame
from graph.messages import CropSpec, StepAnswer, StepError, StepInfo, StepRequest, Target
from graph.plan import Plan, PlannedStep
from graph.result import BadResult, normalise
from graph.rules import picks

__all__ = ["Prepared", "StepRunner", "load_classifier"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """One call, ready for the model: N images with their contexts. ``len()`` is N, what the call takes of a batch.
    ``divisor``: the whole image comes at this fraction of its size."""

    request: StepRequest
    images: tuple[Image, ...]
    contexts: tuple[Mapping[str, Any], ...]
    divisor: int = 1

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
    except Exception as error:  # whatever a plug-in's constructor raises
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
        progress: called before each of the model's batches: those of one call may be many.
    """

    def __init__(
        self, plan: Plan, name: str, classifier: BaseClassifier, progress: Callable[[], None] = lambda: None
    ) -> None:
        self.classifier = classifier
        self._progress = progress
        self.reconfigure(plan, name)

    def reconfigure(self, plan: Plan, name: str) -> None:
        """Take rules, batch size and tunables from ``plan``. Not during :meth:`infer`."""
        step = plan[name]
        self.classifier.reconfigure(**_tunables(step))
        self._step = step
        self._cuts = {dependent: plan[dependent] for dependent in step.cuts}
        self._carries = step.carries
        if step.decode == "reduced" and self.classifier.frame_size is None:
            raise SetupError(
                f"step '{name}': decode: reduced is for classes whose `frame_size` says how large an image they need; "
                f"{step.class_path} has none; remove it",
                step=name,
            )
        weights = self.classifier.weights_digest
        digest = hashlib.sha256(f"{plan.step_digest(name)}:{weights}".encode()).hexdigest()
        spec = CropSpec(self.classifier.input_size, self.classifier.resize, self.classifier.crop_padding)
        self.info = StepInfo(digest, spec)

    def warm_up(self) -> None:
        """Let the model run once at the largest batch that comes."""
        self.classifier.warm_up(self._step.serve.max_batch_size)

    def prepare(self, request: StepRequest) -> Prepared | StepAnswer:
        """Get the pixels of a call: decoded, cut, or as they came. Where that fails, the answer that says why."""
        divisor = 1
        try:
            if request.targets is None:
                image, divisor = self._whole_image(_frame(request))
                images: tuple[Image, ...] = (image,)
                contexts: tuple[Mapping[str, Any], ...] = (request.context,)
            else:
                images = self._crops(request, request.targets)
                contexts = tuple({**request.context, "detection": target.detection} for target in request.targets)
        except Exception as error:  # noqa: BLE001 - this call's failure, and not that of the others
            return StepAnswer(self.info.digest, error=self._error(error, request))
        return Prepared(request, images, contexts, divisor)

    def _whole_image(self, frame: Frame) -> tuple[Image, int]:
        if self._step.decode == "reduced" and self.classifier.frame_size is not None:
            return frame.reduced_pixels(self.classifier.frame_size)
        return frame.pixels(), 1

    def _crops(self, request: StepRequest, targets: tuple[Target, ...]) -> tuple[Image, ...]:
        if request.crops is None:
            pixels, spec = _frame(request).pixels(), self.info.crop
            return tuple(_cut(pixels, target.detection, spec) for target in targets)
        for image in request.crops:
            image.flags.writeable = False  # arrays that were unpickled come writable
        return request.crops

    def infer(self, batch: Sequence[Prepared]) -> list[list[Any] | StepError]:
        """Classify the images of many calls at once; for each call its results, or why it has none.

        Images of different calls share the model's batches of at most ``max_batch_size``. When a batch raises, its
        calls are
        tried one at a time, so that one bad image fails alone.
        """
        try:
            results = self._classify(
                [i for call in batch for i in call.images], [c for call in batch for c in call.contexts]
            )
        except Exception as error:  # noqa: BLE001 - whatever a plug-in raises is its step's failure
            if len(batch) == 1:
                return [self._error(error, batch[0].request)]
            return [outcome for call in batch for outcome in self.infer([call])]
        outcomes: list[list[Any] | StepError] = []
        start = 0
        for call in batch:
            outcomes.append(results[start : start + len(call)])
            start += len(call)
        return outcomes

    def _classify(self, images: list[Image], contexts: list[Mapping[str, Any]]) -> list[Any]:
        size = self._step.serve.max_batch_size
        results: list[Any] = []
        for start in range(0, len(images), size):
            chunk = images[start : start + size]
            self._progress()
            answers: object = self.classifier.process_batch(chunk, contexts[start : start + size])
            returned = list(answers) if isinstance(answers, Iterable) else answers
            if not isinstance(returned, list) or len(returned) != len(chunk):
                what = f"{len(returned)} results" if isinstance(returned, list) else type(returned).__name__
                raise BadResult(
                    f"{self._step.class_path}.process_batch returned {what} for {len(chunk)} images; it must return a "
                    "list with a dict for each image"
                )
            results += returned
        return results

    def finish(self, call: Prepared, outcome: list[Any] | StepError) -> StepAnswer:
        """Shape the answer of one call, and cut the crops of the steps that hang on it."""
        if isinstance(outcome, StepError):
            return StepAnswer(self.info.digest, error=outcome)
        source = self._step.class_path
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
            return StepAnswer(self.info.digest, error=self._error(error, call.request))
        return StepAnswer(self.info.digest, result=result, crops=self._cut_for_dependents(call, result))

    def calls_along(self, call: Prepared, answer: StepAnswer) -> dict[str, StepRequest]:
        """The calls of the steps that are answered along with this one (``PlannedStep.carries``), by name; of those
        only that have something to look at."""
        calls = {}
        for name in self._carries:
            if answer.result is not None and (crops := answer.crops.get(name)):
                detections = answer.result["detections"]
                calls[name] = StepRequest(
                    image=call.request.image,
                    context={self._step.name: answer.result},
                    targets=tuple(Target(index, detections[index]) for index in crops),
                    crops=tuple(crops.values()),
                    request_id=call.request.request_id,
                    sha256=call.request.sha256,
                )
        return calls

    def _error(self, error: Exception, request: StepRequest) -> StepError:
        """The error as it travels: without the traceback, which stays in this process's log."""
        if isinstance(error, InputError):
            return StepError(type(error).__name__, str(error), error)
        traceback = None if isinstance(error, BadResult) else error  # whose message says all
        _log.error("step '%s' failed on request %s: %s", self._step.name, request.request_id, error, exc_info=traceback)
        detail = str(error).encode(errors="backslashreplace").decode()  # results are stored as UTF-8
        return StepError(type(error).__name__, detail)

    def _cut_for_dependents(self, call: Prepared, result: dict[str, Any]) -> dict[str, dict[int, Image]]:
        request = call.request
        if not request.cut_for or request.frame is None or "detections" not in result:
            return {}
        left = request.crop_budget_bytes
        answer: dict[str, dict[int, Image]] = {}
        for name, spec in request.cut_for.items():
            dependent = self._cuts.get(name)
            if dependent is None:
                continue  # the caller's pipeline is newer than this replica's
            context = {self._step.name: result}
            condition, budget = dependent.condition, Budget(dependent.rule_operations)
            try:
                if (
                    condition is not None
                    and condition.reads <= context.keys()
                    and not condition(context=context, image=request.image, budget=budget)
                ):
                    continue
                found = picks(dependent, context, request.image, result["detections"], budget)
                targets = [target for target in found if target is not None]
            except RuleError:
                continue  # the engine decides the same rule again, and the failure is that step's
            crops = {target.index: _cut(request.frame.pixels(), target.detection, spec) for target in targets}
            if left is not None:
                left -= sum(image.nbytes for image in crops.values())
                if left < 0:
                    break  # the dependent gets the encoded image and cuts for itself
            answer[name] = crops
        return answer


def _tunables(step: PlannedStep) -> dict[str, Any]:
    """Every tunable's value: as the file gives it, else the constructor's default, so that removing one from the
    file resets it."""
    parameters = constructor_of(step.cls).parameters
    return {key: step.params.get(key, parameters[key].default) for key in sorted(step.cls.tunables)}


def _frame(request: StepRequest) -> Frame:
    if request.frame is None:
        raise RuntimeError(
            "the engine sent neither the image nor its crops"
        )  # a bug in the caller, not a user's mistake
    return request.frame


def _at_full_size(result: dict[str, Any], call: Prepared) -> dict[str, Any]:
    """Boxes in pixels of the full image, where the classifier saw a reduced one."""
    if call.divisor > 1:
        limits = [call.request.image["width"], call.request.image["height"]] * 2
        for detection in result.get("detections", ()):
            sides = zip(detection["bbox"], limits, strict=True)
            detection["bbox"] = [round(max(-limit, min(side * call.divisor, limit)), 2) for side, limit in sides]
    return result


def _cut(pixels: Image, detection: Mapping[str, Any], spec: CropSpec) -> Image:
    return crop(pixels, detection["bbox"], spec.size, spec.resize, spec.padding)
