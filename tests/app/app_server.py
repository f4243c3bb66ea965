"""Server of the FiftyOne App for tests.

The App stores the view and the open panels on the server, shared by all pages and browsers; tests that open panels need
a separate server. It is started directly, not by `fiftyone.launch_app`, whose session would override the view in the
page's address.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from private_mongod import end_with_parent, free_port

_PATIENCE = 120  # seconds


class AppServer:
    """Server on the test run's database, with the plugin. Its output is written to `log`.

    Attributes:
        url: its address, which does not change on restart.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "fiftyone.server.main", "--address", "127.0.0.1", "--port", str(self._port)]
        with self.log.open("a") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, preexec_fn=end_with_parent
            )
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                status = self._process.poll()
                self._end(signal.SIGKILL)
                raise RuntimeError(
                    f"the App did not start (exit status {status}). Its log ends:\n{self.log.read_text()[-2000:]}"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server at once, as the out-of-memory killer does."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> AppServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=5).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True

    def _end(self, how: signal.Signals) -> None:
        self._process.send_signal(how)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
