"""A browser, and the site as `mkdocs build` has left it in site/. Without either, tests fail; they are not skipped."""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest

SITE = Path(__file__).parents[2] / "site"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def browser():
    """Chromium, from the path or as the variable CHROMIUM says."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path, f"these tests need a browser: install chromium, or set CHROMIUM (tried {', '.join(BROWSERS)})"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server without a log."""

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture(scope="session")
def site():
    """The address at which the site is served."""
    assert (SITE / "index.html").exists(), "build the site first: mkdocs build"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def window(browser):
    """A window of a width, light or dark, in which nothing moves by itself; the same one for all tests."""

    @functools.cache
    def opened(width, dark, **options):
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            bypass_csp=True,
            **options,
        )
        context.set_default_timeout(120_000)  # a busy machine is no failure
        return context

    return opened


@pytest.fixture
def visit(window):
    """Open an address in a window; whatever goes wrong there fails the test at its end."""
    pages, wrong = [], []

    def opened(address, width=1280, dark=False, **options):
        page = window(width, dark, **options).new_page()
        pages.append(page)
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(f"no {request.url}"))
        page.goto(address)
        return page

    yield opened
    for page in pages:
        page.close()
    assert wrong == []
