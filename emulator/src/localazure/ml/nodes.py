"""The nodes of a compute, handed out in the order they were asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Nodes:
    """A compute's nodes. First come, first served: a job that wants many isn't passed by jobs that want few."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.busy = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def would_wait(self, count: int) -> bool:
        """Whether `count` nodes aren't to be had at once."""
        return count > 0 and (bool(self._waiting) or self.busy + count > self.size)

    def resize(self, size: int) -> None:
        """Another number of nodes from now on. Jobs that run keep theirs."""
        self.size = size
        self._hand_out()

    @asynccontextmanager
    async def held(self, count: int) -> AsyncIterator[None]:
        """`count` nodes, waited for and given back."""
        if self.would_wait(count):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((count, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give_back(count)  # handed out in the moment of the cancellation
                else:
                    with contextlib.suppress(ValueError):
                        self._waiting.remove((count, turn))
                    self._hand_out()
                raise
        else:
            self.busy += count
        try:
            yield
        finally:
            self._give_back(count)

    def _give_back(self, count: int) -> None:
        self.busy -= count
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self.busy + self._waiting[0][0] <= self.size:
            count, turn = self._waiting.popleft()
            if not turn.done():
                self.busy += count
                turn.set_result(None)
