from __future__ import annotations

import numpy as np
import pytest
import torch

from classifiers._devices import Half, batch_sizes_to_warm_up, choose_device, choose_half, compiled, to_device
from classifiers.errors import SetupError


@pytest.fixture
def gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    count = getattr(request, "param", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    return count


@pytest.mark.parametrize(
    ("gpus", "device", "expected"),
    [
        (0, "auto", "cpu"),
        (2, "auto", "cuda"),
        (2, "cpu", "cpu"),
        (1, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
    ],
    indirect=["gpus"],
)
def test_device(gpus: int, device: str, expected: str) -> None:
    assert str(choose_device(device)) == expected


@pytest.mark.parametrize(
    ("gpus", "device", "message"),
    [
        (0, "cuda", r"'cuda' is not there: this process sees 0 CUDA device\(s\); use 'auto' or 'cpu'"),
        (1, "cuda:1", "sees 1 CUDA"),
        (1, "gpu", "'gpu' is not a device; use 'auto', 'cpu', 'cuda' or 'cuda:N'"),
    ],
    indirect=["gpus"],
)
def test_device_that_is_not_there(gpus: int, device: str, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        choose_device(device)


@pytest.mark.parametrize(
    ("half", "device", "expected"),
    [
        ("auto", "cuda", True),
        ("auto", "cpu", False),
        (True, "cuda", True),
        (False, "cuda", False),
        (False, "cpu", False),
    ],
)
def test_half(half: Half, device: str, expected: bool) -> None:
    assert choose_half(half, torch.device(device)) is expected


def test_half_on_a_cpu() -> None:
    with pytest.raises(SetupError, match="half: true needs a GPU"):
        choose_half(True, torch.device("cpu"))


@pytest.mark.parametrize(
    ("largest", "is_compiled", "sizes"),
    [(8, False, (8,)), (8, True, (8, 4, 1)), (2, True, (2, 1)), (1, True, (1,))],
)
def test_every_shape_that_is_compiled_apart_is_warmed_up(
    largest: int, is_compiled: bool, sizes: tuple[int, ...]
) -> None:
    assert batch_sizes_to_warm_up(largest, is_compiled) == sizes


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


def test_images_reach_the_device_as_bytes() -> None:
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    tensor = to_device(images, torch.device("cpu"))
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.uint8, (2, 3, 4, 5))
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), images)
