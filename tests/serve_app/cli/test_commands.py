"""The console script, as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import PIL.Image
import pytest
import yaml
from toys import draw, encoded

PIPELINE = """
pipeline:
  - name: detect
    class: toys.Blobs
  - name: colour
    class: toys.MeanColour
    depends_on: detect
  - name: car_size
    class: toys.Size
    depends_on: detect
    condition: "'car' in context['detect']['detected_classes']"
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    path = tmp_path / "street.yaml"
    path.write_text(PIPELINE)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / "b.png").write_bytes(encoded(draw(("person", 10, 10, 50, 90))))
    (folder / "a.jpg").write_bytes(encoded(draw(("car", 10, 10, 90, 50)), "JPEG", quality=95))
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not looked at")
    (folder / "more" / "c.webp").write_bytes(encoded(draw(), "WEBP", lossless=True))
    return folder


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


class TestRun:
    def test_a_folder_with_a_bad_file(self, visiongraph: Run, pipeline: Path, photos: Path, tmp_path: Path) -> None:
        code, out, err = visiongraph("run", pipeline, photos, "--annotate", tmp_path / "out")
        assert code == 1
        results = lines(out)
        names = ["a.jpg", "b.png", "broken.jpg", "more/c.webp"]
        assert [r["image"]["uri"] for r in results] == [str(photos / name) for name in names]
        assert results[0]["context"]["detect"]["detected_classes"] == ["car"]
        assert results[1]["context"]["colour"]["objects"][0]["label"] == "person"
        assert results[2] == {
            "image": {"uri": str(photos / "broken.jpg")},
            "error": {"type": "BadImage", "detail": results[2]["error"]["detail"]},
        }
        assert results[3]["context"]["detect"]["detections"] == []
        assert "1 of 4 images failed" in err
        pictures = sorted(p.name for p in (tmp_path / "out").iterdir())
        assert pictures == ["0-a.jpg", "1-b.jpg", "3-c.jpg"]
        assert PIL.Image.open(tmp_path / "out" / "0-a.jpg").size == (320, 240)

    def test_arguments_keep_their_order(self, visiongraph: Run, pipeline: Path, photos: Path) -> None:
        code, out, _ = visiongraph("run", pipeline, photos / "b.png", str(photos / "*.jpg"), photos / "nowhere.png")
        assert code == 1
        found = lines(out)
        assert [Path(r["image"]["uri"]).name for r in found] == ["b.png", "a.jpg", "broken.jpg", "nowhere.png"]
        assert "No such file" in found[3]["error"]["detail"]

    def test_all_well(self, visiongraph: Run, pipeline: Path, photos: Path) -> None:
        code, out, _ = visiongraph("run", pipeline, photos / "b.png", "--metadata", '{"site": 3}')
        assert code == 0
        assert lines(out)[0]["metadata"] == {"site": 3}

    @pytest.mark.parametrize("metadata", ["nonsense", "[1]", '{"a": NaN}', '{"a": 1e999}', '{"a": "caf\udce9"}'])
    def test_metadata_that_is_none(self, visiongraph: Run, pipeline: Path, photos: Path, metadata: str) -> None:
        code, out, err = visiongraph("run", pipeline, photos / "b.png", "--metadata", metadata)
        assert (code, out) == (2, "")
        assert "'metadata'" in err

    def test_objects_of_a_bucket(
        self, visiongraph: Run, pipeline: Path, photos: Path, moto: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto)
        client = boto3.client("s3")
        client.create_bucket(Bucket="run", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        keys = ["day/photo#1?.png", "/day/a b%20+.png", "day//\u202f.png"]
        for key in keys:
            client.put_object(Bucket="run", Key=key, Body=(photos / "b.png").read_bytes())
        uris = [f"s3://run/{key}" for key in keys]
        code, out, err = visiongraph("run", pipeline, *uris, "s3://run/day/")
        assert code == 0, err
        assert [line["image"]["uri"] for line in lines(out)] == [*uris, uris[2], uris[0]]
        code, out, err = visiongraph("run", pipeline, "s3://run/typo/")
        assert (code, out) == (1, "")
        assert "no images below s3://run/typo/" in err

    def test_nothing_to_run(self, visiongraph: Run, pipeline: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for argument in (tmp_path / "empty", tmp_path / "*.gif"):
            code, out, err = visiongraph("run", pipeline, argument)
            assert (code, out) == (1, "")
            assert str(argument) in err


@pytest.mark.parametrize("command", ["run", "validate", "graph", "explain", "render", "models", "serve", "demo"])
def test_a_bad_pipeline_file_is_exit_2_with_every_mistake_and_no_traceback(
    visiongraph: Run, pipeline: Path, photos: Path, command: str
) -> None:
    pipeline.write_text(
        PIPELINE.replace("toys.Size", "toys.Sise").replace("depends_on: detect\n  -", "depends_on: detct\n  -")
    )
    images = [photos / "b.png"] if command in ("run", "explain") else []
    code, out, err = visiongraph(command, pipeline, *images)
    assert code == 2
    assert out == ""
    assert "street.yaml:7" in err
    assert "did you mean 'detect'" in err
    assert "did you mean 'Size'" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_a_model_that_is_not_there_is_told_before_anything_starts(
    visiongraph: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("VISIONGRAPH_CACHE", str(tmp_path))
    monkeypatch.delenv("VISIONGRAPH_MODELS", raising=False)
    demo = Path(__file__).parents[3] / "configs" / "demo.yaml"
    code, _, err = visiongraph(command, demo)
    assert code == 2
    assert "model 'vit_s14_car_make20' for car_make_classification is missing" in err
    assert "--download" in err


@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_pipeline_file_that_is_not_there(visiongraph: Run, photos: Path, tmp_path: Path, command: str) -> None:
    code, _, err = visiongraph(command, tmp_path / "nowhere.yaml", *([photos] if command == "run" else []))
    assert code == 2
    assert "nowhere.yaml" in err


def test_validate(visiongraph: Run, pipeline: Path) -> None:
    code, out, _ = visiongraph("validate", pipeline)
    assert code == 0
    assert out.startswith("ok street: 3 steps")
    assert "if 'car' in context['detect']['detected_classes']" in out
    assert "each detection where detection['class_name'] == 'person'" in out
    assert "note: " in out  # car_size decodes the image again


def test_schema(visiongraph: Run) -> None:
    code, out, _ = visiongraph("schema")
    assert code == 0
    jsonschema.validate(yaml.safe_load(PIPELINE), json.loads(out))


def test_graph(visiongraph: Run, pipeline: Path) -> None:
    code, out, _ = visiongraph("graph", pipeline)
    assert code == 0
    assert out.startswith(("flowchart", "graph"))
    code, out, _ = visiongraph("graph", pipeline, "--format", "svg")
    assert code == 0
    assert out.lstrip().startswith("<svg")


def test_explain(visiongraph: Run, pipeline: Path, photos: Path) -> None:
    code, out, _ = visiongraph("explain", pipeline, photos / "b.png")
    assert code == 0
    assert "crops for #0 person 0.9 holds: detection['class_name'] == 'person'" in out
    assert "condition for image does not hold: 'car' in" in out
    assert "context['detect']['detected_classes'] = [\"person\"]" in out


def test_explain_of_no_image(visiongraph: Run, pipeline: Path, photos: Path) -> None:
    code, _, err = visiongraph("explain", pipeline, photos / "broken.jpg")
    assert code == 1
    assert "Traceback" not in err


def test_render(visiongraph: Run, pipeline: Path) -> None:
    code, out, _ = visiongraph("render", pipeline, "--port", 9000)
    assert code == 0
    config = yaml.safe_load(out)
    assert config["http_options"] == {"host": "127.0.0.1", "port": 9000}
    assert config["applications"][0]["import_path"] == "serve_app.app:build"


def test_render_for_others_says_who_may_come_in(visiongraph: Run, pipeline: Path, tmp_path: Path) -> None:
    code, out, err = visiongraph("render", pipeline, "--host", "0.0.0.0")
    assert (code, out) == (2, "")
    assert "--gateway" in err
    block = tmp_path / "gateway.yaml"
    block.write_text("auth: {keys_file: keys.json}\ntimeout_ms: 5000\n")
    code, out, _ = visiongraph("render", pipeline, "--host", "0.0.0.0", "--gateway", block)
    assert code == 0
    gateway = yaml.safe_load(out)["applications"][0]["args"]["gateway"]
    assert gateway == {"auth": {"keys_file": str(tmp_path / "keys.json")}, "timeout_ms": 5000}


def test_a_mistake_in_the_gateway_block(visiongraph: Run, pipeline: Path, tmp_path: Path) -> None:
    block = tmp_path / "gateway.yaml"
    block.write_text("auth: none\ntimout_ms: 5\n")
    code, _, err = visiongraph("render", pipeline, "--gateway", block)
    assert code == 2
    assert "did you mean 'timeout_ms'" in err


@pytest.mark.parametrize(
    "command", ["run", "validate", "schema", "graph", "explain", "render", "serve", "models", "demo"]
)
def test_help_teaches(visiongraph: Run, command: str) -> None:
    code, out, _ = visiongraph(command, "--help")
    assert code == 0
    assert len(out) > 200


def test_no_command_shows_the_help(visiongraph: Run) -> None:
    _, out, err = visiongraph()
    assert "validate" in out + err
