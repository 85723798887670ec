"""Where a sweep's configurations come from: at random, all of them, or points that another process thinks up.

https://learn.microsoft.com/azure/machine-learning/how-to-tune-hyperparameters#sampling-the-hyperparameter-space
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from localazure.executors import processes
from localazure.executors.job import JobFailed
from localazure.executors.search_space import SearchSpace

_MODULE = "localazure_compute.sweep"
_LOG_LINES = 10


class Sampler(Protocol):
    """Configurations, one a trial, in the order of the trials' numbers."""

    async def draw(self, trial: int) -> dict[str, Any] | None:
        """The configuration of the next trial; None if there are no more."""
        ...

    async def tell(self, trial: int, value: float | None) -> None:
        """What a trial reported of the primary metric; None if it gave nothing to compare."""
        ...

    async def close(self) -> None:
        """Ends what the sampler started."""
        ...


class GridSampler:
    """Every configuration once."""

    def __init__(self, space: SearchSpace) -> None:
        self._rest = space.grid()

    async def draw(self, trial: int) -> dict[str, Any] | None:
        """See Sampler."""
        return next(self._rest, None)

    async def tell(self, trial: int, value: float | None) -> None:
        """See Sampler."""

    async def close(self) -> None:
        """See Sampler."""


class _Drawn:
    """What was drawn of a space that has only so many configurations; of any other, nothing is remembered."""

    def __init__(self, space: SearchSpace) -> None:
        self._size = space.size()
        self._keys: set[str] = set()

    def all(self) -> bool:
        """Whether there is nothing left to draw."""
        return self._size is not None and len(self._keys) >= self._size

    def is_new(self, values: dict[str, Any]) -> bool:
        """Whether `values` weren't drawn yet; now they are."""
        if self._size is None:
            return True
        known = len(self._keys)
        self._keys.add(json.dumps(values, sort_keys=True, default=str))
        return len(self._keys) > known


class RandomSampler:
    """Independent draws. Where there are only so many configurations, none is drawn twice, and all of them end it."""

    def __init__(self, space: SearchSpace, seed: int | None) -> None:
        self._space = space
        self._random = random.Random(seed)
        self._drawn = _Drawn(space)

    async def draw(self, trial: int) -> dict[str, Any] | None:
        """See Sampler."""
        while not self._drawn.all():
            values = self._one()
            if self._drawn.is_new(values):
                return values
        return None

    async def tell(self, trial: int, value: float | None) -> None:
        """See Sampler."""

    async def close(self) -> None:
        """See Sampler."""

    def _one(self) -> dict[str, Any]:
        return self._space.at([self._random.random() for _ in range(self._space.dimensions)])


class ProcessSampler:
    """Points from `localazure_compute.sweep`, a process in the compute environment: a Sobol sequence, which skips what
    it gave before, or Bayesian optimization, which may come back to a configuration.

    `log` gets what it says on standard error. It is started with the first draw.
    """

    def __init__(
        self, space: SearchSpace, asked: dict[str, Any], *, python: Path, environment: Mapping[str, str], log: Path
    ) -> None:
        self._space = space
        self._asked = asked
        self._python = python
        self._environment = environment
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._drawn = _Drawn(space)
        # Trials end at any moment; the conversation is one line after the other.
        self._turn = asyncio.Lock()

    async def draw(self, trial: int) -> dict[str, Any] | None:
        """See Sampler. JobFailed, with the process's last words, if it gave up."""
        while not self._drawn.all():
            values = self._space.at(await self._point(trial))
            if self._drawn.is_new(values) or self._asked["sampler"] == "bayesian":
                return values
        return None

    async def _point(self, trial: int) -> list[float]:
        async with self._turn:
            if self._process is None:
                self._process = await self._start()
                self._say(self._process, self._asked)
            self._say(self._process, {"ask": trial})
            assert self._process.stdout is not None
            line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            last = "\n".join(processes.tail(self._log, _LOG_LINES))
            raise JobFailed(f"The sampler ({self._asked['sampler']}) gave up:\n{last}", "SystemError")
        point: list[float] = json.loads(line)["point"]
        return point

    async def tell(self, trial: int, value: float | None) -> None:
        """See Sampler."""
        if self._process is not None:
            async with self._turn:
                self._say(self._process, {"tell": trial, "value": value})

    async def close(self) -> None:
        """See Sampler."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        with self._log.open("ab") as errors:
            return await asyncio.create_subprocess_exec(
                self._python,
                "-m",
                _MODULE,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=dict(self._environment),
                start_new_session=True,
            )

    def _say(self, process: asyncio.subprocess.Process, message: dict[str, Any]) -> None:
        assert process.stdin is not None
        # What can't be written is noticed when the answer is read.
        with contextlib.suppress(ConnectionError, RuntimeError):
            process.stdin.write(json.dumps(message).encode() + b"\n")
