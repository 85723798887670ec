"""Mathematical and logical functions.

https://learn.microsoft.com/en-us/sql/t-sql/functions/mathematical-functions-transact-sql
https://learn.microsoft.com/en-us/sql/t-sql/functions/logical-functions-choose-transact-sql
"""

from __future__ import annotations

from dataclasses import replace

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.conversions import Value, convert
from localazure.sql.function_table import MANY, Invocation, function
from localazure.sql.macros import call
from localazure.sql.results import SqlError, SqlType
from localazure.sql.sqltypes import (
    APPROXIMATE,
    CHARACTER,
    FLOAT,
    GUID,
    INT,
    INTEGER,
    NUMERIC,
    as_decimal,
    duck,
)


def _numeric(i: Invocation, index: int = 0) -> Value:
    """A number; strings become float, bits int, tinyint and smallint int, as the mathematical functions do."""
    value = i.args[index]
    if value.null:
        return convert(value, INT, i.line)
    if value.type.name in CHARACTER:
        return convert(value, FLOAT, i.line)
    if value.type.name in {"bit", "tinyint", "smallint"}:
        return convert(value, INT, i.line)
    if value.type.name == "real":
        return convert(value, FLOAT, i.line)
    if value.type.name not in NUMERIC:
        raise SqlError(
            8116,
            f"Argument data type {value.type.name} is invalid for argument {index + 1} of {i.call.name.lower()} "
            "function.",
            line=i.line,
        )
    return value


@function("ABS", args=1)
def _abs(i: Invocation) -> Value:
    value = _numeric(i)
    return replace(value, sql=f"abs({value.sql})", literal=None, name="")


@function("SIGN", args=1)
def _sign(i: Invocation) -> Value:
    value = _numeric(i)
    return replace(value, sql=f"CAST(sign({value.sql}) AS {duck(value.type)})", literal=None, name="")


@function("CEILING", "FLOOR", args=1)
def _ceiling(i: Invocation) -> Value:
    value = _numeric(i)
    if value.type.name in INTEGER:
        return value
    kind = value.type
    if kind.name == "decimal":
        kind = SqlType("decimal", precision=kind.precision, scale=0)
    name = "ceil" if i.call.name == "CEILING" else "floor"
    return Value(f"CAST({name}({value.sql}) AS {duck(kind)})", kind, value.nullable)


@function("ROUND", args=(2, 3))
def _round(i: Invocation) -> Value:
    """Rounds half away from zero; a third argument other than 0 cuts off. The type stays."""
    value = _numeric(i)
    places = i.number(1, INT)
    cut = len(i.args) > 2 and i.args[2].literal != "0"  # noqa: PLR2004
    kind = value.type
    if i.args[1].literal is None:
        raise errors.not_implemented("ROUND with a computed length", i.line)
    digits = int(i.args[1].literal)
    if kind.name in {"decimal", "money"}:
        scale = as_decimal(kind).scale or 0
        if digits >= scale:
            return value
        if digits >= 0:
            if cut:
                unit = f"CAST('1{'0' * digits}' AS DECIMAL({digits + 1},0))"
                inverse = (
                    f"CAST('{('0.' + '0' * (digits - 1) + '1') if digits else '1'}' AS "
                    f"DECIMAL({max(digits, 1)},{digits}))"
                )
                sql = f"trunc({value.sql} * {unit}) * {inverse}"
            else:
                sql = f"round({value.sql}, {digits})"
            return Value(f"CAST({sql} AS {duck(kind)})", kind, value.nullable)
        factor = 10**-digits
        whole = f"trunc({value.sql} / {factor})" if cut else f"round(CAST({value.sql} AS DOUBLE) / {factor})"
        return Value(f"CAST({whole} * {factor} AS {duck(kind)})", kind, value.nullable)
    if kind.name in INTEGER:
        if digits >= 0:
            return value
        factor = 10**-digits
        half = "0" if cut else f"sign({value.sql}) * {factor // 2}"
        return Value(f"CAST((({value.sql} + {half}) // {factor}) * {factor} AS {duck(kind)})", kind, value.nullable)
    name = f"trunc({value.sql} * 1e{digits}) / 1e{digits}" if cut else f"round({value.sql}, {places})"
    return Value(f"CAST({name} AS DOUBLE)", FLOAT, value.nullable)


@function("POWER", args=2)
def _power(i: Invocation) -> Value:
    value = _numeric(i)
    sql = f"pow(CAST({value.sql} AS DOUBLE), {i.number(1, FLOAT)})"
    if value.type.name in INTEGER:
        sql = f"trunc({sql})"
    return Value(f"CAST({sql} AS {duck(value.type)})", value.type, i.nullable())


def _float_function(name: str, duck_name: str) -> None:
    @function(name, args=1)
    def rule(i: Invocation) -> Value:
        return Value(f"{duck_name}({convert(_numeric(i), FLOAT, i.line).sql})", FLOAT, i.nullable())


for _name, _duck in {
    "EXP": "exp",
    "LOG10": "log10",
    "SIN": "sin",
    "COS": "cos",
    "TAN": "tan",
    "ASIN": "asin",
    "ACOS": "acos",
    "ATAN": "atan",
    "COT": "cot",
    "DEGREES": "degrees",
    "RADIANS": "radians",
}.items():
    _float_function(_name, _duck)

