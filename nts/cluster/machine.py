"""Name of a machine in messages. Nothing else is imported here: messages may be about packages that are missing."""

from __future__ import annotations

import os
import socket


def machine() -> str:
    """Name of this machine, and of its process."""
    return f"{socket.gethostname()}, process {os.getpid()}"
