"""Pages in a real browser that note everything they should not do."""

from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page

WATCH = """
window.ran = [];
for (const name of ["alert", "confirm", "prompt", "open"]) {
  window[name] = () => { window.ran.push(name); };
}
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
});
"""


BROKEN = """
() => {
  const broken = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (parent.closest("script, style, code, .model, .equation, .hidden")) continue;
    for (const word of node.data.matchAll(/[^\\s-]{2,18}/g)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
      if (lines.size > 1) broken.push(word[0]);
    }
  }
  return broken;
}
"""


class Opened:
    """A page that notes everything it should not do."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        page.add_init_script(WATCH)
        page.on("console", lambda m: self.problems.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.problems.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))
        self.open(path)

    def open(self, path: Path) -> None:
        """Go to a report with a clean record."""
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.uri = path.as_uri()
        self.page.goto(self.uri)

    def check(self) -> None:
        """Nothing was said, blocked, fetched or run."""
        assert self.problems == []
        assert self.page.evaluate("window.violations") == []
        assert self.page.evaluate("window.ran") == []
        assert [url for url in self.requests if not url.startswith("data:")] == [self.uri]
        assert self.page.url.split("#")[0] == self.uri

    def fits(self) -> bool:
        """Whether nothing reaches beyond the right edge of the window."""
        return self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def show(browser: Browser, path: Path, **context: Any) -> Opened:
    settings = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light", **context}
    return Opened(browser.new_context(**settings).new_page(), path)


def unfold(page: Page) -> None:
    for summary in page.locator("details > summary").all():
        summary.click()


def until(page: Page, condition: str) -> None:
    """Wait for a condition; the policy of the page lets nobody wait inside of it."""
    for _ in range(200):
        with suppress(Error):  # the page is being read anew
            if page.evaluate(condition):
                return
        page.wait_for_timeout(50)
    pytest.fail(f"never: {condition}")


def assert_fits(browser: Browser, file: Path, width: int, scheme: str) -> None:
    """A page with all details open needs no scrolling to the side, and breaks no word."""
    opened = show(browser, file, viewport={"width": width, "height": 844}, color_scheme=scheme)
    unfold(opened.page)
    assert opened.fits()
    if width == 390:
        assert opened.page.evaluate(BROKEN) == []
    opened.check()
    opened.page.context.close()


def assert_outline(page: Page) -> None:
    """Headings skip no level, links lead somewhere, tables and pictures are named."""
    assert page.locator("h1").count() == 1
    levels = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(h => +h.tagName[1])")
    for above, below in pairwise(levels):
        assert below <= above + 1
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href") or "").count() == 1
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("[role=img]:not([aria-label])").count() == 0
