from __future__ import annotations

import os
from pathlib import Path

import cv2
import pytest

from classifiers.backends import threads


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with 8 cores, no settings and no container; the file is where a container's quota would stand."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(threads, "_CGROUP_QUOTA", tmp_path / "cpu.max")
    return tmp_path / "cpu.max"


@pytest.mark.parametrize(
    ("configured", "expected"), [(None, 8), ("3", 3), (" 2 ", 2), ("4,2", 4), ("", 8), ("0", 8), ("many", 8), ("-1", 8)]
)
def test_configured_number(host: Path, monkeypatch: pytest.MonkeyPatch, configured: str | None, expected: int) -> None:
    if configured is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", configured)

    assert threads.thread_count() == expected


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1)]
)
def test_quota_of_a_container(host: Path, quota: str, expected: int) -> None:
    host.write_text(quota + "\n")

    assert threads.thread_count() == expected


def test_a_quota_above_the_cores_does_not_matter(host: Path) -> None:
    host.write_text("6400000 100000\n")

    assert threads.thread_count() == 8


def test_where_the_system_has_no_affinity(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert threads.thread_count() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads.thread_count() == 1


def test_libraries_are_held_to_it(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    try:
        assert threads.limit_threads() == 3
        assert torch.get_num_threads() == 3
        monkeypatch.delitem(threads.sys.modules, "torch")
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert threads.limit_threads() == 2
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
