"""Batches of images through a torch model; on a GPU from pinned memory, with one call for all of its kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["TorchRunner", "compiled"]

_Answers: TypeAlias = "torch.Tensor | tuple[torch.Tensor, ...]"

_log = logging.getLogger(__name__)

# Before its kernels can be recorded, a model must have run: libraries choose theirs and take memory at first. Three
# times, as PyTorch's own torch.cuda.make_graphed_callables does.
_RUNS_BEFORE_RECORDING = 3
_RECORDED_STEP = 8


def compiled(model: Any, wanted: bool) -> Any:
    """The model, with ``wanted`` by ``torch.compile``, which compiles it on its first run."""
    if not wanted:
        return model
    import torch

    return torch.compile(model)


class TorchRunner:
    """Runs a model on batches of uint8 images: a :class:`classifiers.backends.batch_model.BatchModel`.

    On a GPU the model's kernels are recorded once for each batch size and then started together, as a CUDA graph: one
    by one, those of a YOLO11n take 9 ms of a CPU to start, and for 1 to 32 images 1 to 7 ms to run (on an H200, see
    benchmarks/gpu). Sizes are 1, 2, 4, 8 and multiples of 8; other batches are filled up to the next one. A model that
    cannot be recorded runs as it is, with a warning in the log.

    Args:
        function: (N, 3, H, W) uint8 on the device in, one tensor (N, ...) out, or a tuple of them: for each image an
            answer that does not depend on the others.
        device: where it runs.
        size: (H, W) of the images.
        recordable: torch runs all of it; ``False`` for engines that bring a runtime of their own.
        is_compiled: by ``torch.compile``.
    """

    def __init__(
        self,
        function: Callable[[torch.Tensor], _Answers],
        device: torch.device,
        size: tuple[int, int],
        recordable: bool = True,
        is_compiled: bool = False,
    ) -> None:
        import torch

        self._function = function
        self._device = device
        self._size = size
        self._records = recordable and device.type == "cuda"
        self._is_compiled = is_compiled
        self._buffer = torch.empty((0, *size, 3), dtype=torch.uint8)
        self._recordings: dict[int, _Recording] = {}
        # One at a time is replayed: all work in the same memory, that of the largest.
        self._pool = torch.cuda.graph_pool_handle() if self._records else None

    def buffer(self, count: int) -> npt.NDArray[np.uint8]:
        """See ``BatchModel``. New memory for every batch would take longer to get than the images to write."""
        if len(self._buffer) < count:
            import torch

            shape = (_recorded_size(count), *self._size, 3)
            self._buffer = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        images: npt.NDArray[np.uint8] = self._buffer[:count].numpy()
        return images

    def __call__(self, images: npt.NDArray[np.uint8]) -> _Answers:
        """See ``BatchModel``; the next call may overwrite the answers."""
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(images)
            if self._records and (recording := self._recording(_recorded_size(len(images)))) is not None:
                return recording.replay(batch)
            return self._function(batch.to(self._device, non_blocking=True).permute(0, 3, 1, 2))

    def sizes_to_warm_up(self, largest: int) -> tuple[int, ...]:
        """See ``BatchModel``: no request waits for a recording or a compiler.

        ``torch.compile`` generates code for the first size, then for any size when it sees a second one, and separately
        for a single image; each takes seconds to minutes.
        """
        if self._records:
            return tuple(sorted({_recorded_size(count) for count in range(1, largest + 1)}, reverse=True))
        return tuple(dict.fromkeys((largest, max(1, largest // 2), 1))) if self._is_compiled else (largest,)

    def to_numpy(self, part: torch.Tensor) -> npt.NDArray[np.float32]:
        """See ``BatchModel``."""
        array: npt.NDArray[np.float32] = part.float().cpu().numpy()
        return array

    def _recording(self, size: int) -> _Recording | None:
        if size not in self._recordings:
            try:
                shape = (size, *self._size, 3)
                self._recordings[size] = _Recording(self._function, self._device, shape, self._pool)
            except RuntimeError as error:
                _log.warning("a model runs without CUDA graphs, which is slower: %s", str(error).partition("\n")[0])
                self._records = False
                self._recordings.clear()
                return None
        return self._recordings[size]


class _Recording:
    """A model's kernels for one batch size, and the memory that they work in."""

    def __init__(
        self,
        function: Callable[[torch.Tensor], _Answers],
        device: torch.device,
        shape: tuple[int, ...],
        pool: Any,
    ) -> None:
        import torch

        self._images = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._graph = torch.cuda.CUDAGraph()
        images = self._images.permute(0, 3, 1, 2)
        with torch.cuda.device(device):
            before, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(before)
            with torch.cuda.stream(aside):
                for _ in range(_RUNS_BEFORE_RECORDING):
                    function(images)
            before.wait_stream(aside)
            # only this thread's calls matter: another model's thread may use the GPU meanwhile
            with torch.cuda.graph(self._graph, pool, capture_error_mode="thread_local"):
                self._answers = function(images)

    def replay(self, images: torch.Tensor) -> _Answers:
        self._images[: len(images)].copy_(images, non_blocking=True)
        self._graph.replay()
        if isinstance(self._answers, tuple):
            return tuple(answers[: len(images)] for answers in self._answers)
        return self._answers[: len(images)]


def _recorded_size(count: int) -> int:
    """The next larger of 1, 2, 4, 8, 16, 24, 32, ..."""
    if count > _RECORDED_STEP:
        return -(-count // _RECORDED_STEP) * _RECORDED_STEP
    return 1 << (count - 1).bit_length()
