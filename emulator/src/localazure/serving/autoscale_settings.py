"""Azure Monitor's autoscale settings as values: what a client may write, and which profile holds at a time. Pure.

https://learn.microsoft.com/rest/api/monitor/autoscale-settings (2022-10-01) and
https://learn.microsoft.com/azure/azure-monitor/autoscale/autoscale-understanding-settings. Error codes are the
service's where somebody has reported them; the others are BadRequest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

from localazure.core import timezones
from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.executors import durations
from localazure.serving import metrics, resources
from localazure.serving.metrics import Query

_ID = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/(?P<workspace>[^/]+)"
    r"/onlineEndpoints/(?P<endpoint>[^/]+)(?:/deployments/(?P<deployment>[^/]+))?/?",
    re.IGNORECASE,
)
_PUT = "AutoscaleSettings_CreateOrUpdate"
_MOST_PROFILES, _MOST_RULES, _MOST_CAPACITY = 20, 10, 1000
_MINUTE, _HOUR, _WEEK = 60, 3600, 7 * 86400
_MOST_DAYS = 365
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# A rule's word for how samples are made, and a metrics query's.
_STATISTICS = {"Average": "Average", "Min": "Minimum", "Max": "Maximum", "Sum": "Total", "Count": "Count"}
_AGGREGATIONS = ("Average", "Minimum", "Maximum", "Total", "Count", "Last")
_OPERATORS = ("Equals", "NotEquals", "GreaterThan", "GreaterThanOrEqual", "LessThan", "LessThanOrEqual")
_SCALE_TYPES = ("ChangeCount", "PercentChangeCount", "ExactCount")


@dataclass(frozen=True)
class Resource:
    """An online endpoint, or one of its deployments, by its id."""

    id: str
    subscription: str
    group: str
    workspace: str
    endpoint: str
    deployment: str | None

    @classmethod
    def parse(cls, identifier: Any, target: str) -> Resource:
        """Raises BadRequest; NotImplementedOperation for what isn't an online endpoint's."""
        if not isinstance(identifier, str) or not identifier.startswith("/subscriptions/"):
            raise BadRequest(f"{target} must be the id of a resource, not {identifier!r}.", target)
        match = _ID.fullmatch(identifier)
        if match is None:
            provider = identifier.partition("/providers/")[2] or identifier
            kind = "/".join([provider.partition("/")[0], *provider.split("/")[1::2]])
            raise NotImplementedOperation(f"{_PUT} with a {target} of type {kind}")
        return cls(identifier, **match.groupdict())

    @property
    def key(self) -> str:
        """`endpoint/deployment`."""
        return f"{self.endpoint}/{self.deployment}"


@dataclass(frozen=True)
class Trigger:
    """When a rule is met. `grain` and `dimensions` as a metrics query has them, `window` in seconds."""

    resource: Resource
    metric: str
    grain: str
    statistic: str
    window: float
    aggregation: str
    operator: str
    threshold: float
    dimensions: tuple[str, ...]
    per_instance: bool

    def query(self, until: datetime) -> Query:
        """What is asked of the metrics: the samples of the window that ends at `until`."""
        deployment = self.resource.deployment is not None
        known = metrics.DEPLOYMENT if deployment else metrics.ENDPOINT
        asked = {
            "metricnames": self.metric,
            "timespan": f"{(until - timedelta(seconds=self.window)).isoformat()}/{until.isoformat()}",
            "interval": self.grain,
            "aggregation": self.statistic,
            "$filter": " and ".join(self.dimensions),
        }
        kind = resources.DEPLOYMENT_TYPE if deployment else resources.ENDPOINT_TYPE
        return replace(Query.parse(asked, known, kind, until), merged=True)

    def over_time(self, answer: Mapping[str, Any]) -> float | None:
        """The samples of an answer to `query` as one value; None if there is none."""
        name = self.statistic.lower()
        (series,) = answer["value"][0]["timeseries"]
        samples = [float(point[name]) for point in series["data"] if name in point]
        if not samples:
            return None
        return {
            "Average": sum(samples) / len(samples),
            "Minimum": min(samples),
            "Maximum": max(samples),
            "Total": sum(samples),
            "Count": float(len(samples)),
            "Last": samples[-1],
        }[self.aggregation]

    def met(self, value: float) -> bool:
        """Whether `value` is as the operator wants it."""
        threshold = self.threshold
        return {
            "Equals": value == threshold,
            "NotEquals": value != threshold,
            "GreaterThan": value > threshold,
            "GreaterThanOrEqual": value >= threshold,
            "LessThan": value < threshold,
            "LessThanOrEqual": value <= threshold,
        }[self.operator]

    def __str__(self) -> str:
        return f"{self.aggregation} {self.metric} {self.operator} {self.threshold:g}"


@dataclass(frozen=True)
class Action:
    """What a rule that is met does. `cooldown` in seconds."""

    increase: bool
    kind: str
    value: int
    cooldown: float

    def target(self, instances: int) -> int:
        """How many instances there should be instead of `instances`.

        A share that isn't whole is rounded up; the service's rounding isn't documented.
        """
        if self.kind == "ExactCount":
            return max(instances, self.value) if self.increase else min(instances, self.value)
        change = self.value if self.kind == "ChangeCount" else -(-instances * self.value // 100)
        return instances + change if self.increase else instances - change


@dataclass(frozen=True)
class Rule:
    """One rule of a profile."""

    trigger: Trigger
    action: Action


@dataclass(frozen=True)
class Recurrence:
    """When a profile begins, every week. Days are 0 (Monday) to 6."""

    zone: ZoneInfo
    days: tuple[int, ...]
    times: tuple[time, ...]

    def begun(self, now: datetime) -> datetime:
        """The latest beginning up to `now`."""
        today = now.astimezone(self.zone).date()
        # Yesterday a week ago, for a zone whose clocks were changed since.
        days = [today - timedelta(days=back) for back in range(9)]
        moments = (
            datetime.combine(day, each, self.zone).astimezone(UTC)
            for day, each in product(days, self.times)
            if day.weekday() in self.days
        )
        return max(moment for moment in moments if moment <= now)


@dataclass(frozen=True)
class Profile:
    """Bounds, the number of instances for want of metrics, and rules."""

    name: str
    minimum: int
    maximum: int
    default: int
    rules: tuple[Rule, ...]
    fixed: tuple[datetime, datetime] | None = None
    recurrence: Recurrence | None = None


@dataclass(frozen=True)
class Setting:
    """A setting that is carried out while it is `enabled`."""

    target: Resource
    enabled: bool
    profiles: tuple[Profile, ...]

    @classmethod
    def parse(cls, properties: Mapping[str, Any], most: int) -> Setting:
        """Of the properties of an autoscale setting. `most` instances is what a deployment may have here.

        Raises BadRequest, NotImplementedOperation.
        """
        if not properties.get("targetResourceUri") or not isinstance(properties.get("profiles"), list):
            # The service says no more than its first sentence.
            raise BadRequest(
                "Request content is not well formed or supported. properties needs targetResourceUri and profiles, "
                "as a PUT replaces the whole setting; a PATCH keeps what it doesn't name.",
                "properties",
                "UnsupportedRequestContent",
            )
        target = Resource.parse(properties["targetResourceUri"], "targetResourceUri")
        if target.deployment is None:
            raise BadRequest("An endpoint has no instances: the target is one of its deployments.", "targetResourceUri")
        enabled = properties.get("enabled", True)
        if not isinstance(enabled, bool):
            raise BadRequest(f"enabled must be true or false, not {enabled!r}.", "enabled")
        policy = require_object(properties.get("predictiveAutoscalePolicy") or {}, "predictiveAutoscalePolicy")
        mode = policy.get("scaleMode", "Disabled")
        if mode != "Disabled":
            # https://learn.microsoft.com/azure/azure-monitor/autoscale/autoscale-predictive
            raise BadRequest(
                "Predictive autoscale is for virtual machine scale sets only.", "predictiveAutoscalePolicy"
            )
        profiles = properties["profiles"]
        if not 1 <= len(profiles) <= _MOST_PROFILES:
            raise BadRequest(f"A setting has 1 to {_MOST_PROFILES} profiles, not {len(profiles)}.", "profiles")
        found = tuple(
            _profile(require_object(each, path := f"profiles[{index}]"), path, most)
            for index, each in enumerate(profiles)
        )
        names = [profile.name for profile in found]
        if twice := {name for name in names if names.count(name) > 1}:
            raise BadRequest(f"Two profiles are called '{min(twice)}'.", "profiles")
        if len([profile for profile in found if not profile.fixed and not profile.recurrence]) > 1:
            raise BadRequest("Only one profile may have neither fixedDate nor recurrence.", "profiles")
        return cls(target, enabled, found)

    @property
    def resources(self) -> Iterable[Resource]:
        """Whose metrics the rules read."""
        return {rule.trigger.resource: None for profile in self.profiles for rule in profile.rules}

    def active(self, now: datetime) -> Profile | None:
        """The profile that holds at `now`: one for this date, else the recurring one that began last, else the default.

        A recurring profile has no end of its own: it holds until another one begins
        (https://learn.microsoft.com/azure/azure-monitor/autoscale/autoscale-multiprofile).
        """
        for profile in self.profiles:
            if profile.fixed and profile.fixed[0] <= now < profile.fixed[1]:
                return profile
        begun = [(profile.recurrence.begun(now), profile) for profile in self.profiles if profile.recurrence]
        if begun:
            return max(begun, key=lambda pair: pair[0])[1]
        return next((profile for profile in self.profiles if not profile.fixed), None)


def _profile(given: Mapping[str, Any], path: str, most: int) -> Profile:
    name = given.get("name")
    if not isinstance(name, str) or not name:
        raise BadRequest("A profile needs a name.", f"{path}.name")
    capacity = require_object(given.get("capacity"), f"{path}.capacity")
    lowest, highest, default = (
        _whole(capacity.get(key), f"{path}.capacity.{key}", 0, _MOST_CAPACITY)
        for key in ("minimum", "maximum", "default")
    )
    if not lowest <= default <= highest:
        raise BadRequest(
            f"The capacity of profile '{name}' must be minimum <= default <= maximum, not "
            f"{lowest}, {default}, {highest}.",
            f"{path}.capacity",
        )
    if not 1 <= lowest <= most:
        message = (
            f"The minimum of profile '{name}' must be from 1 to {most} for an online deployment here, not {lowest}."
        )
        raise BadRequest(message, f"{path}.capacity.minimum")
    rules = require_list(given.get("rules"), f"{path}.rules")
    if len(rules) > _MOST_RULES:
        raise BadRequest(f"A profile has at most {_MOST_RULES} rules, not {len(rules)}.", f"{path}.rules")
    found = tuple(
        _rule(require_object(rule, where := f"{path}.rules[{index}]"), where, lowest, highest)
        for index, rule in enumerate(rules)
    )
    fixed, recurrence = given.get("fixedDate"), given.get("recurrence")
    if fixed and recurrence:
        raise BadRequest(f"Profile '{name}' has fixedDate and recurrence; it may have one.", path)
    return Profile(
        name,
        lowest,
        highest,
        default,
        found,
        _fixed(require_object(fixed, f"{path}.fixedDate"), f"{path}.fixedDate") if fixed else None,
        _recurrence(require_object(recurrence, f"{path}.recurrence"), f"{path}.recurrence") if recurrence else None,
    )


def _rule(given: Mapping[str, Any], path: str, lowest: int, highest: int) -> Rule:
    trigger, action = (require_object(given.get(name), f"{path}.{name}") for name in ("metricTrigger", "scaleAction"))
    return Rule(_trigger(trigger, f"{path}.metricTrigger"), _action(action, f"{path}.scaleAction", lowest, highest))


def _trigger(given: Mapping[str, Any], path: str) -> Trigger:
    resource = Resource.parse(given.get("metricResourceUri"), f"{path}.metricResourceUri")
    known, kind = metrics.ENDPOINT, resources.ENDPOINT_TYPE
    if resource.deployment:
        known, kind = metrics.DEPLOYMENT, resources.DEPLOYMENT_TYPE
    name, namespace = str(given.get("metricName") or ""), str(given.get("metricNamespace") or kind)
    if name.lower() in {each.lower() for each in metrics.NOT_MEASURED}:
        raise NotImplementedOperation(f"{_PUT} with a rule on {name}")
    if name.lower() not in {metric.name.lower() for metric in known} or namespace.lower() != kind.lower():
        there = ", ".join(metric.name for metric in known)
        raise BadRequest(
            f"Metric '{name}' of {namespace} is not supported for {resource.id}; {kind} has {there}.",
            f"{path}.metricName",
            "UnsupportedMetric",
        )
    window = _seconds(given.get("timeWindow"), f"{path}.timeWindow", 5 * _MINUTE, 12 * _HOUR)
    grain = _seconds(given.get("timeGrain"), f"{path}.timeGrain", _MINUTE, 12 * _HOUR)
    if grain > window:
        raise BadRequest("timeGrain is longer than timeWindow.", f"{path}.timeGrain")
    threshold = given.get("threshold")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise BadRequest(f"threshold must be a number, not {threshold!r}.", f"{path}.threshold")
    trigger = Trigger(
        resource,
        name,
        str(given["timeGrain"]).upper(),
        _STATISTICS[_word(given.get("statistic"), f"{path}.statistic", tuple(_STATISTICS))],
        window,
        _word(given.get("timeAggregation"), f"{path}.timeAggregation", _AGGREGATIONS),
        _word(given.get("operator"), f"{path}.operator", _OPERATORS),
        float(threshold),
        tuple(
            _dimension(require_object(each, where := f"{path}.dimensions"), where)
            for each in require_list(given.get("dimensions"), f"{path}.dimensions")
        ),
        bool(given.get("dividePerInstance")),
    )
    # What a metrics query refuses (an unknown dimension, a grain that there isn't) is refused now.
    trigger.query(datetime(2000, 1, 2, tzinfo=UTC))
    return trigger


def _dimension(given: Mapping[str, Any], path: str) -> str:
    """A clause of a metrics query's filter: one of the values, or none of them."""
    operator = _word(given.get("Operator"), f"{path}.Operator", ("Equals", "NotEquals"))
    values = [
        "'" + str(value).replace("'", "''") + "'" for value in require_list(given.get("Values"), f"{path}.Values")
    ]
    if not values:
        raise BadRequest("A dimension needs values.", f"{path}.Values")
    sign, joint = ("eq", " or ") if operator == "Equals" else ("ne", " and ")
    return joint.join(f"{given.get('DimensionName')} {sign} {value}" for value in values)


def _action(given: Mapping[str, Any], path: str, lowest: int, highest: int) -> Action:
    kind = given.get("type")
    if kind == "ServiceAllowedNextValue" or given.get("direction") == "None":
        raise NotImplementedOperation(f"{_PUT} with scaleAction {given.get('direction')} {kind}")
    kind = _word(kind, f"{path}.type", _SCALE_TYPES)
    direction = _word(given.get("direction"), f"{path}.direction", ("Increase", "Decrease"))
    value = _whole(given.get("value", "1"), f"{path}.value", 1, _MOST_CAPACITY)
    if kind == "ChangeCount" and value > highest - lowest:
        raise BadRequest(
            f"The autoscale setting you provided has an invalid scale action value ('{value}'). Specify a scale value "
            f"less than or equal to the difference between the capacity maximum {highest} and the capacity minimum "
            f"{lowest}.",
            f"{path}.value",
            "InvalidActionValue",
        )
    return Action(
        direction == "Increase", kind, value, _seconds(given.get("cooldown"), f"{path}.cooldown", _MINUTE, _WEEK)
    )


def _fixed(given: Mapping[str, Any], path: str) -> tuple[datetime, datetime]:
    """Beginning and end. Microsoft's clients write every time with a Z: a zone that is named counts instead."""
    zone = _zone(given.get("timeZone"), f"{path}.timeZone")
    start, end = (_moment(given.get(name), f"{path}.{name}", zone) for name in ("start", "end"))
    if end <= start:
        raise BadRequest("fixedDate ends before it begins.", path)
    if end - start > timedelta(days=_MOST_DAYS):
        raise BadRequest(f"fixedDate is longer than {_MOST_DAYS} days.", path)
    return start, end


def _recurrence(given: Mapping[str, Any], path: str) -> Recurrence:
    if str(given.get("frequency")).lower() != "week":
        raise BadRequest(f"frequency must be Week, not '{given.get('frequency')}'.", f"{path}.frequency")
    schedule = require_object(given.get("schedule"), f"{path}.schedule")
    days = [str(day).capitalize() for day in require_list(schedule.get("days"), f"{path}.schedule.days")]
    if not days or (unknown := [day for day in days if day not in _WEEKDAYS]):
        wrong = f", not '{unknown[0]}'" if days else ""
        raise BadRequest(f"days must name some of {', '.join(_WEEKDAYS)}{wrong}.", f"{path}.schedule.days")
    # Microsoft's own example for endpoints leaves hours and minutes empty: midnight.
    hours = [
        _whole(hour, f"{path}.schedule.hours", 0, 23)
        for hour in require_list(schedule.get("hours"), f"{path}.schedule.hours") or [0]
    ]
    minutes = [
        _whole(minute, f"{path}.schedule.minutes", 0, 59)
        for minute in require_list(schedule.get("minutes"), f"{path}.schedule.minutes") or [0]
    ]
    return Recurrence(
        _zone(schedule.get("timeZone"), f"{path}.schedule.timeZone"),
        tuple(_WEEKDAYS.index(day) for day in days),
        tuple(time(hour, minute) for hour, minute in product(hours, minutes)),
    )


def _zone(name: Any, target: str) -> ZoneInfo:
    found = timezones.iana(str(name or "UTC"))
    if found is None:
        message = f"'{name}' is not a time zone; they have Windows' names, e.g. 'W. Europe Standard Time'."
        raise BadRequest(message, target)
    return ZoneInfo(found)


def _moment(text: Any, target: str, zone: ZoneInfo) -> datetime:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        raise BadRequest(f"'{text}' is no time, e.g. 2026-12-26T00:00:00.", target) from None
    if not found.utcoffset():
        found = found.replace(tzinfo=zone)
    return found.astimezone(UTC)


def require_object(value: Any, target: str) -> Mapping[str, Any]:
    """`value`, a JSON object. Raises BadRequest."""
    if not isinstance(value, dict):
        raise BadRequest(f"{target.rpartition('.')[2]} must be an object, not {value!r}.", target)
    return value


def require_list(value: Any, target: str) -> list[Any]:
    """`value`, a JSON array; an empty one for none. Raises BadRequest."""
    if value is not None and not isinstance(value, list):
        raise BadRequest(f"{target.rpartition('.')[2]} must be an array, not {value!r}.", target)
    return value or []


def _whole(value: Any, target: str, lowest: int, highest: int) -> int:
    """A whole number; the service has them as texts."""
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal() or not lowest <= int(text) <= highest:
        name = target.rpartition(".")[2]
        raise BadRequest(f"{name} must be a whole number from {lowest} to {highest}, not {value!r}.", target)
    return int(text)


def _word(value: Any, target: str, known: Sequence[str]) -> str:
    for word in known:
        if word.lower() == str(value).lower():
            return word
    raise BadRequest(f"{target.rpartition('.')[2]} must be one of {', '.join(known)}, not {value!r}.", target)


def _seconds(value: Any, target: str, lowest: int, highest: int) -> float:
    found = durations.seconds(value, target)
    if found is None or not lowest <= found <= highest:
        name = target.rpartition(".")[2]
        raise BadRequest(f"{name} must be from {lowest // 60} minutes to {highest // 60}, not {value!r}.", target)
    return found
