"""``visiongraph render --kubernetes``, as a user calls it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

Run = Callable[..., tuple[int, str, str]]

_DEMO = "configs/kubernetes/demo-settings.yaml"
_PRODUCTION = "configs/kubernetes/production-settings.yaml"
COMMANDS = {
    "demo": f"configs/demo.yaml --kubernetes --gateway {_DEMO} --head-cpus 1 --worker-cpus 2",
    "production": f"configs/street.yaml --kubernetes --gateway {_PRODUCTION} --intake {_PRODUCTION} "
    "--image registry.example/visiongraph:0.1.0 --gpu-type NVIDIA-L4 "
    "--redis redis://:${REDIS_PASSWORD}@redis.messaging:6379 --models street-models "
    "--upgrade incremental --gateway-class istio",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_are_what_is_rendered(name: str, visiongraph: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code, out, _ = visiongraph("render", *COMMANDS[name].split())
    assert code == 0
    example = ROOT / "configs" / "kubernetes" / f"{name}.yaml"
    assert example.read_text() == out, f"visiongraph render {COMMANDS[name]} > {example.relative_to(ROOT)}"


def test_it_needs_a_decision_on_authentication(visiongraph: Run) -> None:
    code, out, err = visiongraph("render", ROOT / "configs" / "demo.yaml", "--kubernetes")
    assert (code, out) == (2, "")
    assert "--gateway FILE" in err


@pytest.mark.parametrize("option", [("--host", "127.0.0.2"), ("--port", "8001")])
def test_addresses_are_not_chosen(option: tuple[str, str], visiongraph: Run) -> None:
    code, _, err = visiongraph("render", ROOT / "configs" / "demo.yaml", "--kubernetes", *option)
    assert code == 2
    assert "--host and --port" in err


def test_what_cannot_work_is_refused_at_once(visiongraph: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code, out, err = visiongraph(
        *("render", "configs/street.yaml", "--kubernetes", "--gateway", _DEMO, "--queue", "sqlite:///jobs.db"),
        *("--results", "results", "--redis", "redis://localhost:6379", "--upgrade", "incremental"),
    )
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 4
    for words in ("SQLite file is on one node", "results is on one node", "localhost is the pod", "--gateway-class"):
        assert words in err


def test_what_may_not_be_meant_is_a_warning(visiongraph: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code, out, err = visiongraph(
        "render", "configs/demo.yaml", "--kubernetes", "--gateway", _DEMO, "--gpu-type", "NVIDIA-L4"
    )
    assert code == 0
    assert out
    assert "--redis" in err
    assert "no step reserves a GPU" in err


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", 2), ("127.0.0.1", 0)])
def test_a_serve_config_for_others_warns_of_what_one_node_has(
    host: str, warned: int, visiongraph: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    code, out, err = visiongraph(
        *("render", "configs/demo.yaml", "--gateway", _DEMO, "--host", host),
        *("--queue", "sqlite:///jobs.db", "--results", "results"),
    )
    assert code == 0
    assert out
    assert err.count("is on one node") == warned
