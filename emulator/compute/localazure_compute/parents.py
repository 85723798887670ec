"""Ending with the process that started this one, however that ends."""

from __future__ import annotations

import os
import signal
import time

_LOOK_SECONDS = 0.5


def parent() -> int:
    """The process that started this one; asked for late, it may be gone and another one have taken its place."""
    return int(os.environ.get("LOCALAZURE_PARENT") or os.getppid())


def follow(*followed: int) -> None:
    """Wait until none of `followed` is the parent any more, and end all of the group.

    A job nobody records any more must not go on writing to the lake.
    """
    while os.getppid() in followed:
        time.sleep(_LOOK_SECONDS)
    os.killpg(0, signal.SIGKILL)
