"""From a URL to a queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.queues import BadQueueUrl, queue_from_url


async def test_a_variable_stands_for_what_the_environment_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VG_FOLDER", f"{tmp_path}")
    async with queue_from_url("sqlite:////${VG_FOLDER}/jobs.db?queue=${VG_FOLDER}") as queue:
        assert queue.name == f"{tmp_path}"
    assert (tmp_path / "jobs.db").exists()


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VG_PASSWORD", raising=False)
    with pytest.raises(BadQueueUrl, match="VG_PASSWORD, which is not set"):
        queue_from_url("amqp://worker:${VG_PASSWORD}@host/?queue=photos")


def test_a_dollar_by_itself_means_nothing(tmp_path: Path) -> None:
    assert queue_from_url(f"sqlite:////{tmp_path}/$VG_FOLDER.db?queue=$5").name == "$5"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h:port/0?stream=x", "port"),
        ("rediss://user:se/cret@h:6379/0?stream=x", "port"),
        ("amqp://user:pw@h:99999999/v?queue=q", "port"),
        ("sqs://q?region=", "'region='"),
        ("sqs://q?endpoint_url=", "'endpoint_url='"),
        ("sqs://q?region=eu-west-1&endpoint_url=localhost:4566", "must begin with http"),
        ("redis://h/0?stream=", "'stream='"),
    ],
)
def test_mistakes_in_a_url_are_said_before_anything_is_asked(url: str, said: str) -> None:
    with pytest.raises(BadQueueUrl, match=said) as caught:
        queue_from_url(url)
    assert "cret" not in str(caught.value)
