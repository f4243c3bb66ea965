"""See to it that there is a Chromium which runs, for the tests that drive the App, and print where it is.

In this order: the one that CHROMIUM names, one on the PATH, one that playwright installed; else the system's package
(as root, or with a sudo that asks no password), else playwright's own download.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")

HELP = """
The tests drive the App in a real browser, and no Chromium that runs could be found or installed. Either
  - install one; on Debian:  sudo apt install chromium
  - or name one:  make test CHROMIUM=/path/to/chrome
  - or leave these tests out:  make test BROWSER=no"""


def problem(browser: str) -> str | None:
    """Why this browser cannot be used, None if it can."""
    try:
        # Ubuntu's chromium-browser, for one, is a script that asks for a snap.
        done = subprocess.run([browser, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{browser} does not run: {error}"
    return None if done.returncode == 0 else f"{browser} does not run: {(done.stderr or done.stdout).strip()}"


def find() -> str | None:
    """The path of a browser that runs. Raises if CHROMIUM names one that does not: that was asked for."""
    if named := os.environ.get("CHROMIUM"):
        if why := problem(named):
            raise RuntimeError(f"CHROMIUM: {why}")
        return named
    return next((browser for browser in candidates() if problem(browser) is None), None)


def candidates() -> Iterator[str]:
    """Paths where a browser may be."""
    yield from filter(None, map(shutil.which, NAMES))
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.executable_path


def install_system_package() -> None:
    """Debian's chromium, where there is apt and the right to use it."""
    if not shutil.which("apt-get"):
        return
    command = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    if os.geteuid() != 0:
        if not shutil.which("sudo") or subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode:
            return
        command = ["sudo", "-n", *command]
    print("set-up: no Chromium for the tests in the browser, installing the system's package", file=sys.stderr)
    run([*command, "update", "--quiet"])
    run([*command, "install", "--quiet", "--yes", "--no-install-recommends", "chromium"])


def install_playwright_chromium() -> None:
    """playwright's own Chromium, with the libraries that it needs where there is the right to install them."""
    print("set-up: trying playwright's own Chromium", file=sys.stderr)
    with_libraries = ["--with-deps"] if os.geteuid() == 0 else []
    run([sys.executable, "-m", "playwright", "install", *with_libraries, "chromium"])


def run(command: list[str]) -> None:
    # Whether it worked is seen by what is there afterwards. Standard output is for the path alone.
    subprocess.run(command, check=False, stdout=sys.stderr)


def main() -> str | None:
    """An error message, None if there is a usable browser."""
    try:
        browser = find()
    except RuntimeError as error:
        return f"set-up: {error}"
    for install in (install_system_package, install_playwright_chromium):
        if browser is None:
            install()
            browser = find()
    if browser is None:
        return f"set-up: no Chromium\n{HELP}"
    print(browser)
    return None


if __name__ == "__main__":
    sys.exit(main())
