"""Livy's magics of Python statements: `%json x`, `%table x`, `%matplot plt` as a statement's last line.

https://github.com/apache/livy/blob/master/repl/src/main/resources/fake_shell.py
"""

from __future__ import annotations

import base64
import io
import json
from typing import Any

_TYPES = {bool: "BOOLEAN_TYPE", int: "BIGINT_TYPE", float: "DOUBLE_TYPE", str: "STRING_TYPE", type(None): "NULL_TYPE"}


def output(line: str, names: dict[str, Any]) -> dict[str, Any]:
    """The data of a magic. Raises ValueError for one that isn't there, NameError for an unknown variable."""
    magic, _, name = line.strip().partition(" ")
    makers = {"%json": _json, "%table": _table, "%matplot": _matplot}
    if magic not in makers:
        raise ValueError(f"unknown magic command {magic!r}; there are {', '.join(makers)}")
    name = name.strip()
    if name not in names:
        raise NameError(f"name {name!r} is not defined")
    return makers[magic](names[name])


def _json(value: Any) -> dict[str, Any]:
    return {"application/json": json.loads(json.dumps(value, default=str))}


def _table(value: Any) -> dict[str, Any]:
    """Rows as lists or as dicts, of one shape."""
    rows = [list(row.items()) if isinstance(row, dict) else list(enumerate(row)) for row in value]
    if len({tuple(name for name, _ in row) for row in rows}) > 1:
        raise ValueError("table rows have different columns")
    headers = (
        [{"type": _TYPES.get(type(cell), "STRING_TYPE"), "name": str(name)} for name, cell in rows[0]] if rows else []
    )
    data = [[cell if type(cell) in _TYPES else str(cell) for _, cell in row] for row in rows]
    return {"application/vnd.livy.table.v1+json": {"headers": headers, "data": data}}


def _matplot(pyplot: Any) -> dict[str, Any]:
    picture = io.BytesIO()
    pyplot.gcf().savefig(picture, format="png")
    pyplot.clf()
    return {"image/png": base64.b64encode(picture.getvalue()).decode()}
