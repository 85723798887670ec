"""How a serverless pool reads a file's columns: Parquet (Delta's too) and delimited text.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/develop-openrowset
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from localazure.sql import errors
from localazure.sql.conversions import Value, implicit
from localazure.sql.files import DelimitedText, read_rows
from localazure.sql.lake import LakeFile
from localazure.sql.results import SqlError, SqlType
from localazure.sql.sqltypes import arrow

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_BATCH_ROWS = 131_072


def open_parquet(file: LakeFile, path: Path) -> ParquetFile:
    """The file; SqlError 15813 when it isn't Parquet. INT96 (Spark's timestamps) in microseconds."""
    from pyarrow.parquet import ParquetFile  # some megabytes: for those who read it

    try:
        return ParquetFile(path, coerce_int96_timestamp_unit="us")
    except (pa.ArrowException, OSError) as error:
        raise SqlError(
            15813, f"Error handling external file: '{_first_line(error)}'. File/External table name: '{file.uri}'."
        ) from error


@dataclass
class ParquetReader:
    """columns: the scan's name -> (the file's name, the type that the scan has it in)."""

    columns: dict[str, tuple[str, pa.DataType]]

    def bytes_of(self, file: LakeFile, path: Path, names: Sequence[str]) -> int:
        """The compressed column chunks, and the footer."""
        footer = open_parquet(file, path).metadata
        wanted = {self.columns[name][0] for name in names}
        total = int(footer.serialized_size)
        for group in range(footer.num_row_groups):
            found = footer.row_group(group)
            for index in range(found.num_columns):
                chunk = found.column(index)
                if chunk.path_in_schema in wanted or chunk.path_in_schema.split(".")[0] in wanted:
                    total += int(chunk.total_compressed_size)
        return total

    def batches(self, file: LakeFile, path: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        opened = open_parquet(file, path)
        present = set(opened.schema_arrow.names)
        wanted = [self.columns[name] for name in names]
        read = [name for name, _ in wanted if name in present]
        if not read:
            # Metadata alone says how many rows there are.
            rows = opened.metadata.num_rows
            yield pa.RecordBatch.from_arrays(
                [pa.nulls(rows, kind) for _, kind in wanted] or [pa.nulls(rows)], names=list(names) or ["rows"]
            )
            return
        for batch in opened.iter_batches(_BATCH_ROWS, columns=list(dict.fromkeys(read))):
            arrays = []
            for name, kind in wanted:
                if name not in present:
                    arrays.append(pa.nulls(batch.num_rows, kind))
                    continue
                arrays.append(self._cast(batch.column(name), name, kind, file))
            yield pa.RecordBatch.from_arrays(arrays, names=list(names))

    def _cast(self, column: pa.Array, name: str, kind: pa.DataType, file: LakeFile) -> pa.Array:
        """Files of one location may differ; what can't become the first one's type is error 15814."""
        if column.type == kind:
            return column
        try:
            return column.cast(kind)
        except pa.ArrowException as error:
            raise SqlError(
                15814,
                f"Column '{name}' of type '{kind}' is not compatible with external data type '{column.type}'. "
                f"File/External table name: '{file.uri}'.",
            ) from error


@dataclass
class TextReader:
    """Delimited text. columns: the scan's name -> (0-based ordinal, column name, declared type)."""

    connection: duckdb.DuckDBPyConnection
    layout: DelimitedText
    columns: dict[str, tuple[int, str, SqlType]]
    header: bool = False
    max_errors: int = 0
    parser: str = "1.0"
    rejected: dict[str, int] = field(default_factory=dict)

    def bytes_of(self, file: LakeFile, path: Path, names: Sequence[str]) -> int:
        """Text is read whole, whatever is asked of it."""
        return file.size

    def batches(self, file: LakeFile, path: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        rows = read_rows(path, self.layout)
        if self.header:
            rows = rows.slice(1)
        if not names:
            yield pa.RecordBatch.from_arrays([pa.nulls(rows.num_rows)], names=["rows"])
            return
        wanted = [self.columns[name] for name in names]
        texts = [
            rows.column(ordinal) if ordinal < rows.num_columns else pa.nulls(rows.num_rows, pa.string())
            for ordinal, _, _ in wanted
        ]
        table = pa.table(texts, names=[f"d{index}" for index in range(len(texts))])
        typed = self._typed(table, wanted, file)
        for batch in typed.to_batches(_BATCH_ROWS):
            yield pa.RecordBatch.from_arrays(batch.columns, names=list(names))

    def _typed(self, table: pa.Table, wanted: list[tuple[int, str, SqlType]], file: LakeFile) -> pa.Table:
        items = [
            implicit(Value(f'd."d{index}"', SqlType("varchar", -1), trimmed=False), kind, 1).sql
            for index, (_, _, kind) in enumerate(wanted)
        ]
        listed = ", ".join(f'{item} AS "d{index}"' for index, item in enumerate(items))
        cursor = self.connection.cursor()
        try:
            cursor.register("text$rows", table)
            try:
                done = cursor.sql(f'SELECT {listed} FROM "text$rows" AS d').to_arrow_table()
            except duckdb.Error as error:
                done = self._without_bad_rows(cursor, table, items, wanted=wanted, file=file, cause=error)
        finally:
            cursor.close()
        kinds = [arrow(kind) for _, _, kind in wanted]
        arrays = [
            column if column.type == kind else column.cast(kind)
            for column, kind in zip(done.columns, kinds, strict=True)
        ]
        return pa.Table.from_arrays(arrays, names=done.column_names)

    def _without_bad_rows(
        self,
        cursor: duckdb.DuckDBPyConnection,
        table: pa.Table,
        items: list[str],
        *,
        wanted: list[tuple[int, str, SqlType]],
        file: LakeFile,
        cause: duckdb.Error,
    ) -> pa.Table:
        """The rows that can be converted, if MAXERRORS allows for the others; else the error of the first one."""
        numbered = table.append_column("number", pa.array(range(table.num_rows), pa.int64()))
        cursor.register("text$numbered", numbered)
        bad: dict[int, int] = {}
        for index, item in enumerate(items):
            test = f'd."d{index}" IS NOT NULL AND TRY({item}) IS NULL'
            for (number,) in cursor.sql(f'SELECT number FROM "text$numbered" AS d WHERE {test}').fetchall():
                bad[int(number)] = min(bad.get(int(number), index), index)
        if not bad:
            raise errors.from_duckdb(cause, 1) from cause
        if len(bad) > self.max_errors:
            raise self._refused(min(bad), bad[min(bad)], table, wanted, file) from cause
        self.rejected[file.name] = len(bad)
        listed = ", ".join(f'{item} AS "d{index}"' for index, item in enumerate(items))
        good = pa.table({"number": pa.array(sorted(set(range(table.num_rows)) - set(bad)), pa.int64())})
        cursor.register("text$good", good)
        return cursor.sql(
            f'SELECT {listed} FROM "text$numbered" AS d SEMI JOIN "text$good" AS g ON d.number = g.number ORDER BY '
            "d.number"
        ).to_arrow_table()

    def _refused(
        self, row: int, column: int, table: pa.Table, wanted: list[tuple[int, str, SqlType]], file: LakeFile
    ) -> SqlError:
        """https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/resources-self-help-sql-on-demand

        Parser 2.0 only counts; 1.0 tells the row, counted as the file has it, and the column.
        """
        if self.parser == "2.0":
            return SqlError(
                15813,
                f"Error handling external file: 'Max errors count reached.'. File/External table name: '{file.uri}'.",
            )
        _, name, kind = wanted[column]
        value = table.column(column)[row].as_py()
        place = (
            f"for row {row + self.layout.first_row + int(self.header)}, column {column + 1} ({name}) in data file "
            f"{file.uri}."
        )
        if kind.length not in {None, -1} and len(str(value)) > (kind.length or 0):
            return SqlError(4863, f"Bulk load data conversion error (truncation) {place}")
        return SqlError(
            4864,
            "Bulk load data conversion error (type mismatch or invalid character for the specified codepage) " + place,
        )


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
