"""On the CPU; what a GPU does besides is in test_gpu.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from classifiers.backends.torch_runner import TorchRunner, compiled

CPU = torch.device("cpu")


def first_pixels(images: torch.Tensor) -> torch.Tensor:
    """The red of the top left pixel of each image (N, 3, H, W)."""
    return images[:, 0, 0, 0]


def test_images_reach_the_model_as_bytes_with_channels_first() -> None:
    seen = []
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)

    def look(batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch)
        return batch

    TorchRunner(look, CPU, (4, 5))(images)

    assert (seen[0].dtype, tuple(seen[0].shape)) == (torch.uint8, (2, 3, 4, 5))
    assert np.array_equal(seen[0].permute(0, 2, 3, 1).numpy(), images)


def test_a_batch_is_written_where_the_last_one_was() -> None:
    runner = TorchRunner(first_pixels, CPU, (2, 2))
    for count in (3, 1, 2, 12, 5):
        images = runner.buffer(count)
        assert images.shape == (count, 2, 2, 3)
        images[:] = np.arange(count, dtype=np.uint8)[:, np.newaxis, np.newaxis, np.newaxis] + 7
        assert runner(images).tolist() == list(range(7, 7 + count))
    assert np.shares_memory(runner.buffer(5), runner.buffer(12))


@pytest.mark.parametrize(
    ("largest", "is_compiled", "sizes"),
    [(8, False, (8,)), (8, True, (8, 4, 1)), (2, True, (2, 1)), (1, True, (1,))],
)
def test_every_shape_that_is_compiled_apart_is_warmed_up(
    largest: int, is_compiled: bool, sizes: tuple[int, ...]
) -> None:
    assert TorchRunner(first_pixels, CPU, (2, 2), is_compiled=is_compiled).sizes_to_warm_up(largest) == sizes


@pytest.mark.slow
def test_a_model_is_compiled_only_where_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(2, 2)
    assert compiled(model, False) is model
    # torch's own front end, without the minute that its code generator takes
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile_(model, backend="eager"))
    made = compiled(model, True)
    assert made is not model
    assert torch.equal(made(torch.ones(3, 2)), model(torch.ones(3, 2)))
