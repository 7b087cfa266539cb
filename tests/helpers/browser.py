"""A headless Chromium for tests of the page, and what it notices while a page is open."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
# Nothing that a fresh browser would look for in the network by itself.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def missing() -> str:
    """Say what is needed and not there; nothing where all is there."""
    if CHROMIUM is None:
        return "no chromium on the PATH: apt-get install chromium, or set CHROMIUM"
    for name in ("playwright", "axe_playwright_python"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed: pip install 'fairweather[dev]'"
    return ""


@dataclass
class Opened:
    """A page in the browser.

    Attributes:
        tab: Playwright's page.
        said: what stood in the console, and errors that nobody caught.
        asked: the addresses that it asked for, besides its own file and data in itself.
    """

    tab: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def all(self, script: str) -> Any:
        """Evaluate JavaScript in the page."""
        return self.tab.evaluate(script)


# Insert a picture that cannot be loaded, with a script for that case, and wait until it has failed.
INSERTED = """new Promise(done => {
    document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="window.hacked = 1">');
    document.body.lastElementChild.addEventListener('error', () => done());
})"""


@contextmanager
def refused(page: Opened) -> Iterator[None]:
    """Wait until the page's policy has refused what the block adds to it."""
    with page.tab.expect_console_message(lambda said: "Content Security Policy" in said.text):
        yield


@contextmanager
def browser() -> Iterator[Any]:
    """Start Chromium with a new profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield started
        finally:
            started.close()


@contextmanager
def opened(started: Any, path: Path, *, width: int = 1280, **context: Any) -> Iterator[Opened]:
    """Open a page from disk and wait until its script has done its work."""
    place = started.new_context(viewport={"width": width, "height": 900}, **context)
    page = Opened(place.new_page())
    page.tab.on("console", lambda message: page.said.append(f"{message.type}: {message.text}"))
    page.tab.on("pageerror", lambda error: page.said.append(f"error: {error}"))
    page.tab.on("request", lambda request: page.asked.append(request.url))
    page.tab.goto(path.resolve().as_uri())
    # Not `wait_for_function`, which evaluates text, as the page's policy forbids.
    page.tab.wait_for_selector("html[data-ready]", state="attached", timeout=60_000)
    page.asked = [url for url in page.asked if not url.startswith(("file:", "data:"))]
    try:
        yield page
    finally:
        place.close()
