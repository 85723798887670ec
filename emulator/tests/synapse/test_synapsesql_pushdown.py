"""Spark's filters as the pool's conditions: exact or wider, never narrower."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest

from localazure_compute import synapsesql_pushdown
from localazure_compute.synapsesql_pushdown import Filter

TYPES = {
    "n": "int", "d": "decimal", "f": "float", "b": "bit", "day": "date", "s": "nvarchar", "t": "datetime2",
    "old": "datetime",
}  # fmt: skip
NOON = datetime.datetime(2026, 1, 31, 12, 0, 0, 5)


def condition(filter: Filter) -> str | None:
    return synapsesql_pushdown.condition(filter, TYPES, lambda name: f"[{name}]")


@pytest.mark.parametrize(
    ("kind", "column", "value", "expected"),
    [
        ("EqualTo", "n", 3, "[n] = 3"),
        ("GreaterThanOrEqual", "d", Decimal("1.50"), "[d] >= 1.50"),
        ("LessThan", "f", 0.25, "[f] < 0.25E0"),
        ("EqualTo", "b", True, "[b] = 1"),
        ("GreaterThan", "day", datetime.date(2026, 1, 31), "[day] > '2026-01-31'"),
        ("EqualTo", "s", "it's", "[s] = N'it''s'"),
        ("StringStartsWith", "s", "5%_[a\\", "[s] LIKE N'5\\%\\_\\[a\\\\%' ESCAPE '\\'"),
        ("StringContains", "s", "x", "[s] LIKE N'%x%' ESCAPE '\\'"),
        ("IsNotNull", "n", None, "[n] IS NOT NULL"),
        ("In", "n", [1, None, 2], "([n] = 1 OR [n] = 2)"),
        # The pool keeps times finer than Spark: a microsecond to each side.
        ("GreaterThan", "t", NOON, "[t] >= '2026-01-31T12:00:00.000004'"),
        ("LessThanOrEqual", "t", NOON, "[t] <= '2026-01-31T12:00:00.000006'"),
        ("EqualTo", "old", NOON, "([old] >= '2026-01-31T11:59:59.996' AND [old] <= '2026-01-31T12:00:00.004')"),
    ],
)
def test_comparisons(kind: str, column: str, value: Any, expected: str) -> None:
    assert condition(Filter(kind, column, value)) == expected


@pytest.mark.parametrize(
    "filter",
    [
        Filter("GreaterThan", "s", "a"),  # another order on each side
        Filter("Not", parts=(Filter("EqualTo", "s", "a"),)),  # the pool compares without case
        Filter("Not", parts=(Filter("StringContains", "s", "a"),)),
        Filter("Not", parts=(Filter("GreaterThan", "t", NOON),)),  # widened
        Filter("EqualTo", "f", float("nan")),
        Filter("EqualTo", "t", datetime.datetime.max),
        Filter("EqualTo", "unknown", 1),
        Filter("IsNull", "unknown"),
        Filter("EqualNullSafe", "n", 1),
        Filter("In", "n", [None]),
        Filter("Or", parts=(Filter("EqualTo", "n", 1), Filter("GreaterThan", "s", "a"))),
    ],
)
def test_what_differs_between_the_two_stays_sparks(filter: Filter) -> None:
    assert condition(filter) is None


def test_of_a_conjunction_what_can_be_had_is_taken() -> None:
    both = Filter("And", parts=(Filter("EqualTo", "n", 1), Filter("GreaterThan", "s", "a")))
    assert condition(both) == "([n] = 1)"
    either = Filter("Or", parts=(Filter("EqualTo", "n", 1), Filter("EqualTo", "b", False)))
    assert condition(either) == "([n] = 1 OR [b] = 0)"
    assert condition(Filter("Not", parts=(Filter("EqualTo", "n", 1),))) == "NOT ([n] = 1)"
