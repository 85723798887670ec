"""Date and time functions.

https://learn.microsoft.com/en-us/sql/t-sql/functions/date-and-time-data-types-and-functions-transact-sql
Sessions run in UTC, as Azure's do: GETDATE and GETUTCDATE agree.
"""

from __future__ import annotations

import re
from dataclasses import replace

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.conversions import Value, convert
from localazure.sql.function_table import Invocation, function
from localazure.sql.macros import call
from localazure.sql.results import SqlError, SqlType
from localazure.sql.sqltypes import (
    BIGINT,
    CHARACTER,
    DATE,
    DATETIME,
    DATETIME2,
    INT,
    MOMENT,
    NUMERIC,
    duck,
)

_PARTS = {
    "year": "year",
    "yy": "year",
    "yyyy": "year",
    "quarter": "quarter",
    "qq": "quarter",
    "q": "quarter",
    "month": "month",
    "mm": "month",
    "m": "month",
    "dayofyear": "dayofyear",
    "dy": "dayofyear",
    "y": "dayofyear",
    "day": "day",
    "dd": "day",
    "d": "day",
    "week": "week",
    "wk": "week",
    "ww": "week",
    "weekday": "weekday",
    "dw": "weekday",
    "w": "weekday",
    "hour": "hour",
    "hh": "hour",
    "minute": "minute",
    "mi": "minute",
    "n": "minute",
    "second": "second",
    "ss": "second",
    "s": "second",
    "millisecond": "millisecond",
    "ms": "millisecond",
    "microsecond": "microsecond",
    "mcs": "microsecond",
    "nanosecond": "nanosecond",
    "ns": "nanosecond",
    "iso_week": "iso_week",
    "isowk": "iso_week",
    "isoww": "iso_week",
    "tzoffset": "tzoffset",
    "tz": "tzoffset",
}
_MONTHS = {"year": 12, "quarter": 3, "month": 1}
_MICROSECONDS = {
    "week": 604800000000,
    "dayofyear": 86400000000,
    "day": 86400000000,
    "weekday": 86400000000,
    "hour": 3600000000,
    "minute": 60000000,
    "second": 1000000,
    "millisecond": 1000,
    "microsecond": 1,
}


def _part(i: Invocation) -> str:
    arg = i.call.args[0]
    word = arg.parts[0].lower() if isinstance(arg, s.Name) and len(arg.parts) == 1 else ""
    if word not in _PARTS:
        shown = word or "expression"
        raise SqlError(155, f"'{shown}' is not a recognized {i.call.name.lower()} option.", severity=15, line=i.line)
    return _PARTS[word]


def _moment(i: Invocation, index: int, *, keep: bool = True) -> Value:
    """A date argument: strings and numbers become datetime values, date types stay."""
    value = i.compiler.value(i.call.args[index], i.scope)
    if value.null:
        return convert(value, DATETIME, i.line)
    if value.type.name in CHARACTER:
        return convert(value, DATETIME2, i.line)
    if value.type.name in NUMERIC:
        return convert(value, DATETIME, i.line)
    if value.type.name not in MOMENT:
        raise SqlError(
            8116,
            f"Argument data type {value.type.name} is invalid for argument {index + 1} of {i.call.name.lower()} "
            "function.",
            line=i.line,
        )
    return value


def _stamp(value: Value) -> str:
    """As a DuckDB TIMESTAMP."""
    if value.type.name == "time":
        return f"(DATE '1900-01-01' + {value.sql})"
    if value.type.name == "datetimeoffset":
        return f"timezone('{value.zone or 'UTC'}', {value.sql})"
    return f"CAST({value.sql} AS TIMESTAMP)" if value.type.name == "date" else value.sql


@function("DATEADD", args=3, raw=True)
def _dateadd(i: Invocation) -> Value:
    part = _part(i)
    raw = i.compiler.value(i.call.args[1], i.scope)
    count = convert(raw, INT, i.line).sql
    value = _moment(i, 2)
    given = i.compiler.value(i.call.args[2], i.scope)
    kind = DATETIME if given.type.name in CHARACTER and not given.null else value.type
    if part in {"iso_week", "tzoffset"}:
        raise SqlError(155, f"'{part}' is not a recognized dateadd option.", severity=15, line=i.line)
    if kind.name == "date" and part not in {*_MONTHS, "week", "day", "dayofyear", "weekday"}:
        raise SqlError(
            9810, f"The datepart {part} is not supported by date function dateadd for data type date.", line=i.line
        )
    nullable = raw.nullable or value.nullable
    if part in _MONTHS:
        sql = f"({_stamp(value)} + to_months({count} * {_MONTHS[part]}))"
    elif part == "nanosecond":
        sql = f"({_stamp(value)} + to_microseconds(CAST({count} // 1000 AS BIGINT)))"
    else:
        sql = f"({_stamp(value)} + to_microseconds(CAST({count} AS BIGINT) * {_MICROSECONDS[part]}))"
    if kind.name == "datetimeoffset":
        return replace(value, sql=f"timezone('{value.zone or 'UTC'}', {sql})", nullable=nullable, literal=None, name="")
    return Value(f"CAST({sql} AS {duck(kind)})", kind, nullable)


