"""Autoscale settings as values: what is refused, which profile holds, and what a profile decides."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from localazure.core.errors import AzureError
from localazure.serving import autoscale_webhooks, metrics, resources
from localazure.serving.autoscale_decision import Decision, decide
from localazure.serving.autoscale_settings import Profile, Setting
from localazure.serving.metrics import Sample

MOST = 8
ENDPOINT = (
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/onlineEndpoints/e"
)
TARGET = f"{ENDPOINT}/deployments/blue"
CPU = "CpuUtilizationPercentage"
NO_DIMENSION = {"DimensionName": "x", "Operator": "Equals", "Values": ["y"]}


def rule(condition: str, change: str, **changed: Any) -> dict[str, Any]:
    """`rule("CpuUtilizationPercentage > 70", "+2")`; "+50%", "=4" (out) and "-=2" (in) as well."""
    metric, sign, threshold = condition.split()
    kind = "PercentChangeCount" if change.endswith("%") else "ExactCount" if "=" in change else "ChangeCount"
    trigger = {
        "metricName": metric,
        "metricResourceUri": TARGET if metric.startswith("Cpu") else ENDPOINT,
        "timeGrain": "PT1M",
        "statistic": "Average",
        "timeWindow": "PT5M",
        "timeAggregation": "Average",
        "operator": {">": "GreaterThan", "<": "LessThan", ">=": "GreaterThanOrEqual", "<=": "LessThanOrEqual"}[sign],
        "threshold": float(threshold),
    }
    action = {
        "direction": "Decrease" if change.startswith("-") else "Increase",
        "type": kind,
        "value": change.strip("+-=%"),
        "cooldown": "PT5M",
    }
    return {
        "metricTrigger": trigger | {key: value for key, value in changed.items() if key not in action},
        "scaleAction": action | {key: value for key, value in changed.items() if key in action},
    }


def profile(*rules: dict[str, Any], bounds: tuple[int, int, int] = (1, 1, 5), **more: Any) -> dict[str, Any]:
    """A profile; `bounds` are minimum, default and maximum."""
    lowest, default, highest = bounds
    capacity = {"minimum": str(lowest), "maximum": str(highest), "default": str(default)}
    return {"name": "p", "capacity": capacity, "rules": list(rules), **more}


def parse(*profiles: dict[str, Any], **more: Any) -> Setting:
    return Setting.parse({"targetResourceUri": TARGET, "profiles": list(profiles), **more}, MOST)


def decided(readings: list[float | None], instances: int, *rules: dict[str, Any], **more: Any) -> Decision:
    cooling = more.pop("cooling", False)
    found = parse(profile(*rules, **more)).profiles[0]
    return decide(found, readings, instances, cooling, MOST)


OUT, IN = rule(f"{CPU} > 70", "+2"), rule(f"{CPU} < 30", "-1", cooldown="PT1H")
SLOW = rule("RequestLatency > 100", "+1")


@pytest.mark.parametrize(
    ("readings", "instances", "rules", "wanted"),
    [
        ([71, 71], 2, [OUT, IN], 4),
        ([70, 70], 2, [OUT, IN], 2),
        ([71, 71], 4, [OUT, IN], 5),
        ([29, 29], 2, [OUT, IN], 1),
        ([29, 29], 1, [OUT, IN], 1),
        # Any rule scales out, the one that wants most decides; all must be met to scale in.
        ([71, 71, 101], 1, [OUT, IN, SLOW], 3),
        ([10, 10, 101], 2, [OUT, IN, SLOW], 3),
        ([29, 9], 4, [IN, rule("RequestsPerMinute < 10", "-1")], 3),
        ([29, 10], 4, [IN, rule("RequestsPerMinute < 10", "-1")], 4),
        ([29, 9], 4, [IN, rule("RequestsPerMinute < 10", "-50%")], 3),
        # Shares are rounded up, exact numbers are only in their direction.
        ([71], 3, [rule(f"{CPU} > 70", "+10%")], 4),
        ([71], 2, [rule(f"{CPU} > 70", "=4")], 4),
        ([71], 5, [rule(f"{CPU} > 70", "=4")], 5),
        ([10], 5, [rule(f"{CPU} < 30", "-=2")], 2),
        ([10], 1, [rule(f"{CPU} < 30", "-=2")], 1),
        # Divided by the instances there are.
        ([180], 2, [rule("RequestsPerMinute > 100", "+1", dividePerInstance=True)], 2),
        ([180], 2, [rule("RequestsPerMinute > 100", "+1")], 3),
    ],
)
def test_rules(readings: list[float | None], instances: int, rules: list[dict[str, Any]], wanted: int) -> None:
    assert decided(readings, instances, *rules).instances == wanted


@pytest.mark.parametrize(
    ("out", "in_", "value", "instances", "wanted"),
    [
        # Microsoft's examples: https://learn.microsoft.com/azure/azure-monitor/autoscale/autoscale-flapping
        ("> 50", "< 30", 28, 2, 2),
        (">= 600", "< 600", 416.7, 3, 3),
        (">= 600", "< 400", 393.3, 3, 2),
        # and https://learn.microsoft.com/azure/azure-monitor/autoscale/autoscale-best-practices
        (">= 80", "<= 60", 60, 3, 3),
        (">= 80", "<= 60", 50, 3, 2),
    ],
)
def test_flapping(out: str, in_: str, value: float, instances: int, wanted: int) -> None:
    rules = rule(f"{CPU} {out}", "+1"), rule(f"{CPU} {in_}", "-1")
    decision = decided([value, value], instances, *rules)
    assert decision.instances == wanted
    assert ("flapping" in decision.reason) == (wanted == instances)


def test_fewer_go_if_all_would_flap() -> None:
    # From 8 by 6 to 2 would be 80 each, to 3 it is 53, to 4 it is 40.
    rules = rule(f"{CPU} > 50", "+1"), rule(f"{CPU} < 30", "-6")
    assert decided([20, 20], 8, *rules, bounds=(1, 1, 8)).instances == 4


def test_bounds_come_first() -> None:
    assert decided([10, 10], 1, OUT, IN, bounds=(2, 2, 5), cooling=True).instances == 2
    assert decided([99, 99], 7, OUT, IN, bounds=(2, 2, 5)).instances == 5
    assert decided([], 3, bounds=(1, 1, 5)) == Decision(3)
    # A machine has less than a subscription.
    assert decided([99, 99], 8, OUT, IN, bounds=(1, 1, 100)).instances == 8


def test_without_metrics_the_default_is_the_least() -> None:
    decision = decided([None, None], 1, OUT, IN, bounds=(1, 3, 5))
    assert (decision.instances, decision.cooldown) == (3, None)
    assert CPU in decision.reason
    assert decided([None, None], 4, OUT, IN, bounds=(1, 3, 5)).instances == 4
    # What is there still counts.
    assert decided([99, 99, None], 1, OUT, IN, SLOW, bounds=(1, 3, 5)).instances == 3
    assert decided([1, 1, None], 4, OUT, IN, SLOW, bounds=(1, 3, 5)).instances == 3
    assert decided([1, 1, None], 3, OUT, IN, SLOW, bounds=(1, 3, 5)).instances == 3


def test_a_cool_down_holds_in_both_directions_and_is_the_rules_own() -> None:
    assert decided([99, 99], 1, OUT, IN).cooldown == 300
    assert decided([1, 1], 2, OUT, IN).cooldown == 3600
    for value, instances in ((99, 1), (1, 2)):
        assert decided([value, value], instances, OUT, IN, cooling=True).instances == instances


def test_whatever_the_settings_the_decisions_are_sound() -> None:
    """2,000 random profiles and readings: bounds hold, and nothing is scaled in that would be scaled out at once."""
    random_ = random.Random(7)
    for _ in range(2000):
        lowest = random_.randint(1, MOST)
        default, highest = sorted((random_.randint(lowest, 12), random_.randint(lowest, 12)))
        rules = []
        for _ in range(random_.randint(0, 4)):
            amount = random_.choice(["50%", "200%", *(str(count) for count in range(1, highest - lowest + 1))])
            sign, change = random_.choice([(">", "+"), ("<", "-"), (">=", "+"), ("<=", "-")])
            rules.append(rule(f"{CPU} {sign} {random_.randint(0, 100)}", change + amount))
        readings = [random_.choice([None, random_.uniform(0, 120)]) for _ in rules]
        instances, cooling = random_.randint(1, MOST), random_.random() < 0.3
        found = parse(profile(*rules, bounds=(lowest, default, highest))).profiles[0]
        decision = decide(found, readings, instances, cooling, MOST)
        assert lowest <= decision.instances <= min(highest, MOST)
        outside = not lowest <= instances <= highest
        if cooling and not outside and None not in readings:
            assert decision.instances == instances
        if decision.cooldown is not None and decision.instances < instances:
            spread = [None if value is None else value * instances / decision.instances for value in readings]
            after = decide(found, spread, decision.instances, False, MOST)
            assert after.instances <= decision.instances
        # The same again, if nothing has changed but the number: no way back and forth within one look.
        if decision.instances != instances and not rules:
            assert decide(found, [], decision.instances, False, MOST) == Decision(decision.instances)


def weekly(days: list[str], hour: int, zone: str = "UTC") -> dict[str, Any]:
    schedule = {"timeZone": zone, "days": days, "hours": [hour], "minutes": [0]}
    return {"frequency": "Week", "schedule": schedule}


def test_which_profile_holds() -> None:
    setting = parse(
        profile(name="weekday", recurrence=weekly(["Monday"], 4, "W. Europe Standard Time")),
        profile(name="weekend", recurrence=weekly(["Saturday", "Sunday"], 0, "W. Europe Standard Time")),
        profile(
            name="event",
            fixedDate={
                "timeZone": "Pacific Standard Time",
                "start": "2026-12-26T00:00:00Z",
                "end": "2026-12-26T23:59:00Z",
            },
        ),
    )

    def at(text: str) -> str | None:
        found = setting.active(datetime.fromisoformat(text).replace(tzinfo=UTC))
        return found and found.name

    # In Berlin it is an hour later; 2026-11-27 is a Friday.
    assert at("2026-11-27T22:59") == "weekday"
    assert at("2026-11-27T23:00") == "weekend"
    assert at("2026-11-30T02:59") == "weekend"
    assert at("2026-11-30T03:00") == "weekday"
    # In summer two hours.
    assert at("2026-07-03T22:00") == "weekend"
    # A date goes first; its zone counts, whatever the clients write behind the time.
    assert at("2026-12-26T07:59") == "weekend"
    assert at("2026-12-26T08:00") == "event"
    assert at("2026-12-27T07:59") == "weekend"
    assert (at("2026-12-27T07:58"), parse(profile()).active(datetime.now(UTC)).name) == ("event", "p")
    past = {"start": "2020-01-01T00:00:00", "end": "2020-01-02T00:00:00"}
    assert parse(profile(fixedDate=past)).active(datetime.now(UTC)) is None
    assert parse(profile(name="old", fixedDate=past), profile()).active(datetime.now(UTC)).name == "p"


@pytest.mark.parametrize(
    ("aggregation", "wanted"),
    [("Average", 30), ("Minimum", 10), ("Maximum", 60), ("Total", 90), ("Count", 3), ("Last", 20)],
)
def test_samples_become_one_value(aggregation: str, wanted: float) -> None:
    """Three minutes of two instances, of which the statistic is taken first; minutes outside don't count."""
    given = rule(f"{CPU} > 1", "+1", timeAggregation=aggregation)
    trigger = parse(profile(given)).profiles[0].rules[0].trigger
    until = datetime(2026, 1, 1, 12, tzinfo=UTC)
    minute = int(until.timestamp()) // 60
    values = {-6: 99.0, -5: 10.0, -3: 60.0, -1: 20.0, 0: 99.0}
    samples = [
        Sample(minute + at, {"instanceId": name}, value + shift)
        for at, value in values.items()
        for name, shift in (("a", 5.0), ("b", -5.0))
    ]
    query = trigger.query(until)
    answer = metrics.answer(query, TARGET, resources.DEPLOYMENT_TYPE, "here", {CPU: samples})
    assert trigger.over_time(answer) == wanted
    assert trigger.over_time(metrics.answer(query, TARGET, resources.DEPLOYMENT_TYPE, "here", {})) is None


