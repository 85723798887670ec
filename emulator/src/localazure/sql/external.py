"""External data sources, file formats and tables, and CETAS.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/develop-tables-external-tables
https://learn.microsoft.com/en-us/sql/t-sql/statements/create-external-table-as-select-transact-sql
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.csv

from localazure.core.errors import AzureError
from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.catalog import Setting, Table, TableColumn, now, quote, renumbered
from localazure.sql.conversions import Value, convert
from localazure.sql.files import local_files, read_parquet, read_text
from localazure.sql.lake import list_files
from localazure.sql.load import format_layout
from localazure.sql.results import Result, RowsAffected, SqlError
from localazure.sql.sqltypes import arrow, from_arrow, with_length

if TYPE_CHECKING:
    from localazure.sql.interpreter import Frame
    from localazure.sql.pool import Pool, Session


def create(session: Session, statement: s.CreateExternal, frame: Frame) -> Result:
    """CREATE EXTERNAL DATA SOURCE or FILE FORMAT."""
    catalog = session.pool.catalog
    line = statement.line
    if catalog.setting(statement.kind, statement.name) is not None:
        raise SqlError(
            46502, f"External {statement.kind.lower()} with name '{statement.name}' already exists.", line=line
        )
    if statement.kind == "DATA SOURCE":
        if "LOCATION" not in statement.options:
            raise errors.syntax("WITH", line)
        credential = statement.options.get("CREDENTIAL")
        if (
            credential
            and catalog.setting("DATABASE SCOPED CREDENTIAL", credential) is None
            and session.pool.kind.name == "dedicated"
        ):
            # a private lake is open to its owner, but in a dedicated pool the credential must exist
            _note_missing_credential(session, credential, line)
    elif statement.options.get("FORMAT_TYPE", "").upper() != "DELTA" or session.pool.kind.tables:
        format_layout(statement.options, line)
    with catalog.change(session.cursor) as change:
        change.put_setting(Setting(statement.kind, statement.name, statement.options, catalog.new_id()))
    return RowsAffected(None)


def _note_missing_credential(session: Session, credential: str, line: int) -> None:
    raise SqlError(
        15151,
        f"Cannot find the credential '{credential}', because it does not exist or you do not have permission.",
        line=line,
    )


def location(pool: Pool, options: dict[str, str], line: int) -> str:
    """The URI of an external table: its data source's location and its own path."""
    name = options.get("DATA_SOURCE", "")
    source = pool.catalog.setting("DATA SOURCE", name)
    if source is None:
        raise SqlError(46525, f"External data source '{name}' was not found.", line=line)
    return source.options["LOCATION"].rstrip("/") + "/" + options.get("LOCATION", "").lstrip("/")


def file_format(pool: Pool, options: dict[str, str], line: int) -> dict[str, str]:
    name = options.get("FILE_FORMAT", "")
    found = pool.catalog.setting("FILE FORMAT", name)
    if found is None:
        raise SqlError(46526, f"External file format '{name}' was not found.", line=line)
    return found.options


def create_table(session: Session, statement: s.CreateExternalTable, frame: Frame) -> Result:
    """An external table over files, or with AS SELECT the files as well (CETAS)."""
    from localazure.sql.table_parts import column_of, place

    pool, line, options = session.pool, statement.line, dict(statement.options)
    schema, name = place(session, statement.name, line)
    uri = location(pool, options, line)
    layout = file_format(pool, options, line)
    count: int | None = None
    if statement.query is None:
        columns = [column_of(definition) for definition in statement.columns]
    else:
        columns, count = _export(session, statement, frame, uri, layout)
    stamp = now()
    table = Table(
        pool.catalog.new_id(), schema, name, stamp, stamp, renumbered(tuple(columns)), index="HEAP", external=options
    )
    with pool.catalog.change(session.cursor) as change:
        change.put(table)
    return RowsAffected(count)


