"""python -m benchmarks.page URL PHOTO FOLDER: takes the pictures of the page. See README.md."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, sync_playwright

_QUALITY = 80


def take(
    browser: Browser,
    url: str,
    photo: Path,
    picture: Path,
    size: tuple[int, int],
    scheme: Literal["light", "dark"],
    top: str,
) -> None:
    """One picture of the page with the photo's result, from the element ``top`` down."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page.goto(url, wait_until="networkidle")
    page.set_input_files("#files", photo)
    page.wait_for_selector("#boxes g", timeout=60_000)
    page.locator(".step").last.click()
    page.wait_for_selector("#why p")
    page.evaluate("id => document.getElementById(id).scrollIntoView()", top)
    page.screenshot(path=picture, type="jpeg", quality=_QUALITY)
    page.close()


def main() -> None:
    """Take all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("photo", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        take(browser, arguments.url, arguments.photo, arguments.folder / "page.jpg", (1440, 900), "light", "input")
        take(browser, arguments.url, arguments.photo, arguments.folder / "page-phone.jpg", (390, 844), "dark", "result")
        browser.close()


if __name__ == "__main__":
    main()
