"""When a schedule fires: recurrence and cron triggers, as values. Pure: no clock, no store.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-schedule and how-to-schedule-pipeline-job. Times of
day are the trigger's time zone's; a time that daylight saving skips comes an hour
later that day.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import product
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from croniter import croniter

from localazure.core import timezones
from localazure.core.errors import BadRequest

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_FREQUENCIES = ("minute", "hour", "day", "week", "month")
# What a pattern may say beside hours and minutes.
_PATTERN = {"day": set[str](), "week": {"weekDays"}, "month": {"weekDays", "monthDays"}}
_CRON_FIELDS = 5
# A 31st that none of the months has: looked for no further.
_MOST_MONTHS = 1200
# NCrontab's alphabet: no L, W, # or ?.
_CRON_FIELD = re.compile(r"[0-9A-Za-z*,/\-]+")


class Trigger(Protocol):
    """A rule that gives moments in UTC."""

    def after(self, moment: datetime) -> datetime | None:
        """The first firing after `moment`; None if there is none any more."""
        ...


def parse(trigger: dict[str, Any], created: datetime) -> Trigger:
    """The trigger of an ARM schedule (`triggerType` Recurrence or Cron). BadRequest names what can't be.

    `created` (UTC) is the start of a trigger that names none.
    """
    kind = str(trigger.get("triggerType"))
    if kind not in ("Recurrence", "Cron"):
        raise BadRequest(f"triggerType must be Recurrence or Cron, not '{kind}'.", "trigger.triggerType", "UserError")
    zone = _zone(trigger.get("timeZone") or "UTC")
    start = _moment(trigger, "startTime", zone)
    end = _moment(trigger, "endTime", zone)
    if end is not None and end <= (start or created):
        raise BadRequest(f"The trigger ends ({end.isoformat()}) before it begins.", "trigger.endTime", "UserError")
    if kind == "Cron":
        return Cron(_expression(trigger.get("expression")), zone, start or created, end)
    return _recurrence(trigger, zone, start or created, end)


@dataclass(frozen=True)
class Cron:
    """Five fields of which minutes, hours and days of the week count: the service takes days and months for `*`."""

    expression: str
    zone: ZoneInfo
    start: datetime
    end: datetime | None = None

    def after(self, moment: datetime) -> datetime | None:
        """See Trigger. The start itself counts."""
        earliest = max(moment, self.start - timedelta(microseconds=1))
        # Wall time: croniter's own idea of daylight saving would fire a skipped time twice a year.
        wall = croniter(self.expression, earliest.astimezone(self.zone).replace(tzinfo=None), ret_type=datetime)
        while True:
            found = _at(wall.get_next(), self.zone)
            if found > earliest:
                return None if self.end is not None and found > self.end else found


@dataclass(frozen=True)
class Recurrence:
    """Every `interval` minutes, hours, days, weeks or months from `start`; at the times of a pattern if it has one.

    `times` are the pattern's (hour, minute), `weekdays` 0 (Monday) to 6, `days` those of a month. Without a pattern
    the start's time of day counts, and a month that lacks the start's day is left out.
    """

    frequency: str
    interval: int
    zone: ZoneInfo
    start: datetime
    end: datetime | None = None
    times: tuple[tuple[int, int], ...] = ()
    weekdays: tuple[int, ...] = ()
    days: tuple[int, ...] = ()

    def after(self, moment: datetime) -> datetime | None:
        """See Trigger. Without a pattern the start itself is the first firing."""
        earliest = max(moment, self.start - timedelta(microseconds=1))
        if self.frequency in ("minute", "hour"):
            step = timedelta(**{f"{self.frequency}s": self.interval})
            found = self.start + step * max((earliest - self.start) // step + 1, 0)
        else:
            search = (each for each in self._moments(earliest) if each > earliest)
            if (next_one := next(search, None)) is None:
                return None
            found = next_one
        return None if self.end is not None and found > self.end else found

    def _moments(self, earliest: datetime) -> Iterator[datetime]:
        """Firings in order, from the period before `earliest`'s on."""
        begin = self.start.astimezone(self.zone)
        times = [time(*each) for each in self.times] or [begin.time()]
        for day in self._dates(begin.date(), earliest.astimezone(self.zone).date() - timedelta(days=1)):
            for each in times:
                yield _at(datetime.combine(day, each), self.zone)

    def _dates(self, begin: date, first: date) -> Iterator[date]:
        """The days on which it fires, from `first` or a little earlier on."""
        if self.frequency == "day":
            ahead = max((first - begin).days // self.interval, 0)
            day = begin + timedelta(days=ahead * self.interval)
            while True:
                yield day
                day += timedelta(days=self.interval)
        if self.frequency == "week":
            weekdays = self.weekdays or (begin.weekday(),)
            monday = begin - timedelta(days=begin.weekday())
            ahead = max((first - monday).days // 7 // self.interval, 0)
            monday += timedelta(weeks=ahead * self.interval)
            while True:
                yield from (monday + timedelta(days=each) for each in weekdays)
                monday += timedelta(weeks=self.interval)
        month = begin.year * 12 + begin.month - 1
        ahead = max((first.year * 12 + first.month - 1 - month) // self.interval, 0)
        month += ahead * self.interval
        for _ in range(_MOST_MONTHS):
            yield from self._days_of(date(month // 12, month % 12 + 1, 1), begin.day)
            month += self.interval

    def _days_of(self, first: date, default: int) -> Iterator[date]:
        day = first
        wanted = self.days or (() if self.weekdays else (default,))
        while day.month == first.month:
            if day.day in wanted or day.weekday() in self.weekdays:
                yield day
            day += timedelta(days=1)


def _recurrence(trigger: dict[str, Any], zone: ZoneInfo, start: datetime, end: datetime | None) -> Recurrence:
    frequency = str(trigger.get("frequency")).lower()
    if frequency not in _FREQUENCIES:
        known = ", ".join(_FREQUENCIES)
        raise BadRequest(
            f"frequency must be one of {known}, not '{trigger.get('frequency')}'.", "trigger.frequency", "UserError"
        )
    interval = trigger.get("interval")
    if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
        raise BadRequest(
            f"interval must be a whole number from 1 on, not {interval!r}.", "trigger.interval", "UserError"
        )
    pattern = {name: value for name, value in (trigger.get("schedule") or {}).items() if value}
    # The SDK sends empty lists where a YAML file has no pattern.
    allowed = {"hours", "minutes"} | _PATTERN[frequency] if frequency in _PATTERN else set()
    if unknown := sorted(set(pattern) - allowed):
        raise BadRequest(
            f"The pattern of a schedule with frequency {frequency} can't have {', '.join(unknown)}"
            f" (it can have {', '.join(sorted(allowed)) or 'nothing'}).",
            "trigger.schedule",
            "UserError",
        )
    begin = start.astimezone(zone)
    times: tuple[tuple[int, int], ...] = ()
    if "hours" in pattern or "minutes" in pattern:
        hours = _numbers(pattern.get("hours", [begin.hour]), "hours", 0, 23)
        minutes = _numbers(pattern.get("minutes", [begin.minute]), "minutes", 0, 59)
        times = tuple(product(hours, minutes))
    elif pattern:
        times = ((begin.hour, begin.minute),)
    weekdays = []
    for name in pattern.get("weekDays", []):
        if str(name).lower() not in _WEEKDAYS:
            raise BadRequest(f"'{name}' is no day of the week.", "trigger.schedule.weekDays", "UserError")
        weekdays.append(_WEEKDAYS.index(str(name).lower()))
    days = _numbers(pattern.get("monthDays", []), "monthDays", 1, 31)
    return Recurrence(frequency, interval, zone, start, end, times, tuple(sorted(set(weekdays))), days)


def _numbers(values: Any, name: str, lowest: int, highest: int) -> tuple[int, ...]:
    listed = values if isinstance(values, list) else [values]
    for value in listed:
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise BadRequest(
                f"{name} must be whole numbers from {lowest} to {highest}, not {value!r}.",
                f"trigger.schedule.{name}",
                "UserError",
            )
    return tuple(sorted(set(listed)))


def _expression(text: Any) -> str:
    fields = str(text or "").split()
    if len(fields) != _CRON_FIELDS or not all(_CRON_FIELD.fullmatch(field) for field in fields):
        raise BadRequest(
            f"'{text}' is not a cron expression of the five fields MINUTES HOURS DAYS MONTHS DAYS-OF-WEEK.",
            "trigger.expression",
            "UserError",
        )
    # https://learn.microsoft.com/azure/machine-learning/how-to-schedule-pipeline-job: days and months are "*".
    expression = " ".join((*fields[:2], "*", "*", fields[4]))
    if not croniter.is_valid(expression):
        raise BadRequest(f"'{text}' is not a valid cron expression.", "trigger.expression", "UserError")
    return expression


def _zone(name: str) -> ZoneInfo:
    found = timezones.iana(name)
    if found is None:
        raise BadRequest(
            f"'{name}' is not a time zone of a schedule; they have Windows' names, e.g. 'W. Europe Standard Time'.",
            "trigger.timeZone",
            "UserError",
        )
    return ZoneInfo(found)


def _moment(trigger: dict[str, Any], name: str, zone: ZoneInfo) -> datetime | None:
    text = trigger.get(name)
    if not text:
        return None
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise BadRequest(f"'{text}' is no time, e.g. 2026-05-10T10:15:00.", f"trigger.{name}", "UserError") from error
    return found.astimezone(UTC) if found.tzinfo else _at(found, zone)


def _at(wall: datetime, zone: ZoneInfo) -> datetime:
    """The moment a zone's clocks show `wall`: the first of two; an hour later if they skip it."""
    # zoneinfo takes the offset before the jump for a wall time that doesn't exist (PEP 495, fold=0).
    return wall.replace(tzinfo=zone).astimezone(UTC)
