"""A session over a plain in-memory DuckDB: enough SQL to test the wire without the T-SQL engine."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from localazure.sql.results import (
    Column,
    Message,
    Parameter,
    Result,
    ResultSet,
    RowsAffected,
    SqlError,
    SqlType,
    TransactionChange,
)

_SPIDS = itertools.count(51)


def sql_type(kind: pa.DataType) -> SqlType:
    """The T-SQL type of an Arrow type."""
    if pa.types.is_decimal(kind):
        return SqlType("decimal", precision=kind.precision, scale=kind.scale)
    if pa.types.is_timestamp(kind):
        return SqlType("datetimeoffset" if kind.tz else "datetime2", scale=6)
    if pa.types.is_time(kind):
        return SqlType("time", scale=6)
    names = {
        pa.bool_(): "bit", pa.uint8(): "tinyint", pa.int16(): "smallint", pa.int32(): "int", pa.int64(): "bigint",
        pa.float32(): "real", pa.float64(): "float", pa.date32(): "date",
    }  # fmt: skip
    if kind in names:
        return SqlType(names[kind])
    return SqlType("varbinary", length=-1) if pa.types.is_binary(kind) else SqlType("nvarchar", length=4000)


_REPLACED = (
    (r"\bN'", "'"),
    (r"(?<![\w@])@(\w+)", r"$\1"),
    (r"\[([^\]]+)\]", r'"\1"'),
    (r"\bn?(var)?char\s*\((\d+|max)\)", "varchar"),
    (r"\b(var)?binary\s*\((\d+|max)\)", "blob"),
    (r"\bdatetime2?(\(\d\))?(?!\w)", "timestamp"),
    (r"\btime\(\d\)", "time"),
    (r"\bbit\b", "boolean"),
    (r"\bfloat\b", "double"),
    (r'("dbo"|\bdbo)\.', ""),
)


def _duckdb(statement: str) -> str:
    for pattern, replacement in _REPLACED:
        statement = re.sub(pattern, replacement, statement, flags=re.IGNORECASE)
    return statement


class StandIn:
    """DuckDB's own dialect, with N'' literals and @parameters understood, and errors told by T-SQL numbers."""

    def __init__(self, root: duckdb.DuckDBPyConnection, login: str, application: str, host: str) -> None:
        self.spid = next(_SPIDS)
        self.database = "azflow"
        self.login = login
        self.transaction_count = 0
        self.on_disconnect = None
        self._db = root.cursor()
        self._stop = threading.Event()

    def execute(self, batch: str, parameters: Sequence[Parameter] = ()) -> Iterator[Result]:
        self._stop.clear()
        values = {p.name[1:]: p.value for p in parameters}
        for statement in filter(str.strip, batch.split(";")):
            yield from self._one(statement.strip(), values)

    def _one(self, statement: str, values: dict[str, object]) -> Iterator[Result]:
        word = statement.split(maxsplit=1)[0].upper()
        if statement.upper() == "SELECT @@TRANCOUNT":
            table = pa.table([pa.array([self.transaction_count], pa.int32())], names=[""])
            yield ResultSet((Column("", SqlType("int")),), table)
        elif word == "PRINT":
            yield Message(0, 1, 0, statement.split("'")[1])
        elif word == "WAITFOR":
            # Seconds, in steps that a cancel can end.
            for _ in range(int(float(statement.split("'")[1]) * 100)):
                time.sleep(0.01)
                if self._stop.is_set():
                    raise SqlError(3617, "Operation cancelled by user.")
        elif match := re.match(r"(BEGIN|COMMIT|ROLLBACK)\b(?:\s+TRAN)", statement, re.IGNORECASE):
            kind = match[1].lower()
            getattr(self, kind)()
            yield TransactionChange(kind)  # type: ignore[arg-type]
        elif word == "SET":
            yield RowsAffected(None)
        else:
            yield self._query(statement, values)

    def _query(self, statement: str, values: dict[str, object]) -> Result:
        statement = _duckdb(statement)
        used = {name: value for name, value in values.items() if f"${name}" in statement}
        try:
            if not re.match(r"\s*(SELECT|WITH|VALUES)", statement, re.IGNORECASE):
                changed = self._db.execute(statement, used or None)
                writes = statement.split(maxsplit=1)[0].upper() in {"INSERT", "UPDATE", "DELETE"}
                return RowsAffected(changed.fetchall()[0][0] if writes else None)
            table = self._db.sql(statement, params=used or None).to_arrow_table()
        except duckdb.InterruptException:
            raise SqlError(3617, "Operation cancelled by user.") from None
        except duckdb.CatalogException:
            raise SqlError(208, "Invalid object name 'nowhere'.") from None
        except duckdb.ConstraintException:
            raise SqlError(2627, "Violation of PRIMARY KEY constraint.", severity=14) from None
        except duckdb.ConversionException:
            raise SqlError(
                245,
                "Conversion failed when converting the varchar value to data type int.",
            ) from None
        except duckdb.Error as error:
            raise SqlError(102, str(error), severity=15) from None
        return ResultSet(
            tuple(Column(n, sql_type(f.type)) for n, f in zip(table.column_names, table.schema, strict=True)),
            table,
        )

    def describe(self, batch: str, parameters: Sequence[Parameter] = ()) -> tuple[Column, ...]:
        if not re.match(r"\s*SELECT", batch, re.IGNORECASE):
            return ()
        result = next(self.execute(batch, parameters))
        return result.columns if isinstance(result, ResultSet) else ()

    def begin(self) -> None:
        self._db.execute("BEGIN")
        self.transaction_count = 1

    def commit(self) -> None:
        self._db.execute("COMMIT")
        self.transaction_count = 0

    def rollback(self) -> None:
        if self.transaction_count:
            self._db.execute("ROLLBACK")
        self.transaction_count = 0

    def cancel(self) -> None:
        self._stop.set()
        self._db.interrupt()

    def bulk_load(self, table: str, columns: Sequence[str], data: pa.Table) -> int:
        self._db.register("rows_of_bulk", data)
        try:
            self._db.execute(f"INSERT INTO {_duckdb(table)} ({', '.join(columns)}) SELECT * FROM rows_of_bulk")
        except duckdb.ConstraintException:
            raise SqlError(2627, "Violation of PRIMARY KEY constraint.", severity=14) from None
        except duckdb.Error as error:
            raise SqlError(208, str(error)) from None
        finally:
            with contextlib.suppress(duckdb.Error):
                self._db.unregister("rows_of_bulk")
        return data.num_rows

    def close(self) -> None:
        self.rollback()
        self._db.close()
