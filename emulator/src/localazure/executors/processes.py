"""Programs as children: each in a session and process group of its own, with its output in a log file.

The group is what ends: a job that started workers of its own leaves none of them behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_POLL_SECONDS = 0.1
_C_LIBRARY = ctypes.CDLL(None)


class Process:
    """A started program. `pid` is also the id of its process group."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.pid = popen.pid

    def poll(self) -> int | None:
        """The exit code (negative: the signal that ended it), or None while it runs."""
        return self._popen.poll()

    async def wait(self) -> int:
        """Wait for the end; the exit code."""
        # Polled: a thread for each of many long jobs would exhaust the loop's pool of threads.
        while (code := self._popen.poll()) is None:
            await asyncio.sleep(_POLL_SECONDS)
        return code

    def terminate(self, grace: float = 5) -> None:
        """End the whole group: SIGTERM, and SIGKILL for what is left after `grace` seconds. Blocks until then."""
        self.signal(signal.SIGTERM)
        end = time.monotonic() + grace
        while self._alive() and time.monotonic() < end:
            time.sleep(_POLL_SECONDS / 2)
        self.kill()

    async def aterminate(self, grace: float = 5) -> None:
        """`terminate`, without holding up the event loop."""
        self.signal(signal.SIGTERM)
        end = time.monotonic() + grace
        while self._alive() and time.monotonic() < end:
            await asyncio.sleep(_POLL_SECONDS / 2)
        self.kill()

    async def settle(self, seconds: float) -> None:
        """Wait for the rest of the group to end by itself once its leader has, so long and no longer."""
        end = time.monotonic() + seconds
        while self._alive() and time.monotonic() < end:
            await asyncio.sleep(_POLL_SECONDS / 2)

    def kill(self) -> None:
        """End the whole group at once."""
        self.signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(5)

    def _alive(self) -> bool:
        # The leader may be gone while its children run, so the group is asked. Reaped first: a zombie still counts.
        self._popen.poll()
        try:
            os.killpg(self.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; nothing happens if it is gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    dies_with_parent: bool = False,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Start a program with exactly this environment. Its output and errors are appended to `log`.

    `dies_with_parent`: it gets SIGTERM should this process be killed (Linux only; for parents without threads that
    start it from their main thread). `pass_fds` are open there under the same numbers. Raises FileNotFoundError or
    PermissionError, naming the program, if it can't be started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        popen = subprocess.Popen(
            [os.fspath(argument) for argument in argv],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
            preexec_fn=_die_with_parent if dies_with_parent and sys.platform == "linux" else None,  # noqa: PLW1509
        )
    return Process(popen)


def _die_with_parent() -> None:
    # prctl(2), PR_SET_PDEATHSIG. Runs in the child, between fork and exec.
    _C_LIBRARY.prctl(1, signal.SIGTERM, 0, 0, 0)


def tail(log: Path, lines: int) -> list[str]:
    """The last lines of a log file, without line ends; none if there is no file."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # Lines of ordinary length; a longer one is cut at its beginning.
            file.seek(max(0, size - 1000 * lines))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines:]
