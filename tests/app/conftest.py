"""Fixtures of the browser tests: a server per file, a tab per test, and screenshots of failed tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from app_page import PATIENCE, AppPage
from app_server import AppServer
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

import ensure_chromium

_FAILED = pytest.StashKey[bool]()
_MOST_BYTES = 300_000  # of a full-colour picture; larger ones are quantised, at a quarter of the size


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium, shared by all tests."""
    path = ensure_chromium.find()
    if path is None:
        pytest.fail(f"no Chromium\n{ensure_chromium.HELP}", pytrace=False)
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        # /dev/shm is often too small for a browser in a container.
        chromium = playwright.chromium.launch(executable_path=path, args=["--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server(fo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """Server of the test file. Its first form takes seconds, since the server then imports torch."""
    with pytest.MonkeyPatch.context() as patch:
        # Progress can be seen only of images that no other test has cached.
        patch.setenv("NTS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        with AppServer(tmp_path_factory.mktemp("server") / "server.log") as running:
            yield running


@pytest.fixture
def open_tab(browser: Browser, server: AppServer, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator:
    """`open_tab(**options of AppPage)`: open another tab of the App; closed after the test."""
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
    """Store a screenshot and the page's text, to diagnose a failed test."""
    page.screenshot(path=folder / f"{name}.png")
    text = page.locator("body").inner_text()
    (folder / f"{name}.txt").write_text(text)
    print(f"The browser shows (a picture is in {folder}):\n{text}")


@pytest.fixture
def app(open_tab: Callable[..., AppPage], request: pytest.FixtureRequest) -> AppPage:
    """Tab of the App, with a larger window for screenshots."""
    return open_tab() if request.config.getoption("screenshots") is None else open_tab(window=(1600, 1000))


@pytest.fixture
def picture(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`picture(name, page or part of it)`: save a picture for the documentation; no effect without `--screenshots`."""
    folder: Path | None = request.config.getoption("screenshots")

    def picture(name: str, of: Page | Locator, *, moving: bool = False, **options) -> None:
        if folder is not None:
            page = of.page if isinstance(of, Locator) else of
            if not moving:
                expect(page.locator("#notistack-snackbar")).to_have_count(0)  # notifications disappear by themselves
            shots = [of.screenshot(animations="disabled", **options)]
            # The App draws labels incrementally, without an event when it has finished.
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


@pytest.fixture
def segmented(fo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator:
    """Dataset of the demo, segmented: full size for pictures, otherwise small for a short test."""
    from demo import scenes as demo
    from nts.fiftyone_adapter import auto_segment_view, build_reference_memory

    targets = demo.TARGETS
    if request.config.getoption("screenshots") is None:
        targets = 6
        monkeypatch.setattr(demo, "SHOTS", 2)  # probabilities need two
    dataset = demo.load_dataset(tmp_path, targets)
    if request.config.getoption("screenshots") is None:
        dataset.name = uuid4().hex  # the App keeps view and panels of a dataset of the same name
    build_reference_memory(dataset.load_saved_view("references"), "ground_truth", "demo")
    auto_segment_view(dataset.load_saved_view("targets"), "demo")
    yield dataset
    dataset.delete()
