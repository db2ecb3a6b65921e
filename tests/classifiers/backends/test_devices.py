from __future__ import annotations

import pytest
import torch

from classifiers.backends.devices import Half, choose_device, choose_half
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
