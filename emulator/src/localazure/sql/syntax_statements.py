"""The syntax tree of T-SQL statements: changes of rows, control of flow, definitions, service."""

from __future__ import annotations

from dataclasses import dataclass, field

from localazure.sql.results import SqlType
from localazure.sql.syntax_queries import (
    CommonTable,
    Expr,
    Node,
    Parts,
    Query,
    Source,
    Top,
)

# ---- statements --------


@dataclass(slots=True)
class Statement(Node):
    """A statement of a batch; ``batch_text`` is what was written."""

    batch_text: str = field(default="", kw_only=True, compare=False)


@dataclass(slots=True)
class QueryStatement(Statement):
    query: Query


@dataclass(slots=True)
class Insert(Statement):
    target: Parts
    columns: list[str]
    query: Query | None
    rows: list[list[Expr]] | None
    tables: list[CommonTable]
    options: dict[str, str]


@dataclass(slots=True)
class Assignment(Node):
    """``column = value``; op: = += -= ... ; ``parts`` as written."""

    parts: Parts
    op: str
    value: Expr


@dataclass(slots=True)
class Update(Statement):
    target: Parts
    assignments: list[Assignment]
    source: Source | None
    where: Expr | None
    top: Top | None
    tables: list[CommonTable]
    options: dict[str, str]


@dataclass(slots=True)
class Delete(Statement):
    target: Parts
    alias: str | None
    source: Source | None
    where: Expr | None
    top: Top | None
    tables: list[CommonTable]
    options: dict[str, str]


@dataclass(slots=True)
class MergeBranch(Node):
    """match: MATCHED, TARGET (not matched by target), SOURCE; action: UPDATE, DELETE, INSERT."""

    match: str
    condition: Expr | None
    action: str
    assignments: list[Assignment]
    columns: list[str]
    values: list[Expr]


@dataclass(slots=True)
class Merge(Statement):
    target: Parts
    alias: str | None
    source: Source
    on: Expr
    branches: list[MergeBranch]
    tables: list[CommonTable]
    options: dict[str, str]


# ---- procedural --------


@dataclass(slots=True)
class Declare(Statement):
    items: list[tuple[str, SqlType, Expr | None]]


@dataclass(slots=True)
class SetVariable(Statement):
    name: str
    op: str
    value: Expr


@dataclass(slots=True)
class SetOption(Statement):
    """``SET NOCOUNT ON`` and its like; ``value`` in upper case."""

    name: str
    value: str


@dataclass(slots=True)
class Block(Statement):
    statements: list[Statement]


@dataclass(slots=True)
class If(Statement):
    condition: Expr
    then: Statement
    otherwise: Statement | None


@dataclass(slots=True)
class While(Statement):
    condition: Expr
    body: Statement


@dataclass(slots=True)
class Break(Statement):
    pass


@dataclass(slots=True)
class Continue(Statement):
    pass


@dataclass(slots=True)
class Return(Statement):
    """RETURN, with a procedure's status if that is given."""

    value: Expr | None


@dataclass(slots=True)
class WaitFor(Statement):
    """WAITFOR DELAY."""

    delay: Expr


@dataclass(slots=True)
class TryCatch(Statement):
    body: list[Statement]
    handler: list[Statement]


@dataclass(slots=True)
class Throw(Statement):
    number: Expr | None
    message: Expr | None
    state: Expr | None


@dataclass(slots=True)
class RaiseError(Statement):
    message: Expr
    severity: Expr
    state: Expr
    args: list[Expr]
    options: list[str]


@dataclass(slots=True)
class Print(Statement):
    value: Expr


@dataclass(slots=True)
class Execute(Statement):
    """EXEC of a procedure (``name``) or of a string (``text``). An argument is (name or "", value, is output)."""

    name: Parts
    text: Expr | None
    args: list[tuple[str, Expr, bool]]
    result: str | None = None


@dataclass(slots=True)
class Transaction(Statement):
    """kind: begin, commit, rollback."""

    kind: str


# ---- definitions --------


@dataclass(slots=True)
class ColumnDefinition(Node):
    name: str
    type: SqlType
    nullable: bool = True
    identity: tuple[int, int] | None = None
    default: Expr | None = None
    default_text: str = ""
    default_name: str = ""
    collation: str = ""


@dataclass(slots=True)
class KeyDefinition(Node):
    """kind: PRIMARY KEY or UNIQUE; always NOT ENFORCED in a dedicated pool."""

    kind: str
    name: str
    columns: list[str]


@dataclass(slots=True)
class TableOptions(Node):
    """The WITH clause. distribution: HASH, ROUND_ROBIN, REPLICATE; index: COLUMNSTORE, HEAP, CLUSTERED."""

    distribution: str | None = None
    hash_columns: list[str] = field(default_factory=list)
    index: str | None = None
    index_columns: list[str] = field(default_factory=list)
    partition_column: str | None = None
    range_right: bool = False
    boundaries: list[Expr] = field(default_factory=list)


