"""A real browser, as an operator has one: headless Chromium, driven by Playwright.

Debian's Chromium (`scripts/browser` brings it); Playwright brings none of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

_ARGUMENTS = (
    # Root has no sandbox; and nothing is to be asked of the network.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

PHONE, DESK = 390, 1280


class Browser:
    """Opens pages; what they complain about on the console fails the test at the end."""

    def __init__(self, playwright: Any, program: str) -> None:
        self._browser = playwright.chromium.launch(
            executable_path=program, headless=True, args=list(_ARGUMENTS)
        )
        self.complaints: list[str] = []

    @contextmanager
    def page(
        self, width: int = DESK, *, dark: bool = False, javascript: bool = True
    ) -> Iterator[Page]:
        """A new page of that width."""
        context = self._browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            java_script_enabled=javascript,
        )
        page: Page = context.new_page()
        page.on("console", lambda said: self._heard(said.type, said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        try:
            yield page
        finally:
            context.close()

    def _heard(self, kind: str, text: str) -> None:
        if kind == "error":
            self.complaints.append(text)

    def close(self) -> None:
        self._browser.close()


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser for some tests. Skips them where there is no Chromium."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no chromium here (scripts/browser)")
    with sync_playwright() as playwright:
        opened = Browser(playwright, program)
        try:
            yield opened
        finally:
            opened.close()
        assert opened.complaints == [], "what the browser complained about"


def overflows(page: Page) -> list[str]:
    """The elements that stick out of the page at the right."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter(e => e.getBoundingClientRect().right > window.innerWidth + 0.5)
            .map(e => e.outerHTML.slice(0, 80))"""
    )
    return found


def overlaps(page: Page, selector: str) -> list[str]:
    """Pairs of these elements that lie one over the other, or whose contents do: a cell keeps its
    place also where its text runs over into the next one."""
    found: list[str] = page.evaluate(
        """selector => {
            const area = e => {
                const range = document.createRange();
                range.selectNodeContents(e);
                const [own, inner] = [e.getBoundingClientRect(), range.getBoundingClientRect()];
                if (inner.width === 0) return own;
                return {
                    left: Math.min(own.left, inner.left), right: Math.max(own.right, inner.right),
                    top: Math.min(own.top, inner.top), bottom: Math.max(own.bottom, inner.bottom),
                    width: own.width, height: own.height,
                };
            };
            const boxes = [...document.querySelectorAll(selector)].slice(0, 400)
                .map(e => [e.textContent.trim().slice(0, 30), area(e)])
                .filter(([, box]) => box.width > 0 && box.height > 0);
            const found = [];
            for (let i = 0; i < boxes.length; i++)
                for (let j = i + 1; j < boxes.length; j++) {
                    const [a, b] = [boxes[i][1], boxes[j][1]];
                    if (a.left < b.right - 1 && b.left < a.right - 1 &&
                        a.top < b.bottom - 1 && b.top < a.bottom - 1)
                        found.push(boxes[i][0] + " / " + boxes[j][0]);
                }
            return found;
        }""",
        selector,
    )
    return found
