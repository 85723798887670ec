"""Azure Monitor's metrics of online endpoints and deployments: their definitions, a query, its answer. Pure.

Names, units and dimensions: https://learn.microsoft.com/azure/azure-monitor/reference/supported-metrics/microsoft-machinelearningservices-workspaces-onlineendpoints-metrics
and ...-onlineendpoints-deployments-metrics. Query and answer: https://learn.microsoft.com/rest/api/monitor/metrics/list
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from localazure.core.errors import BadRequest, NotImplementedOperation

_ALL = ("Average", "Minimum", "Maximum", "Total", "Count")
_INTERVALS = {
    "PT1M": 1, "PT5M": 5, "PT15M": 15, "PT30M": 30, "PT1H": 60, "PT6H": 360, "PT12H": 720, "P1D": 1440,
}  # fmt: skip
_MOST_POINTS = 24 * 60 * 7
_DEFAULT_SPAN = timedelta(hours=1)
_DEFAULT_TOP = 10
_CLAUSE = re.compile(r"\s*\(?\s*([A-Za-z]+)\s+(\w+)\s+'((?:[^']|'')*)'\s*\)?\s*")


@dataclass(frozen=True)
class Metric:
    """A metric, as Azure lists it."""

    name: str
    shown: str
    text: str
    unit: str
    dimensions: tuple[str, ...] = ()


def _percentile(part: int) -> Metric:
    text = f"The average P{part} request latency aggregated by all request latency values collected over the minute."
    return Metric(f"RequestLatency_P{part}", f"Request Latency P{part}", text, "Milliseconds", ("deployment",))


_EVENTS = Metric(
    "DataCollectionEventsPerMinute",
    "Data Collection Events Per Minute",
    "The number of data collection events processed per minute.",
    "Count",
    ("deployment", "type"),
)
_ERRORS = Metric(
    "DataCollectionErrorsPerMinute",
    "Data Collection Errors Per Minute",
    "The number of data collection events dropped per minute.",
    "Count",
    ("deployment", "reason", "type"),
)
ENDPOINT = (
    Metric(
        "RequestsPerMinute",
        "Requests Per Minute",
        "The number of requests sent to online endpoint within a minute.",
        "Count",
        ("deployment", "statusCode", "statusCodeClass", "modelStatusCode"),
    ),
    Metric(
        "RequestLatency",
        "Request Latency",
        "The average complete interval of time taken for a request to be responded in milliseconds.",
        "Milliseconds",
        ("deployment",),
    ),
    *(_percentile(part) for part in (50, 90, 95, 99)),
    Metric("NetworkBytes", "Network Bytes", "The bytes per second served for the endpoint.", "BytesPerSecond"),
    _EVENTS,
    _ERRORS,
)
DEPLOYMENT = (
    Metric(
        "CpuUtilizationPercentage",
        "CPU Utilization Percentage",
        "Percentage of CPU utilization on an instance.",
        "Percent",
        ("instanceId",),
    ),
    Metric(
        "CpuMemoryUtilizationPercentage",
        "CPU Memory Utilization Percentage",
        "Percentage of memory utilization on an instance.",
        "Percent",
        ("instanceId",),
    ),
    Metric(
        "DeploymentCapacity",
        "Deployment Capacity",
        "The number of instances in the deployment.",
        "Count",
        ("instanceId", "State"),
    ),
)
#: On Azure, but not here: there is nothing to measure, or nobody who does.
NOT_MEASURED = frozenset(
    {
        "ConnectionsActive", "NewConnectionsPerSecond", "DiskUtilization", "GpuUtilizationPercentage",
        "GpuMemoryUtilizationPercentage", "GpuEnergyInJoules",
    }
)  # fmt: skip


class Sample(NamedTuple):
    """One minute's value of a metric, for one combination of its dimensions.

    `weight` is the number of measurements behind it: means of several minutes and combinations are weighed by it.
    """

    minute: int
    dimensions: Mapping[str, str]
    value: float
    weight: float = 1.0


@dataclass(frozen=True)
class Query:
    """What was asked for. `wanted` maps a dimension to its values (none of them: all), `excluded` to those left out.

    Series are split by the dimensions of both, unless they are `merged`.
    """

    metrics: tuple[Metric, ...]
    start: datetime
    end: datetime
    interval: str
    aggregations: tuple[str, ...]
    wanted: Mapping[str, frozenset[str]] = field(default_factory=dict)
    excluded: Mapping[str, frozenset[str]] = field(default_factory=dict)
    top: int = _DEFAULT_TOP
    merged: bool = False

    @classmethod
    def parse(cls, given: Mapping[str, str], known: tuple[Metric, ...], kind: str, now: datetime) -> Query:
        """Read a request's parameters. Raises BadRequest, NotImplementedOperation."""
        asked = {name.lower(): value for name, value in given.items()}
        namespace = asked.get("metricnamespace") or kind
        if namespace.lower() != kind.lower():
            raise BadRequest(f"There is no metric namespace '{namespace}' here; there is {kind}.", "metricnamespace")
        for name in ("orderby", "rollupby"):
            if asked.get(name):
                raise NotImplementedOperation(f"Metrics_List with {name}")
        if (asked.get("resulttype") or "Data").lower() != "data":
            raise NotImplementedOperation(f"Metrics_List with resultType {asked['resulttype']}")
        metrics = _metrics(asked.get("metricnames") or "", known)
        start, end = _span(asked.get("timespan") or "", now)
        interval = (asked.get("interval") or "PT1M").upper()
        if interval != "FULL" and interval not in _INTERVALS:
            raise BadRequest(f"interval must be FULL or one of {', '.join(_INTERVALS)}, not '{interval}'.", "interval")
        if interval != "FULL" and (end - start).total_seconds() / 60 / _INTERVALS[interval] > _MOST_POINTS:
            raise BadRequest(f"The timespan is too long for points of {interval}.", "timespan")
        return cls(
            metrics,
            start,
            end,
            interval,
            _aggregations(asked.get("aggregation") or "Average"),
            *_filter(asked.get("$filter") or "", metrics),
            _top(asked.get("top")),
        )

    def split(self, metric: Metric) -> list[str]:
        """The dimensions that the metric's series are split by."""
        named = set() if self.merged else {*self.wanted, *self.excluded}
        return [name for name in metric.dimensions if name in named]

    def takes(self, sample: Sample) -> bool:
        """Whether the filter lets a sample pass."""
        found = {name: value.lower() for name, value in sample.dimensions.items()}
        return all(not values or found.get(name, "") in values for name, values in self.wanted.items()) and not any(
            found.get(name, "") in values for name, values in self.excluded.items()
        )


