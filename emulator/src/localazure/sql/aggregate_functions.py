"""Aggregates and window functions.

https://learn.microsoft.com/en-us/sql/t-sql/functions/aggregate-functions-transact-sql
https://learn.microsoft.com/en-us/sql/t-sql/queries/select-over-clause-transact-sql
"""

from __future__ import annotations

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.conversions import Value, convert
from localazure.sql.function_table import MANY, Invocation, function
from localazure.sql.results import SqlError, SqlType
from localazure.sql.sqltypes import (
    APPROXIMATE,
    BIGINT,
    CHARACTER,
    FLOAT,
    INT,
    INTEGER,
    MONEY,
    NUMERIC,
    as_decimal,
    duck,
)


def over(i: Invocation, *, ordered: bool = False) -> str:
    """The OVER clause of this call, or nothing."""
    window = i.call.over
    if window is None:
        if ordered:
            raise SqlError(10753, f"The function '{i.call.name}' must have an OVER clause.", severity=15, line=i.line)
        return ""
    if ordered and not window.order:
        raise SqlError(
            4112, f"The function '{i.call.name}' must have an OVER clause with ORDER BY.", severity=15, line=i.line
        )
    if i.call.distinct:
        raise SqlError(10759, "Use of DISTINCT is not allowed with the OVER clause.", severity=15, line=i.line)
    parts: list[str] = []
    if window.partition:
        parts.append(
            "PARTITION BY "
            + ", ".join(i.compiler.distinguished(i.compiler.value(expr, i.scope)) for expr in window.partition)
        )
    if window.order:
        parts.append("ORDER BY " + i.compiler.order_sql(window.order, i.scope))
    if window.frame is not None:
        parts.append(_frame(i, window.frame))
    return f" OVER ({' '.join(parts)})"


def _frame(i: Invocation, frame: s.Frame) -> str:
    def bound(item: tuple[str, s.Expr | None]) -> str:
        word, value = item
        return word if value is None else f"{i.compiler.constant_int(value, i.scope)} {word}"

    if frame.end is None:
        return f"{frame.unit} {bound(frame.start)}"
    return f"{frame.unit} BETWEEN {bound(frame.start)} AND {bound(frame.end)}"


def _operand(i: Invocation) -> Value:
    if i.call.args and isinstance(i.call.args[0], s.Star):
        raise errors.syntax("*", i.line)
    return i.compiler.value(i.call.args[0], i.scope)


def _number(i: Invocation) -> Value:
    value = _operand(i)
    if value.null or value.type.name not in NUMERIC - {"bit"}:
        if value.type.name in CHARACTER:
            return convert(value, FLOAT, i.line)
        name = "NULL" if value.null else value.type.name
        raise SqlError(8117, f"Operand data type {name} is invalid for {i.call.name.lower()} operator.", line=i.line)
    return value


def _distinct(i: Invocation) -> str:
    return "DISTINCT " if i.call.distinct else ""


@function("COUNT", "COUNT_BIG", args=1, raw=True, windowed=True)
def _count(i: Invocation) -> Value:
    kind = INT if i.call.name == "COUNT" else BIGINT
    inner = (
        "*"
        if isinstance(i.call.args[0], s.Star)
        else _distinct(i) + i.compiler.distinguished(i.compiler.value(i.call.args[0], i.scope))
    )
    return Value(f"CAST(count({inner}){over(i)} AS {duck(kind)})", kind, False, aggregate=True)


@function("APPROX_COUNT_DISTINCT", args=1, raw=True, windowed=True)
def _approx(i: Invocation) -> Value:
    """Answered exactly: within the vendor's error bound of 2 %."""
    return Value(
        f"CAST(count(DISTINCT {i.compiler.distinguished(_operand(i))}) AS BIGINT)", BIGINT, False, aggregate=True
    )


@function("SUM", args=1, raw=True, windowed=True)
def _sum(i: Invocation) -> Value:
    value = _number(i)
    kind = _sum_type(value.type)
    return Value(f"CAST(sum({_distinct(i)}{value.sql}){over(i)} AS {duck(kind)})", kind, True, aggregate=True)


def _sum_type(kind: SqlType) -> SqlType:
    if kind.name in {"tinyint", "smallint", "int"}:
        return INT
    if kind.name == "decimal":
        return SqlType("decimal", precision=38, scale=kind.scale)
    return FLOAT if kind.name in APPROXIMATE else kind


@function("AVG", args=1, raw=True, windowed=True)
def _avg(i: Invocation) -> Value:
    """Integers give integers, cut off; decimals are exact to at least six places."""
    value = _number(i)
    kind = value.type
    window = over(i)
    if kind.name in APPROXIMATE:
        return Value(f"avg({_distinct(i)}{value.sql}){window}", FLOAT, True, aggregate=True)
    total = f"sum({_distinct(i)}{value.sql}){window}"
    count = f"nullif(count({_distinct(i)}{value.sql}){window}, 0)"
    if kind.name in INTEGER:
        done = BIGINT if kind.name == "bigint" else INT
        return Value(f"CAST({total} // {count} AS {duck(done)})", done, True, aggregate=True)
    scale = as_decimal(kind).scale or 0
    above = Value(total, SqlType("decimal", precision=38, scale=scale))
    done = MONEY if kind.name == "money" else SqlType("decimal", precision=38, scale=max(scale, 6))
    quotient = i.compiler.exact_quotient(above, Value(count, BIGINT), as_decimal(done), True)
    return Value(f"CAST({quotient.sql} AS {duck(done)})", done, True, aggregate=True)


