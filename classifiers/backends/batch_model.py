"""A loaded model that takes images in batches, on any runtime."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["BatchModel"]


class BatchModel(Protocol):
    """What :class:`.torch_runner.TorchRunner` and :class:`.openvino_model.OpenVinoModel` have in common."""

    def buffer(self, count: int) -> npt.NDArray[np.uint8]:
        """(count, H, W, 3) to write a batch into; it has the batch before, and each call gives the same memory."""

    def sizes_to_warm_up(self, largest: int) -> tuple[int, ...]:
        """Batch sizes to run before the first request, so that none waits for what is only done once."""

    def __call__(self, images: npt.NDArray[np.uint8]) -> Any:
        """N answers for (N, H, W, 3) RGB uint8, an array or a tensor on the device; read them before the next call.

        A model with several outputs gives a tuple of them.
        """

    def to_numpy(self, part: Any) -> npt.NDArray[np.float32]:
        """A part of the answers, on the CPU."""
