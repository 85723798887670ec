"""What an online endpoint counted itself: its metrics in Azure Monitor, of one deployment.

They see every caller's requests, not only ours, and they come late (minutes), or not at all: a Kubernetes cluster
without the Azure Monitor agent has none. So they can speak against a deployment, and their silence for nobody.

https://learn.microsoft.com/azure/azure-monitor/reference/supported-metrics/microsoft-machinelearningservices-workspaces-onlineendpoints-metrics
https://learn.microsoft.com/rest/api/monitor/metrics/list
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from azflow.guardrails import Observed
from azflow.online_endpoint import OnlineEndpoint

_REQUESTS, _LATENCY = "RequestsPerMinute", "RequestLatency_P95"
_SERVERS_FAULT = 500
#: Failures that a caller can't help: it waited too long, the model raised, it was turned away.
_FAILED = frozenset({408, 424, 429})


def observe(endpoint: OnlineEndpoint, deployment: str, since: datetime, until: datetime) -> Observed | None:
    """What the endpoint counted of a deployment between two instants; None where it tells nothing of them (yet).

    :raises azure.core.exceptions.HttpResponseError: the endpoint has no metrics, or they can't be read.
    """
    named = f"deployment eq '{deployment}'"
    # A minute that has begun counts: what it holds is the same deployment's.
    first = since.replace(second=0, microsecond=0)
    counted = endpoint.metric(_REQUESTS, f"{named} and statusCode eq '*'", first, until)
    requests = failed = 0.0
    for dimensions, value in _points(counted):
        requests += value
        if _is_failure(dimensions.get("statuscode", "")):
            failed += value
    if not requests:
        return None
    slow = [value for _, value in _points(endpoint.metric(_LATENCY, named, first, until)) if value > 0]
    return Observed(round(requests), round(failed), max(slow, default=None))


def _points(found: Mapping[str, Any]) -> Iterator[tuple[dict[str, str], float]]:
    """The minutes that have a value, with the dimensions they belong to (names in lower case)."""
    for metric in found.get("value") or ():
        for series in metric.get("timeseries") or ():
            dimensions = {
                str(each["name"]["value"]).lower(): str(each["value"]) for each in series.get("metadatavalues") or ()
            }
            for point in series.get("data") or ():
                if isinstance(value := point.get("average"), int | float):
                    yield dimensions, float(value)


def _is_failure(status: str) -> bool:
    return status.isdigit() and (int(status) >= _SERVERS_FAULT or int(status) in _FAILED)
