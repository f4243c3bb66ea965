"""Private MongoDB server for the lifetime of this process.

FiftyOne connects to any FiftyOne server that runs on the machine, regardless of FIFTYONE_DATABASE_DIR. A test without a
server of its own would work on the user's datasets.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1


def fiftyone_mongod() -> Path:
    """Path where FiftyOne expects mongod. Determined without importing FiftyOne, which takes seconds."""
    spec = importlib.util.find_spec("fiftyone")
    if spec is None or spec.origin is None:
        raise RuntimeError("fiftyone is not installed in this environment")
    return Path(spec.origin).parent / "db" / "bin" / "mongod"


def start(timeout: float = 60.0) -> str:
    """Start a server with an empty database, point FiftyOne at it, and return its URI. It ends with this process.

    Must be called before `import fiftyone`: FiftyOne reads the URI during import, and its exit handler, which talks to
    the server, must run before the one that stops the server (in reverse order of registration; else it waits 30 s).
    """
    if "fiftyone" in sys.modules:
        raise RuntimeError("fiftyone is already imported; start the private mongod before that")

    folder = Path(tempfile.mkdtemp(prefix="private-mongod-"))
    port = free_port()
    log = folder / "mongod.log"
    address = ["--bind_ip", "127.0.0.1", "--port", str(port), "--nounixsocket"]
    with log.open("w") as output:
        server = subprocess.Popen(
            [fiftyone_mongod(), "--dbpath", folder, *address, "--wiredTigerCacheSizeGB", "0.25"],
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )
    atexit.register(_stop, server, folder)
    _wait_until_ready(server, port, log, timeout)

    uri = f"mongodb://127.0.0.1:{port}"
    os.environ["FIFTYONE_DATABASE_URI"] = uri
    return uri


def end_with_parent() -> None:
    """Run in the server process: end when the parent is killed without running its exit handlers."""
    # Otherwise Ctrl-C in the terminal would reach the server before FiftyOne has disconnected.
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_ready(server: subprocess.Popen, port: int, log: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"mongod did not start (exit status {server.poll()}). Its log ends:\n{log.read_text()[-2000:]}")


def _stop(server: subprocess.Popen, folder: Path) -> None:
    server.terminate()
    try:
        server.wait(timeout=20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    shutil.rmtree(folder, ignore_errors=True)
