"""The console script, as a user calls it."""

from __future__ import annotations

import asyncio
import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import PIL.Image
import pytest
import yaml
from toys import draw, encoded

from graph import Frame, VisionPipeline
from serve_app.results import Outcome, ResultStore

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

    def test_one_result_is_one_line(self, visiongraph: Run, pipeline: Path, photos: Path) -> None:
        name = photos / "line\nparagraph\u2029separator\u2028next\x85.png"
        name.write_bytes((photos / "b.png").read_bytes())
        code, out, _ = visiongraph("run", pipeline, name)
        assert code == 0
        assert [line["image"]["uri"] for line in lines(out)] == [str(name)]

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

    def test_an_unset_variable(self, visiongraph: Run, pipeline: Path, photos: Path) -> None:
        code, out, err = visiongraph("run", pipeline, "")
        assert (code, out) == (1, "")
        assert "an empty argument names no image" in err
        code, out, _ = visiongraph("run", pipeline, "", photos / "b.png")
        assert code == 1
        first, second = lines(out)
        assert "an empty argument names no image" in first["error"]["detail"]
        assert first["image"] == {"uri": ""}
        assert "error" not in second
        code, out, err = visiongraph("run", pipeline, photos / "b.png", "--annotate", "")
        assert (code, out) == (2, "")
        assert "an empty argument names no folder" in err

    @pytest.mark.parametrize(
        "odd",
        [
            "http://h:port/x.jpg",
            "http://[::1/a.jpg",
            "http://",
            "http:///a.jpg",
            "http://a..b/x.jpg",
            f"http://{'a' * 70}.example/x.jpg",
            "http://127.0.0.1:99999/x.jpg",
            "http://127.0.0.1:9/x.jpg",
            "http://xn--a/x.jpg",
            "http://a b/x.jpg",
            "http://127.0.0.1:9/caf\udce9 ü.jpg",
            "https://127.0.0.1:9",
            "s3://No_Such_Bucket!/key.jpg",
            "s3:///key.jpg",
            "ftp://127.0.0.1/x.jpg",
            "gs://bucket/x.jpg",
            "file://elsewhere/x.jpg",
            "file:///nowhere/x%00.jpg",
            "file:relative.jpg",
            "nowhere\0.jpg",
            "caf\udce9.jpg",
            "x" * 5000 + ".jpg",
            "*" * 3 + "\0",
        ],
    )
    def test_an_odd_address_is_a_line(self, visiongraph: Run, pipeline: Path, photos: Path, odd: str) -> None:
        code, out, err = visiongraph("run", pipeline, photos / "b.png", odd, photos / "a.jpg")
        assert code == 1, err
        assert "Traceback" not in err
        first, bad, last = lines(out)
        assert "error" not in first
        assert "error" not in last
        assert set(bad) == {"image", "error"}
        assert bad["error"]["detail"]
        assert out.encode()
        assert json.dumps(bad, ensure_ascii=False).encode()

    def test_whatever_is_raised_is_a_line(
        self, visiongraph: Run, pipeline: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from_bytes = Frame.from_bytes

        def fail(data: bytes, *more: Any) -> Frame:
            if data == b"no image":
                raise ZeroDivisionError("a fault of the decoder")
            return from_bytes(data, *more)

        monkeypatch.setattr(Frame, "from_bytes", fail)
        code, out, _ = visiongraph("run", pipeline, photos)
        assert code == 1
        assert [line.get("error") for line in lines(out)] == [
            None,
            None,
            {"type": "ZeroDivisionError", "detail": "a fault of the decoder"},
            None,
        ]

    def test_boxes_are_drawn_on_the_bytes_that_were_looked_at(
        self, visiongraph: Run, pipeline: Path, tmp_path: Path
    ) -> None:
        """A camera gives another picture each time, and then none."""
        shots = [encoded(draw(("car", 10 * n, 10, 10 * n + 40, 50), size=(100 + n, 320))) for n in range(1, 4)]
        answers = iter(shots)

        class Camera(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                shot = next(answers, None)
                self.send_response(404 if shot is None else 200)
                self.end_headers()
                self.wfile.write(shot or b"")

            def log_message(self, *_: object) -> None: ...

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            uri = f"http://127.0.0.1:{server.server_port}/snapshot.jpg?token=a/b"
            code, out, err = visiongraph("run", pipeline, uri, uri, uri, "--annotate", tmp_path / "out")
            server.shutdown()
        assert code == 0, err
        for n, line in enumerate(lines(out)):
            picture = PIL.Image.open(tmp_path / "out" / f"{n}-snapshot.jpg")
            assert picture.size == (line["image"]["width"], line["image"]["height"])

    def test_a_pipe_and_stdin_are_read_once(
        self, visiongraph: Run, pipeline: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = (photos / "b.png").read_bytes()
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True)
        writer.start()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        code, out, err = visiongraph("run", pipeline, pipe, "-", "--annotate", tmp_path / "out")
        assert code == 0, err
        assert [line["image"]["uri"] for line in lines(out)] == [str(pipe), "-"]
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0-pipe.jpg", "1--.jpg"]
        writer.join(10)

    def test_files_by_their_urls(self, visiongraph: Run, pipeline: Path, tmp_path: Path) -> None:
        folder = tmp_path / "my photos ü#1"
        folder.mkdir()
        path = folder / "a?b%20.png"
        path.write_bytes(encoded(draw()))
        uris = [
            path.as_uri(),
            path.as_uri().replace("file:///", "file://localhost/"),
            f"file:{path.as_uri().removeprefix('file://')}",
            f"FILE://{path.as_uri().removeprefix('file://')}",
        ]
        code, out, err = visiongraph("run", pipeline, *uris, folder.as_uri())
        assert code == 0, err
        assert [line["image"]["uri"] for line in lines(out)] == [*uris, str(path)]

    def test_names_that_are_not_utf8(self, visiongraph: Run, pipeline: Path, tmp_path: Path) -> None:
        folder = tmp_path / os.fsdecode(b"caf\xe9")
        folder.mkdir()
        for name in (b"a\xff.png", b"b\nc.png", "ü".encode() * 120 + b".png"):
            (folder / os.fsdecode(name)).write_bytes(encoded(draw()))
        code, out, err = visiongraph("run", pipeline, folder, "--annotate", tmp_path / "out")
        assert code == 0, err
        found = lines(out)
        assert len(found) == 3
        for line in found:
            uri = line["image"]["uri"]
            assert uri.startswith(f"file://{tmp_path}/caf%E9/")
            assert json.dumps(line, ensure_ascii=False).encode()
        code, again, err = visiongraph("run", pipeline, *(line["image"]["uri"] for line in found))
        assert code == 0, err
        assert [line["image"] for line in lines(again)] == [line["image"] for line in found]
        assert len(list((tmp_path / "out").iterdir())) == 3

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_output_is_utf8_in_every_locale(self, pipeline: Path, photos: Path, encoding: str) -> None:
        (photos / "b.png").rename(photos / "straße 日本.png")
        environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from serve_app.cli import main; main()",
                "run",
                pipeline,
                photos / "straße 日本.png",
            ],
            capture_output=True,
            env=environment,
            check=True,
            timeout=60,
        )
        assert json.loads(done.stdout.decode())["image"]["uri"].endswith("straße 日本.png")

    def test_the_longest_name_is_shortened(self, visiongraph: Run, pipeline: Path, tmp_path: Path) -> None:
        path = tmp_path / ("x" * 251 + ".png")
        path.write_bytes(encoded(draw()))
        code, _, err = visiongraph("run", pipeline, path, path, "--annotate", tmp_path / "out")
        assert code == 0, err
        assert len(list((tmp_path / "out").iterdir())) == 2

    def test_a_picture_that_cannot_be_written_is_an_error_of_its_image(
        self, visiongraph: Run, pipeline: Path, photos: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "out" / "0-a.jpg").mkdir(parents=True)
        code, out, _ = visiongraph("run", pipeline, photos / "a.jpg", photos / "b.png", "--annotate", tmp_path / "out")
        assert code == 1
        first, second = lines(out)
        assert first["error"]["type"] == "IsADirectoryError"
        assert first["context"]["detect"]["detected_classes"] == ["car"]
        assert "error" not in second
        assert (tmp_path / "out" / "1-b.jpg").is_file()

    def test_a_file_in_the_place_of_the_folder_for_pictures(
        self, visiongraph: Run, pipeline: Path, photos: Path, tmp_path: Path
    ) -> None:
        code, out, err = visiongraph("run", pipeline, photos / "a.jpg", "--annotate", photos / "notes.txt")
        assert (code, out) == (2, "")
        assert "cannot make the folder" in err


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
    assert "<svg" in out


