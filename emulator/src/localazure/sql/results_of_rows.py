"""What the server's own procedures are made of: their arguments, patterns of names, and rows as a result set."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from localazure.sql.results import Column, ResultSet, SqlType
from localazure.sql.sqltypes import arrow

Values = list[tuple[str, Any]]


def pick(values: Values, name: str, position: int, default: Any = None) -> Any:
    """An argument by name or position."""
    for key, value in values:
        if key == name:
            return value
    unnamed = [value for key, value in values if not key]
    return unnamed[position] if position < len(unnamed) else default


def rows(columns: list[tuple[str, SqlType]], data: list[tuple[Any, ...]]) -> ResultSet:
    """A result set from Python values."""
    fields = [pa.array([row[index] for row in data], arrow(kind)) for index, (_, kind) in enumerate(columns)]
    table = pa.Table.from_arrays(fields, names=[f"c{index}" for index in range(1, len(columns) + 1)])
    return ResultSet(tuple(Column(name, kind) for name, kind in columns), table)


def like(value: Any, pattern: Any) -> bool:
    """Whether a name fits the LIKE pattern of a catalogue procedure."""
    if pattern in {None, "", "%"}:
        return True
    expression = re.escape(str(pattern).replace("[_]", "_")).replace("%", ".*")
    return re.fullmatch(expression, str(value), re.IGNORECASE) is not None
