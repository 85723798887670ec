"""Files of the lake as Arrow tables: Parquet and delimited text, many files as one table.

DuckDB has no access to files; these readers see only what the blob store materialised.
https://learn.microsoft.com/en-us/sql/t-sql/statements/copy-into-transact-sql
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv

from localazure.core.errors import AzureError
from localazure.sql.results import SqlError

if TYPE_CHECKING:
    from localazure.sql.pool import Pool


_BATCH_ROWS = 122_880  # a row group of DuckDB's


@dataclass(frozen=True)
class DelimitedText:
    """How a text file is cut into fields. first_row is 1-based; encoding a Python name."""

    field: str = ","
    row: str = ""
    quote: str = '"'
    first_row: int = 1
    encoding: str = "utf-8"
    compression: str = ""
    escape: str = ""


def parse_delimiter(text: str) -> str:
    r"""A terminator as T-SQL writes it: ``','``, ``'\t'``, ``'0x0A'``, ``'\r\n'``."""
    if text.lower().startswith("0x"):
        return bytes.fromhex(text[2:]).decode("latin-1")
    return text.replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r")


def local_files(pool: Pool, uri: str, line: int) -> list[Path]:
    """The files behind a location: one, a folder's (hidden ones left out), or those that match wildcards.

    SqlError 13807 when the storage has nothing there, with the storage's own words.
    """
    from localazure.storage.locations import parse

    if pool.blobs is None:
        raise SqlError(13807, "This pool has no storage account.", line=line)
    try:
        location = parse(uri, pool.settings)
        path = pool.blobs.materialize(location)
    except AzureError as error:
        raise SqlError(
            13807, f"Content of directory on path '{uri}' cannot be listed. {error.message}", line=line
        ) from error
    if path.is_file():
        return [path]
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    explicit = "*" in location.path.rsplit("/", 1)[-1] and location.path.rsplit("/", 1)[-1].startswith(("_", "."))
    shown = [
        file
        for file in files
        if explicit or not any(part.startswith(("_", ".")) for part in file.relative_to(path).parts)
    ]
    if not shown:
        raise SqlError(13807, f"Content of directory on path '{uri}' cannot be listed: there is no file.", line=line)
    return shown


class ParquetRows:
    """Files of one shape as a stream of batches: one is in memory at a time. ``error``: what a read ended in."""

    def __init__(self, files: Sequence[Path], schema: pa.Schema) -> None:
        self.schema = schema
        self.num_columns = len(schema.names)
        self.error: tuple[Path, Exception] | None = None
        self._files = files

    def rename_columns(self, names: list[str]) -> pa.RecordBatchReader:
        """The rows under these names; to be read once."""
        schema = pa.schema([field.with_name(name) for field, name in zip(self.schema, names, strict=True)])
        return pa.RecordBatchReader.from_batches(schema, self._batches(schema))

    def read(self, line: int) -> pa.Table:
        """All rows. SqlError 13812 when a file breaks off."""
        try:
            return self.rename_columns(self.schema.names).read_all()
        except (pa.ArrowException, OSError) as error:
            raise unreadable(self._files[0] if self.error is None else self.error[0], error, line) from error

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        from pyarrow.parquet import ParquetFile

        for path in self._files:
            try:
                with ParquetFile(path) as file:
                    for batch in file.iter_batches(_BATCH_ROWS):
                        yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
            except (pa.ArrowException, OSError) as error:
                self.error = path, error  # DuckDB reports it in words of its own
                raise


def read_parquet(files: Sequence[Path], line: int) -> list[ParquetRows]:
    """Files that have the same types, in their order, as one stream: rows are appended by position, as the vendor does.

    SqlError 13812 for a file that is no Parquet.
    """
    from pyarrow.parquet import read_schema  # some megabytes: for those who read it

    found: list[tuple[pa.Schema, list[Path]]] = []
    for file in files:
        try:
            schema = read_schema(file)
        except (pa.ArrowException, OSError) as error:
            raise unreadable(file, error, line) from error
        if found and found[-1][0].types == schema.types:
            found[-1][1].append(file)
        else:
            found.append((schema, [file]))
    return [ParquetRows(some, schema.remove_metadata()) for schema, some in found]


def unreadable(file: Path, error: Exception, line: int) -> SqlError:
    """Error 13812."""
    return SqlError(13812, f"The file '{file.name}' could not be read as Parquet: {error}", line=line)


def read_text(file: Path, layout: DelimitedText, line: int, width: int | None = None) -> tuple[pa.Table, int]:
    """(all fields as strings, rows that had another number of fields).

    An empty field that isn't quoted is NULL. width: the number of fields when the file itself may be empty.
    """
    data = _decoded(file, layout, line)
    rejected = 0

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        nonlocal rejected
        rejected += 1
        return "skip"

    for _ in range(layout.first_row - 1):  # rows, counted by their terminator, as FIRSTROW does
        end = data.find(b"\n")
        data = data[end + 1 :] if end >= 0 else b""
    if not data.strip():
        return pa.table({f"f{index}": pa.array([], pa.string()) for index in range(width or 0)}), 0
    if len(layout.field.encode()) != 1:
        data, layout = _single_delimiter(data, layout, line)
    try:
        first = pyarrow.csv.open_csv(
            io.BytesIO(data),
            read_options=pyarrow.csv.ReadOptions(autogenerate_column_names=True),
            parse_options=_parse_options(layout, None),
        ).schema
        table = pyarrow.csv.read_csv(
            io.BytesIO(data),
            read_options=pyarrow.csv.ReadOptions(autogenerate_column_names=True, use_threads=False),
            parse_options=_parse_options(layout, skip),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in first.names},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except pa.ArrowException as error:
        raise SqlError(
            13812, f"The file '{file.name}' could not be read as delimited text: {error}", line=line
        ) from error
    return table, rejected


def read_rows(file: Path, layout: DelimitedText) -> pa.Table:
    """All fields as strings, as a serverless pool reads them: a row may have fewer fields (NULL) or more (ignored)."""
    data = _decoded(file, layout, 1, cut=True)
    row_end = b"\n" if layout.row in {"", "\n", "\r\n"} else layout.row.encode()
    for _ in range(layout.first_row - 1):
        end = data.find(row_end)
        data = data[end + len(row_end) :] if end >= 0 else b""
    if not data:
        return pa.table({"f0": pa.array([], pa.string())})
    quote = "" if layout.quote == layout.field else layout.quote
    if row_end != b"\n" or len(layout.field.encode()) != 1 or (not layout.escape and layout.field.encode() == b"\n"):
        return _columns(_split(data, row_end, layout.field.encode(), quote.encode()))
    irregular = False

    def seen(row: pyarrow.csv.InvalidRow) -> str:
        nonlocal irregular
        irregular = True
        return "skip"

    options = pyarrow.csv.ParseOptions(
        delimiter=layout.field,
        quote_char=quote or False,
        escape_char=layout.escape or False,
        newlines_in_values=bool(quote),
        invalid_row_handler=seen,
    )
    reading = pyarrow.csv.ReadOptions(autogenerate_column_names=True)
    first = pyarrow.csv.open_csv(io.BytesIO(data), read_options=reading, parse_options=options).schema
    table = pyarrow.csv.read_csv(
        io.BytesIO(data),
        read_options=reading,
        parse_options=options,
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pa.string() for name in first.names},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    if not irregular:
        return table
    text = io.StringIO(data.decode(errors="replace"), newline="")
    made = csv.reader(
        text,
        delimiter=layout.field,
        quotechar=quote or None,
        quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
        escapechar=layout.escape or None,
    )
    return _columns([[value or None for value in row] for row in made if row])


def _split(data: bytes, row_end: bytes, field_end: bytes, quote: bytes) -> list[list[str | None]]:
    """Rows and fields by terminators of any length; a field may stand in quotes if it holds no row's end."""
    found: list[list[str | None]] = []
    lines = data.split(row_end)
    if lines and not lines[-1].strip():
        lines.pop()
    for line in lines:
        row: list[str | None] = []
        for part in line.split(field_end) if field_end else [line]:
            if quote and len(part) > 1 and part.startswith(quote) and part.endswith(quote):
                row.append(part[len(quote) : -len(quote)].replace(quote * 2, quote).decode(errors="replace"))
            else:
                row.append(part.decode(errors="replace") or None)
        found.append(row)
    return found


