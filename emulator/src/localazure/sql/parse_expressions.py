"""Recursive descent over T-SQL expressions.

Precedence: https://learn.microsoft.com/en-us/sql/t-sql/language-elements/operator-precedence-transact-sql
Whatever isn't in the grammar is error 102 at its token: nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.lexer import RESERVED, Token, tokens
from localazure.sql.results import SqlError, SqlType
from localazure.sql.sqltypes import declared

if TYPE_CHECKING:
    from localazure.sql.syntax import Query

T = TypeVar("T")

_COMPARISONS = frozenset({"=", "<>", "<", ">", "<=", ">=", "!<", "!>"})
# Functions whose names are reserved words, and those that are written without parentheses.
_RESERVED_FUNCTIONS = frozenset(
    {
        "LEFT",
        "RIGHT",
        "COALESCE",
        "NULLIF",
        "CONVERT",
        "TRY_CONVERT",
        "USER",
        "CURRENT_TIMESTAMP",
        "CURRENT_USER",
        "SESSION_USER",
        "SYSTEM_USER",
        "IDENTITY",
        "CURRENT_DATE",
        "UPDATE",
        "OPENROWSET",
    }
)
_BARE_FUNCTIONS = frozenset(
    {"CURRENT_TIMESTAMP", "CURRENT_USER", "SESSION_USER", "SYSTEM_USER", "USER", "CURRENT_DATE"}
)
_LITERALS = frozenset({"string", "nstring", "int", "decimal", "float", "money", "binary"})


class Parser:
    """Tokens and a position; the token-level moves that every grammar part uses."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokens(text)
        self.position = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.position]

    @property
    def line(self) -> int:
        return self.tokens[self.position].line

    def peek(self, ahead: int = 1) -> Token:
        return self.tokens[min(self.position + ahead, len(self.tokens) - 1)]

    def advance(self) -> Token:
        token = self.tokens[self.position]
        if token.kind != "end":
            self.position += 1
        return token

    def at(self, *keys: str) -> bool:
        """Whether the next tokens are these words or operators, in this order."""
        return all(self.peek(index).key == key for index, key in enumerate(keys))

    def at_any(self, *keys: str) -> bool:
        return self.token.key in keys

    def take(self, *keys: str) -> bool:
        """Skip these tokens when they come next."""
        if self.at(*keys):
            self.position += len(keys)
            return True
        return False

    def expect(self, *keys: str) -> Token:
        token = self.token
        for key in keys:
            token = self.token
            if token.key != key:
                raise self.error()
            self.advance()
        return token

    def error(self, token: Token | None = None) -> SqlError:
        token = token or self.token
        near = token.text
        if token.kind == "end":
            near = self.tokens[-2].text if len(self.tokens) > 1 else ""
        return errors.syntax(near, token.line)

    def at_identifier(self, offset: int = 0) -> bool:
        token = self.peek(offset) if offset else self.token
        return token.kind == "quoted" or (token.kind == "word" and token.key not in RESERVED)

    def identifier(self) -> str:
        if not self.at_identifier():
            raise self.error()
        return self.advance().text

    def name(self) -> s.Parts:
        """A dotted name; ``db..table`` has an empty part."""
        parts = [self.identifier()]
        while self.at("."):
            self.advance()
            if self.at("."):
                parts.append("")
            else:
                token = self.token
                if token.kind not in {"word", "quoted"}:
                    raise self.error()
                parts.append(self.advance().text)
        return tuple(parts)

    def comma_list(self, parse: Callable[[], T]) -> list[T]:
        found = [parse()]
        while self.take(","):
            found.append(parse())
        return found

    def parenthesised(self, parse: Callable[[], T]) -> list[T]:
        self.expect("(")
        found = self.comma_list(parse)
        self.expect(")")
        return found

    def string(self) -> str:
        if self.token.kind not in {"string", "nstring"}:
            raise self.error()
        return self.advance().text

    def integer(self) -> int:
        negative = self.take("-")
        if self.token.kind != "int":
            raise self.error()
        value = int(self.advance().text)
        return -value if negative else value

    def data_type(self) -> SqlType:
        """A type as written in CAST, DECLARE or a column: ``VARCHAR(20)``, ``[decimal](10, 2)``."""
        token = self.advance()
        if token.kind not in {"word", "quoted"}:
            raise self.error(token)
        name = token.text.lower()
        if name in {"sys", "dbo"} and self.take("."):
            name = self.advance().text.lower()
        if name == "double" and self.take("PRECISION"):
            return SqlType("float")
        if name in {"char", "character"} and self.take("VARYING"):
            name = "varchar"
        if name == "national" and self.at_any("CHAR", "CHARACTER"):
            self.advance()
            name = "nvarchar" if self.take("VARYING") else "nchar"
        arguments: list[int] = []
        if self.take("("):
            if self.take("MAX"):
                arguments.append(-1)
            else:
                arguments = self.comma_list(self.integer)
            self.expect(")")
        return declared(name, arguments, token.line)


