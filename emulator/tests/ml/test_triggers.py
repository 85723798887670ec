"""When schedules fire, as values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from localazure.core.errors import BadRequest
from localazure.ml.triggers import parse

CREATED = datetime(2026, 11, 22, 10, 30, 15, tzinfo=UTC)  # a Sunday
JUST_BEFORE = CREATED - timedelta(microseconds=1)


def firings(trigger: dict[str, Any], count: int, after: datetime = JUST_BEFORE) -> list[str | None]:
    rule, moment, found = parse(trigger, CREATED), after, list[str | None]()
    for _ in range(count):
        following = rule.after(moment)
        found.append(following and following.strftime("%m-%d %H:%M:%S"))
        if following is None:
            break
        moment = following
    return found


def recurrence(frequency: str, interval: int = 1, **more: Any) -> dict[str, Any]:
    # As the SDK sends it: empty lists where a YAML file has no pattern.
    empty = {"hours": [], "minutes": []}
    return {"triggerType": "Recurrence", "frequency": frequency, "interval": interval, "schedule": empty, **more}


def cron(expression: str, **more: Any) -> dict[str, Any]:
    return {"triggerType": "Cron", "expression": expression, **more}


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        # Without a start the first job runs at once.
        (recurrence("Minute", 15), ["11-22 10:30:15", "11-22 10:45:15", "11-22 11:00:15"]),
        (recurrence("Day", 2), ["11-22 10:30:15", "11-24 10:30:15"]),
        (recurrence("Hour", 6, startTime="2026-11-20T00:00:00"), ["11-22 12:00:00", "11-22 18:00:00"]),
        (recurrence("Day", 1, startTime="2026-12-01T07:00:00+01:00"), ["12-01 06:00:00", "12-02 06:00:00"]),
        (
            recurrence("Day", 1, schedule={"hours": [6, 18], "minutes": [0, 30]}),
            ["11-22 18:00:00", "11-22 18:30:00", "11-23 06:00:00"],
        ),
        (
            recurrence(
                "week", 2, schedule={"hours": [6], "minutes": [0], "weekDays": ["Monday", "friday"]},
                timeZone="Eastern Standard Time",
            ),  # every second week, counted from the one of the start
            ["11-30 11:00:00", "12-04 11:00:00", "12-14 11:00:00"],
        ),
        # A month without the day is left out.
        (recurrence("Month", startTime="2026-01-31 08:00:00"), ["12-31 08:00:00", "01-31 08:00:00", "03-31 08:00:00"]),
        (
            recurrence("Month", 1, schedule={"hours": [1], "minutes": [5], "monthDays": [1, 15]}),
            ["12-01 01:05:00", "12-15 01:05:00"],
        ),
        (cron("15 16 * * 1"), ["11-23 16:15:00", "11-30 16:15:00"]),
        # The service takes days and months for "*".
        (cron("0 12 24 12 *"), ["11-22 12:00:00", "11-23 12:00:00"]),
        (cron("0 6 * * sat,sun", startTime="2026-12-01T00:00:00"), ["12-05 06:00:00", "12-06 06:00:00"]),
        (cron("0 18 * * *", endTime="2026-11-23T18:00:00"), ["11-22 18:00:00", "11-23 18:00:00", None]),
    ],
)  # fmt: skip
def test_a_trigger_fires_when_the_reference_says(trigger: dict[str, Any], expected: list[str | None]) -> None:
    assert firings(trigger, len(expected)) == expected


def test_times_of_day_are_the_zones_over_daylight_saving() -> None:
    trigger = cron("30 2 * * *", timeZone="W. Europe Standard Time")
    # 02:30 doesn't exist on the 28th: it comes at 03:30.
    assert firings(trigger, 3, datetime(2027, 3, 27, tzinfo=UTC)) == [
        "03-27 01:30:00",
        "03-28 01:30:00",
        "03-29 00:30:00",
    ]
    daily = recurrence("Day", 1, startTime="2026-10-24T02:30:00", timeZone="W. Europe Standard Time")
    # 02:30 comes twice on the 25th: the first counts.
    assert firings(daily, 3, datetime(2026, 10, 24, tzinfo=UTC)) == [
        "10-24 00:30:00",
        "10-25 00:30:00",
        "10-26 01:30:00",
    ]


def test_a_day_that_no_month_has_never_fires() -> None:
    trigger = recurrence(
        "Month", 12, startTime="2027-02-01T00:00:00", schedule={"hours": [0], "minutes": [0], "monthDays": [31]}
    )
    assert firings(trigger, 1) == [None]


@pytest.mark.parametrize(
    ("trigger", "message"),
    [
        ({"triggerType": "Event"}, "triggerType must be Recurrence or Cron, not 'Event'"),
        (recurrence("year"), "frequency must be one of minute, hour, day, week, month, not 'year'"),
        (recurrence("day", 0), "interval must be a whole number from 1 on, not 0"),
        (
            recurrence("day", schedule={"hours": [24], "minutes": [0]}),
            "hours must be whole numbers from 0 to 23, not 24",
        ),
        (recurrence("day", schedule={"weekDays": ["Monday"]}), "frequency day can't have weekDays"),
        (recurrence("hour", schedule={"minutes": [5]}), "frequency hour can't have minutes"),
        (recurrence("week", schedule={"weekDays": ["Mo"]}), "'Mo' is no day of the week"),
        (recurrence("day", timeZone="Europe/Berlin"), "Windows' names, e.g. 'W. Europe Standard Time'"),
        (recurrence("day", startTime="soon"), "'soon' is no time"),
        (recurrence("day", startTime="2027-01-02T00:00:00", endTime="2027-01-01T00:00:00"), "before it begins"),
        (cron("* * * *"), "five fields"),
        (cron("0 0 * * 1#2"), "five fields"),
        (cron("61 * * * *"), "not a valid cron expression"),
    ],
)
def test_what_can_never_be_meant_is_refused(trigger: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(trigger, CREATED)
    assert message in refused.value.message
