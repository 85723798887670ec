"""COPY INTO: files of the lake into a table, by position, all or nothing.

https://learn.microsoft.com/en-us/sql/t-sql/statements/copy-into-transact-sql
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.binding import Scope
from localazure.sql.catalog import Table, TableColumn, quote
from localazure.sql.changes import ChangeCompiler, stored
from localazure.sql.conversions import Value
from localazure.sql.files import (
    DelimitedText,
    ParquetRows,
    local_files,
    parse_delimiter,
    read_parquet,
    read_text,
    unreadable,
)
from localazure.sql.results import Result, RowsAffected, SqlError, SqlType
from localazure.sql.sqltypes import from_arrow, with_length

if TYPE_CHECKING:
    from localazure.sql.interpreter import Frame
    from localazure.sql.pool import Session

_OPTIONS = frozenset(
    {
        "FILE_TYPE",
        "FILE_FORMAT",
        "FIELDQUOTE",
        "FIELDTERMINATOR",
        "ROWTERMINATOR",
        "FIRSTROW",
        "DATEFORMAT",
        "ENCODING",
        "MAXERRORS",
        "ERRORFILE",
        "COMPRESSION",
        "IDENTITY_INSERT",
        "AUTO_CREATE_TABLE",
        "CREDENTIAL",
        "ERRORFILE_CREDENTIAL",
    }
)
_PARALLEL = 8
_DATE_STYLES = {"": None, "mdy": 101, "dmy": 103, "ymd": None}  # ymd is how every style reads ISO dates


def copy_into(session: Session, statement: s.CopyInto, frame: Frame) -> Result:
    """Load every file; RowsAffected counts the rows that arrived.

    MAXERRORS rows may be rejected; one more and the whole statement fails (error 13812-family) with nothing loaded.
    """
    line = statement.line
    for key in statement.options:
        if key.split(".")[0] not in _OPTIONS | {"OPTION"}:
            raise errors.not_implemented(f"COPY INTO option {key}", line)
    if statement.options.get("AUTO_CREATE_TABLE", "OFF").upper() == "ON":
        raise errors.not_implemented("COPY INTO option AUTO_CREATE_TABLE", line)
    compiler = session.compiler(frame)
    table = compiler.target(statement.name, line)
    compiler.context.demand("INSERT", statement.name, table, line)
    if statement.options.get("IDENTITY_INSERT", "OFF").upper() == "ON":
        compiler.identity_insert = f"{table.schema}.{table.name}".lower()
    file_type, layout = _layout(session, statement)
    columns = _columns(statement, table, compiler)
    with ThreadPoolExecutor(_PARALLEL) as workers:  # the storage answers several requests at once
        fetched = list(workers.map(lambda uri: local_files(session.pool, uri, line), statement.locations))
    files = [file for some in fetched for file in some]
    most = int(statement.options.get("MAXERRORS", "0"))
    rejected = 0
    pieces: Sequence[pa.Table | ParquetRows]
    if file_type == "PARQUET":
        pieces = read_parquet(files, line)
    else:
        read = [read_text(file, layout, line, len(columns)) for file in files]
        rejected = sum(bad for _, bad in read)
        texts = [piece for piece, _ in read]
        pieces = [pa.concat_tables(texts)] if len({piece.schema for piece in texts}) == 1 else texts
    count = 0
    session.check_cancelled(line)
    with session.pool.catalog.change(session.cursor):
        for piece in pieces:
            loaded, bad = _load(
                session, compiler, table, columns, piece=piece, statement=statement, allowed=most - rejected
            )
            count, rejected = count + loaded, rejected + bad
            if rejected > most:
                raise _too_many(table, rejected, most, line)
        if rejected and "ERRORFILE" in statement.options:
            raise errors.not_implemented("ERRORFILE with rejected rows", line)
    return RowsAffected(count)


def _too_many(table: Table, rejected: int, most: int, line: int) -> SqlError:
    return SqlError(
        107090,
        f"HdfsBridge::recordReaderFillBuffer - Unexpected error encountered filling record reader buffer: COPY INTO "
        f"{table.schema}.{table.name}: {rejected} rows were rejected, MAXERRORS is {most}.",
        line=line,
    )


def _layout(session: Session, statement: s.CopyInto) -> tuple[str, DelimitedText]:
    options = dict(statement.options)
    line = statement.line
    file_type = options.get("FILE_TYPE", "CSV").upper()
    if "FILE_FORMAT" in options:
        found = session.pool.catalog.setting("FILE FORMAT", options["FILE_FORMAT"])
        if found is None:
            raise SqlError(46541, f"External file format '{options['FILE_FORMAT']}' does not exist.", line=line)
        file_type, layout = format_layout(found.options, line)
        return file_type, layout
    if file_type not in {"CSV", "PARQUET"}:
        raise errors.not_implemented(f"FILE_TYPE = '{file_type}'", line)
    encoding = {"UTF8": "utf-8", "UTF16": "utf-16"}.get(options.get("ENCODING", "UTF8").upper())
    if encoding is None:
        raise SqlError(
            103010, f"Parse error at line: {line}: ENCODING = '{options['ENCODING']}' is not valid.", line=line
        )
    return file_type, DelimitedText(
        field=parse_delimiter(options.get("FIELDTERMINATOR", ",")),
        row=parse_delimiter(options.get("ROWTERMINATOR", "")),
        quote=parse_delimiter(options.get("FIELDQUOTE", '"')),
        first_row=int(options.get("FIRSTROW", "1")),
        encoding=encoding,
        compression=options.get("COMPRESSION", ""),
    )


def format_layout(options: dict[str, str], line: int) -> tuple[str, DelimitedText]:
    """(PARQUET or CSV, layout) of an external file format."""
    kind = options.get("FORMAT_TYPE", "").upper()
    if kind == "PARQUET":
        return "PARQUET", DelimitedText()
    if kind != "DELIMITEDTEXT":
        raise errors.not_implemented(f"FORMAT_TYPE = {kind}", line)
    codec = options.get("DATA_COMPRESSION", "")
    return "CSV", DelimitedText(
        field=parse_delimiter(options.get("FORMAT_OPTIONS.FIELD_TERMINATOR", "|")),
        quote=parse_delimiter(options.get("FORMAT_OPTIONS.STRING_DELIMITER", "")),
        first_row=int(options.get("FORMAT_OPTIONS.FIRST_ROW", "1")),
        compression="GZIP" if "gzip" in codec.lower() else "",
    )


def _columns(
    statement: s.CopyInto, table: Table, compiler: ChangeCompiler
) -> list[tuple[TableColumn, int, s.Expr | None]]:
    """(column, 1-based field, default) of every column that the load fills."""
    if not statement.columns:
        given = compiler.identity_insert != ""
        plain = [column for column in table.columns if column.identity is None or given]
        return [(column, index, None) for index, column in enumerate(plain, 1)]
    found = []
    for index, wanted in enumerate(statement.columns, 1):
        column = table.column(wanted.name)
        if column is None:
            raise errors.invalid_column(wanted.name, wanted.line)
        found.append((column, wanted.ordinal or index, wanted.default))
    return found


def _load(
    session: Session,
    compiler: ChangeCompiler,
    table: Table,
    columns: list[tuple[TableColumn, int, s.Expr | None]],
    *,
    piece: pa.Table | ParquetRows,
    statement: s.CopyInto,
    allowed: int,
) -> tuple[int, int]:
    """(rows loaded, rows rejected) of one file."""
    line = statement.line
    width = max(field for _, field, _ in columns)
    if piece.num_columns < width:
        raise SqlError(
            107090,
            f"COPY INTO {table.schema}.{table.name}: the file has {piece.num_columns} columns, the statement needs "
            f"{width}.",
            line=line,
        )
    if not statement.columns and piece.num_columns > width:
        raise SqlError(
            107090,
            f"COPY INTO {table.schema}.{table.name}: the file has {piece.num_columns} columns, the table has {width}.",
            line=line,
        )
    date_format = statement.options.get("DATEFORMAT", "").lower()
    if date_format not in _DATE_STYLES:
        raise errors.not_implemented(f"DATEFORMAT = '{date_format}'", line)
    style = _DATE_STYLES[date_format]
    values: list[str] = []
    tests: list[str] = []
    for column, field, default in columns:
        kind = from_arrow(piece.schema.field(field - 1).type, line)
        source = f"d.{quote(f'd{field}')}"
        value, failed = _field(compiler, Value(source, kind), column, style, line)
        if default is not None:
            value = f"coalesce({value}, {stored(compiler.value(default, Scope()), column, line)})"
        elif column.default:
            value = f"coalesce({value}, {compiler.default(column, table, line)})"
        values.append(value)
        if failed:
            tests.append(failed)
    missing = [column for column in table.columns if column not in [c for c, _, _ in columns]]
    values += [compiler.default(column, table, line) for column in missing]
    names = ", ".join(quote(column.name) for column in [*[c for c, _, _ in columns], *missing])
    renamed = piece.rename_columns([f"d{index}" for index in range(1, piece.num_columns + 1)])
    where, bad = "", 0
    with session.attached({"loaded$rows": renamed}):
        if tests and statement.options.get("FILE_TYPE", "CSV").upper() != "PARQUET":
            condition = " OR ".join(tests)
            found = session.cursor.execute(f'SELECT count(*) FROM "loaded$rows" AS d WHERE {condition}').fetchall()
            bad = int(found[0][0])
            if bad > allowed:
                _explain(session, columns, tests, table, bad=bad, allowed=allowed, line=line)
            if bad:
                where = f" WHERE NOT coalesce({condition}, false)"
        sql = f'INSERT INTO {table.physical} ({names}) SELECT {", ".join(values)} FROM "loaded$rows" AS d{where}'
        parameters = session.values(frozenset(compiler.context.parameters), _frame())
        try:
            done = session.cursor.execute(sql, parameters or None).fetchall()
        except duckdb.Error:
            if isinstance(piece, ParquetRows) and piece.error is not None:
                raise unreadable(*piece.error, line) from piece.error[1]
            raise
    return (int(done[0][0]) if done else 0), bad


def _field(
    compiler: ChangeCompiler, value: Value, column: TableColumn, style: int | None, line: int
) -> tuple[str, str]:
    """(the column's value, a condition that holds where a field can't be converted)."""
    from localazure.sql.conversions import convert

    kind = with_length(column.type, 1)
    if value.type.name not in {"varchar", "nvarchar"}:
        return stored(value, column, line), ""
    if kind.name in {"char", "varchar", "nchar", "nvarchar"}:
        too_long = f"length(rtrim({value.sql}, ' ')) > {kind.length}" if kind.length != -1 else ""
        plain = replace(column, type=SqlType("varchar", kind.length)) if kind.name in {"char", "nchar"} else column
        return stored(value, plain, line), too_long
    tried = convert(
        value,
        kind,
        line,
        attempt=True,
        style=style if kind.name in {"date", "datetime", "datetime2", "smalldatetime"} else None,
    )
    if kind.name in {"int", "bigint", "smallint", "tinyint", "float", "real", "bit"}:  # '' is no number in a file
        return tried.sql, f"({value.sql} IS NOT NULL AND ({tried.sql} IS NULL OR trim({value.sql}) = ''))"
    return tried.sql, f"({value.sql} IS NOT NULL AND ({tried.sql}) IS NULL)"


def _explain(
    session: Session,
    columns: list[tuple[TableColumn, int, s.Expr | None]],
    tests: list[str],
    table: Table,
    *,
    bad: int,
    allowed: int,
    line: int,
) -> None:
    """Name the first column whose field can't be converted, and the field."""
    for column, field, _ in columns:
        source = f"d.{quote(f'd{field}')}"
        test = next((test for test in tests if source in test), None)
        if test is None:
            continue
        found = session.cursor.execute(f'SELECT {source} FROM "loaded$rows" AS d WHERE {test} LIMIT 1').fetchall()
        if found:
            raise SqlError(
                107090,
                "HdfsBridge::recordReaderFillBuffer - Unexpected error encountered filling record reader buffer: "
                "COPY INTO "
                f"{table.schema}.{table.name}: {bad} rows were rejected, MAXERRORS is {max(allowed, 0)}. Column "
                f"ordinal: {field - 1}, column "
                f"'{column.name}', expected data type: {str(column.type).upper()}. Offending value: "
                f"{str(found[0][0])[:100]}",
                line=line,
            )


def _frame() -> Frame:
    from localazure.sql.interpreter import Frame

    return Frame()
