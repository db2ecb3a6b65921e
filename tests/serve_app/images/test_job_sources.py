"""What workers fetch, for whom; files of this machine; and which failures are final."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import obstore
import pytest
from gateways import PNG
from gcs_server import gcs_server
from intakes import LIMITS

from classifiers import BadImage, TooManyBytes
from graph import DeadlineExceeded, StepFailed
from serve_app.buckets import gcs_bucket
from serve_app.config.gateway_config import FetchConfig
from serve_app.config.intake_config import SourcesConfig
from serve_app.images.job_sources import Sources, is_final
from serve_app.refusals import FetchFailed, Forbidden


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "a b.png").write_bytes(PNG)
    (inside / "long.png").write_bytes(b"x" * (LIMITS.max_bytes + 1))
    (tmp_path / "secret.png").write_bytes(PNG)
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    (inside / "loop.png").symlink_to(inside / "loop.png")
    os.mkfifo(inside / "pipe.png")
    return inside


async def test_files_of_the_folders_that_are_listed(folder: Path) -> None:
    sources = Sources(SourcesConfig(files=(str(folder),)), FetchConfig(), LIMITS, 4)
    frame = await sources.frame(f"file://{folder}/a%20b.png", None)
    assert (frame.width, frame.uri) == (320, f"file://{folder}/a%20b.png")
    for uri, kind in [
        (f"file://{folder}/../secret.png", Forbidden),
        (f"file://{folder}/link.png", Forbidden),
        (f"file://{folder}-2/a.png", Forbidden),
        (f"file://host{folder}/a%20b.png", Forbidden),
        (f"file://{folder}/a%00.png", Forbidden),
        ("file:a.png", Forbidden),
        ("FILE:///etc/hostname", Forbidden),
        (f"file://{folder}/none.png", FetchFailed),
        (f"file://{folder}/pipe.png", FetchFailed),
        (f"file://{folder}", FetchFailed),
        (f"file://{folder}/long.png", TooManyBytes),
    ]:
        with pytest.raises(kind) as error:
            await sources.frame(uri, None)
        assert is_final(error.value), uri


@pytest.mark.parametrize("name", [b"caf\xe9.png", "café.png".encode(), b"a#1?.png", b"100%.png", b"cam1:0001.png"])
async def test_every_name_that_a_file_may_have(folder: Path, name: bytes) -> None:
    file = folder / os.fsdecode(name)
    file.write_bytes(PNG)
    sources = Sources(SourcesConfig(files=(str(folder),)), FetchConfig(), LIMITS, 4)
    frame = await sources.frame(file.as_uri(), None)
    assert (frame.width, frame.uri) == (320, file.as_uri())


async def test_a_key_has_what_the_key_may_have_and_no_files(folder: Path) -> None:
    own = SourcesConfig.model_validate({"files": [str(folder)], "s3": {"allow": {"*": ["s3://raw"]}}})
    clients = FetchConfig.model_validate({"s3": {"allow": {"acme": ["s3://acme"]}}})
    sources = Sources(own, clients, LIMITS, 4)
    acme = {"key_id": "k1", "tenant": "acme"}
    sources.check("s3://raw/a.png", None)
    sources.check("s3://acme/a.png", acme)
    refused: list[tuple[str, dict[str, Any] | None]] = [
        ("s3://acme/a.png", None),
        ("s3://raw/a.png", acme),
        ("s3://acme/a.png", {"key_id": "k2", "tenant": "other"}),
        (f"file://{folder}/a%20b.png", acme),
        ("https://example.com/a.png", None),
    ]
    for uri, policy in refused:
        with pytest.raises(Forbidden):
            sources.check(uri, policy)


async def test_an_image_in_google_cloud_storage() -> None:
    with gcs_server() as url:
        obstore.put(gcs_bucket("photos", url), "acme/a b.png", PNG)
        own = SourcesConfig.model_validate({"gs": {"allow": {"*": ["gs://photos/acme"]}, "endpoint_url": url}})
        sources = Sources(own, FetchConfig(), LIMITS, 4)
        assert (await sources.frame("gs://photos/acme/a b.png", None)).width == 320
        for uri, kind in [("gs://photos/acme/none.png", FetchFailed), ("gs://photos/other.png", Forbidden)]:
            with pytest.raises(kind) as error:
                await sources.frame(uri, None)
            assert is_final(error.value)


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (BadImage("damaged"), True),
        (Forbidden("no"), True),
        (FetchFailed("404"), True),
        (FetchFailed("503", retryable=True), False),
        (StepFailed("failed"), False),
        (DeadlineExceeded("late"), False),
        (ValueError("a fault of ours"), False),
    ],
)
def test_what_would_fail_again_in_the_same_way(error: Exception, final: bool) -> None:
    assert is_final(error) is final
