"""A real Chromium, driven by its own driver: for what only a browser can say about the page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import JavascriptException, NoSuchElementException, StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from support import eventually

# Version 4.14.1 as its makers publish it, under the Mozilla Public License. No package of pip ships a current one
# without bringing a second way to drive browsers along, and a test must not need npm.
AXE = (Path(__file__).parent / "ops" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    # It is to talk to the page and to nobody else.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def require_chromium() -> tuple[str, str]:
    """Return where Chromium and its driver are; without them skip the test, but in CI let it fail."""
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if found[0] and found[1]:
        return found[0], found[1]
    sentence = "Chromium or its driver is not installed: apt-get install chromium chromium-driver"
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)


def until(true: Callable[[], Any]) -> Any:
    """Wait until something is true of a page; one that is just going away or coming has nothing to say."""

    def look() -> Any:
        try:
            return true()
        except (StaleElementReferenceException, NoSuchElementException, JavascriptException):
            return False

    return eventually(look)


class Browser:
    """One window."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def look(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Give the window a size, and the wish for light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def find(self, css: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def press(self, *keys: str) -> None:
        """Press keys wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    @property
    def text(self) -> str:
        """Return what can be read on the page."""
        return str(self.run("return document.body ? document.body.innerText : ''"))

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def complaints(self) -> list[str]:
        """Return what the console said since it was asked last."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def too_wide(self) -> list[str]:
        """Return what sticks out sideways, so that the page has to be scrolled."""
        found: list[str] = self.run(
            "const most = document.documentElement.clientWidth;"
            "if (document.documentElement.scrollWidth <= most) return [];"
            "return [...document.querySelectorAll('body *')]"
            "  .filter((one) => one.getBoundingClientRect().right > most + 0.5)"
            "  .map((one) => one.tagName + '.' + one.className)"
        )
        return found

    def axe(self) -> list[str]:
        """Return what axe-core has against the page, and where."""
        self.run(AXE)
        result = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "const failed = (error) => done({violations: [{id: String(error), nodes: []}]});"
            "axe.run({resultTypes: ['violations']}).then(done, failed);"
        )
        return [
            f"{found['id']} ({found.get('impact')}): {node['html'][:120]}: {node.get('failureSummary', '')}"
            for found in result["violations"]
            for node in found["nodes"] or [{"html": ""}]
        ]


@contextmanager
def running_browser(folder: Path, *, javascript: bool = True) -> Iterator[Browser]:
    """Start a Chromium with a profile of its own."""
    chromium, driver = require_chromium()
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not javascript:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    started = Chrome(options=options, service=Service(driver))
    try:
        started.set_page_load_timeout(60)
        started.set_script_timeout(60)
        yield Browser(started)
    finally:
        started.quit()


__all__ = ["Browser", "Keys", "require_chromium", "running_browser", "until"]