def _export(
    session: Session, statement: s.CreateExternalTable, frame: Frame, uri: str, layout: dict[str, str]
) -> tuple[list[TableColumn], int]:
    """Run the query and write its rows below the location; files that are there stay, as in a dedicated pool."""
    from localazure.sql.running import conformed
    from localazure.storage.locations import parse

    line, pool = statement.line, session.pool
    query = statement.query
    if query is None or pool.blobs is None:
        raise SqlError(13807, "This pool has no storage account.", line=line)
    compiler = session.compiler(frame)
    compiled = compiler.query(query, None)
    compiler.context.check_mixed(line)
    if pool.server is not None:
        _check_export(pool, uri, line)
    names = [column.name for column in compiled.columns]
    for position, name in enumerate(names, 1):
        if not name:
            raise SqlError(
                1038,
                f"An object or column name is missing or empty: column {position} of the SELECT needs an alias.",
                line=line,
            )
    parameters = session.values(frozenset(compiler.context.parameters), frame)
    table = conformed(
        session.fetch(compiled.sql, parameters, compiler.context.attachments, line), compiled.columns
    ).rename_columns(names)
    kind, text = format_layout(layout, line)
    with tempfile.TemporaryDirectory(prefix="cetas-") as folder:
        stamp = datetime.now(UTC).strftime("%Y%m%d_%H%M%S_%f")
        file = Path(folder) / f"QID{statement.line}_{stamp}_0.{'parquet' if kind == 'PARQUET' else 'txt'}"
        if kind == "PARQUET":
            codec = "snappy" if "snappy" in layout.get("DATA_COMPRESSION", "").lower() else "none"
            if "gzip" in layout.get("DATA_COMPRESSION", "").lower():
                codec = "gzip"
            from pyarrow import parquet  # some megabytes: for those who write it

            parquet.write_table(table, file, compression=codec, coerce_timestamps="us")
        else:
            quoting = "all_valid" if text.quote else "none"
            options = pyarrow.csv.WriteOptions(include_header=False, delimiter=text.field, quoting_style=quoting)
            pyarrow.csv.write_csv(table, file, options)
        session.usage.written += file.stat().st_size
        try:
            pool.blobs.upload_tree(Path(folder), parse(uri, pool.settings))
        except AzureError as error:
            raise SqlError(
                105005,
                f"CREATE EXTERNAL TABLE AS SELECT statement failed as the path name '{uri}' could not be used for "
                "export. "
                f"{error.message}",
                line=line,
            ) from error
    columns = [TableColumn(column.name, with_length(column.type, 1), column.nullable) for column in compiled.columns]
    return columns, table.num_rows


def _check_export(pool: Pool, uri: str, line: int) -> None:
    """A serverless pool exports into a new folder alone.

    https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/develop-tables-cetas
    """
    if "*" in uri:
        raise SqlError(
            15841, f"External table location cannot contain wildcard characters. Location provided: '{uri}'", line=line
        )
    if list_files(pool, uri, line, recursive=True):
        raise SqlError(
            15842,
            f"Cannot create external table. External table location already exists. Location provided: '{uri}'",
            line=line,
        )


def read_table(pool: Pool, table: Table) -> pa.Table:
    """The rows of an external table, by position, in its declared types."""
    options = table.external or {}
    uri = location(pool, options, 1)
    kind, layout = format_layout(file_format(pool, options, 1), 1)
    pieces: list[pa.Table] = []
    for file in local_files(pool, uri, 1):
        if kind == "PARQUET":
            piece = read_parquet([file], 1)[0].read(1)
        else:
            piece = read_text(file, layout, 1, len(table.columns))[0]
        if piece.num_columns != len(table.columns):
            raise SqlError(
                13812,
                f"External table '{table.schema}.{table.name}' has {len(table.columns)} columns, the file "
                f"'{file.name}' has "
                f"{piece.num_columns}.",
            )
        pieces.append(_typed(pool, piece, table.columns))
    return pa.concat_tables(pieces)


def _typed(pool: Pool, piece: pa.Table, columns: tuple[TableColumn, ...]) -> pa.Table:
    """A file's columns converted as CAST converts them, by DuckDB, off to the side."""
    wanted = [arrow(with_length(column.type, 1)) for column in columns]
    names = [column.name for column in columns]
    if all(field.type == kind for field, kind in zip(piece.schema, wanted, strict=True)):
        return piece.rename_columns(names)
    items = []
    for index, column in enumerate(columns):
        value = Value(f'd."d{index}"', from_arrow(piece.schema.field(index).type, 1))
        items.append(f"{convert(value, with_length(column.type, 1), 1, explicit=False).sql} AS {quote(column.name)}")
    cursor = pool.engine.connection.cursor()
    try:
        cursor.register("external$rows", piece.rename_columns([f"d{index}" for index in range(len(columns))]))
        done = cursor.sql(f'SELECT {", ".join(items)} FROM "external$rows" AS d').to_arrow_table()
    except duckdb.Error as error:
        why = errors.from_duckdb(error, 1).message
        if pool.kind.tables:
            raise SqlError(
                107090,
                "HdfsBridge::recordReaderFillBuffer - Unexpected error encountered filling record reader buffer: "
                f"{why}",
            ) from error
        raise SqlError(13812, f"The file's columns don't have the external table's types: {why}") from error
    finally:
        cursor.close()
    arrays = [
        column if column.type == kind else column.cast(kind) for column, kind in zip(done.columns, wanted, strict=True)
    ]
    return pa.Table.from_arrays(arrays, names=names)