def answer(query: Query, resource: str, kind: str, region: str, samples: Mapping[str, Iterable[Sample]]) -> Any:
    """The answer to a query: `samples` by the metric's name, in any order."""
    stamp = f"{_iso(query.start)}/{_iso(query.end)}"
    return {
        "cost": 0,
        "timespan": stamp,
        "interval": query.interval if query.interval != "FULL" else _duration(query.end - query.start),
        "value": [_value(metric, query, resource, samples.get(metric.name, ())) for metric in query.metrics],
        "namespace": kind,
        "resourceregion": region,
    }


def definitions(known: tuple[Metric, ...], resource: str, kind: str) -> Any:
    """The metrics that a resource has (https://learn.microsoft.com/rest/api/monitor/metric-definitions/list)."""
    return {
        "value": [
            {
                "id": f"{resource}/providers/microsoft.insights/metricdefinitions/{metric.name}",
                "resourceId": resource,
                "namespace": kind,
                "name": _localized(metric.name, metric.shown),
                "displayDescription": metric.text,
                "isDimensionRequired": False,
                "unit": metric.unit,
                "primaryAggregationType": "Average",
                "supportedAggregationTypes": list(_ALL),
                "metricAvailabilities": [{"timeGrain": grain, "retention": "P7D"} for grain in _INTERVALS],
                "dimensions": [_localized(name) for name in metric.dimensions],
            }
            for metric in known
        ]
    }


def _value(metric: Metric, query: Query, resource: str, samples: Iterable[Sample]) -> Any:
    first, last = int(query.start.timestamp()) // 60, -(-int(query.end.timestamp()) // 60)
    step = _INTERVALS.get(query.interval) or max(1, last - first)
    split = query.split(metric)
    # By combination of the split dimensions, then by minute: (value, weight) of what the other dimensions had.
    series: dict[tuple[str, ...], dict[int, list[tuple[float, float]]]] = {}
    for sample in samples:
        if first <= sample.minute < last and query.takes(sample):
            key = tuple(sample.dimensions.get(name, "") for name in split)
            series.setdefault(key, {}).setdefault(sample.minute, []).append((sample.value, sample.weight))
    if not split:
        series.setdefault((), {})
    ranked = sorted(series, key=lambda key: (-sum(v * w for each in series[key].values() for v, w in each), key))
    return {
        "id": f"{resource}/providers/Microsoft.Insights/metrics/{metric.name}",
        "type": "Microsoft.Insights/metrics",
        "name": _localized(metric.name, metric.shown),
        "displayDescription": metric.text,
        "unit": metric.unit,
        "timeseries": [
            {
                "metadatavalues": [
                    {"name": _localized(name.lower()), "value": value} for name, value in zip(split, key, strict=True)
                ],
                "data": [
                    _point(minute, step, series[key], metric, query.aggregations) for minute in range(first, last, step)
                ],
            }
            for key in (ranked[: query.top] if split else ranked)
        ],
        "errorCode": "Success",
    }


