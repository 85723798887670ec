"""The time that schedules go by: the machine's, unless somebody set it from outside.

`localazure clock --set 2026-12-01T05:59:50Z --rate 60` writes `<home>/clock.json`; every process that holds a `Clock`
of that home sees it at its next reading. Stamps of resources and jobs are the machine's time all the same: only what
waits for a time of day waits by this clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

_FASTEST = 100_000.0


class TimeSource(Protocol):
    """What tells the time."""

    @property
    def rate(self) -> float:
        """Seconds that pass here while one passes on the machine."""
        ...

    def now(self) -> datetime:
        """The time now, in UTC."""
        ...


class Clock:
    """A home's clock. Reads `file` again whenever it was written."""

    def __init__(self, file: Path, machine: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._file = file
        self._machine = machine
        self._written = 0
        self._anchor: tuple[datetime, datetime, float] | None = None

    @property
    def rate(self) -> float:
        """Seconds that pass here while one passes on the machine."""
        self._read()
        return self._anchor[2] if self._anchor else 1.0

    def now(self) -> datetime:
        """The time now, in UTC."""
        self._read()
        machine = self._machine()
        if self._anchor is None:
            return machine
        shown, since, rate = self._anchor
        return shown + (machine - since) * rate

    def set_time(self, time: datetime | None = None, rate: float = 1.0) -> None:
        """Let the clock show `time` (now, if None) and go `rate` times as fast from here on.

        :raises ValueError: the rate isn't above 0 and at most 100000, or the time has no zone.
        """
        if not 0 < rate <= _FASTEST:
            raise ValueError(f"the clock's rate must be above 0 and at most {_FASTEST:.0f}, not {rate}")
        shown = time or self.now()
        if shown.tzinfo is None:
            raise ValueError(f"the time {shown.isoformat()} needs a zone, e.g. {shown.isoformat()}Z")
        content = {"time": shown.astimezone(UTC).isoformat(), "since": self._machine().isoformat(), "rate": rate}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        half = self._file.with_suffix(".new")
        half.write_text(json.dumps(content))
        half.replace(self._file)
        self._written = 0

    def reset(self) -> None:
        """Go by the machine's time again."""
        self._file.unlink(missing_ok=True)
        self._written, self._anchor = 0, None

    def _read(self) -> None:
        try:
            written = self._file.stat().st_mtime_ns
        except FileNotFoundError:
            self._written, self._anchor = 0, None
            return
        if written == self._written:
            return
        content = json.loads(self._file.read_text())
        shown, since = (datetime.fromisoformat(content[name]) for name in ("time", "since"))
        self._written, self._anchor = written, (shown, since, float(content["rate"]))


def seconds_until(clock: TimeSource, time: datetime) -> float:
    """Seconds of the machine until the clock shows `time`; 0 if it has passed."""
    return max((time - clock.now()) / timedelta(seconds=1), 0.0) / clock.rate
