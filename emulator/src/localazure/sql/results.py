"""What a session answers: the values that pass between the SQL engine and the TDS server.

Nothing here knows DuckDB or a wire format. Types are named as Transact-SQL names them:
https://learn.microsoft.com/en-us/sql/t-sql/data-types/data-types-transact-sql
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class SqlType:
    """A Transact-SQL type.

    name: bit tinyint smallint int bigint decimal money real float char varchar nchar nvarchar binary varbinary date
    time datetime datetime2 smalldatetime datetimeoffset uniqueidentifier.
    length: characters for n-types, bytes otherwise; -1 means max; None where the type has none.
    precision, scale: of decimal; scale alone is the fractional seconds of time, datetime2 and datetimeoffset.
    """

    name: str
    length: int | None = None
    precision: int | None = None
    scale: int | None = None

    def __str__(self) -> str:
        """The type as T-SQL writes it: ``varchar(20)``, ``decimal(10,2)``, ``datetime2(6)``."""
        if self.length is not None:
            return f"{self.name}({'max' if self.length == -1 else self.length})"
        if self.precision is not None and self.name == "decimal":
            return f"{self.name}({self.precision},{self.scale or 0})"
        if self.scale is not None and self.name in {"time", "datetime2", "datetimeoffset"}:
            return f"{self.name}({self.scale})"
        return self.name


@dataclass(frozen=True)
class Column:
    """One column of a result set; ``name`` is empty for an unnamed expression, as in T-SQL."""

    name: str
    type: SqlType
    nullable: bool = True


@dataclass(frozen=True)
class ResultSet:
    """Rows. The Arrow table's columns stand in the order of ``columns`` and already have the wire's types.

    bit bool, tinyint uint8, smallint int16, int int32, bigint int64, decimal and money decimal128, real float32,
    float float64, every character type string, binary and uniqueidentifier as binary and string, date date32,
    time time64[us], datetime and datetime2 and smalldatetime timestamp[us], datetimeoffset timestamp[us, UTC].
    """

    columns: tuple[Column, ...]
    table: pa.Table


@dataclass(frozen=True)
class RowsAffected:
    """A statement that returns no rows ended; ``count`` is None where T-SQL reports no count (DDL, SET)."""

    count: int | None


@dataclass(frozen=True)
class Message:
    """PRINT, RAISERROR below severity 11, and warnings."""

    number: int
    state: int
    severity: int
    text: str
    line: int = 1


@dataclass(frozen=True)
class TransactionChange:
    """A transaction began or ended inside a batch; the wire tells the client by ENVCHANGE."""

    kind: Literal["begin", "commit", "rollback"]


@dataclass(frozen=True)
class DatabaseChange:
    """USE led to another database; the wire tells the client by ENVCHANGE."""

    name: str
    old: str


@dataclass(frozen=True)
class Parameter:
    """A bound parameter. ``name`` starts with @; ``value`` is a Python value or None."""

    name: str
    type: SqlType
    value: object
    output: bool = False


class SqlError(Exception):
    """An error as a SQL pool reports it.

    number: the vendor's message number (sys.messages); state, severity: as on the wire (severity 16 is the user's
    error); line: 1-based line of the failing statement in the batch.
    https://learn.microsoft.com/en-us/sql/relational-databases/errors-events/database-engine-events-and-errors
    """

    def __init__(
        self,
        number: int,
        message: str,
        *,
        state: int = 1,
        severity: int = 16,
        line: int = 1,
        procedure: str = "",
    ) -> None:
        super().__init__(message)
        self.number = number
        self.message = message
        self.state = state
        self.severity = severity
        self.line = line
        self.procedure = procedure

    def __str__(self) -> str:
        return f"Msg {self.number}, Level {self.severity}, State {self.state}, Line {self.line}: {self.message}"


Result = ResultSet | RowsAffected | Message | TransactionChange | DatabaseChange