def _point(
    minute: int,
    step: int,
    minutes: Mapping[int, list[tuple[float, float]]],
    metric: Metric,
    aggregations: tuple[str, ...],
) -> dict[str, Any]:
    """One point of a series. Without a measurement it has a time and no value, as on Azure."""
    point: dict[str, Any] = {"timeStamp": _iso(datetime.fromtimestamp(minute * 60, UTC))}
    found = [minutes[each] for each in range(minute, minute + step) if each in minutes]
    if not found:
        return point
    # Counts of a minute add up over what isn't split; a mean is weighed.
    if metric.unit in {"Count", "BytesPerSecond"}:
        values = [sum(value for value, _ in each) for each in found]
        weights = [1.0] * len(values)
    else:
        values = [value for each in found for value, _ in each]
        weights = [weight for each in found for _, weight in each]
    total = sum(value * weight for value, weight in zip(values, weights, strict=True))
    told = {
        "Average": total / (sum(weights) or 1.0),
        "Minimum": min(values),
        "Maximum": max(values),
        "Total": total,
        "Count": sum(weights),
    }
    return point | {name.lower(): told[name] for name in aggregations}


def _metrics(names: str, known: tuple[Metric, ...]) -> tuple[Metric, ...]:
    if not names:
        return known
    by_name = {metric.name.lower(): metric for metric in known}
    found = []
    for name in (part.strip() for part in names.split(",") if part.strip()):
        if name.lower() in {each.lower() for each in NOT_MEASURED}:
            raise NotImplementedOperation(f"Metrics_List of {name}")
        if name.lower() not in by_name:
            there = ", ".join(metric.name for metric in known)
            raise BadRequest(f"Failed to find metric configuration for '{name}'; there are {there}.", "metricnames")
        found.append(by_name[name.lower()])
    return tuple(found)


def _aggregations(text: str) -> tuple[str, ...]:
    by_name = {name.lower(): name for name in _ALL}
    asked = [part.strip().lower() for part in text.split(",") if part.strip()]
    if unknown := [name for name in asked if name not in by_name]:
        raise BadRequest(f"aggregation must be of {', '.join(_ALL)}, not '{unknown[0]}'.", "aggregation")
    return tuple(by_name[name] for name in asked)


def _filter(text: str, metrics: tuple[Metric, ...]) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    """What must be and what must not: of `A eq 'a' and B eq 'b1' or B eq 'b2' and C eq '*' and D ne 'd'` A is a, B is
    one of two, C is split and D isn't d.
    """
    wanted: dict[str, frozenset[str]] = {}
    excluded: dict[str, frozenset[str]] = {}
    if not text.strip():
        return wanted, excluded
    common = set.intersection(*({name.lower() for name in metric.dimensions} for metric in metrics))
    spelled = {name.lower(): name for metric in metrics for name in metric.dimensions}
    for group in re.split(r"\s+and\s+", text, flags=re.IGNORECASE):
        clauses = [_CLAUSE.fullmatch(part) for part in re.split(r"\s+or\s+", group, flags=re.IGNORECASE)]
        if not all(clauses):
            raise BadRequest(f"$filter can't be read at: {group.strip()}", "$filter")
        parts = [(match[1].lower(), match[2].lower(), match[3]) for match in clauses if match]
        name = parts[0][0]
        if any(each != name for each, _, _ in parts):
            raise BadRequest("The logical or operator cannot separate two different metadata names.", "$filter")
        if name not in common:
            raise BadRequest(f"Metric {metrics[0].name} has no dimension '{name}' to filter by.", "$filter")
        if other := [operator for _, operator, _ in parts if operator not in {"eq", "ne"}]:
            raise NotImplementedOperation(f"Metrics_List with the filter operator {other[0]}")
        values = frozenset(value.replace("''", "'").lower() for _, _, value in parts)
        if all(operator == "eq" for _, operator, _ in parts):
            wanted[spelled[name]] = frozenset() if "*" in values else values
        elif len(parts) > 1:
            raise BadRequest(f"ne stands alone, or with and: {group.strip()}", "$filter")
        else:
            excluded[spelled[name]] = excluded.get(spelled[name], frozenset()) | values
    return wanted, excluded


def _span(text: str, now: datetime) -> tuple[datetime, datetime]:
    """`start/end`, `start/duration`, `duration` (until now); without any the last hour."""
    if not text:
        return now - _DEFAULT_SPAN, now
    begin, _, end = text.partition("/")
    try:
        if not end:
            return now - _period(begin), now
        first = _time(begin)
        second = first + _period(end) if end.upper().startswith("P") else _time(end)
    except ValueError:
        raise BadRequest(f"timespan must be start/end in ISO 8601, not '{text}'.", "timespan") from None
    if second <= first:
        raise BadRequest(f"The timespan ends before it begins: '{text}'.", "timespan")
    return first, second


def _time(text: str) -> datetime:
    # A plus sign that a client didn't encode arrives as a blank.
    found = datetime.fromisoformat(text.replace(" ", "+").upper())
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _period(text: str) -> timedelta:
    match = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", text.upper())
    if not match or not any(match.groups()):
        raise ValueError(text)
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def _top(text: str | None) -> int:
    if text is None:
        return _DEFAULT_TOP
    if not text.isdigit() or not int(text):
        raise BadRequest(f"top must be a whole number above 0, not '{text}'.", "top")
    return int(text)


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _duration(span: timedelta) -> str:
    return f"PT{int(span.total_seconds() // 60)}M"


def _localized(name: str, shown: str | None = None) -> dict[str, str]:
    return {"value": name, "localizedValue": shown or name}
