"""How many instances a deployment with `target_utilization` should have. Pure.

https://learn.microsoft.com/azure/machine-learning/how-to-kubernetes-inference-routing-azureml-fe#autoscaling :
utilisation is the requests that are answered or queued, over what the instances can answer at once; more instances come
within about a second, they go when they weren't needed for about a minute.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from localazure.core.errors import BadRequest
from localazure.executors.durations import seconds

DEFAULT = "Default"
TARGET = "TargetUtilization"
_UP_SECONDS = 1.0
_DOWN_SECONDS = 60.0
_PERCENT = 100


@dataclass(frozen=True)
class Scale:
    """The settings: bounds, the utilisation to keep (a share), and how often to look, in seconds."""

    lowest: int
    highest: int
    target: float
    interval: float

    @classmethod
    def parse(cls, document: Mapping[str, Any] | None) -> Scale | None:
        """Of a deployment's `scaleSettings` as `checked` left them; None for a fixed number of instances."""
        if not document or document.get("scaleType", DEFAULT) != TARGET:
            return None
        return cls(
            int(document["minInstances"]),
            int(document["maxInstances"]),
            int(document["targetUtilizationPercentage"]) / _PERCENT,
            seconds(document["pollingInterval"], "pollingInterval") or 1.0,
        )

    def clamped(self, count: int) -> int:
        """`count`, within the bounds."""
        return max(self.lowest, min(self.highest, count))


def checked(given: Mapping[str, Any] | None, kubernetes: bool, most: int) -> dict[str, Any]:
    """A deployment's `scaleSettings`, with Azure's defaults. Raises BadRequest."""
    kind = (given or {}).get("scaleType") or DEFAULT
    if kind == DEFAULT:
        return {"scaleType": DEFAULT}
    target = "properties.scaleSettings"
    if kind != TARGET:
        raise BadRequest(f"scaleType must be {DEFAULT} or {TARGET}, not '{kind}'.", target)
    if not kubernetes:
        # https://learn.microsoft.com/azure/machine-learning/how-to-autoscale-endpoints
        message = f"Managed online deployments are scaled by Azure Monitor's autoscale settings, not by {TARGET}."
        raise BadRequest(message, target)
    settings: dict[str, Any] = {"minInstances": 1, "maxInstances": 1, "targetUtilizationPercentage": 70}
    settings |= {"pollingInterval": "PT1S"} | {key: item for key, item in (given or {}).items() if item is not None}
    for name, highest in (("minInstances", most), ("maxInstances", most), ("targetUtilizationPercentage", _PERCENT)):
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
            raise BadRequest(f"{name} must be a whole number from 1 to {highest} here, not {value!r}.", target)
    if settings["minInstances"] > settings["maxInstances"]:
        raise BadRequest("minInstances is above maxInstances.", target)
    if (seconds(settings["pollingInterval"], f"{target}.pollingInterval") or 0) < 1:
        raise BadRequest("pollingInterval must be a second or more.", target)
    return settings


@dataclass
class Autoscaler:
    """What was seen of one deployment in the last minute."""

    scale: Scale
    _looks: deque[tuple[float, int]] = field(default_factory=deque)
    _decided: float = -math.inf

    def decide(self, now: float, open_requests: int, instances: int, at_once: int) -> int:
        """How many instances there should be from now on.

        `now` in seconds of any clock, `at_once` requests an instance answers at the same time.
        """
        needed = self.scale.clamped(math.ceil(open_requests / (at_once * self.scale.target)))
        self._looks.append((now, needed))
        while self._looks[0][0] < now - _DOWN_SECONDS:
            self._looks.popleft()
        bounded = self.scale.clamped(instances)
        if bounded != instances:
            return bounded
        if now - self._decided < self.scale.interval:
            return instances
        self._decided = now
        # One look may have met a burst that is over before an instance could start.
        lately = [count for at, count in self._looks if at >= now - _UP_SECONDS]
        if len(lately) > 1 and min(lately) > instances:
            return min(lately)
        full = now - self._looks[0][0] >= _DOWN_SECONDS - 2 * _UP_SECONDS
        return min(instances, max(count for _, count in self._looks)) if full else instances
