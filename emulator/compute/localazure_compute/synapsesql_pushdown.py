"""Spark's filters as T-SQL conditions, so that the pool unloads no more rows than needed. Pure.

Spark applies every filter once more, so a condition may let too much through, never too little. What isn't the same on
both sides is widened or left out: the pool compares text without case and by its collation's order, and keeps times
finer than Spark's microseconds.
https://learn.microsoft.com/azure/synapse-analytics/spark/synapse-spark-sql-pool-import-export
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

_NUMBERS = frozenset(
    {"bigint", "int", "smallint", "tinyint", "decimal", "numeric", "money", "smallmoney", "float", "real"}
)
_TEXTS = frozenset({"char", "varchar", "nchar", "nvarchar"})
_TIMES = frozenset({"datetime", "datetime2", "smalldatetime"})
_COMPARISONS = {
    "EqualTo": "=",
    "GreaterThan": ">",
    "GreaterThanOrEqual": ">=",
    "LessThan": "<",
    "LessThanOrEqual": "<=",
}
_PATTERNS = {"StringStartsWith": "{}%", "StringEndsWith": "%{}", "StringContains": "%{}%"}
_MICROSECOND = datetime.timedelta(microseconds=1)
# The pool's rounding of `datetime` is 3.33 ms: a filter's value may lie between two of them.
_ROUNDING = {"datetime": datetime.timedelta(milliseconds=4), "smalldatetime": datetime.timedelta(seconds=31)}
_MOST_VALUES = 1000


@dataclass(frozen=True)
class Filter:
    """One of Spark's `org.apache.spark.sql.sources` filters: its class's name, its column, and what it compares with.

    `parts` are the filters of And, Or and Not.
    """

    kind: str
    column: str = ""
    value: Any = None
    parts: tuple[Filter, ...] = ()


def condition(filter: Filter, types: Mapping[str, str], quoted: Callable[[str], str]) -> str | None:
    """The T-SQL condition, or None if it can't be had. `types`: column -> T-SQL's type without its length."""
    match filter.kind:
        case "And":
            sides = [condition(part, types, quoted) for part in filter.parts]
            kept = [side for side in sides if side is not None]
            return f"({' AND '.join(kept)})" if kept else None
        case "Or":
            sides = [condition(part, types, quoted) for part in filter.parts]
            return None if None in sides else f"({' OR '.join(str(side) for side in sides)})"
        case "Not":
            return _negated(filter.parts[0], types, quoted)
        case "IsNull" if filter.column in types:
            return f"{quoted(filter.column)} IS NULL"
        case "IsNotNull" if filter.column in types:
            return f"{quoted(filter.column)} IS NOT NULL"
        case "In":
            return _among(filter, types, quoted)
    kind = types.get(filter.column, "")
    if filter.kind in _PATTERNS and kind in _TEXTS:
        return (
            f"{quoted(filter.column)} LIKE {_text(_PATTERNS[filter.kind].format(_escaped(filter.value)))} ESCAPE '\\'"
        )
    if filter.kind in _COMPARISONS:
        return _comparison(filter, kind, quoted)
    return None


def _negated(inner: Filter, types: Mapping[str, str], quoted: Callable[[str], str]) -> str | None:
    """Only of what is the same on both sides: a condition that lets too much through can't be turned round."""
    kind = types.get(inner.column, "")
    if inner.kind == "IsNull" or (inner.kind == "EqualTo" and kind in _NUMBERS | {"date", "bit"}):
        known = condition(inner, types, quoted)
        return None if known is None else f"NOT ({known})"
    return None


def _among(filter: Filter, types: Mapping[str, str], quoted: Callable[[str], str]) -> str | None:
    values = [value for value in filter.value if value is not None]
    if not values or len(values) > _MOST_VALUES:
        return None
    found = [condition(Filter("EqualTo", filter.column, value), types, quoted) for value in values]
    return None if None in found else f"({' OR '.join(str(each) for each in found)})"


def _comparison(filter: Filter, kind: str, quoted: Callable[[str], str]) -> str | None:
    column, sign, value = quoted(filter.column), _COMPARISONS[filter.kind], filter.value
    if kind == "bit" and isinstance(value, bool):
        return f"{column} {sign} {int(value)}"
    if kind in _NUMBERS and isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        shown = _number(value)
        return None if shown is None else f"{column} {sign} {shown}"
    if kind == "date" and isinstance(value, datetime.date):
        return f"{column} {sign} '{value.isoformat()}'"
    if kind in _TEXTS and isinstance(value, str) and sign == "=":
        return f"{column} = {_text(value)}"
    if kind in _TIMES and isinstance(value, datetime.datetime):
        spare = _ROUNDING.get(kind, _MICROSECOND)
        try:
            low, high = (f"{column} >= {_time(value - spare, kind)}", f"{column} <= {_time(value + spare, kind)}")
        except OverflowError:  # at the calendar's ends
            return None
        return {"=": f"({low} AND {high})", ">": low, ">=": low}.get(sign, high)
    return None


def _number(value: float | Decimal) -> str | None:
    if isinstance(value, float):
        # NaN and infinities aren't the pool's.
        return f"{value!r}E0" if math.isfinite(value) and "e" not in repr(value) else None
    return str(value) if isinstance(value, int) else format(value, "f")


def _time(moment: datetime.datetime, kind: str) -> str:
    precision = "milliseconds" if kind in _ROUNDING else "microseconds"
    return f"'{moment.replace(tzinfo=None).isoformat(timespec=precision)}'"


def _text(value: str) -> str:
    return "N'" + value.replace("'", "''") + "'"


def _escaped(value: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\%_[" else letter for letter in value)