@pytest.mark.parametrize(
    ("operator", "values", "wanted"),
    [("Equals", ["it's"], 5), ("Equals", ["it's", "other"], 12), ("NotEquals", ["it's", "third"], 7)],
)
def test_some_deployments_share_of_an_endpoints_metric(operator: str, values: list[str], wanted: float) -> None:
    dimension = {"DimensionName": "deployment", "Operator": operator, "Values": values}
    given = rule("RequestsPerMinute > 1", "+1", dimensions=[dimension], statistic="Sum", timeAggregation="Total")
    trigger = parse(profile(given)).profiles[0].rules[0].trigger
    until = datetime(2026, 1, 1, 12, tzinfo=UTC)
    minute = int((until - timedelta(minutes=1)).timestamp()) // 60
    asked = {"it's": 5.0, "other": 7.0, "third": 9.0}
    samples = [Sample(minute, {"deployment": name}, count) for name, count in asked.items()]
    answer = metrics.answer(
        trigger.query(until), ENDPOINT, resources.ENDPOINT_TYPE, "x", {"RequestsPerMinute": samples}
    )
    assert trigger.over_time(answer) == wanted


@pytest.mark.parametrize(
    ("properties", "wanted"),
    [
        ({"profiles": None}, "UnsupportedRequestContent"),
        ({"targetResourceUri": None}, "UnsupportedRequestContent"),
        ({"profiles": []}, "1 to 20 profiles"),
        ({"profiles": ["p"]}, "must be an object"),
        ({"targetResourceUri": ENDPOINT}, "one of its deployments"),
        ({"targetResourceUri": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Web/sites/x"}, "Web/sites"),
        ({"enabled": "yes"}, "true or false"),
        ({"predictiveAutoscalePolicy": {"scaleMode": "Enabled"}}, "virtual machine scale sets only"),
        ({"profiles": [profile(), profile()]}, "Two profiles are called 'p'"),
        ({"profiles": [profile(), profile(name="q")]}, "neither fixedDate nor recurrence"),
        ({"profiles": [profile(bounds=(3, 2, 5))]}, "minimum <= default <= maximum"),
        ({"profiles": [profile(bounds=(0, 0, 5))]}, "from 1 to 8"),
        ({"profiles": [profile(*[OUT] * 11)]}, "at most 10 rules"),
        ({"profiles": [profile(rule(f"{CPU} > 1", "+5"))]}, "InvalidActionValue"),
        ({"profiles": [profile(rule(f"{CPU} > 1", "+0"))]}, "value must be a whole number"),
        ({"profiles": [profile(rule(f"{CPU} > 1", "+1", type="ServiceAllowedNextValue"))]}, "NotImplemented"),
        ({"profiles": [profile(rule("Percent > 1", "+1"))]}, "UnsupportedMetric"),
        ({"profiles": [profile(rule(f"{CPU} > 1", "+1", metricNamespace="other"))]}, "UnsupportedMetric"),
        ({"profiles": [profile(rule("GpuUtilizationPercentage > 1", "+1"))]}, "NotImplemented"),
        ({"profiles": [profile(rule(f"{CPU} > 1", "+1", timeWindow="PT4M"))]}, "5 minutes to 720"),
        ({"profiles": [profile(rule(f"{CPU} > 1", "+1", timeGrain="PT15M"))]}, "longer than timeWindow"),
        ({"profiles": [profile(rule(f"{CPU} > 1", "+1", timeGrain="PT2M"))]}, "PT1M, PT5M"),
        ({"profiles": [profile(rule(f"{CPU} > 1", "+1", cooldown="PT30S"))]}, "1 minutes to 10080"),
        ({"profiles": [profile(rule(f"{CPU} > 1", "+1", statistic="Median"))]}, "Average, Min, Max"),
        ({"profiles": [profile(rule(f"{CPU} > 1", "+1", threshold="1"))]}, "threshold must be a number"),
        ({"profiles": [profile(rule(f"{CPU} > 1", "+1", dimensions=[{"Operator": "Like"}]))]}, "NotEquals"),
        ({"profiles": [profile(rule(f"{CPU} > 1", "+1", dimensions=[{"Operator": "Equals"}]))]}, "needs values"),
        ({"profiles": [profile(rule(f"{CPU} > 1", "+1", dimensions=[NO_DIMENSION]))]}, "no dimension 'x'"),
        ({"profiles": [profile(recurrence=weekly(["Monday"], 24))]}, "from 0 to 23"),
        ({"profiles": [profile(recurrence=weekly(["Moonday"], 1))]}, "not 'Moonday'"),
        ({"profiles": [profile(recurrence=weekly([], 1))]}, "days must name"),
        ({"profiles": [profile(recurrence=weekly(["Monday"], 1, "Berlin"))]}, "'Berlin' is not a time zone"),
        ({"profiles": [profile(recurrence={"frequency": "Day"})]}, "must be Week"),
        ({"profiles": [profile(fixedDate={"start": "2026-01-02", "end": "2026-01-01"})]}, "ends before"),
        ({"profiles": [profile(fixedDate={"start": "2026-01-02", "end": "2028-01-01"})]}, "365 days"),
        ({"profiles": [profile(fixedDate={"start": "soon", "end": "2028-01-01"})]}, "'soon' is no time"),
    ],
)
def test_what_is_refused(properties: dict[str, Any], wanted: str) -> None:
    with pytest.raises(AzureError) as caught:
        parse(profile(), **properties) if "profiles" not in properties else Setting.parse(
            {"targetResourceUri": TARGET, **properties}, MOST
        )
    assert wanted in str(caught.value)
    assert caught.value.status in {400, 501}


def test_hours_and_minutes_may_be_left_empty() -> None:
    schedule = {"timeZone": "Pacific Standard Time", "days": ["saturday", "Sunday"], "hours": [], "minutes": []}
    found: Profile = parse(profile(recurrence={"frequency": "week", "schedule": schedule})).profiles[0]
    assert found.recurrence is not None
    assert found.recurrence.begun(datetime(2026, 11, 28, 8, tzinfo=UTC)) == datetime(2026, 11, 28, 8, tzinfo=UTC)


def test_notifications() -> None:
    silent = {"operation": "Scale", "email": {"sendToSubscriptionAdministrator": False, "customEmails": []}}
    autoscale_webhooks.check([silent, {"operation": "scale", "webhooks": [{"serviceUri": "https://example.com"}]}])
    for wrong, wanted in (
        ({"operation": "Sing"}, "must be Scale"),
        (silent | {"email": {"customEmails": ["a@example.com"]}}, "e-mail"),
        (silent | {"webhooks": [{"serviceUri": "file:///x"}]}, "URI of a web service"),
    ):
        with pytest.raises(AzureError, match=wanted):
            autoscale_webhooks.check([wrong])


def _mutants(value: Any, root: Any) -> Iterator[Any]:
    """`root` with every node of `value` below it replaced by something else, one at a time."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(entries):
        for other in (None, "x", 3, -1.5, True, [], ["x"], [[]], {}, {"x": 1}):
            value[key] = other
            yield root
        value[key] = child
        yield from _mutants(child, root)


def test_whatever_is_wrong_is_said_and_nothing_breaks() -> None:
    dimension = {"DimensionName": "instanceId", "Operator": "Equals", "Values": ["0"]}
    whole = {
        "targetResourceUri": TARGET,
        "enabled": True,
        "predictiveAutoscalePolicy": {"scaleMode": "Disabled"},
        "profiles": [
            profile(rule(f"{CPU} > 1", "+1", dimensions=[dimension], dividePerInstance=True)),
            profile(name="r", recurrence=weekly(["Monday"], 4)),
            profile(name="f", fixedDate={"timeZone": "UTC", "start": "2026-01-01", "end": "2026-01-02"}),
        ],
        "notifications": [
            {
                "operation": "Scale",
                "email": {"customEmails": []},
                "webhooks": [{"serviceUri": "https://example.com", "properties": {"a": "b"}}],
            }
        ],
    }
    Setting.parse(whole, MOST)
    autoscale_webhooks.check(whole["notifications"])
    for mutant in _mutants(whole, whole):
        try:
            setting = Setting.parse(mutant, MOST)
            setting.active(datetime.now(UTC))
            autoscale_webhooks.check(mutant["notifications"])
        except AzureError as error:
            assert error.status in {400, 501}
