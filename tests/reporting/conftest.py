from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from .generate import write_comparison, write_run

SEEDS, STEPS, EVERY = 3, 12, 4


@pytest.fixture(scope="session")
def comparison(tmp_path_factory) -> Path:
    """Two arms, SEEDS seeds, STEPS steps, evaluated before the first and after every EVERY; not to be changed."""
    return write_comparison(tmp_path_factory.mktemp("comparison"), seeds=SEEDS, steps=STEPS, every=EVERY)


@pytest.fixture(scope="session")
def one_run(tmp_path_factory) -> Path:
    """A finished run of STEPS steps; not to be changed."""
    return write_run(tmp_path_factory.mktemp("runs") / "one", STEPS, EVERY)


@pytest.fixture
def run(one_run, tmp_path) -> Path:
    """A copy of `one_run`, to be damaged."""
    return Path(shutil.copytree(one_run, tmp_path / "run"))


# For one module: while Playwright is open, nothing else in this thread can run an event loop.
@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright (or make setup)"
    )
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opening(browser):
    """Opens addresses; at the end the browser must have had nothing to complain of."""
    contexts, complaints = [], []

    def open(address: str, width: int = 1280, height: int = 800, **settings):
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        return page

    yield open
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture
def open_page(browser):
    with opening(browser) as open:
        yield open


@pytest.fixture(scope="module")
def page(browser, address):
    """The page of the module's `address`, for tests that leave it as it was: it takes seconds to be drawn."""
    with opening(browser) as open:
        yield open(address)


@pytest.fixture
def command(capsys):
    """Runs the command in this process: exit status, and what it wrote."""
    from lens_openrlhf.reporting.command import main

    def run(*argv) -> tuple[int, str, str]:
        status = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def words(*argv) -> list[str]:
    """The command in a process of its own."""
    return [sys.executable, "-m", "lens_openrlhf.cli", "report", *map(str, argv)]