@function("DATEDIFF", "DATEDIFF_BIG", args=3, raw=True)
def _datediff(i: Invocation) -> Value:
    """Boundaries crossed, not time elapsed."""
    part = _part(i)
    first, second = _moment(i, 1), _moment(i, 2)
    a, b = _stamp(first), _stamp(second)
    if part == "week":
        sql = call("diff_week", a, b)
    elif part in {"iso_week", "tzoffset"}:
        raise SqlError(155, f"'{part}' is not a recognized datediff option.", severity=15, line=i.line)
    elif part == "nanosecond":
        sql = f"(datediff('microsecond', {a}, {b}) * 1000)"
    else:
        duck_part = {"dayofyear": "day", "weekday": "day"}.get(part, part)
        sql = f"datediff('{duck_part}', {a}, {b})"
    kind = BIGINT if i.call.name == "DATEDIFF_BIG" else INT
    return Value(f"CAST({sql} AS {duck(kind)})", kind, first.nullable or second.nullable)


def _datepart_sql(part: str, value: Value, line: int) -> str:
    stamp = _stamp(value)
    if part == "week":
        return call("week_of_year", stamp)
    if part == "weekday":
        return call("weekday", stamp)
    if part == "iso_week":
        return f"week({stamp})"
    if part == "second":
        return f"CAST(date_part('second', {stamp}) AS INTEGER)"
    if part == "millisecond":
        return f"(date_part('microsecond', {stamp}) % 1000000) // 1000"
    if part == "microsecond":
        return f"date_part('microsecond', {stamp}) % 1000000"
    if part == "nanosecond":
        return f"(date_part('microsecond', {stamp}) % 1000000) * 1000"
    if part == "tzoffset":
        if value.type.name != "datetimeoffset":
            raise SqlError(
                9810,
                f"The datepart tzoffset is not supported by date function datepart for data type {value.type.name}.",
                line=line,
            )
        return f"datediff('minute', timezone('UTC', {value.sql}), {stamp})"
    return f"date_part('{part}', {stamp})"


@function("DATEPART", args=2, raw=True)
def _datepart(i: Invocation) -> Value:
    value = _moment(i, 1)
    return Value(f"CAST({_datepart_sql(_part(i), value, i.line)} AS INTEGER)", INT, value.nullable)


@function("DATENAME", args=2, raw=True)
def _datename(i: Invocation) -> Value:
    part, value = _part(i), _moment(i, 1)
    kind = SqlType("nvarchar", 30)
    if part == "month":
        return Value(f"monthname({_stamp(value)})", kind, value.nullable, trimmed=True)
    if part == "weekday":
        return Value(f"dayname({_stamp(value)})", kind, value.nullable, trimmed=True)
    return Value(f"CAST({_datepart_sql(part, value, i.line)} AS VARCHAR)", kind, value.nullable, trimmed=True)


@function("YEAR", "MONTH", "DAY", args=1, raw=True)
def _year(i: Invocation) -> Value:
    value = _moment(i, 0)
    return Value(f"CAST({i.call.name.lower()}({_stamp(value)}) AS INTEGER)", INT, value.nullable)


@function("EOMONTH", args=(1, 2), raw=True)
def _eomonth(i: Invocation) -> Value:
    value = _moment(i, 0)
    stamp = _stamp(value)
    if len(i.call.args) > 1:
        months = convert(i.compiler.value(i.call.args[1], i.scope), INT, i.line).sql
        stamp = f"({stamp} + to_months({months}))"
    return Value(f"last_day({stamp})", DATE, value.nullable)


@function("DATETRUNC", args=2, raw=True)
def _datetrunc(i: Invocation) -> Value:
    part, value = _part(i), _moment(i, 1)
    stamp = _stamp(value)
    if part == "week":
        sql = f"date_trunc('week', {stamp} + INTERVAL 1 DAY) - INTERVAL 1 DAY"
    elif part in {"weekday", "tzoffset", "nanosecond"}:
        raise SqlError(9810, f"The datepart {part} is not supported by date function datetrunc.", line=i.line)
    else:
        sql = f"date_trunc('{ {'iso_week': 'week', 'dayofyear': 'day'}.get(part, part) }', {stamp})"
    return Value(f"CAST({sql} AS {duck(value.type)})", value.type, value.nullable)


