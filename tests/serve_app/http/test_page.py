"""The page in a real browser, over a gateway with toy classifiers. Skipped where there is no Chromium."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from gateways import PIPELINE, app_over, config
from intakes import LIMITS, consuming, place
from toys import draw, encoded

from graph import LocalBackend, load_plan
from serve_app.access.key_file import create_key
from serve_app.config.intake_config import SourcesConfig
from serve_app.http.job_desk import JobDesk
from serve_app.images.job_sources import Sources
from serve_app.local.ports import free_port
from serve_app.queues import queue_from_url

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
STREET = encoded(draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150)))

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")


class Gateway:
    """A gateway at a port of its own, in a thread."""

    def __init__(self, folder: Path | None = None, **rules: Any) -> None:
        self.backend = LocalBackend(load_plan(PIPELINE))
        self._folder = folder
        self._rules = rules
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(port)), daemon=True)
        self._thread.start()
        end = time.monotonic() + 20
        while self._server is None or not self._server.started:
            assert time.monotonic() < end
            time.sleep(0.01)

    async def _serve(self, port: int) -> None:
        async with AsyncExitStack() as stack:
            options: dict[str, Any] = {}
            if self._folder is not None:
                at = await stack.enter_async_context(place(self._folder))
                await stack.enter_async_context(consuming(at, self.backend))
                sources = Sources(SourcesConfig(), config().fetch, LIMITS, 4, at.uploads, at.kept)
                options = {"desk": JobDesk(queue_from_url(at.url), at.store, sources, at.uploads), "kept": at.kept}
            app = app_over(self.backend, config(**self._rules), **options)
            self._server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
            await self._server.serve()

    def close(self) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join()
        self.backend.close()


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, gateway: Gateway) -> Iterator[Any]:
    """The page, with what its console said: nothing may be wrong there."""
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(gateway.url)
    yield page
    page.close()
    # which the browser says itself of each response that is an error
    assert [text for text in said if not text.startswith("Failed to load resource")] == []


def choose(page: Any, *images: bytes, names: tuple[str, ...] = ("street.png",)) -> None:
    files = [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in zip(names, images, strict=True)]
    page.set_input_files("#files", files)


def test_it_needs_nothing_from_elsewhere_and_allows_no_inline_script(gateway: Gateway) -> None:
    page = httpx.get(gateway.url)
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    folder = Path(__file__).parents[3] / "serve_app" / "http" / "page"
    files = {file.name: file.read_text() for file in folder.iterdir()}
    assert sum(map(len, files.values())) < 150_000
    for name, text in files.items():
        others = [each for each in text.split('"') if each.startswith("http") and "www.w3.org" not in each]
        assert others == [], name
        assert "innerHTML" not in text, name
        if name != "index.html":
            assert httpx.get(f"{gateway.url}/page/{name}").text == text
    assert httpx.get(f"{gateway.url}/page/..%2fpage_routes.py").status_code == 404


@needs_chromium
def test_one_image_its_objects_and_why(page: Any) -> None:
    choose(page, STREET)
    page.wait_for_selector("#boxes g")
    assert page.locator("#boxes rect.box").count() == page.locator("#objects li").count() == 2
    labels = page.eval_on_selector_all(
        "#boxes rect.label", "all => all.map(e => ['x', 'y', 'width', 'height'].map(n => +e.getAttribute(n)))"
    )
    (a, b) = labels
    texts = page.eval_on_selector_all("#boxes text", "all => all.map(e => e.getComputedTextLength())")
    assert all(text < label[2] for text, label in zip(texts, labels, strict=True))
    apart = a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
    assert apart, labels
    page.hover("#objects button >> nth=0")
    assert page.locator("#boxes g.hot").count() == 1
    page.fill("#confidence", "100")
    assert page.locator("#objects li").count() < 2
    page.click(".step:has-text('colour')")
    page.wait_for_selector("#why p")
    assert "runs on" in page.inner_text("#why") or "holds" in page.inner_text("#why")
    assert json.loads(page.text_content("#json"))["image"]["width"] > 0
    assert page.url in page.text_content("#code")
    with page.expect_download() as download:
        page.click("#download-picture")
    assert Path(download.value.path()).read_bytes()[:4] == b"\x89PNG"


@needs_chromium
def test_rules_are_tried_and_mistakes_in_them_are_shown(page: Any) -> None:
    choose(page, STREET)
    page.wait_for_selector("#boxes g")
    page.click("#what-if summary")
    rule = page.locator("textarea[data-step=slow]")
    rule.fill("'slow' not in image['metadata']")
    page.wait_for_selector("#changes tr:has-text('slow') td:nth-child(3):text-is('1')")
    rule.fill("'slow' in imag")
    page.wait_for_selector("textarea[aria-invalid=true]")
    assert "did you mean 'image'" in page.inner_text("#rule-errors")


@needs_chromium
def test_many_images(page: Any) -> None:
    white = encoded(draw(size=(40, 40)))
    choose(page, STREET, white, b"no image", names=("a.png", "b.png", "c.png"))
    page.wait_for_selector("#thumbs li:nth-child(3) small:text('not an image')")
    page.wait_for_selector("#status:empty", state="attached")
    assert page.locator("#thumbs li").count() == 3
    page.select_option("#filter", "state:failed")
    assert page.locator("#thumbs li").count() == 1
    assert "not an image" in page.inner_text("#thumbs")
    with page.expect_download() as download:
        page.click("#download-all")
    lines = Path(download.value.path()).read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["a.png", "b.png", "c.png"]


@needs_chromium
def test_many_images_go_through_the_queue_where_there_is_one(browser: Any, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    page = browser.new_page()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(f"{request.method} {request.url.removeprefix(gateway.url)}"))
    try:
        page.goto(gateway.url, wait_until="networkidle")
        white = encoded(draw(size=(40, 40)))
        choose(page, STREET, white, b"no image", names=("a.png", "b.png", "c.png"))
        page.wait_for_selector("#thumbs li:nth-child(1) small:text('1 car')")
        page.wait_for_selector("#thumbs li:nth-child(2) small:text('no objects')")
        page.wait_for_selector("#thumbs li:nth-child(3) small:text('not an image')")
        assert sent.count("POST /v1/jobs") == 3
        assert "POST /v1/images" not in sent
        choose(page, STREET)  # one image alone does not wait in the queue
        page.wait_for_selector("#thumbs li:nth-child(4) small:text('1 car')")
        assert sent.count("POST /v1/images") == 1
    finally:
        page.close()
        gateway.close()


@needs_chromium
def test_names_and_labels_never_become_html(page: Any) -> None:
    hostile = "<img src=x onerror=document.title='owned'>.png"
    page.route(
        "**/v1/images",
        lambda route: route.fulfill(
            json={
                "id": "1",
                "image": {"uri": None, "sha256": "0" * 64, "width": 100, "height": 100},
                "pipeline": {"name": hostile, "fingerprint": "f"},
                "context": {
                    "detect": {
                        "detections": [
                            {"bbox": [1, 1, 50, 50], "class_name": hostile, "confidence": 0.9, "class_id": 0}
                        ]
                    },
                    "colour": {"objects": [{"detection": 0, "label": hostile, "confidence": 0.5}]},
                },
                "steps": [{"name": "detect", "status": "failed", "error": {"type": hostile, "detail": hostile}}],
                "metadata": {},
            }
        ),
    )
    choose(page, STREET, names=(hostile,))
    page.wait_for_selector("#boxes g")
    assert page.locator("img[src=x]").count() == 0
    assert page.title() == "visiongraph"
    assert hostile in page.inner_text("#objects")


@needs_chromium
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": 500, "body": "<html>"}, "The server answered 500."),
        ({"status": 503, "json": {"detail": "overloaded; try again"}}, "overloaded; try again"),
        (None, "Is this device online?"),
    ],
    ids=["broken", "overloaded", "offline"],
)
def test_errors_are_shown(browser: Any, gateway: Gateway, answer: dict[str, Any] | None, words: str) -> None:
    page = browser.new_page()
    page.goto(gateway.url)
    page.route("**/v1/images", lambda route: route.abort() if answer is None else route.fulfill(**answer))
    choose(page, STREET)
    page.wait_for_selector("#error:not(:empty)")
    assert words in page.inner_text("#error")
    page.close()


@needs_chromium
def test_a_key_is_asked_for_and_kept_for_the_tab(browser: Any, tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys.json", "acme", ["infer"])
    gateway = Gateway(auth={"keys_file": str(tmp_path / "keys.json")})
    page = browser.new_page()
    page.goto(gateway.url)
    page.wait_for_selector("#key:not([hidden])")
    choose(page, STREET)
    page.fill("#key-value", key)
    page.click("#key button")
    page.wait_for_selector("#boxes g")
    assert key not in page.content()
    assert page.evaluate("localStorage.length") == 0
    page.close()
    gateway.close()


@needs_chromium
def test_a_refused_key_is_asked_for_again(browser: Any, tmp_path: Path) -> None:
    create_key(tmp_path / "keys.json", "acme", ["infer"])
    gateway = Gateway(auth={"keys_file": str(tmp_path / "keys.json")})
    page = browser.new_page()
    page.goto(gateway.url)
    page.wait_for_selector("#key:not([hidden])")
    page.fill("#key-value", "wrong")
    page.click("#key button")
    page.wait_for_selector("#key:not([hidden])")
    page.wait_for_selector("#error:not(:empty)")
    assert "key" in page.inner_text("#error").lower()
    page.close()
    gateway.close()


def _until(page: Any, what: Callable[[], Any]) -> Any:
    """Ask again until the answer is true, and give it; meanwhile the browser's events are handled."""
    for _ in range(500):
        if answer := what():
            return answer
        page.wait_for_timeout(20)
    raise TimeoutError("not true within 10 s")


