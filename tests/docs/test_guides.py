"""The commands in the README and the guides run as they are written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from brokers import AWS, moto_server
from tiny_models import save_image_classifier, save_image_text_model, save_yolo
from toys import draw, encoded
from ultralytics.utils import ASSETS

from serve_app.local.ports import free_port

ROOT = Path(__file__).parents[2]
GUIDES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(r"(?:<!-- (?P<marker>[^\n]*?) -->\n)?```bash\n(?P<script>.*?)```", re.DOTALL)
_EXAMPLE = re.compile(r"<!-- example: (?P<file>[\w.]+) -->\n```\w+\n(?P<text>.*?)```", re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)(?P<target>[^)#]*)(?:#(?P<anchor>[^)]*))?\)")
_SERVER = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Block:
    """A block of commands, and the comment above it that says how it is run here."""

    guide: Path
    marker: str
    script: str

    @property
    def id(self) -> str:
        return f"{self.guide.stem}: {self.script.splitlines()[0][:50]}"


BLOCKS = [
    Block(guide, found["marker"] or "", found["script"])
    for guide in GUIDES
    for found in _BLOCK.finditer(guide.read_text())
]


def _run(*kinds: str) -> list[Any]:
    return [pytest.param(block, id=block.id) for block in BLOCKS if block.marker.removeprefix("run: ") in kinds]


@pytest.mark.parametrize("block", [pytest.param(block, id=block.id) for block in BLOCKS])
def test_each_block_of_commands_is_run_or_says_why_not(block: Block) -> None:
    assert re.fullmatch(r"run: (local|server|aws|checkpoints)|queries|not run: .+", block.marker), (
        f"{block.guide.name}: put '<!-- run: local|server|aws|checkpoints -->' or '<!-- not run: REASON -->' above\n"
        f"{block.script}"
    )


@pytest.mark.parametrize("guide", [*GUIDES, ROOT / "ARCHITECTURE.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(guide: Path) -> None:
    for found in _LINK.finditer(guide.read_text()):
        target = (guide.parent / found["target"]).resolve() if found["target"] else guide
        assert target.exists(), found[0]
        if found["anchor"] and target.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert found["anchor"] in anchors, found[0]


def test_the_readme_fits_on_a_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a reader has: the project's configurations, and photos."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    photo = encoded(draw(("person", 20, 20, 120, 220)), "JPEG")
    (tmp_path / "photos").mkdir()
    for file in (tmp_path / "photo.jpg", tmp_path / "photos" / "a.jpg"):
        file.write_bytes(photo)
    return tmp_path


def _execute(block: Block, folder: Path, replace: dict[str, str] | None = None, **environment: str) -> None:
    for example in _EXAMPLE.finditer(block.guide.read_text()):
        (folder / example["file"]).write_text(example["text"])
    script = block.script
    for old, new in (replace or {}).items():
        script = script.replace(old, new)
    # a status of 400 and above is a failure
    script = f'curl() {{ command curl --silent --show-error --fail-with-body "$@"; }}\n{script}'
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": python_path, **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, f"{block.script}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("block", _run("local"))
def test_without_a_server(block: Block, folder: Path) -> None:
    _execute(block, folder)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small untrained models under the names that the guides give them."""
    root = tmp_path_factory.mktemp("models")
    save_image_text_model(root / "openai" / "clip-vit-base-patch32", "clip")
    save_image_classifier(root / "google" / "vit-base-patch16-224", ["street", "beach"])
    save_yolo(root / "yolo11n-pose.pt")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("block", _run("checkpoints"))
def test_with_checkpoints(block: Block, folder: Path, checkpoints: Path) -> None:
    _execute(block, folder, VISIONGRAPH_MODELS=str(checkpoints))


@pytest.mark.slow
@pytest.mark.parametrize(("file", "step"), [("vehicles.yaml", "vehicle_kind"), ("scenes.yaml", "scene")])
def test_a_step_of_the_guide_is_added_to_the_demo(file: str, step: str, folder: Path, checkpoints: Path) -> None:
    guide = (ROOT / "docs" / "add-a-classification.md").read_text()
    [example] = (found["text"] for found in _EXAMPLE.finditer(guide) if found["file"] == file)
    lines = example[example.index(f"  - name: {step}") :].replace("'truck'", "'bus'").splitlines()
    assert len(lines) <= 6
    (folder / "photo.jpg").write_bytes((ASSETS / "bus.jpg").read_bytes())
    (folder / "demo.yaml").write_text("\n".join([(ROOT / "configs" / "demo.yaml").read_text(), *lines, ""]))
    block = Block(Path(os.devnull), "", "visiongraph run demo.yaml photo.jpg > result.json")
    _execute(block, folder, VISIONGRAPH_MODELS=str(checkpoints))
    [status] = (each for each in json.loads((folder / "result.json").read_text())["steps"] if each["name"] == step)
    assert status["status"] == "ok"


@pytest.mark.slow
class TestWithAServer:
    @pytest.fixture(scope="class")
    def served(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
        folder = tmp_path_factory.mktemp("served")
        port, dashboard = free_port(), free_port()
        program = Path(sys.executable).with_name("visiongraph")
        command = [str(program), "serve", str(ROOT / "configs" / "demo.yaml"), "--port", str(port)]
        with subprocess.Popen([*command, "--dashboard-port", str(dashboard)], cwd=folder) as server:
            try:
                _wait_until(lambda: _is_ready(f"http://127.0.0.1:{port}"), server)
                yield f"http://127.0.0.1:{port}", folder
            finally:
                server.terminate()

    @pytest.mark.parametrize("block", _run("server"))
    def test_a_request(self, block: Block, folder: Path, served: tuple[str, Path]) -> None:
        url, root = served
        here = root / "photo.jpg"  # file:// addresses lie below the folder of the server
        here.write_bytes((folder / "photo.jpg").read_bytes())
        _execute(block, root, {_SERVER: url})


@pytest.mark.slow
@pytest.mark.parametrize("block", _run("aws"))
def test_on_aws(block: Block, folder: Path, aws: str) -> None:
    _execute(block, folder, **AWS, AWS_ENDPOINT_URL=aws, AWS_ALLOW_HTTP="true")


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    """A server with the queue and the buckets that the guides name."""
    import boto3

    with moto_server() as url, pytest.MonkeyPatch.context() as patch:
        for name, value in AWS.items():
            patch.setenv(name, value)
        s3 = boto3.client("s3", endpoint_url=url)
        for bucket in ("bucket", "photos"):
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": AWS["AWS_DEFAULT_REGION"]})
        s3.put_object(Bucket="photos", Key="2026/11/a.jpg", Body=encoded(draw()))
        sqs = boto3.client("sqs", endpoint_url=url)
        for queue in ("photos", "photos-dead"):
            sqs.create_queue(QueueName=queue)
        yield url


def _wait_until(what: Callable[[], bool], server: subprocess.Popen[bytes], timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and server.poll() is None:
        if what():
            return
        time.sleep(0.2)
    pytest.fail(f"the server is not ready; it has ended with {server.poll()}")


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_the_examples_are_valid_yaml() -> None:
    for guide in GUIDES:
        for example in _EXAMPLE.finditer(guide.read_text()):
            if example["file"].endswith(".yaml"):
                assert yaml.safe_load(example["text"])
