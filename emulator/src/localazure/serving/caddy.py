"""The router's program: `python -m localazure.serving.caddy <caddy> <folder>` runs both Caddys in the foreground.

A module of its own, which the package doesn't import: what runs as a program must not be imported before.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_GRACE_SECONDS = 3.0
_POLL_SECONDS = 0.2
# Go's runtime: half of the processors are for the instances behind, and garbage, of which there is little, is collected
# seldom. A request takes a sixth less of a processor so.
_RUNTIME = {"GOMAXPROCS": str(max(1, (os.cpu_count() or 1) // 2)), "GOGC": "400"}


def main(binary: str, folder: str) -> int:
    """Run both Caddys in this process group; when one ends, end the other. The exit code, 0 after a signal."""
    children: list[subprocess.Popen[bytes]] = []
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        for name in ("inner", "front"):
            command = [binary, "run", "--config", str(Path(folder) / f"{name}.json")]
            children.append(subprocess.Popen(command, env=_RUNTIME | os.environ))
        while not stopped and all(child.poll() is None for child in children):
            time.sleep(_POLL_SECONDS)
    finally:
        for child in reversed(children):
            child.terminate()
        codes = [_end(child) for child in reversed(children)]
    return 0 if stopped else max(codes, default=1) or 1


def _end(child: subprocess.Popen[bytes]) -> int:
    """Wait for a Caddy that was told to end. It waits for open requests without limit; we don't."""
    try:
        return child.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
