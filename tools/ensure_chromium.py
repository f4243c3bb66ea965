"""Find a working Chromium for the browser tests, or install one, and print its path.

Candidates in order: CHROMIUM, a browser on the PATH, one installed by playwright; otherwise the system's package is
installed (as root, or with a sudo that needs no password), or else playwright's own download.
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
    """Reason why the browser cannot be used; None if it can."""
    try:
        # Ubuntu's chromium-browser, for example, is a script that asks for a snap.
        done = subprocess.run([browser, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{browser} does not run: {error}"
    return None if done.returncode == 0 else f"{browser} does not run: {(done.stderr or done.stdout).strip()}"


def find() -> str | None:
    """Path of a working browser. Raises if the one named by CHROMIUM does not work."""
    if named := os.environ.get("CHROMIUM"):
        if why := problem(named):
            raise RuntimeError(f"CHROMIUM: {why}")
        return named
    return next((browser for browser in candidates() if problem(browser) is None), None)


def candidates() -> Iterator[str]:
    """Candidate paths of a browser."""
    yield from filter(None, map(shutil.which, NAMES))
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.executable_path


def install_system_package() -> None:
    """Install Debian's chromium, if apt and the required permissions are available."""
    if not shutil.which("apt-get"):
        return
    command = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    if os.geteuid() != 0:
        if not shutil.which("sudo") or subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode:
            return
        command = ["sudo", "-n", *command]
    print("set-up: no Chromium for the browser tests, installing the system's package", file=sys.stderr)
    run([*command, "update", "--quiet"])
    run([*command, "install", "--quiet", "--yes", "--no-install-recommends", "chromium"])


def install_playwright_chromium() -> None:
    """Install playwright's own Chromium, with its system libraries if permitted."""
    print("set-up: trying playwright's own Chromium", file=sys.stderr)
    with_libraries = ["--with-deps"] if os.geteuid() == 0 else []
    run([sys.executable, "-m", "playwright", "install", *with_libraries, "chromium"])


def run(command: list[str]) -> None:
    # Success is determined by the files, not the exit code. Standard output is reserved for the path.
    subprocess.run(command, check=False, stdout=sys.stderr)


def main() -> str | None:
    """Ensure a usable browser; return an error message, or None."""
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