@function("MIN", "MAX", args=1, raw=True, windowed=True)
def _extreme(i: Invocation) -> Value:
    value = _operand(i)
    if value.type.name == "bit":
        raise SqlError(8117, f"Operand data type bit is invalid for {i.call.name.lower()} operator.", line=i.line)
    sql = f"{i.call.name.lower()}({value.sql}){over(i)}"
    return Value(sql, value.type, True, trimmed=value.trimmed, aggregate=True)


def _statistic(name: str, duck_name: str) -> None:
    @function(name, args=1, raw=True, windowed=True)
    def rule(i: Invocation) -> Value:
        value = convert(_number(i), FLOAT, i.line)
        return Value(f"{duck_name}({_distinct(i)}{value.sql}){over(i)}", FLOAT, True, aggregate=True)


for _name, _duck in {"STDEV": "stddev_samp", "STDEVP": "stddev_pop", "VAR": "var_samp", "VARP": "var_pop"}.items():
    _statistic(_name, _duck)


@function("GROUPING", "GROUPING_ID", args=(1, MANY), raw=True)
def _grouping(i: Invocation) -> Value:
    inner = ", ".join(i.compiler.value(arg, i.scope).sql for arg in i.call.args)
    kind = SqlType("tinyint") if i.call.name == "GROUPING" else INT
    return Value(f"CAST(grouping({inner}) AS {duck(kind)})", kind, False, aggregate=True)


@function("ROW_NUMBER", "RANK", "DENSE_RANK", args=0, raw=True, windowed=True)
def _rank(i: Invocation) -> Value:
    return Value(f"{i.call.name.lower()}(){over(i, ordered=True)}", BIGINT, False)


@function("CUME_DIST", "PERCENT_RANK", args=0, raw=True, windowed=True)
def _distribution(i: Invocation) -> Value:
    return Value(f"{i.call.name.lower()}(){over(i, ordered=True)}", FLOAT, False)


@function("NTILE", args=1, raw=True, windowed=True)
def _ntile(i: Invocation) -> Value:
    return Value(f"ntile({i.compiler.value(i.call.args[0], i.scope).sql}){over(i, ordered=True)}", BIGINT, False)


@function("LAG", "LEAD", args=(1, 3), raw=True, windowed=True)
def _lag(i: Invocation) -> Value:
    value = i.compiler.value(i.call.args[0], i.scope)
    inner = [value.sql]
    if len(i.call.args) > 1:
        inner.append(i.compiler.value(i.call.args[1], i.scope).sql)
    if len(i.call.args) > 2:  # noqa: PLR2004
        inner.append(convert(i.compiler.value(i.call.args[2], i.scope), value.type, i.line).sql)
    return Value(
        f"{i.call.name.lower()}({', '.join(inner)}){over(i, ordered=True)}", value.type, True, trimmed=value.trimmed
    )


@function("FIRST_VALUE", "LAST_VALUE", args=1, raw=True, windowed=True)
def _first(i: Invocation) -> Value:
    value = i.compiler.value(i.call.args[0], i.scope)
    return Value(f"{i.call.name.lower()}({value.sql}){over(i, ordered=True)}", value.type, True, trimmed=value.trimmed)


@function("PERCENTILE_CONT", "PERCENTILE_DISC", args=1, raw=True, windowed=True)
def _percentile(i: Invocation) -> Value:
    """A window function in T-SQL: WITHIN GROUP gives the order, OVER the partitions, never an order of its own.

    https://learn.microsoft.com/en-us/sql/t-sql/functions/percentile-disc-transact-sql
    """
    if not i.call.within or i.call.over is None:
        raise SqlError(
            10753,
            f"The function '{i.call.name}' must have a WITHIN GROUP and an OVER clause.",
            severity=15,
            line=i.line,
        )
    if len(i.call.within) != 1 or i.call.over.order or i.call.over.frame:
        raise SqlError(
            10751,
            f"The ORDER BY in WITHIN GROUP clause of '{i.call.name}' function must have exactly one expression.",
            severity=15,
            line=i.line,
        )
    item = i.call.within[0]
    fraction = float(str(i.compiler.constant(i.call.args[0])))
    if not 0 <= fraction <= 1:
        raise SqlError(10752, f"The input value of {i.call.name} must be between 0 and 1.", line=i.line)
    value = i.compiler.value(item.expr, i.scope)
    if i.call.name == "PERCENTILE_CONT":
        fraction = 1 - fraction if item.descending else fraction
        operand = convert(value, FLOAT, i.line).sql
        return Value(f"quantile_cont({operand}, {fraction!r}){over(i)}", FLOAT, True)
    if item.descending:
        raise errors.not_implemented("PERCENTILE_DISC with ORDER BY .. DESC", i.line)
    return Value(f"quantile_disc({value.sql}, {fraction!r}){over(i)}", value.type, True, trimmed=value.trimmed)


@function("CHECKSUM_AGG", args=1, raw=True, windowed=True)
def _checksum_agg(i: Invocation) -> Value:
    return Value(f"CAST(bit_xor({_operand(i).sql}) AS INTEGER)", INT, True, aggregate=True)
