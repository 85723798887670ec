"""Expressions of `filter`: `col("temperature") > 32 and col("location") == "UK"`.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable#other-transformations
Columns, constants, comparisons, `and`, `or`, `not` and arithmetic; anything else is refused by name. A comparison with
a missing value is false, whichever it is; `== None` and `!= None` ask for missing values.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import pandas as pd

from localazure_compute.mltable.errors import MLTableError

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}  # fmt: skip


def mask(frame: pd.DataFrame, expression: str) -> pd.Series:
    """Which rows the expression keeps (bool, the frame's index)."""
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as error:
        raise MLTableError(f"filter: '{expression}' is no expression: {error.msg}") from error
    try:
        kept = _value(tree, frame, expression)
    except TypeError as error:
        raise MLTableError(f"filter: '{expression}' compares what can't be compared: {error}") from error
    if not isinstance(kept, pd.Series) or not pd.api.types.is_bool_dtype(kept):
        raise MLTableError(f"filter: '{expression}' isn't true or false for a row.")
    return kept.fillna(False).astype(bool)


def _value(node: ast.expr, frame: pd.DataFrame, whole: str) -> Any:
    match node:
        case ast.BoolOp(op=op, values=values):
            parts = [_truth(_value(each, frame, whole), whole) for each in values]
            result = parts[0]
            for part in parts[1:]:
                result = result & part if isinstance(op, ast.And) else result | part
            return result
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_truth(_value(operand, frame, whole), whole)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, frame, whole)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
            return _compare(_value(left, frame, whole), _value(right, frame, whole), op)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](_value(left, frame, whole), _value(right, frame, whole))
        case ast.Call(func=ast.Name(id="col"), args=[ast.Constant(value=str(name))], keywords=[]):
            if name not in frame:
                raise MLTableError(f"filter: there is no column '{name}'; there are {', '.join(frame)}.")
            return frame[name]
        case ast.Constant(value=value) if value is None or isinstance(value, str | int | float | bool):
            return value
    raise MLTableError(f"filter: '{ast.unparse(node)}' in '{whole}' is not implemented.")


def _compare(left: Any, right: Any, op: ast.cmpop) -> Any:
    if left is None or right is None:
        column = right if left is None else left
        if not isinstance(column, pd.Series) or not isinstance(op, ast.Eq | ast.NotEq):
            raise MLTableError("filter: None is compared with a column, by == or !=.")
        return column.isna() if isinstance(op, ast.Eq) else column.notna()
    if isinstance(left, pd.Series) and pd.api.types.is_datetime64_any_dtype(left) and isinstance(right, str):
        right = pd.Timestamp(right)
    result = _COMPARISONS[type(op)](left, right)
    for side in (left, right):
        if isinstance(side, pd.Series):
            result = result & side.notna()
    return result


def _truth(value: Any, whole: str) -> pd.Series:
    if isinstance(value, pd.Series) and pd.api.types.is_bool_dtype(value):
        return value
    raise MLTableError(f"filter: a part of '{whole}' isn't true or false.")
