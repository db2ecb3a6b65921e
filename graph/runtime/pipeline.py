"""The synchronous interface of the engine, without a cluster."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import PIL.Image

from classifiers import BadImage
from classifiers.imaging import ImageLimits
from graph.engine import Engine, Frame, checked_metadata
from graph.plan import load_plan
from graph.runtime.in_process import LocalBackend

__all__ = ["ImageLike", "VisionPipeline"]

T = TypeVar("T")

_CLOSED = "this VisionPipeline is closed; make a new one"

ImageLike: TypeAlias = str | Path | bytes | PIL.Image.Image | npt.NDArray[np.uint8] | Callable[[ImageLimits], Frame]
"""A path, encoded bytes, a Pillow image, an (H, W, 3) RGB uint8 array, or a function that loads the image when it
is needed."""


class VisionPipeline:
    """A pipeline with its models loaded in this process.

    >>> with VisionPipeline("configs/demo.yaml") as pipeline:      # doctest: +SKIP
    ...     print(pipeline.run("street.jpg")["context"])

    Args:
        pipeline: path of a pipeline file, or the same as a mapping.

    Attributes:
        plan: what runs when.
        limits: which images are accepted.

    Raises:
        PipelineError: the file has errors; all of them are in the message.
        SetupError: a model could not be loaded.
    """

    def __init__(self, pipeline: str | Path | Mapping[str, Any]) -> None:
        self.plan = load_plan(pipeline)
        self.limits = self.plan.config.limits
        self._backend = LocalBackend(self.plan)
        self._engine = Engine(self.plan, self._backend)
        self._loop = asyncio.new_event_loop()
        self._closed = False
        self._lock = threading.Lock()  # so that nothing is submitted to a loop that is about to stop
        self._thread = threading.Thread(target=self._loop.run_forever, name="visiongraph", daemon=True)
        self._thread.start()

    def run(
        self, image: ImageLike, *, metadata: Mapping[str, Any] | None = None, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Run one image.

        Args:
            image: see :data:`ImageLike`.
            metadata: what is known about the image; rules see it as ``image['metadata']``.
            timeout_s: deadline of the request.

        Returns:
            The result, plain JSON values: ``id``, ``image``, ``pipeline``, ``context``, ``steps``, ``metadata``.

        Raises:
            InputError: the image is at fault, or the metadata is not JSON (``Malformed``).
            StepFailed: a step with ``on_error: fail`` failed or timed out.
            DeadlineExceeded: ``timeout_s`` passed.
            RuntimeError: the pipeline is closed, or another thread closed it during the call.
        """
        return _result(self._submit(self._run(image, checked_metadata(metadata), timeout_s)))

    def run_batch(
        self, images: Iterable[ImageLike], *, metadata: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Run many images, several at a time; their crops share the models' batches.

        Returns:
            The results in the order of ``images``.

        Raises:
            Exception: as :meth:`run`, for the first image that failed; :meth:`stream` continues after it.
            RuntimeError: as :meth:`run`.
        """
        results: list[dict[str, Any]] = []
        for result in self.stream(images, metadata=metadata):
            if isinstance(result, Exception):
                raise result
            results.append(result)
        return results

    def stream(
        self, images: Iterable[ImageLike], *, metadata: Mapping[str, Any] | None = None, in_flight: int | None = None
    ) -> Iterator[dict[str, Any] | Exception]:
        """Run images as they are read, and yield for each, in their order, its result or error.

        Args:
            images: any number; they are read only as far ahead as ``in_flight``.
            metadata: for all of them.
            in_flight: images in progress at once; default: enough to fill the largest batch of any step.

        Raises:
            Malformed: the metadata is not JSON.
            RuntimeError: as :meth:`run`.
        """
        known = checked_metadata(metadata)
        window = in_flight or max(4, *(step.serve.max_batch_size for step in self.plan))
        waiting: deque[Future[dict[str, Any]]] = deque()
        try:
            for image in images:
                waiting.append(self._submit(self._run(image, known)))
                if len(waiting) >= window:
                    yield _result_or_error(waiting.popleft())
            while waiting:
                yield _result_or_error(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()

    def fingerprint(self) -> str:
        """Identity of the loaded pipeline: structure, rules, parameters, code versions and weights."""
        return _result(self._submit(self._engine.fingerprint()))

    def close(self) -> None:
        """End the threads. Called at the end of a ``with`` block; a second call does nothing.

        Calls in other threads raise ``RuntimeError`` at once; this call waits for models that are running.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
        self._backend.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if not self._closed:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise RuntimeError(_CLOSED)

    async def _run(self, image: ImageLike, metadata: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        frame = await asyncio.to_thread(_read_frame, image, self.limits)
        return await self._engine.run(frame, metadata=metadata, timeout_s=timeout_s)


def _read_frame(image: ImageLike, limits: ImageLimits) -> Frame:
    """Make a frame of an image in any form.

    Raises:
        InputError: it is not an image or exceeds the limits, or its file cannot be read.
    """
    if isinstance(image, (str, Path)):
        path = Path(image)
        try:
            with path.open("rb") as file:
                data = file.read(limits.max_bytes + 1)  # one byte over the limit is refused
        except OSError as error:
            raise BadImage(f"cannot read {image}: {error.strerror or error}") from error
        return Frame.from_bytes(data, limits, uri=str(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return Frame.from_bytes(bytes(image), limits)
    if callable(image):
        return image(limits)
    if isinstance(image, PIL.Image.Image):
        return Frame.from_pil(image, limits)
    return Frame.from_array(image, limits)


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _result(future: Future[T]) -> T:
    try:
        return future.result()
    except CancelledError:  # only close() cancels what is awaited
        raise RuntimeError(_CLOSED) from None


def _result_or_error(future: Future[dict[str, Any]]) -> dict[str, Any] | Exception:
    try:
        return _result(future)
    except Exception as error:
        if future.cancelled():
            raise
        return error  # a failure of this image only