_DOMAIN = errors.raise_sql(3623, errors.literal("An invalid floating point operation occurred."), "DOUBLE")


@function("SQRT", args=1)
def _sqrt(i: Invocation) -> Value:
    value = convert(_numeric(i), FLOAT, i.line).sql
    return Value(f"CASE WHEN {value} < 0 THEN {_DOMAIN} ELSE sqrt({value}) END", FLOAT, i.nullable())


@function("LOG", args=(1, 2))
def _log(i: Invocation) -> Value:
    value = convert(_numeric(i), FLOAT, i.line).sql
    sql = f"ln({value})" if len(i.args) == 1 else f"(ln({value}) / ln({i.number(1, FLOAT)}))"
    return Value(f"CASE WHEN {value} <= 0 THEN {_DOMAIN} ELSE {sql} END", FLOAT, i.nullable())


@function("SQUARE", args=1)
def _square(i: Invocation) -> Value:
    value = convert(_numeric(i), FLOAT, i.line).sql
    return Value(f"({value} * {value})", FLOAT, i.nullable())


@function("ATN2", args=2)
def _atn2(i: Invocation) -> Value:
    return Value(f"atan2({i.number(0, FLOAT)}, {i.number(1, FLOAT)})", FLOAT, i.nullable())


@function("PI", args=0)
def _pi(i: Invocation) -> Value:
    return Value("pi()", FLOAT, False)


@function("RAND", args=(0, 1))
def _rand(i: Invocation) -> Value:
    if i.args:
        raise errors.not_implemented("RAND with a seed", i.line)
    return Value("random()", FLOAT, False)


@function("NEWID", args=0)
def _newid(i: Invocation) -> Value:
    return Value("upper(CAST(uuid() AS VARCHAR))", GUID, False, trimmed=True)


@function("ISNULL", args=2)
def _isnull(i: Invocation) -> Value:
    """The type is the first argument's: the second is converted, and shortened if need be."""
    first, second = i.args
    if first.null:
        return second
    other = convert(second, first.type, i.line)
    return Value(
        f"coalesce({first.sql}, {other.sql})", first.type, second.nullable, trimmed=first.trimmed and other.trimmed
    )


@function("COALESCE", args=(2, MANY))
def _coalesce(i: Invocation) -> Value:
    values, kind = i.compiler.unify(i.args, i.line)
    if all(value.null for value in values):
        raise SqlError(
            4127,
            "At least one of the arguments to COALESCE must be an expression that is not the NULL constant.",
            line=i.line,
        )
    sql = "coalesce(" + ", ".join(value.sql for value in values) + ")"
    return Value(sql, kind, all(value.nullable for value in values), trimmed=all(value.trimmed for value in values))


@function("NULLIF", args=2)
def _nullif(i: Invocation) -> Value:
    first, second = i.args
    if first.null:
        raise SqlError(
            4151,
            "The type of the first argument to NULLIF cannot be the NULL constant because the type of the first "
            "argument has to be known.",
            line=i.line,
        )
    equal = i.compiler.compare("=", first, second, i.line)
    return replace(
        first, sql=f"CASE WHEN {equal} THEN NULL ELSE {first.sql} END", nullable=True, literal=None, name="", bare=None
    )


@function("IIF", args=3, raw=True)
def _iif(i: Invocation) -> Value:
    test, yes, no = i.call.args
    return i.compiler.value(s.Case(i.line, None, [(test, yes)], no), i.scope)


@function("CHOOSE", args=(2, MANY))
def _choose(i: Invocation) -> Value:
    values, kind = i.compiler.unify(i.args[1:], i.line)
    branches = " ".join(f"WHEN {position} THEN {value.sql}" for position, value in enumerate(values, 1))
    return Value(f"CASE {i.number(0, INT)} {branches} END", kind)


@function("GREATEST", "LEAST", args=(1, MANY))
def _greatest(i: Invocation) -> Value:
    values, kind = i.compiler.unify(i.args, i.line)
    sql = f"{i.call.name.lower()}({', '.join(value.sql for value in values)})"
    return Value(sql, kind, all(value.nullable for value in values))


@function("ISNUMERIC", args=1)
def _isnumeric(i: Invocation) -> Value:
    value = i.args[0]
    if value.type.name in NUMERIC:
        return Value(f"CASE WHEN {value.sql} IS NULL THEN 0 ELSE 1 END", INT, False)
    return Value(f"coalesce({call('isnumeric', i.text(0).sql)}, 0)", INT, False)


@function("CHECKSUM", "BINARY_CHECKSUM", args=(1, MANY))
def _checksum(i: Invocation) -> Value:
    """Stable within localazure; the vendor's algorithm is its own and undocumented, so the numbers differ."""
    parts = ", ".join(
        f"lower({value.sql})" if value.type.name in CHARACTER and i.call.name == "CHECKSUM" else value.sql
        for value in i.args
    )
    return Value(f"CAST(CAST(hash({parts}) % 4294967296 AS BIGINT) - 2147483648 AS INTEGER)", INT, False)


__all__ = ["APPROXIMATE"]