def test_explain(visiongraph: Run, pipeline: Path, photos: Path) -> None:
    code, out, _ = visiongraph("explain", pipeline, photos / "b.png")
    assert code == 0
    assert "crops for #0 person 0.9 holds: detection['class_name'] == 'person'" in out
    assert "condition for image does not hold: 'car' in" in out
    assert "context['detect']['detected_classes'] = [\"person\"]" in out


class TestExplainingAStoredResult:
    @pytest.fixture
    def results(self, pipeline: Path, photos: Path, tmp_path: Path) -> str:
        """Where the outcomes of two jobs are stored."""
        with VisionPipeline(pipeline) as vision:
            result = vision.run(photos / "b.png")
        result["steps"][1]["replica"] = "colour-replica-7"
        error = {"type": "BadImage", "detail": "not an image"}

        async def store() -> None:
            kept = ResultStore.from_uri(str(tmp_path / "results"))
            await kept.finish(Outcome("job-1", "succeeded", result))
            await kept.finish(Outcome("job-2", "failed", error=error))
            await kept.close()

        asyncio.run(store())
        return str(tmp_path / "results")

    def test_with_the_rules(self, visiongraph: Run, pipeline: Path, results: str) -> None:
        code, out, _ = visiongraph("explain", pipeline, "--request", "job-1", "--results", results)
        assert code == 0
        assert "crops for #0 person 0.9 holds" in out
        assert re.search(
            r"took [\d.]+ ms, queue [\d.]+ ms, decode [\d.]+ ms, model [\d.]+ ms, on colour-replica-7", out
        )

    def test_without_the_pipeline(self, visiongraph: Run, results: str) -> None:
        code, out, _ = visiongraph("explain", "--request", "job-1", "--results", results)
        assert code == 0
        assert "car_size skipped: condition is false" in out
        assert "holds" not in out

    def test_with_another_pipeline(self, visiongraph: Run, pipeline: Path, results: str) -> None:
        pipeline.write_text(PIPELINE.replace("car_size", "size_of_car"))
        code, _, err = visiongraph("explain", pipeline, "--request", "job-1", "--results", results)
        assert code == 2
        assert "the result is of another pipeline: its steps are detect, colour, car_size" in err

    @pytest.mark.parametrize(
        ("job", "message"),
        [
            ("job-2", "job 'job-2' has no result, it failed: BadImage: not an image"),
            ("job-3", "no result is stored under 'job-3'"),
        ],
    )
    def test_without_a_result(self, visiongraph: Run, results: str, job: str, message: str) -> None:
        code, _, err = visiongraph("explain", "--request", job, "--results", results)
        assert code == 1
        assert message in err


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