@needs_chromium
def test_a_slow_server_shows_that_it_is_being_waited_for(page: Any) -> None:
    held: list[Any] = []
    page.route("**/v1/images", lambda route: held.extend([route]))
    choose(page, STREET)
    page.wait_for_selector("#status:text('0 of 1 images done')")
    assert page.is_enabled("#files")
    _until(page, lambda: held)
    held[0].continue_()
    page.wait_for_selector("#boxes g")
    page.wait_for_selector("#status:empty", state="attached")


@needs_chromium
def test_the_keyboard_is_enough(page: Any) -> None:
    choose(page, STREET)
    page.wait_for_selector("#boxes g")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
        if page.evaluate("document.activeElement.dataset.object ?? ''"):
            reached.add("object")
            assert page.locator("#boxes g.hot").count() == 1
        if page.evaluate("document.activeElement.className") == "step":
            page.keyboard.press("Enter")
            page.wait_for_selector("#why p")
            break
    assert {"files", "camera", "confidence", "object", "download-json", "step"} <= reached


@needs_chromium
def test_it_is_painted_at_once(page: Any) -> None:
    paint_ms = _until(
        page, lambda: page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
    )
    assert paint_ms < 3_000  # the goal is 1 s; this leaves room for a busy machine


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_it_can_be_read_by_everybody(browser: Any, gateway: Gateway, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = browser.new_page(viewport={"width": width, "height": 850}, color_scheme=scheme)
    page.goto(gateway.url)
    choose(page, STREET)
    page.wait_for_selector("#boxes g")
    page.click("#what-if summary")
    found = axe.Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()