@function("ISDATE", args=1)
def _isdate(i: Invocation) -> Value:
    return Value(f"CASE WHEN {call('try_timestamp', i.text(0).sql)} IS NULL THEN 0 ELSE 1 END", INT, False)


def _from_parts(name: str, count: int, kind: SqlType, template: str) -> None:
    @function(name, args=count)
    def rule(i: Invocation) -> Value:
        numbers = [i.number(index, INT) for index in range(min(count, 7))]
        done = kind
        if name in {"DATETIME2FROMPARTS", "TIMEFROMPARTS"}:
            scale = i.compiler.constant_int(i.call.args[count - 1], i.scope)
            done = SqlType(kind.name, scale=scale)
            place = 6 if name == "DATETIME2FROMPARTS" else 3
            numbers[place] = f"({numbers[place]} / {10**scale}.0)"
        made = f"TRY({template.format(*numbers)})"
        kind_name = name.removesuffix("FROMPARTS").lower()
        text = f"Cannot construct data type {kind_name}, some of the arguments have values which are not valid."
        given = " AND ".join(f"{number} IS NOT NULL" for number in numbers)
        wrong = errors.raise_sql(289, errors.literal(text), duck(kind))
        return Value(f"coalesce({made}, CASE WHEN {given} THEN {wrong} END)", done, i.nullable())


_from_parts("DATEFROMPARTS", 3, DATE, "make_date({0}, {1}, {2})")
_from_parts("DATETIMEFROMPARTS", 7, DATETIME, "make_timestamp({0}, {1}, {2}, {3}, {4}, {5} + {6} / 1000.0)")
_from_parts("SMALLDATETIMEFROMPARTS", 5, SqlType("smalldatetime"), "make_timestamp({0}, {1}, {2}, {3}, {4}, 0.0)")
_from_parts("DATETIME2FROMPARTS", 8, DATETIME2, "make_timestamp({0}, {1}, {2}, {3}, {4}, {5} + {6})")
_from_parts("TIMEFROMPARTS", 5, SqlType("time", scale=7), "make_time({0}, {1}, {2} + {3})")


def _now(*names: str, kind: SqlType) -> None:
    @function(*names, args=0)
    def rule(i: Invocation) -> Value:
        """The moment the statement began: one value a statement, as in T-SQL."""
        i.compiler.context.parameters.add("$now")
        now = Value("CAST($now AS TIMESTAMP)", DATETIME2, False)
        return replace(convert(now, kind, i.line), nullable=False)


_now("GETDATE", "GETUTCDATE", "CURRENT_TIMESTAMP", kind=DATETIME)
_now("SYSDATETIME", "SYSUTCDATETIME", kind=DATETIME2)
_now("SYSDATETIMEOFFSET", kind=SqlType("datetimeoffset", scale=7))


def _zone(i: Invocation, index: int) -> str:
    """An offset as DuckDB's time zone: ``'+02:00'`` or minutes."""
    text = i.compiler.constant_text(i.call.args[index], i.scope)
    if text.lstrip("+-").isdigit():
        minutes = int(text)
        text = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    if not re.fullmatch(r"[+-](0\d|1[0-4]):[0-5]\d", text):
        raise SqlError(
            9812, f"The timezone provided to builtin function {i.call.name.lower()} is invalid.", line=i.line
        )
    return f"GMT{text}"


@function("SWITCHOFFSET", args=2)
def _switchoffset(i: Invocation) -> Value:
    """The same instant on another wall clock."""
    value = i.args[0]
    if value.type.name != "datetimeoffset":
        value = convert(value, SqlType("datetimeoffset", scale=7), i.line)
    return replace(value, zone=_zone(i, 1), literal=None, name="")


@function("TODATETIMEOFFSET", args=2)
def _todatetimeoffset(i: Invocation) -> Value:
    """A wall clock given its offset."""
    value = convert(i.args[0], DATETIME2, i.line)
    zone = _zone(i, 1)
    kind = SqlType("datetimeoffset", scale=7)
    return Value(f"timezone('{zone}', {value.sql})", kind, value.nullable, zone=zone)


@function("DATETIMEOFFSETFROMPARTS", args=10)
def _datetimeoffsetfromparts(i: Invocation) -> Value:
    hours, minutes, scale = (i.compiler.constant_int(i.call.args[place], i.scope) for place in (7, 8, 9))
    zone = f"GMT{'-' if hours < 0 or minutes < 0 else '+'}{abs(hours):02d}:{abs(minutes):02d}"
    numbers = [i.number(index, INT) for index in range(7)]
    stamp = f"make_timestamp({', '.join(numbers[:5])}, {numbers[5]} + {numbers[6]} / {10**scale}.0)"
    return Value(f"timezone('{zone}', {stamp})", SqlType("datetimeoffset", scale=scale), i.nullable(), zone=zone)
