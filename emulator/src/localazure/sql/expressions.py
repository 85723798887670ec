"""T-SQL expressions to DuckDB SQL, each with its T-SQL type.

The compiler writes DuckDB SQL itself: what it has no rule for it can't emit, so nothing passes by accident.
https://learn.microsoft.com/en-us/sql/t-sql/language-elements/expressions-transact-sql
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.binding import Context, Scope
from localazure.sql.conversions import Value, convert, stripped, unscaled
from localazure.sql.functions import call_function
from localazure.sql.macros import call
from localazure.sql.patterns import like_sql
from localazure.sql.results import SqlError, SqlType
from localazure.sql.sqltypes import (
    APPROXIMATE,
    BIGINT,
    BINARY,
    CHARACTER,
    DATETIME,
    EXACT,
    FLOAT,
    INT,
    INTEGER,
    MAX_PRECISION,
    MOMENT,
    MONEY,
    NUMERIC,
    arithmetic,
    as_decimal,
    duck,
    higher_rank,
    winner,
)

if TYPE_CHECKING:
    from localazure.sql.queries import CompiledQuery

_MAX_INT = 2147483647
_NATIONAL = {"nchar", "nvarchar"}


class ExpressionCompiler:
    """Values and conditions of one statement."""

    def __init__(self, context: Context) -> None:
        self.context = context
        # what a grouped text stands as in the rest of its SELECT: GROUP BY ignores trailing blanks
        self.grouped: dict[str, str] = {}

    def query(self, query: s.Query, scope: Scope | None, line: int = 0) -> CompiledQuery:
        """Supplied by QueryCompiler; declared here because a subquery is an expression."""
        raise NotImplementedError

    def order_sql(self, order: list[s.OrderItem], scope: Scope) -> str:
        """Supplied by QueryCompiler, as ``query``."""
        raise NotImplementedError

    # ---- values --------

    def value(self, expr: s.Expr, scope: Scope) -> Value:
        """A value with its type; SqlError for a predicate, a bad name or types that don't go together."""
        value = self._value(expr, scope)
        if value.sql in self.grouped:
            return replace(value, sql=self.grouped[value.sql], trimmed=True)
        return value

    def distinguished(self, value: Value) -> str:
        """The value as DISTINCT, GROUP BY and PARTITION BY tell rows apart: without trailing blanks."""
        return stripped(value) if value.type.name in {"varchar", "nvarchar"} and not value.null else value.sql

    def _value(self, expr: s.Expr, scope: Scope) -> Value:
        match expr:
            case s.Literal():
                return self.literal(expr)
            case s.Name():
                return scope.resolve(expr.parts, expr.line).value()
            case s.Bound():
                bound: Value = expr.value
                return bound
            case s.Variable():
                if expr.name.startswith("@@"):
                    self.context.cacheable = False
                    return self.context.server_value(expr.name, expr.line)
                return self.context.parameter(expr.name, expr.line)
            case s.Unary():
                return self._unary(expr, scope)
            case s.Binary():
                return self._binary(expr, scope)
            case s.Case():
                return self._case(expr, scope)
            case s.Cast():
                style = self.constant_int(expr.style, scope) if expr.style is not None else None
                operand = self.value(expr.operand, scope)
                return convert(operand, expr.type, expr.line, style=style, attempt=expr.attempt)
            case s.Call():
                return call_function(self, expr, scope)
            case s.ScalarQuery():
                return self._scalar(expr, scope)
            case s.Collate():
                operand = self.value(expr.operand, scope)
                return replace(operand, binary="_BIN" in expr.collation.upper() or "_CS_" in expr.collation.upper())
            case s.AtTimeZone():
                return self._at_time_zone(expr, scope)
            case s.Predicate():
                raise errors.syntax(getattr(expr, "op", type(expr).__name__.upper()), expr.line)
            case s.Star():
                raise errors.syntax("*", expr.line)
            case s.DefaultValue():
                raise errors.syntax("DEFAULT", expr.line)
            case _:
                raise errors.not_implemented(type(expr).__name__, expr.line)

    def literal(self, expr: s.Literal) -> Value:
        text = expr.text
        match expr.kind:
            case "int":
                digits = text.lstrip("0") or "0"
                if int(digits) <= _MAX_INT:
                    return Value(digits, INT, False, literal=digits)
                kind = SqlType("decimal", precision=len(digits), scale=0)
                return Value(f"CAST({digits} AS {duck(kind)})", kind, False, literal=digits)
            case "decimal":
                whole, _, fraction = text.partition(".")
                whole = whole.lstrip("0")
                precision = max(len(whole) + len(fraction), 1)
                kind = SqlType("decimal", precision=precision, scale=len(fraction))
                return Value(f"CAST('{whole or '0'}.{fraction or '0'}' AS {duck(kind)})", kind, False, literal=text)
            case "float":
                return Value(f"CAST('{text}' AS DOUBLE)", FLOAT, False, literal=text)
            case "money":
                digits = text.lstrip("$").replace(",", "")
                return Value(f"CAST('{digits}' AS {duck(MONEY)})", MONEY, False, literal=digits)
            case "binary":
                digits = text[2:]
                if len(digits) % 2:
                    digits = "0" + digits
                return Value(f"unhex('{digits}')", SqlType("varbinary", max(len(digits) // 2, 1)), False)
            case "null":
                return Value("NULL", INT, True, trimmed=True, null=True)
        name = "nvarchar" if expr.kind == "nstring" else "varchar"
        kind = SqlType(name, max(len(text), 1))
        return Value(errors.literal(text), kind, False, trimmed=not text.endswith(" "), literal=text)

    def _unary(self, expr: s.Unary, scope: Scope) -> Value:
        operand = self.value(expr.operand, scope)
        if operand.null:
            return operand
        if operand.type.name in CHARACTER and expr.op == "-":
            operand = convert(operand, INT, expr.line)
        if expr.op == "+":
            return operand
        if operand.type.name not in NUMERIC - {"bit"} or (expr.op == "~" and operand.type.name not in INTEGER):
            if expr.op == "~" and operand.type.name == "bit":
                return replace(operand, sql=f"(NOT {operand.sql})", literal=None, name="")
            raise SqlError(
                8117, f"Operand data type {operand.type.name} is invalid for minus operator.", line=expr.line
            )
        sql = operand.sql if operand.type.name != "tinyint" else f"CAST({operand.sql} AS SMALLINT)"
        kind = operand.type if operand.type.name != "tinyint" else SqlType("smallint")
        literal = f"-{operand.literal}" if operand.literal is not None and expr.op == "-" else None
        return replace(operand, sql=f"({expr.op}{sql})", type=kind, literal=literal, name="")

    def _binary(self, expr: s.Binary, scope: Scope) -> Value:
        chain: list[s.Binary] = []
        left: s.Expr = expr
        while isinstance(left, s.Binary):
            chain.append(left)
            left = left.left
        done = self.value(left, scope)
        for step in reversed(chain):
            done = self.combine(step.op, done, self.value(step.right, scope), step.line)
        return done

    def combine(self, op: str, left: Value, right: Value, line: int) -> Value:
        """An arithmetic, string or bit operator, typed as T-SQL types it."""
        if left.null and right.null:
            return left
        if left.null:
            left = convert(left, right.type, line)
        if right.null:
            right = convert(right, left.type, line)
        a, b = left.type, right.type
        nullable = left.nullable or right.nullable
        if op == "+" and a.name in CHARACTER and b.name in CHARACTER:
            return self._concatenated(left, right)
        if op == "+" and a.name in BINARY and b.name in BINARY:
            length = -1 if -1 in {a.length, b.length} else (a.length or 1) + (b.length or 1)
            return Value(f"({left.sql} || {right.sql})", SqlType("varbinary", length), nullable)
        if op in {"+", "-"} and (a.name in MOMENT or b.name in MOMENT):
            return self._shifted(op, left, right, line)
        # a string beside a number becomes that number's type
        if a.name in CHARACTER and b.name in NUMERIC:
            left, a = convert(left, b if b.name != "bit" else INT, line), b
        if b.name in CHARACTER and a.name in NUMERIC:
            right, b = convert(right, a if a.name != "bit" else INT, line), a
        a, b = left.type, right.type
        if a.name not in NUMERIC or b.name not in NUMERIC:
            raise errors.bad_operator(op, a, b, line)
        if a.name in APPROXIMATE or b.name in APPROXIMATE:
            return self._approximate(op, left, right, nullable, line)
        if op in {"&", "|", "^"}:
            if not {a.name, b.name} <= INTEGER | {"bit"}:
                raise errors.bad_operator(op, a, b, line)
            kind = higher_rank(a, b) if higher_rank(a, b).name != "bit" else INT
            first, second = self._as(left, kind), self._as(right, kind)
            sql = f"xor({first}, {second})" if op == "^" else f"({first} {op} {second})"
            return Value(sql, kind, nullable)
        if "decimal" in {a.name, b.name}:
            return self._decimal(op, left, right, nullable)
        if "money" in {a.name, b.name}:
            return replace(convert(self._decimal(op, left, right, nullable), MONEY, line), name="")
        kind = higher_rank(a, b) if higher_rank(a, b).name != "bit" else INT
        first, second = self._as(left, kind), self._as(right, kind)
        return Value(f"({first} {'//' if op == '/' else op} {second})", kind, nullable)

    def _as(self, value: Value, kind: SqlType) -> str:
        if value.type == kind and (value.literal is None or kind == INT):
            return value.sql
        return f"CAST({value.sql} AS {duck(kind)})"

    def _concatenated(self, left: Value, right: Value) -> Value:
        a, b = left.type, right.type
        national = a.name in _NATIONAL or b.name in _NATIONAL
        longest = 4000 if national else 8000
        length = -1 if -1 in {a.length, b.length} else min((a.length or 1) + (b.length or 1), longest)
        kind = SqlType("nvarchar" if national else "varchar", length)
        return Value(f"({left.sql} || {right.sql})", kind, left.nullable or right.nullable, trimmed=right.trimmed)

    def _shifted(self, op: str, left: Value, right: Value, line: int) -> Value:
        """datetime + 1 adds a day; only datetime and smalldatetime have these operators."""
        a, b = left.type.name, right.type.name
        dated = {"datetime", "smalldatetime"}
        if a in dated and b in NUMERIC:
            sign, moment, days = op, left, right
        elif b in dated and a in NUMERIC and op == "+":
            sign, moment, days = "+", right, left
        elif a in dated and b in dated and op == "-":
            sql = f"(TIMESTAMP '1900-01-01' + (CAST({left.sql} AS TIMESTAMP) - CAST({right.sql} AS TIMESTAMP)))"
            return Value(sql, DATETIME, left.nullable or right.nullable)
        else:
            raise errors.operand_clash(left.type, right.type, line)
        step = f"to_microseconds(CAST(round(({days.sql}) * 86400000000.0) AS BIGINT))"
        return Value(f"({moment.sql} {sign} {step})", moment.type, left.nullable or right.nullable)

    def _approximate(self, op: str, left: Value, right: Value, nullable: bool, line: int) -> Value:
        kind = higher_rank(left.type, right.type)
        if "real" in {left.type.name, right.type.name} and "float" not in {left.type.name, right.type.name}:
            kind = SqlType("real")
        first, second = f"CAST({left.sql} AS {duck(kind)})", f"CAST({right.sql} AS {duck(kind)})"
        if op in {"+", "-", "*"}:
            return Value(f"({first} {op} {second})", kind, nullable)
        if op == "/":
            return Value(f"({first} / {_nonzero(second, duck(kind))})", kind, nullable)
        raise errors.bad_operator(op, left.type, right.type, line)

    def _decimal(self, op: str, left: Value, right: Value, nullable: bool) -> Value:
        kind = arithmetic(op, _counted(left), _counted(right))
        if op == "/":
            return self.exact_quotient(left, right, kind, nullable)
        first = f"CAST({left.sql} AS INTEGER)" if left.type.name == "bit" else left.sql
        second = f"CAST({right.sql} AS INTEGER)" if right.type.name == "bit" else right.sql
        if op == "%":
            second = _nonzero(second, duck(_counted(right)))
        if op == "*":
            first = _widened(first, _counted(left), _counted(right))
        return Value(f"CAST({first} {op} {second} AS {duck(kind)})", kind, nullable)

    def exact_quotient(self, left: Value, right: Value, kind: SqlType, nullable: bool) -> Value:
        """Decimal division in integers: T-SQL cuts off behind the scale, DuckDB would answer a double."""
        above, scale_above = unscaled(left)
        below, scale_below = unscaled(right)
        scale = kind.scale or 0
        shift = scale + scale_below - scale_above
        if shift >= 0:
            above = f"({above} * CAST('1{'0' * shift}' AS HUGEINT))"
        else:
            below = f"({below} * CAST('1{'0' * -shift}' AS HUGEINT))"
        return Value(f"CAST({_scaled_down(f'({above} // {below})', kind)} AS {duck(kind)})", kind, nullable)

    def unify(self, values: list[Value], line: int) -> tuple[list[Value], SqlType]:
        """Values of CASE, COALESCE, IN or a VALUES column brought to one type."""
        typed = [value for value in values if not value.null]
        if not typed:
            return values, INT
        kind = typed[0].type
        for value in typed[1:]:
            kind = winner(kind, value.type)
        return [value if value.type == kind else convert(value, kind, line) for value in values], kind

    def _case(self, expr: s.Case, scope: Scope) -> Value:
        results = [self.value(result, scope) for _, result in expr.branches]
        has_else = expr.otherwise is not None
        if expr.otherwise is not None:
            results.append(self.value(expr.otherwise, scope))
        results, kind = self.unify(results, expr.line)
        if all(value.null for value in results) and expr.line:
            raise SqlError(
                8133,
                "At least one of the result expressions in a CASE specification must be an expression "
                "other than the NULL constant.",
                line=expr.line,
            )
        parts = ["CASE"]
        for (test, _), result in zip(expr.branches, results, strict=False):
            if expr.operand is None:
                condition = self.condition(test, scope)
            else:
                condition = self.compare("=", self.value(expr.operand, scope), self.value(test, scope), test.line)
            parts.append(f"WHEN {condition} THEN {result.sql}")
        if has_else:
            parts.append(f"ELSE {results[-1].sql}")
        nullable = not has_else or any(value.nullable for value in results)
        trimmed = all(value.trimmed for value in results)
        aggregate = any(value.aggregate for value in results)
        return Value(" ".join([*parts, "END"]), kind, nullable, trimmed=trimmed, aggregate=aggregate)

    def _scalar(self, expr: s.ScalarQuery, scope: Scope) -> Value:
        compiled = self.query(expr.query, scope)
        if len(compiled.columns) != 1:
            raise SqlError(
                116,
                "Only one expression can be specified in the select list when the subquery is not "
                "introduced with EXISTS.",
                line=expr.line,
            )
        column = compiled.columns[0]
        return Value(f"({compiled.sql})", column.type, True, trimmed=column.trimmed)

    def _at_time_zone(self, expr: s.AtTimeZone, scope: Scope) -> Value:
        from localazure.sql.timezones import iana

        operand = self.value(expr.operand, scope)
        zone = iana(self.constant_text(expr.zone, scope), expr.line)
        kind = SqlType("datetimeoffset", scale=7)
        if operand.type.name in CHARACTER:
            operand = convert(operand, SqlType("datetime2", scale=7), expr.line)
        if operand.type.name == "datetimeoffset":
            return replace(operand, zone=zone, name="")
        if operand.type.name not in {"datetime", "datetime2", "smalldatetime"}:
            raise SqlError(
                8116,
                f"Argument data type {operand.type.name} is invalid for argument 1 of AT TIME ZONE function.",
                line=expr.line,
            )
        return Value(f"timezone('{zone}', {operand.sql})", kind, operand.nullable, zone=zone)

    # ---- constants --------

    def constant(self, expr: s.Expr) -> object:
        """The Python value of a literal or variable, where DuckDB needs a constant."""
        if isinstance(expr, s.Literal):
            return None if expr.kind == "null" else expr.text
        if isinstance(expr, s.Variable) and not expr.name.startswith("@@"):
            self.context.parameter(expr.name, expr.line)
            self.context.parameters.discard(expr.name.lower())
            self.context.cacheable = False
            return self.context.constant(expr.name)
        if isinstance(expr, s.Unary) and isinstance(expr.operand, s.Literal):
            return f"{expr.op}{expr.operand.text}"
        if isinstance(expr, s.Cast):
            return self.constant(expr.operand)
        raise errors.not_implemented("an expression where localazure needs a literal or a variable", expr.line)

    def constant_int(self, expr: s.Expr, scope: Scope) -> int:
        return int(str(self.constant(expr)))

    def constant_text(self, expr: s.Expr, scope: Scope) -> str:
        return str(self.constant(expr))

    # ---- conditions --------

    def condition(self, expr: s.Expr, scope: Scope) -> str:
        match expr:
            case s.Logical():
                return self._logical(expr, scope)
            case s.Not():
                return f"(NOT {self.condition(expr.operand, scope)})"
            case s.Compare():
                return self.compare(expr.op, self.value(expr.left, scope), self.value(expr.right, scope), expr.line)
            case s.IsNull():
                return f"({self.value(expr.operand, scope).sql} IS {'NOT ' if expr.negated else ''}NULL)"
            case s.Between():
                operand = self.value(expr.operand, scope)
                low = self.compare(">=", operand, self.value(expr.low, scope), expr.line)
                high = self.compare("<=", operand, self.value(expr.high, scope), expr.line)
                return f"({'NOT ' if expr.negated else ''}({low} AND {high}))"
            case s.In():
                return self._in(expr, scope)
            case s.Like():
                escape = self.constant_text(expr.escape, scope) if expr.escape is not None else None
                operand, pattern = self.value(expr.operand, scope), self.value(expr.pattern, scope)
                sql = like_sql(self._text(operand, expr.line), self._text(pattern, expr.line), escape)
                return f"({'NOT ' if expr.negated else ''}{sql})"
            case s.Exists():
                return f"EXISTS ({self.query(expr.query, scope).sql})"
            case s.Quantified():
                return self._quantified(expr, scope)
        raise SqlError(
            4145,
            "An expression of non-boolean type specified in a context where a condition is expected.",
            severity=15,
            line=expr.line,
        )

    def _logical(self, expr: s.Logical, scope: Scope) -> str:
        """A chain of one operator, walked without recursion: generated statements hold thousands."""
        tests: list[str] = []
        left: s.Expr = expr
        while isinstance(left, s.Logical) and left.op == expr.op:
            tests.append(self.condition(left.right, scope))
            left = left.left
        tests.append(self.condition(left, scope))
        return "(" + f" {expr.op} ".join(reversed(tests)) + ")"

    def _text(self, value: Value, line: int) -> Value:
        return value if value.type.name in CHARACTER else convert(value, SqlType("varchar", 8000), line)

    def compare(self, op: str, left: Value, right: Value, line: int) -> str:
        """A comparison: strings without case and trailing blanks, other pairs in the higher type."""
        if left.null or right.null:
            return f"({left.sql} {op} {right.sql})"
        a, b = left.type.name, right.type.name
        if a in CHARACTER and b in CHARACTER:
            first, second = stripped(left), stripped(right)
            if left.binary or right.binary:
                return f'({first} COLLATE "binary" {op} {second} COLLATE "binary")'
            return f"({first} {op} {second})"
        if {a, b} <= EXACT | APPROXIMATE and a != b:
            first, second = self._comparable(left, right), self._comparable(right, left)
            return f"({first} {op} {second})"
        if a != b:
            kind = higher_rank(left.type, right.type)
            if kind.name == "bit" or (kind.name == "decimal" and {a, b} & CHARACTER):
                kind = SqlType("decimal", precision=38, scale=kind.scale or 0) if kind.name == "decimal" else kind
            if {a, b} & MOMENT and {a, b} & (NUMERIC - {"bit"}) and kind.name not in {"datetime", "smalldatetime"}:
                raise errors.operand_clash(left.type, right.type, line)
            if a != kind.name:
                left = convert(left, kind, line)
            if b != kind.name:
                right = convert(right, kind, line)
        return f"({left.sql} {op} {right.sql})"

    def _comparable(self, value: Value, other: Value) -> str:
        """A number beside one of another type: bits count as integers, a 0/1 literal beside a bit as a bit."""
        if value.type.name == "bit":
            return value.sql if other.literal in {"0", "1"} else f"CAST({value.sql} AS INTEGER)"
        if other.type.name == "bit" and value.literal in {"0", "1"}:
            return "TRUE" if value.literal == "1" else "FALSE"
        if value.type.name in INTEGER and other.type.name in INTEGER:
            return f"CAST({value.sql} AS {duck(BIGINT)})" if value.literal is None else value.sql
        return value.sql

    def _in(self, expr: s.In, scope: Scope) -> str:
        operand = self.value(expr.operand, scope)
        word = "NOT IN" if expr.negated else "IN"
        if expr.query is not None:
            compiled = self.query(expr.query, scope)
            if len(compiled.columns) != 1:
                raise SqlError(
                    116,
                    "Only one expression can be specified in the select list when the subquery is not "
                    "introduced with EXISTS.",
                    line=expr.line,
                )
            column = compiled.columns[0]
            inner = Value('"q"."c"', column.type, trimmed=column.trimmed)
            # DuckDB's IN (subquery) ignores the collation: compare in lower case
            if operand.type.name in CHARACTER and column.type.name in CHARACTER:
                left, right = f"lower({stripped(operand)})", f"lower({stripped(inner)})"
            else:
                kind = winner(operand.type, column.type)
                left = convert(operand, kind, expr.line).sql
                right = convert(inner, kind, expr.line).sql
            return f'({left} {word} (SELECT {right} FROM ({compiled.sql}) AS "q"("c")))'
        tests = [self.compare("=", operand, self.value(item, scope), expr.line) for item in expr.items]
        items = [self.value(item, scope) for item in expr.items]
        if operand.type.name in CHARACTER and all(item.type.name in CHARACTER and not item.null for item in items):
            if not operand.binary:
                return f"({stripped(operand)} {word} ({', '.join(stripped(item) for item in items)}))"
        elif all(item.type.name == operand.type.name and not item.null for item in items):
            return f"({operand.sql} {word} ({', '.join(item.sql for item in items)}))"
        return f"({'NOT ' if expr.negated else ''}({' OR '.join(tests)}))"

    def _quantified(self, expr: s.Quantified, scope: Scope) -> str:
        operand = self.value(expr.left, scope)
        compiled = self.query(expr.query, scope)
        if len(compiled.columns) != 1:
            raise SqlError(
                116,
                "Only one expression can be specified in the select list when the subquery is not "
                "introduced with EXISTS.",
                line=expr.line,
            )
        column = compiled.columns[0]
        if operand.type.name in CHARACTER and column.type.name in CHARACTER:
            inner = stripped(Value('"q"."c"', column.type, trimmed=column.trimmed))
            return (
                f"(lower({stripped(operand)}) {expr.op} {expr.quantifier} "
                f'(SELECT lower({inner}) FROM ({compiled.sql}) AS "q"("c")))'
            )
        kind = winner(operand.type, column.type)
        inner = convert(Value('"q"."c"', column.type), kind, expr.line).sql
        left = convert(operand, kind, expr.line).sql
        return f'({left} {expr.op} {expr.quantifier} (SELECT {inner} FROM ({compiled.sql}) AS "q"("c")))'


def _counted(value: Value) -> SqlType:
    """An integer constant counts with its own digits, a column with its type's."""
    if value.literal is not None and value.type.name in INTEGER:
        return SqlType("decimal", precision=len(value.literal.lstrip("-")), scale=0)
    return value.type


_DIGITS = 38


def _scaled_down(quotient: str, kind: SqlType) -> str:
    """An integer that counts units of 10^-scale as a decimal, within DuckDB's 38 digits at every step."""
    precision, scale = kind.precision or 0, kind.scale or 0
    if not scale:
        return quotient
    power = f"CAST('1{'0' * scale}' AS HUGEINT)"
    if 2 * scale > _DIGITS:
        return call("decimal_point", quotient, power, str(scale))
    unit = f"CAST('0.{'0' * (scale - 1)}1' AS DECIMAL({scale},{scale}))"
    if precision + scale <= _DIGITS:
        return f"CAST({quotient} AS DECIMAL({_DIGITS - scale},0)) * {unit}"
    whole = f"CAST({quotient} // {power} AS {duck(kind)})"
    return f"{whole} + CAST({quotient} % {power} AS DECIMAL({scale},0)) * {unit}"


_MACHINE_DIGITS = 18


def _widened(sql: str, left: SqlType, right: SqlType) -> str:
    """The left factor, wide enough: DuckDB multiplies two decimals of 18 digits into one of 18, and overflows."""
    a, b = as_decimal(left), as_decimal(right)
    widths = a.precision or 0, b.precision or 0
    if max(widths) > _MACHINE_DIGITS or sum(widths) <= _MACHINE_DIGITS:
        return sql
    return f"CAST({sql} AS DECIMAL({min(sum(widths), MAX_PRECISION)},{a.scale or 0}))"


def _nonzero(sql: str, duck_type: str) -> str:
    """A divisor that raises when it is zero: DuckDB divides doubles to infinity."""
    return (
        f"CASE WHEN {sql} = 0 THEN "
        f"{errors.raise_sql(8134, errors.literal('Divide by zero error encountered.'), duck_type)} "
        f"ELSE {sql} END"
    )