def _columns(rows: list[list[str | None]]) -> pa.Table:
    width = max((len(row) for row in rows), default=1)
    columns = [pa.array([row[i] if i < len(row) else None for row in rows], pa.string()) for i in range(width)]
    return pa.table(columns, names=[f"f{i}" for i in range(width)])


def _parse_options(layout: DelimitedText, skip: object) -> pyarrow.csv.ParseOptions:
    return pyarrow.csv.ParseOptions(
        delimiter=layout.field,
        quote_char=layout.quote or False,
        double_quote=True,
        newlines_in_values=True,
        invalid_row_handler=skip,
    )


def _decoded(file: Path, layout: DelimitedText, line: int, *, cut: bool = False) -> bytes:
    """The file's text as UTF-8 with newline row ends (left alone when the caller cuts the rows itself)."""
    data = file.read_bytes()
    kind = layout.compression.upper() or {".gz": "GZIP", ".bz2": "BZIP2"}.get(file.suffix.lower(), "")
    if kind in {"GZIP", "ORG.APACHE.HADOOP.IO.COMPRESS.GZIPCODEC"}:
        data = gzip.decompress(data)
    elif kind == "BZIP2":
        data = bz2.decompress(data)
    elif kind and kind != "NONE":
        raise SqlError(40517, f"COMPRESSION = '{layout.compression}' is not implemented by localazure.", line=line)
    if layout.encoding != "utf-8":
        data = data.decode(layout.encoding).encode()
    data = data.removeprefix(b"\xef\xbb\xbf")
    if layout.row not in {"", "\n", "\r\n"} and not cut:
        data = data.replace(layout.row.encode(), b"\n")
    return data


def _single_delimiter(data: bytes, layout: DelimitedText, line: int) -> tuple[bytes, DelimitedText]:
    """Field terminators of several characters: exchanged for one that doesn't occur."""
    spare = next((code for code in (0x1F, 0x1E, 0x01, 0x02) if bytes([code]) not in data), None)
    if spare is None or not layout.field:
        raise SqlError(40517, f"FIELDTERMINATOR = '{layout.field}' is not implemented by localazure.", line=line)
    replaced = data.replace(layout.field.encode(), bytes([spare]))
    return replaced, DelimitedText(chr(spare), layout.row, layout.quote, 1, layout.encoding, layout.compression)