@dataclass(slots=True)
class CreateTable(Statement):
    name: Parts
    columns: list[ColumnDefinition]
    keys: list[KeyDefinition]
    options: TableOptions


@dataclass(slots=True)
class CreateTableAs(Statement):
    """``into``: written as SELECT .. INTO."""

    name: Parts
    columns: list[str]
    options: TableOptions
    query: Query
    into: bool = False


@dataclass(slots=True)
class CreateView(Statement):
    """``text`` is the whole statement as written, ``alter`` for ALTER VIEW, ``replace`` for CREATE OR ALTER.

    distribution: of a materialised view ("HASH, column" or "ROUND_ROBIN"), empty for any other.
    """

    name: Parts
    columns: list[str]
    query: Query
    query_text: str
    text: str
    alter: bool = False
    replace: bool = False
    distribution: str = ""

    @property
    def materialized(self) -> bool:
        return bool(self.distribution)


@dataclass(slots=True)
class ProcedureParameter(Node):
    name: str
    type: SqlType
    default: Expr | None
    output: bool


@dataclass(slots=True)
class CreateProcedure(Statement):
    name: Parts
    parameters: list[ProcedureParameter]
    body: list[Statement]
    text: str
    alter: bool = False
    replace: bool = False


@dataclass(slots=True)
class CreateFunction(Statement):
    """A scalar function (``returns``, ``body``, ``value``: its RETURN) or an inline table (``query``)."""

    name: Parts
    parameters: list[ProcedureParameter]
    returns: SqlType | None
    body: list[Statement]
    value: Expr | None
    query: Query | None
    text: str
    alter: bool = False
    replace: bool = False


@dataclass(slots=True)
class CreateSchema(Statement):
    """owner: of AUTHORIZATION."""

    name: str
    owner: str | None = None


@dataclass(slots=True)
class Drop(Statement):
    """kind: TABLE, VIEW, PROCEDURE, SCHEMA, INDEX, STATISTICS, EXTERNAL TABLE, EXTERNAL DATA SOURCE, ..."""

    kind: str
    names: list[Parts]
    if_exists: bool


@dataclass(slots=True)
class Truncate(Statement):
    name: Parts
    partitions: list[tuple[int, int]]


@dataclass(slots=True)
class Rename(Statement):
    """RENAME OBJECT; ``column`` set when a column is renamed."""

    name: Parts
    column: str | None
    new_name: str


@dataclass(slots=True)
class Transfer(Statement):
    """ALTER SCHEMA .. TRANSFER."""

    schema: str
    name: Parts


@dataclass(slots=True)
class AddColumns(Statement):
    """``defaults``: (constraint, its text, column) of DEFAULT .. FOR."""

    name: Parts
    columns: list[ColumnDefinition]
    keys: list[KeyDefinition]
    defaults: list[tuple[str, str, str]]


@dataclass(slots=True)
class DropColumns(Statement):
    name: Parts
    columns: list[str]
    constraints: list[str]


@dataclass(slots=True)
class AlterColumn(Statement):
    name: Parts
    column: ColumnDefinition


@dataclass(slots=True)
class SwitchPartition(Statement):
    name: Parts
    partition: int | None
    target: Parts
    target_partition: int | None
    truncate_target: bool


@dataclass(slots=True)
class ChangeBoundary(Statement):
    """ALTER TABLE .. SPLIT RANGE / MERGE RANGE."""

    name: Parts
    split: bool
    value: Expr


@dataclass(slots=True)
class Statistics(Statement):
    """CREATE, UPDATE or DROP STATISTICS."""

    action: str
    table: Parts
    name: str | None
    columns: list[str]


@dataclass(slots=True)
class Index(Statement):
    """CREATE INDEX, ALTER INDEX .. REBUILD, DROP INDEX."""

    action: str
    table: Parts
    name: str
    columns: list[str]
    clustered: bool = False


@dataclass(slots=True)
class Administration(Statement):
    """A statement that configures the service and moves no row: kept in the catalogue under (kind, name)."""

    kind: str
    name: str
    options: dict[str, str]


@dataclass(slots=True)
class CreateExternal(Statement):
    """kind: DATA SOURCE, FILE FORMAT; options keyed in upper case."""

    kind: str
    name: str
    options: dict[str, str]


@dataclass(slots=True)
class CreateExternalTable(Statement):
    name: Parts
    columns: list[ColumnDefinition]
    options: dict[str, str]
    query: Query | None
    query_text: str


@dataclass(slots=True)
class CopyColumn(Node):
    name: str
    default: Expr | None
    ordinal: int | None


@dataclass(slots=True)
class CopyInto(Statement):
    name: Parts
    columns: list[CopyColumn]
    locations: list[str]
    options: dict[str, str]


@dataclass(slots=True)
class Explain(Statement):
    statement: Statement


@dataclass(slots=True)
class UseDatabase(Statement):
    name: str
