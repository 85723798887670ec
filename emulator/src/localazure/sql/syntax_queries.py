"""The syntax tree of T-SQL queries: inert dataclasses, one a construct. ``line`` is the 1-based line in the batch.

Names keep the case they were written in; comparing them is the binder's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from localazure.sql.results import SqlType

Parts = tuple[str, ...]


@dataclass(slots=True)
class Node:
    """Anything that stands somewhere in a batch."""

    line: int


# ---- expressions --------


@dataclass(slots=True)
class Expr(Node):
    """A scalar expression or a predicate."""


@dataclass(slots=True)
class Literal(Expr):
    """kind: int, decimal, float, string, nstring, money, binary, null."""

    kind: str
    text: str


@dataclass(slots=True)
class Name(Expr):
    """A column reference of one to four parts."""

    parts: Parts


@dataclass(slots=True)
class Star(Expr):
    """``*`` or ``t.*``."""

    qualifier: Parts


@dataclass(slots=True)
class Variable(Expr):
    """``@x``, or ``@@X`` of the server."""

    name: str


@dataclass(slots=True)
class Unary(Expr):
    """``-x``, ``+x``, ``~x``."""

    op: str
    operand: Expr


@dataclass(slots=True)
class Binary(Expr):
    """Arithmetic, string and bit operators: + - * / % & | ^."""

    op: str
    left: Expr
    right: Expr


@dataclass(slots=True)
class Predicate(Expr):
    """A condition: T-SQL has no boolean values, so a condition is never a value."""


@dataclass(slots=True)
class Compare(Predicate):
    """= <> < > <= >= !< !>."""

    op: str
    left: Expr
    right: Expr


@dataclass(slots=True)
class Logical(Predicate):
    """AND, OR."""

    op: str
    left: Expr
    right: Expr


@dataclass(slots=True)
class Not(Predicate):
    operand: Expr


@dataclass(slots=True)
class IsNull(Predicate):
    operand: Expr
    negated: bool


@dataclass(slots=True)
class Between(Predicate):
    operand: Expr
    low: Expr
    high: Expr
    negated: bool


@dataclass(slots=True)
class In(Predicate):
    operand: Expr
    items: list[Expr]
    query: Query | None
    negated: bool


@dataclass(slots=True)
class Like(Predicate):
    operand: Expr
    pattern: Expr
    escape: Expr | None
    negated: bool


@dataclass(slots=True)
class Exists(Predicate):
    query: Query


@dataclass(slots=True)
class Quantified(Predicate):
    """``x > ALL (SELECT ..)``; quantifier: ALL or ANY."""

    op: str
    left: Expr
    quantifier: str
    query: Query


@dataclass(slots=True)
class Case(Expr):
    operand: Expr | None
    branches: list[tuple[Expr, Expr]]
    otherwise: Expr | None


@dataclass(slots=True)
class Cast(Expr):
    """CAST, TRY_CAST, CONVERT, TRY_CONVERT."""

    operand: Expr
    type: SqlType
    attempt: bool
    style: Expr | None = None


@dataclass(slots=True)
class OrderItem(Node):
    expr: Expr
    descending: bool


@dataclass(slots=True)
class Frame(Node):
    """ROWS or RANGE; bounds as (word, expression): ("UNBOUNDED PRECEDING", None), ("PRECEDING", n), ..."""

    unit: str
    start: tuple[str, Expr | None]
    end: tuple[str, Expr | None] | None


@dataclass(slots=True)
class Window(Node):
    partition: list[Expr]
    order: list[OrderItem]
    frame: Frame | None


@dataclass(slots=True)
class Call(Expr):
    """A function; ``name`` in upper case, ``qualifier`` the schema, or the row source of ``r.filepath(1)``."""

    qualifier: Parts
    name: str
    args: list[Expr]
    distinct: bool = False
    within: list[OrderItem] | None = None
    over: Window | None = None


@dataclass(slots=True)
class Bound(Expr):
    """An argument that is compiled already (`conversions.Value`): what a function's parameter stands for."""

    value: Any


