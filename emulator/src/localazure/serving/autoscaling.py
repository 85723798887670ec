"""Keeps deployments with `target_utilization` at theirs, by what the router has open. What is wanted: `scaling`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from localazure.serving.router import Router, RouterError
from localazure.serving.scaling import Autoscaler, Scale
from localazure.serving.servers import Fleet, Instance, Servers, StartFailed

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5


class Autoscaling:
    """The loop. `document` gives a deployment's document, `let_go` takes what a fleet has released and routes anew.

    `lock` is held while a fleet changes: an update of a deployment and its scaling don't meet.
    """

    def __init__(
        self,
        router: Router,
        servers: Servers,
        fleets: Mapping[str, Fleet],
        document: Callable[[str], Mapping[str, Any] | None],
        let_go: Callable[[str, list[Instance]], Awaitable[None]],
    ) -> None:
        self.lock = asyncio.Lock()
        self._router = router
        self._servers = servers
        self._fleets = fleets
        self._document = document
        self._let_go = let_go
        self._scalers: dict[str, Autoscaler] = {}

    def count(self, key: str, fleet: Fleet, wanted: int) -> int:
        """How many instances an updated fleet gets: what scaling brought about isn't undone by another change."""
        scale = self._scale(key)
        return scale.clamped(len(fleet.instances)) if scale else wanted

    async def bring(self, key: str, fleet: Fleet, count: int) -> bool:
        """Bring a deployment to `count` instances, without losing a request; False if `fleet` isn't its any more.

        Raises StartFailed, with the fleet as it was, and RouterError.
        """
        async with self.lock:
            if self._fleets.get(key) is not fleet:
                return False
            released = await self._servers.scale(fleet, count)
        await self._let_go(key, released)
        return True

    async def keep(self) -> None:
        """Look and scale, for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            scales = {key: scale for key in self._fleets if (scale := self._scale(key))}
            self._scalers = {
                key: known if (known := self._scalers.get(key)) and known.scale == scale else Autoscaler(scale)
                for key, scale in scales.items()
            }
            if not scales:
                continue
            try:
                open_requests = await self._router.all_open_requests()
                for key, scaler in self._scalers.items():
                    await self._look(key, scaler, open_requests)
            except (RouterError, StartFailed, OSError) as error:
                log.warning("autoscaling: %s", error)

    async def _look(self, key: str, scaler: Autoscaler, open_requests: Mapping[str, int]) -> None:
        fleet, document = self._fleets.get(key), self._document(key)
        if fleet is None or document is None or document["properties"]["provisioningState"] != "Succeeded":
            return
        before = len(fleet.instances)
        busy = sum(open_requests.get(instance.address, 0) for instance in fleet.instances)
        at_once = int(document["properties"]["requestSettings"]["maxConcurrentRequestsPerInstance"])
        count = scaler.decide(asyncio.get_running_loop().time(), busy, before, at_once)
        if count == before:
            return
        if await self.bring(key, fleet, count):
            log.info("%s: %d instances instead of %d, for %d open requests", key, count, before, busy)

    def _scale(self, key: str) -> Scale | None:
        document = self._document(key)
        return Scale.parse(document["properties"].get("scaleSettings")) if document else None
