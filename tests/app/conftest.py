"""The App in a browser: each file of tests has a server, each test a tab, and leaves evidence behind where it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from app_page import PATIENCE, AppPage
from app_server import AppServer
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

import ensure_chromium

_FAILED = pytest.StashKey[bool]()
_MOST_BYTES = 300_000  # of a picture in all its colours; a larger one makes do with few, at a quarter of the size


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium for all tests."""
    path = ensure_chromium.find()
    if path is None:
        pytest.fail(f"no Chromium\n{ensure_chromium.HELP}", pytrace=False)
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        # In a container /dev/shm is often too small for a browser.
        chromium = playwright.chromium.launch(executable_path=path, args=["--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server(fo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """An App of this file's own: its first form takes seconds, for then the server imports torch."""
    with AppServer(tmp_path_factory.mktemp("server") / "server.log") as running:
        yield running


@pytest.fixture
def open_tab(browser: Browser, server: AppServer, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator:
    """`open_tab(**options of AppPage)`: another tab of the App; closed at the end of the test."""
    tabs: list[AppPage] = []

    def open_tab(**options) -> AppPage:
        tabs.append(AppPage(browser, server.url, **options))
        return tabs[-1]

    yield open_tab
    failed = request.node.stash.get(_FAILED, False)
    for number, tab in enumerate(tabs):
        if failed and not tab.page.is_closed():
            _keep_evidence(tab.page, tmp_path, f"tab{number}")
        tab.close()
    if failed:
        print(f"The App's server printed:\n{server.log.read_text()[-5000:]}")


def _keep_evidence(page: Page, folder: Path, name: str) -> None:
    """What the browser shows, as a picture and as text: enough to see afterwards why a test failed."""
    page.screenshot(path=folder / f"{name}.png")
    text = page.locator("body").inner_text()
    (folder / f"{name}.txt").write_text(text)
    print(f"The browser shows (a picture is in {folder}):\n{text}")


@pytest.fixture
def app(open_tab: Callable[..., AppPage], request: pytest.FixtureRequest) -> AppPage:
    """A tab of the App; for pictures a larger one."""
    return open_tab() if request.config.getoption("screenshots") is None else open_tab(window=(1600, 1000))


@pytest.fixture
def picture(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`picture(name, page or part of it)` keeps a picture for the README; does nothing but with `--screenshots`."""
    folder: Path | None = request.config.getoption("screenshots")

    def picture(name: str, of: Page | Locator, *, moving: bool = False, **options) -> None:
        if folder is not None:
            page = of.page if isinstance(of, Locator) else of
            if not moving:
                expect(page.locator("#notistack-snackbar")).to_have_count(0)  # messages go away by themselves
            shots = [of.screenshot(animations="disabled", **options)]
            # The App draws labels upon its pictures bit by bit, and does not say when it is done.
            while not moving and shots[-1:] != shots[-2:-1]:
                page.wait_for_timeout(1000)
                shots.append(of.screenshot(animations="disabled", **options))
            path = folder / f"{name}.png"
            path.write_bytes(shots[-1])
            if len(shots[-1]) > _MOST_BYTES:
                with Image.open(path) as shot:
                    few_colours = shot.convert("RGB").quantize(256, dither=Image.Dither.NONE)
                few_colours.save(path, optimize=True)

    return picture