@dataclass(slots=True)
class ScalarQuery(Expr):
    query: Query


@dataclass(slots=True)
class Collate(Expr):
    operand: Expr
    collation: str


@dataclass(slots=True)
class AtTimeZone(Expr):
    operand: Expr
    zone: Expr


@dataclass(slots=True)
class DefaultValue(Expr):
    """The word DEFAULT in VALUES or SET."""


# ---- row sources --------


@dataclass(slots=True)
class Source(Node):
    """Something in FROM."""


@dataclass(slots=True)
class TableSource(Source):
    parts: Parts
    alias: str | None
    columns: list[str]
    hints: list[str]


@dataclass(slots=True)
class DerivedSource(Source):
    query: Query
    alias: str | None
    columns: list[str]


@dataclass(slots=True)
class ValuesSource(Source):
    rows: list[list[Expr]]
    alias: str | None
    columns: list[str]


@dataclass(slots=True)
class WithColumn(Node):
    """A column of OPENJSON's or OPENROWSET's WITH clause; ``path`` a JSON path, ``ordinal`` 1-based in a file."""

    name: str
    type: SqlType
    path: str | None = None
    ordinal: int | None = None
    as_json: bool = False
    collation: str = ""


@dataclass(slots=True)
class FunctionSource(Source):
    """STRING_SPLIT, OPENJSON, GENERATE_SERIES, OPENROWSET..."""

    call: Call
    alias: str | None
    columns: list[str]
    schema: list[WithColumn]
    options: dict[str, Expr] = field(default_factory=dict)


@dataclass(slots=True)
class Join(Source):
    """kind: INNER, LEFT, RIGHT, FULL, CROSS, CROSS APPLY, OUTER APPLY."""

    kind: str
    left: Source
    right: Source
    on: Expr | None


@dataclass(slots=True)
class Pivot(Source):
    source: Source
    aggregate: Call
    column: str
    values: list[str]
    alias: str


@dataclass(slots=True)
class Unpivot(Source):
    source: Source
    value_column: str
    name_column: str
    columns: list[str]
    alias: str


# ---- queries --------


@dataclass(slots=True)
class Item(Node):
    """One item of a select list; ``assign`` is (variable, operator) for ``SELECT @x = ..``."""

    expr: Expr
    alias: str | None
    assign: tuple[str, str] | None = None
    written: str = ""


@dataclass(slots=True)
class Top(Node):
    count: Expr
    percent: bool
    ties: bool


@dataclass(slots=True)
class Grouping(Node):
    """kind: PLAIN, ROLLUP, CUBE, SETS; every set is a list of expressions."""

    kind: str
    sets: list[list[Expr]]


@dataclass(slots=True)
class Select(Node):
    distinct: bool
    top: Top | None
    items: list[Item]
    into: Parts | None
    source: Source | None
    where: Expr | None
    groups: list[Grouping]
    having: Expr | None


@dataclass(slots=True)
class SetOperation(Node):
    """op: UNION, UNION ALL, EXCEPT, INTERSECT."""

    op: str
    left: Select | SetOperation | Query
    right: Select | SetOperation | Query


@dataclass(slots=True)
class CommonTable(Node):
    name: str
    columns: list[str]
    query: Query


@dataclass(slots=True)
class Query(Node):
    """``form``: XML or JSON of FOR .. at its end."""

    body: Select | SetOperation | Query
    tables: list[CommonTable] = field(default_factory=list)
    order: list[OrderItem] = field(default_factory=list)
    offset: Expr | None = None
    fetch: Expr | None = None
    options: dict[str, str] = field(default_factory=dict)
    form: str = ""


def reads_rows(node: object) -> bool:
    """Whether a query stands anywhere in it."""
    stack = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, Query):
            return True
        if isinstance(item, Node):
            stack += [getattr(item, slot) for base in type(item).__mro__ for slot in getattr(base, "__slots__", ())]
        elif isinstance(item, list | tuple):
            stack += item
    return False
