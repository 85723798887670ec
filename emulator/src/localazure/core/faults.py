"""Faults asked for from outside: `localazure fault preempt <job>`.

A request is a file below `<home>/faults`; who can carry it out takes it, once. So any process of a home may ask, and
nothing has to listen.
"""

from __future__ import annotations

import time
from pathlib import Path

KINDS = ("preempt",)
_POLL_SECONDS = 0.1


class Faults:
    """The requests of a home."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ask(self, kind: str, subject: str, seconds: float = 5) -> bool:
        """Asks for a fault and waits for somebody to take it; whether that happened. Nothing stays if not."""
        path = self._path(kind, subject)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        end = time.monotonic() + seconds
        while path.exists():
            if time.monotonic() > end:
                path.unlink(missing_ok=True)
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def wanted(self, kind: str, subject: str) -> bool:
        """Whether the fault is asked for."""
        return self._path(kind, subject).exists()

    def take(self, kind: str, subject: str) -> bool:
        """Whether the fault was asked for; it is taken with that."""
        try:
            self._path(kind, subject).unlink()
        except FileNotFoundError:
            return False
        return True

    def _path(self, kind: str, subject: str) -> Path:
        if kind not in KINDS:
            raise ValueError(f"there is no fault '{kind}'; there are {', '.join(KINDS)}")
        return self._folder / kind / subject.replace("/", "_")
