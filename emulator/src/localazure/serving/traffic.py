"""The router's log as figures by the minute: how many requests, with which outcome, how long they took.

A minute is UTC's, numbered since 1970; a request belongs to the minute in which it was answered. The last minutes hold
every request's time, older ones what is asked for: Azure Monitor's metrics are minutes.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from localazure.serving.routing import ASK_AGAIN

#: For how long minutes are kept: as a day of Azure's charts, not as its 93 days.
KEPT_MINUTES = 7 * 24 * 60
PERCENTILES = (50, 90, 95, 99)
_OPEN_MINUTES = 3
_SECONDS = 60


@dataclass(frozen=True)
class Latency:
    """Times of a minute's requests, in milliseconds."""

    count: int
    total: float
    lowest: float
    highest: float
    percentiles: tuple[float, ...]  # as PERCENTILES


@dataclass(frozen=True)
class Outcome:
    """What came of a request: who answered ("" for the router itself), its status and the model's."""

    deployment: str
    status: int
    model_status: int


@dataclass
class Minute:
    """A minute of an endpoint."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    sent_bytes: int = 0
    _times: dict[str, array[float]] = field(default_factory=dict)
    _closed: dict[str | None, Latency] | None = None

    def add(self, outcome: Outcome, milliseconds: float, size: int) -> None:
        """One request."""
        self.outcomes[outcome] += 1
        self.sent_bytes += size
        self._times.setdefault(outcome.deployment, array("d")).append(milliseconds)
        self._closed = None

    def latency(self, deployment: str | None) -> Latency | None:
        """Of one deployment's requests, or of all (None); None if there were none."""
        if self._closed is None:
            every = [time for times in self._times.values() for time in times]
            self._closed = {name: _latency(times) for name, times in self._times.items()}
            self._closed |= {None: _latency(every)} if every else {}
        return self._closed.get(deployment)

    def close(self) -> None:
        """Keep the figures, forget the single times."""
        self.latency(None)
        self._times.clear()


class Log:
    """One endpoint's log, read on from where it was read to; it survives the file being rolled over."""

    def __init__(self, path: Path) -> None:
        self.minutes: dict[int, Minute] = {}
        self._path = path
        self._file: IO[bytes] | None = None
        self._rest = b""

    def read(self) -> None:
        """Take what was written since. Blocks."""
        if self._file is not None:
            self._take()
            try:
                same = os.fstat(self._file.fileno()).st_ino == self._path.stat().st_ino
            except FileNotFoundError:
                same = False
            if not same:
                self._take()
                self._file.close()
                self._file, self._rest = None, b""
        if self._file is None:
            try:
                self._file = self._path.open("rb")
            except FileNotFoundError:
                return
            self._take()
        newest = max(self.minutes, default=0)
        for number, minute in self.minutes.items():
            if number < newest - _OPEN_MINUTES:
                minute.close()
        for number in [number for number in self.minutes if number < newest - KEPT_MINUTES]:
            del self.minutes[number]

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take(self) -> None:
        assert self._file is not None
        while block := self._file.read(1 << 20):
            *lines, self._rest = (self._rest + block).split(b"\n")
            self._add(lines)

    def _add(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            try:
                entry = json.loads(line)
                status, seconds, ended = int(entry["status"]), float(entry["duration"]), float(entry["ts"])
            except (ValueError, KeyError, TypeError):
                continue
            # A request that the front sent a second time stands in the log twice; the second one is its outcome.
            if status == ASK_AGAIN:
                continue
            outcome = Outcome(str(entry.get("deployment") or ""), status, int(entry.get("model_status") or status))
            minute = self.minutes.setdefault(int(ended) // _SECONDS, Minute())
            minute.add(outcome, seconds * 1000, int(entry.get("size") or 0))


def forget(path: Path) -> None:
    """Remove a log and what was rolled over of it (`<name>-2026-11-22T15-04-05.000.log.gz`)."""
    path.unlink(missing_ok=True)
    for rolled in path.parent.glob(f"{path.stem}-[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T*"):
        rolled.unlink(missing_ok=True)


def _latency(times: Sequence[float]) -> Latency:
    ordered = sorted(times)
    # The nearest rank: a percentile is the time of a request that there was.
    ranked = tuple(ordered[max(0, math.ceil(part / 100 * len(ordered)) - 1)] for part in PERCENTILES)
    return Latency(len(ordered), math.fsum(ordered), ordered[0], ordered[-1], ranked)