class ExpressionParser(Parser):
    """Expressions and conditions."""

    def query(self) -> Query:  # supplied by QueryParser; declared here because a subquery is an expression
        raise NotImplementedError

    def at_query(self) -> bool:
        """Whether a (possibly parenthesised) query starts at the token."""
        ahead = 0
        while self.peek(ahead).key == "(":
            ahead += 1
        return self.peek(ahead).key in {"SELECT", "WITH"}

    # ---- conditions --------

    def expression(self) -> s.Expr:
        left = self._and()
        while self.at("OR"):
            line = self.advance().line
            left = s.Logical(line, "OR", left, self._and())
        return left

    def _and(self) -> s.Expr:
        left = self._not()
        while self.at("AND"):
            line = self.advance().line
            left = s.Logical(line, "AND", left, self._not())
        return left

    def _not(self) -> s.Expr:
        if self.at("NOT"):
            line = self.advance().line
            return s.Not(line, self._not())
        return self._predicate()

    def _predicate(self) -> s.Expr:
        line = self.line
        if self.at("EXISTS", "("):
            self.advance()
            self.expect("(")
            query = self.query()
            self.expect(")")
            return s.Exists(line, query)
        left = self.value()
        while True:
            line = self.line
            if self.token.key in _COMPARISONS:
                left = self._comparison(left)
            elif self.take("IS"):
                negated = self.take("NOT")
                self.expect("NULL")
                left = s.IsNull(line, left, negated)
            else:
                negated = self.at("NOT") and self.peek().key in {"IN", "LIKE", "BETWEEN"}
                if negated:
                    self.advance()
                if self.take("BETWEEN"):
                    low = self.value()
                    self.expect("AND")
                    left = s.Between(line, left, low, self.value(), negated)
                elif self.take("IN"):
                    left = self._in(left, negated, line)
                elif self.take("LIKE"):
                    pattern = self.value()
                    escape = self.value() if self.take("ESCAPE") else None
                    left = s.Like(line, left, pattern, escape, negated)
                else:
                    return left

    def _comparison(self, left: s.Expr) -> s.Expr:
        token = self.advance()
        if self.at_any("ALL", "ANY", "SOME") and self.peek().key == "(":
            word = self.advance().key
            self.expect("(")
            query = self.query()
            self.expect(")")
            return s.Quantified(token.line, token.key, left, "ALL" if word == "ALL" else "ANY", query)
        op = {"!<": ">=", "!>": "<="}.get(token.key, token.key)
        return s.Compare(token.line, op, left, self.value())

    def _in(self, left: s.Expr, negated: bool, line: int) -> s.Expr:
        self.expect("(")
        if self.at_query():
            query = self.query()
            self.expect(")")
            return s.In(line, left, [], query, negated)
        items = self.comma_list(self.value)
        self.expect(")")
        return s.In(line, left, items, None, negated)

    # ---- values --------

    def value(self) -> s.Expr:
        left = self._multiplicative()
        while self.token.key in {"+", "-", "&", "|", "^"}:
            token = self.advance()
            left = s.Binary(token.line, token.key, left, self._multiplicative())
        return left

    def _multiplicative(self) -> s.Expr:
        left = self._unary()
        while self.token.key in {"*", "/", "%"}:
            token = self.advance()
            left = s.Binary(token.line, token.key, left, self._unary())
        return left

    def _unary(self) -> s.Expr:
        if self.token.key in {"-", "+", "~"}:
            token = self.advance()
            return s.Unary(token.line, token.key, self._unary())
        return self._postfix(self._primary())

    def _postfix(self, value: s.Expr) -> s.Expr:
        while True:
            line = self.line
            if self.take("COLLATE"):
                value = s.Collate(line, value, self.advance().text)
            elif self.at("AT", "TIME", "ZONE"):
                self.position += 3
                value = s.AtTimeZone(line, value, self._primary())
            else:
                return value

    def _primary(self) -> s.Expr:
        token = self.token
        if token.kind in _LITERALS:
            self.advance()
            return s.Literal(token.line, token.kind, token.text)
        if token.kind == "variable":
            self.advance()
            return s.Variable(token.line, token.text)
        if token.key == "(":
            return self._parenthesis()
        if token.key == "CASE":
            return self._case()
        if token.key == "NULL":
            self.advance()
            return s.Literal(token.line, "null", "NULL")
        if token.key in {"CAST", "TRY_CAST"} and self.peek().key == "(":
            return self._cast()
        if token.key in {"CONVERT", "TRY_CONVERT"} and self.peek().key == "(":
            return self._convert()
        if token.key in _BARE_FUNCTIONS and self.peek().key != "(":
            self.advance()
            return s.Call(token.line, (), token.key, [])
        if token.key == "{":
            return self._odbc_escape()
        if token.key == "*":
            raise self.error()
        if token.key in _RESERVED_FUNCTIONS and self.peek().key == "(":
            self.advance()
            return self._call(token.line, (token.text,))
        if not self.at_identifier():
            raise self.error()
        parts = self.name_or_star()
        if isinstance(parts, s.Star):
            raise self.error()
        if self.at("("):
            return self._call(token.line, parts)
        if self.at(":"):
            raise self.error()
        return s.Name(token.line, parts)

    def name_or_star(self) -> s.Parts | s.Star:
        """A dotted name, or ``t.*``."""
        line = self.line
        parts = [self.identifier()]
        while self.at("."):
            self.advance()
            if self.take("*"):
                return s.Star(line, tuple(parts))
            if self.at("."):
                parts.append("")
                continue
            if self.token.kind not in {"word", "quoted"}:
                raise self.error()
            parts.append(self.advance().text)
        return tuple(parts)

    def _parenthesis(self) -> s.Expr:
        line = self.line
        if self.at_query():
            mark = self.position
            try:
                self.expect("(")
                query = self.query()
                self.expect(")")
                return s.ScalarQuery(line, query)
            except SqlError:
                # "((SELECT 1) + 1)": the outer parenthesis belongs to an expression
                if self.tokens[mark + 1].key != "(":
                    raise
                self.position = mark
        self.expect("(")
        inner = self.expression()
        self.expect(")")
        return inner

    def _case(self) -> s.Expr:
        line = self.expect("CASE").line
        operand = None if self.at("WHEN") else self.value()
        branches: list[tuple[s.Expr, s.Expr]] = []
        while self.take("WHEN"):
            test = self.expression() if operand is None else self.value()
            self.expect("THEN")
            branches.append((test, self.value()))
        otherwise = self.value() if self.take("ELSE") else None
        self.expect("END")
        if not branches:
            raise self.error()
        return s.Case(line, operand, branches, otherwise)

    def _cast(self) -> s.Expr:
        token = self.advance()
        self.expect("(")
        operand = self.value()
        self.expect("AS")
        target = self.data_type()
        self.expect(")")
        return s.Cast(token.line, operand, target, token.key == "TRY_CAST")

    def _convert(self) -> s.Expr:
        token = self.advance()
        self.expect("(")
        target = self.data_type()
        self.expect(",")
        operand = self.value()
        style = self.value() if self.take(",") else None
        self.expect(")")
        return s.Cast(token.line, operand, target, token.key == "TRY_CONVERT", style)

    def _odbc_escape(self) -> s.Expr:
        """``{d '2024-01-01'}``, ``{ts '..'}``, ``{t '..'}``, ``{fn f(..)}`` as ODBC and JDBC clients write them."""
        line = self.expect("{").line
        kind = self.advance().key
        if kind == "FN":
            value: s.Expr = self.value()
        else:
            types = {"D": SqlType("date"), "TS": SqlType("datetime2", scale=7), "T": SqlType("time", scale=7)}
            if kind not in types:
                raise self.error()
            value = s.Cast(line, s.Literal(line, "string", self.string()), types[kind], False)
        self.expect("}")
        return value

    def _call(self, line: int, parts: s.Parts) -> s.Call:
        call = s.Call(line, parts[:-1], parts[-1].upper(), [])
        self.expect("(")
        if self.take("DISTINCT"):
            call.distinct = True
        else:
            self.take("ALL")
        if not self.at(")"):
            if call.name == "TRIM":
                call.args = self._trim_arguments()
            elif call.name == "IIF":
                call.args = [self.expression()]
                self.expect(",")
                call.args += self.comma_list(self.value)
            else:
                call.args = self.comma_list(self._argument)
        self.expect(")")
        if self.at("WITHIN", "GROUP"):
            self.position += 2
            self.expect("(")
            call.within = self.order_by()
            self.expect(")")
        if self.at("IGNORE") or self.at("RESPECT"):
            raise errors.refused(f"{self.token.key} NULLS", self.line)
        if self.take("OVER"):
            call.over = self._window()
        return call

    def _argument(self) -> s.Expr:
        if self.at("*"):
            return s.Star(self.advance().line, ())
        return self.value()

    def _trim_arguments(self) -> list[s.Expr]:
        """``TRIM(x)`` or ``TRIM('ab' FROM x)``."""
        first = self.value()
        return [self.value(), first] if self.take("FROM") else [first]

    def _window(self) -> s.Window:
        line = self.expect("(").line
        window = s.Window(line, [], [], None)
        if self.take("PARTITION"):
            self.expect("BY")
            window.partition = self.comma_list(self.value)
        if self.at("ORDER"):
            window.order = self.order_by()
        if self.at_any("ROWS", "RANGE"):
            unit = self.advance().key
            if self.take("BETWEEN"):
                start = self._bound()
                self.expect("AND")
                window.frame = s.Frame(line, unit, start, self._bound())
            else:
                window.frame = s.Frame(line, unit, self._bound(), None)
        self.expect(")")
        return window

    def _bound(self) -> tuple[str, s.Expr | None]:
        if self.take("CURRENT"):
            if self.advance().key != "ROW":
                raise self.error()
            return "CURRENT ROW", None
        if self.take("UNBOUNDED"):
            return f"UNBOUNDED {self._direction()}", None
        value = self.value()
        return self._direction(), value

    def _direction(self) -> str:
        word = self.advance().key
        if word not in {"PRECEDING", "FOLLOWING"}:
            raise self.error()
        return word

    def order_by(self) -> list[s.OrderItem]:
        self.expect("ORDER")
        self.expect("BY")
        return self.comma_list(self._order_item)

    def _order_item(self) -> s.OrderItem:
        line = self.line
        value = self.value()
        descending = self.take("DESC")
        if not descending:
            self.take("ASC")
        return s.OrderItem(line, value, descending)
