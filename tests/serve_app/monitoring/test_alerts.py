"""Each alert fires when what it watches happens, and stays silent otherwise: judged by Prometheus' own rule tester."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from scrapes import promtool

from serve_app.monitoring.alerts import Promises, alert_rules

_HOUR = 60  # samples of a minute
_WEEK = 7 * 24 * 6  # samples of ten minutes

ENOUGH = f"0+60x{8 * _HOUR}"
"""One per second, for eight hours."""


def images(ok: str = ENOUGH, failed: str = "0x480") -> dict[str, str]:
    labels = 'pipeline="street", source="http"'
    return {
        f'visiongraph_images_total{{{labels}, outcome="ok"}}': ok,
        f'visiongraph_images_total{{{labels}, outcome="failed"}}': failed,
    }


def latency(fast: str, slow: str) -> dict[str, str]:
    """Counters of images that took up to 1 s, and up to 10 s."""
    return {
        'visiongraph_image_seconds_bucket{source="http", le="1"}': fast,
        'visiongraph_image_seconds_bucket{source="http", le="10"}': slow,
        'visiongraph_image_seconds_bucket{source="http", le="+Inf"}': slow,
    }


def backlog(waiting: str, workers: int = 2) -> dict[str, str]:
    """Two workers are the most."""
    series = {f'visiongraph_workers_max{{queue="photos", instance="{n}"}}': "2x480" for n in range(workers)}
    return {**series, 'visiongraph_queue_messages{queue="photos", state="waiting", instance="0"}': waiting}


def steps(ok: str, failed: str) -> dict[str, str]:
    return {
        'visiongraph_step_results_total{step="makes", status="ok"}': ok,
        'visiongraph_step_results_total{step="makes", status="failed"}': failed,
        'visiongraph_step_results_total{step="makes", status="skipped"}': ENOUGH,
    }


def condition(before: tuple[int, int], now: tuple[int, int]) -> dict[str, str]:
    """How often it held and did not in ten minutes: for a week, and for two hours after it."""
    series = {}
    for index, word in enumerate(("true", "false")):
        labels = f'step="makes", rule="condition", outcome="{word}"'
        first = f"0+{before[index]}x{_WEEK}"
        then = f"{before[index] * _WEEK}+{now[index]}x12"
        series[f"visiongraph_rule_decisions_total{{{labels}}}"] = f"{first} {then}"
    return series


def confidence(before: float, now: float) -> dict[str, str]:
    """A hundred detections in ten minutes with this mean."""
    return {
        'visiongraph_confidence_sum{step="detect"}': (
            f"0+{100 * before:g}x{_WEEK} {100 * before * _WEEK:g}+{100 * now:g}x12"
        ),
        'visiongraph_confidence_count{step="detect"}': f"0+100x{_WEEK + 12}",
    }


def replicas(wanted: int, running: int) -> dict[str, str]:
    labels = 'application="street", deployment="detect"'
    processes = {f'up{{job="visiongraph", {labels}, instance="{n}"}}': "1x60" for n in range(running)}
    return {f"ray_serve_autoscaling_target_replicas{{{labels}}}": f"{wanted}x60", **processes}


ANOTHER = {'up{job="visiongraph", application="street", deployment="gateway"}': "1x60"}
"""Without a process there is no application of this project."""

LATER = "170h"  # two hours after a week

CASES: list[tuple[str, str, dict[str, str], dict[str, str]]] = [
    # alert, when, series that make it fire, series that do not
    ("ErrorBudgetBurnsFast", "2h", images(failed=f"0+2x{8 * _HOUR}"), images(failed="0+6x10 60x400")),
    ("ErrorBudgetBurnsSlowly", "7h", images(failed=f"0+0.5x{8 * _HOUR}"), images(failed="0+1x30 30x400")),
    ("ImagesSlow", "40m", latency("0+50x60", "0+60x60"), latency("0+59x60", "0+60x60")),
    (
        "OldestMessageTooOld",
        "20m",
        {'visiongraph_queue_oldest_age_seconds{queue="photos"}': "0+60x60"},
        {'visiongraph_queue_oldest_age_seconds{queue="photos"}': "200x60"},
    ),
    ("BacklogGrowsAtMaximum", "1h", backlog("10+10x60"), backlog("10+10x60", workers=1)),
    ("BacklogGrowsAtMaximum", "1h", backlog("10+10x60"), backlog("600-5x60")),
    (
        "DeadLetters",
        "30m",
        {'visiongraph_deliveries_total{queue="photos", outcome="dead_letter"}': "0x25 1x40"},
        {
            'visiongraph_deliveries_total{queue="photos", outcome="dead_letter"}': "7x60",
            'visiongraph_deliveries_total{queue="photos", outcome="retried"}': "0+5x60",
        },
    ),
    ("StepFails", "30m", steps("0+60x60", "0+1x60"), steps("0+600x60", "0+1x60")),
    ("ConditionShifted", LATER, condition((30, 30), (5, 55)), condition((30, 30), (20, 40))),
    ("ConditionShifted", LATER, condition((1, 59), (20, 40)), condition((1, 1), (0, 1))),
    ("ConfidenceShifted", LATER, confidence(0.8, 0.5), confidence(0.8, 0.7)),
    ("ReplicasMissing", "30m", replicas(3, 2), replicas(3, 3)),
    ("ReplicasMissing", "30m", replicas(1, 0) | ANOTHER, replicas(2, 3)),
    ("ReplicasMissing", "30m", replicas(1, 0) | ANOTHER, replicas(1, 0)),
    ("NoData", "30m", {'up{job="visiongraph"}': "0x60"}, {'up{job="visiongraph"}': "1x60"}),
    ("NoData", "30m", {'up{job="ray"}': "1x60"}, {'up{job="visiongraph"}': "1x60"}),
]


@pytest.mark.parametrize(("alert", "when", "firing", "silent"), CASES, ids=[case[0] for case in CASES])
def test_an_alert_fires_or_is_silent(
    tmp_path: Path, alert: str, when: str, firing: dict[str, str], silent: dict[str, str]
) -> None:
    assert fired(tmp_path, alert, when, firing) == 1
    assert fired(tmp_path, alert, when, silent) == 0


def fired(folder: Path, alert: str, when: str, series: dict[str, str]) -> int:
    """How many alerts of this name fire then, as promtool reports it against an expectation of none."""
    rules = alert_rules()
    (group,) = rules["groups"]
    group["rules"] = [rule for rule in group["rules"] if rule["alert"] == f"Visiongraph{alert}"]
    assert len(group["rules"]) == 1, alert
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    test = {
        "interval": "10m" if when == LATER else "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"alertname": f"Visiongraph{alert}", "eval_time": when, "exp_alerts": []}],
    }
    document = {"rule_files": ["rules.yml"], "evaluation_interval": test["interval"], "tests": [test]}
    (folder / "test.yml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [promtool(), "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert "SUCCESS" in said or "FAILED" in said, said
    return said.count("Labels:{alertname")


def test_prometheus_accepts_the_rules(tmp_path: Path) -> None:
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(alert_rules()))
    command = [promtool(), "check", "rules", "--lint-fatal", str(tmp_path / "alerts.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_and_says_what_to_do() -> None:
    rules = alert_rules()["groups"][0]["rules"]
    assert {rule["alert"] for rule in rules} == {f"Visiongraph{case[0]}" for case in CASES}
    for rule in rules:
        assert len(rule["annotations"]["runbook"]) > 40
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_promises_are_the_limits() -> None:
    def expression(alert: str, promises: Promises) -> Any:
        rules = alert_rules(promises)["groups"][0]["rules"]
        return next(rule["expr"] for rule in rules if rule["alert"] == f"Visiongraph{alert}")

    promises = Promises(availability=0.99, image_s=0.7, oldest_message_s=42)
    assert expression("ErrorBudgetBurnsFast", promises).count("> 0.144") == 2
    assert expression("ImagesSlow", promises).endswith("> 0.7")
    assert expression("OldestMessageTooOld", promises).endswith("> 42")
