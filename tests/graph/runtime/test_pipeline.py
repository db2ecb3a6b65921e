from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from toys import draw, encoded

from classifiers import BadImage, SetupError
from classifiers.imaging.decoding import ImageLimits
from graph import DeadlineExceeded, PipelineError, VisionPipeline
from graph.engine.frame import Frame
from graph.runtime.pipeline import ImageLike

PIPELINE: dict[str, Any] = {
    "name": "toy",
    "pipeline": [
        {"name": "detect", "class": "toys.Blobs"},
        {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect"},
        {
            "name": "size",
            "class": "toys.Size",
            "depends_on": "detect",
            "condition": "'car' in context['detect']['detected_classes']",
        },
    ],
}
STREET = draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150))


@pytest.fixture(scope="module")
def pipeline() -> Any:
    with VisionPipeline(PIPELINE) as pipeline:
        yield pipeline


def test_the_same_picture_in_any_form_gives_the_same_context(pipeline: VisionPipeline, tmp_path: Path) -> None:
    path = tmp_path / "street.png"
    path.write_bytes(encoded(STREET))
    forms: list[Any] = [
        STREET,
        encoded(STREET),
        path,
        str(path),
        PIL.Image.fromarray(STREET),
        lambda limits: Frame.from_array(STREET),
    ]
    results = [pipeline.run(form) for form in forms]
    contexts = [json.dumps(result["context"]) for result in results]
    assert len(set(contexts)) == 1
    assert results[0]["context"]["colour"]["objects"][0]["label"] == "person"
    assert [r["image"]["uri"] for r in results] == [None, None, str(path), str(path), None, None]


def test_metadata_comes_back(pipeline: VisionPipeline) -> None:
    assert pipeline.run(STREET, metadata={"camera": 3})["metadata"] == {"camera": 3}


def test_a_file_that_cannot_be_read(pipeline: VisionPipeline, tmp_path: Path) -> None:
    with pytest.raises(BadImage, match=r"cannot read .*nowhere\.jpg: No such file"):
        pipeline.run(tmp_path / "nowhere.jpg")


def test_run_batch_keeps_the_order(pipeline: VisionPipeline) -> None:
    images = [draw(("person", 10, 10, 20 + n, 30)) for n in range(40)]
    results = pipeline.run_batch(images)
    assert [r["context"]["detect"]["detections"][0]["bbox"][2] for r in results] == [20 + n for n in range(40)]


def test_run_batch_raises_what_an_image_raised(pipeline: VisionPipeline) -> None:
    with pytest.raises(BadImage):
        pipeline.run_batch([STREET, b"no image", STREET])
    assert pipeline.run(STREET)["steps"][0]["status"] == "ok"


def test_stream_goes_on_past_a_bad_image_and_reads_no_further_than_it_must(pipeline: VisionPipeline) -> None:
    taken = []

    def images() -> Any:
        for n in range(100):
            taken.append(n)
            yield b"no image" if n == 1 else STREET

    stream = pipeline.stream(images(), in_flight=3)
    kinds = [type(next(stream)).__name__ for _ in range(3)]
    assert kinds == ["dict", "BadImage", "dict"]
    assert len(taken) <= 6
    stream.close()


def test_many_images_share_batches(tmp_path: Path) -> None:
    log = tmp_path / "batches"
    step = {
        "name": "z",
        "class": "toys.Sleeper",
        "params": {"seconds": 0.02, "log": str(log)},
        "serve": {"max_batch_size": 8},
    }
    with VisionPipeline({"pipeline": [step]}) as pipeline:
        pipeline.run_batch([STREET] * 32)
    sizes = [int(line) for line in log.read_text().split()]
    assert sum(sizes) == 32
    assert max(sizes) > 1


def test_a_deadline_is_kept() -> None:
    with VisionPipeline({"pipeline": [{"name": "z", "class": "toys.Sleeper", "params": {"seconds": 0.2}}]}) as pipeline:
        with pytest.raises(DeadlineExceeded):
            pipeline.run(STREET, timeout_s=0.02)
        assert pipeline.run(STREET)["steps"][0]["status"] == "ok"


def test_limits_of_the_file_count() -> None:
    with VisionPipeline({**PIPELINE, "limits": {"max_bytes": 200}}) as pipeline, pytest.raises(Exception, match="200"):
        pipeline.run(encoded(np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8)))


def test_mistakes_in_the_file() -> None:
    with pytest.raises(PipelineError, match="detct"):
        VisionPipeline({"pipeline": [PIPELINE["pipeline"][0], PIPELINE["pipeline"][1] | {"depends_on": "detct"}]})


def test_a_model_that_cannot_be_loaded_names_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, min_area: int = 4) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr("toys.Blobs.__init__", fail)
    with pytest.raises(SetupError, match=r"step 'detect'.*disk on fire"):
        VisionPipeline(PIPELINE)


def test_the_fingerprint_is_that_of_the_results(pipeline: VisionPipeline) -> None:
    assert pipeline.fingerprint() == pipeline.run(STREET)["pipeline"]["fingerprint"]


@pytest.mark.parametrize(
    "work",
    [
        lambda pipeline, image: pipeline.run(image),
        lambda pipeline, image: pipeline.run_batch([STREET, image] * 10),
        lambda pipeline, image: list(pipeline.stream([image, b"no image", STREET])),
    ],
    ids=["run", "run_batch", "stream"],
)
@pytest.mark.parametrize("where", ["reading", "model"])
def test_closing_a_pipeline_ends_the_calls_of_other_threads(
    work: Callable[[VisionPipeline, ImageLike], Any], where: str
) -> None:
    entered, released = threading.Event(), threading.Event()

    def image(limits: ImageLimits) -> Frame:
        entered.set()
        if where == "reading":
            released.wait(10)
        return Frame.from_array(STREET, limits)

    pipeline = VisionPipeline({"pipeline": [{"name": "z", "class": "toys.Sleeper", "params": {"seconds": 0.5}}]})
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(work, pipeline, image)
        assert entered.wait(10)
        closing = pool.submit(pipeline.close)
        with pytest.raises(RuntimeError, match="closed"):
            waiting.result(timeout=5)
        with pytest.raises(RuntimeError, match="closed"):
            pipeline.run(STREET)
        closing.result(timeout=10)
        released.set()


def test_a_pipeline_closed_between_two_results_ends_the_stream() -> None:
    with VisionPipeline(PIPELINE) as pipeline:
        stream = pipeline.stream([STREET] * 50, in_flight=4)
        assert "context" in next(stream)
        pipeline.close()
        with pytest.raises(RuntimeError, match="closed"):
            list(stream)


def test_a_closed_pipeline_says_so() -> None:
    pipeline = VisionPipeline(PIPELINE)
    pipeline.close()
    pipeline.close()
    with pytest.raises(RuntimeError, match="closed"):
        pipeline.run(STREET)
