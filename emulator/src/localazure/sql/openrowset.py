"""OPENROWSET(BULK ..) and the external tables of a serverless pool: which files, which columns, of which types.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/develop-openrowset
Nothing is read here but what tells the schema: a Parquet footer, the first rows of a text file, a Delta log.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.csv

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.binding import RowSource, SourceColumn
from localazure.sql.catalog import Table, TableColumn
from localazure.sql.conversions import Value, convert, implicit
from localazure.sql.delta import delta_files
from localazure.sql.files import DelimitedText, parse_delimiter, read_rows
from localazure.sql.lake import LakeFile, fetch, list_files
from localazure.sql.load import format_layout
from localazure.sql.readers import ParquetReader, TextReader, open_parquet
from localazure.sql.results import SqlError, SqlType
from localazure.sql.scans import LakeScan, Reader
from localazure.sql.sqltypes import CHARACTER, arrow, duck, from_arrow, with_length

if TYPE_CHECKING:
    from localazure.sql.expressions import ExpressionCompiler
    from localazure.sql.pool import Pool

_INFERRED_ROWS = 100
_INFERRED_BYTES = 1 << 20
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
_TEXT = SqlType("varchar", 8000)
_PATH = SqlType("nvarchar", 1024)
_OPTIONS = frozenset(
    {
        "BULK",
        "DATA_SOURCE",
        "FORMAT",
        "PARSER_VERSION",
        "HEADER_ROW",
        "FIRSTROW",
        "FIELDTERMINATOR",
        "ROWTERMINATOR",
        "FIELDQUOTE",
        "ESCAPECHAR",
        "ESCAPE_CHAR",
        "MAXERRORS",
        "DATA_COMPRESSION",
        "DATAFILETYPE",
        "CODEPAGE",
        "ROWSET_OPTIONS",
    }
)
# families within which a Parquet column may be read as another type
_FAMILIES = (
    frozenset({"bit"}),
    frozenset({"tinyint", "smallint", "int", "bigint", "decimal"}),
    frozenset({"real", "float"}),
    frozenset({"char", "varchar", "nchar", "nvarchar", "uniqueidentifier"}),
    frozenset({"binary", "varbinary"}),
    frozenset({"date", "datetime2", "datetime", "smalldatetime", "datetimeoffset"}),
    frozenset({"time"}),
)


@dataclass(frozen=True)
class _Place:
    """A location that a statement reads; ``label``: prefix of its columns' names, see LakeScan."""

    pool: Pool
    uri: str
    label: str
    line: int


@dataclass
class Opened:
    """A location whose schema is known. columns: (name in the query, type, SQL over the scan's own columns)."""

    files: list[LakeFile]
    reader: Reader
    data: dict[str, pa.DataType]
    columns: list[tuple[str, SqlType, str]]
    partitions: dict[str, tuple[pa.DataType, list[Any]]] = field(default_factory=dict)
    overhead: int = 0


def openrowset(pool: Pool, compiler: ExpressionCompiler, source: s.FunctionSource) -> tuple[str, RowSource]:
    """(DuckDB's FROM text, the row source) of OPENROWSET(BULK ..)."""
    line = source.line
    if unknown := sorted(set(source.options) - _OPTIONS):
        raise errors.not_implemented(f"OPENROWSET option {unknown[0]}", line)
    options = {key: str(compiler.constant(value)) for key, value in source.options.items()}
    uri = options.get("BULK", "")
    if "DATA_SOURCE" in options:
        found = pool.catalog.setting("DATA SOURCE", options["DATA_SOURCE"])
        if found is None:
            raise SqlError(46525, f"External data source '{options['DATA_SOURCE']}' was not found.", line=line)
        uri = found.options["LOCATION"].rstrip("/") + "/" + uri.lstrip("/")
    form = options.get("FORMAT", "").upper()
    place = _Place(pool, uri, _label(compiler), line)
    if form == "PARQUET":
        opened = _parquet(place, source.schema)
    elif form == "DELTA":
        opened = _delta(place, source.schema)
    elif form == "CSV":
        opened = _text(place, source.schema, _text_options(options, line))
    else:
        raise SqlError(15853, f"Invalid or unknown format type '{options.get('FORMAT', '')}'.", line=line)
    if source.columns:
        if len(source.columns) != len(opened.columns):
            raise SqlError(8158, f"'{source.alias}' has a different number of columns than were specified.", line=line)
        opened.columns = [(name, *rest[1:]) for name, rest in zip(source.columns, opened.columns, strict=True)]
    return _attached(place, compiler, opened, source.alias or "OPENROWSET", ())


def external_table(
    pool: Pool, compiler: ExpressionCompiler, table: Table, source: s.TableSource
) -> tuple[str, RowSource]:
    """The same of an external table: its columns are bound by name in Parquet and Delta, by position in text.

    https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/develop-tables-external-tables
    """
    from localazure.sql.external import file_format, location

    line = source.line
    options = table.external or {}
    place = _Place(pool, location(pool, options, line), _label(compiler), line)
    form = file_format(pool, options, line)
    partitions = json.loads(options.get("PARTITIONS", "[]"))
    schema = [
        s.WithColumn(line, c.name, c.type, collation=c.collation) for c in table.columns if c.name not in partitions
    ]
    kind = form.get("FORMAT_TYPE", "").upper()
    if kind == "PARQUET":
        opened = _parquet(place, schema)
    elif kind == "DELTA":
        opened = _delta(place, schema)
    else:
        _, layout = format_layout(form, line)
        rejected = int(options.get("REJECT_VALUE", "0"))
        given = _Text(layout, False, rejected, form.get("FORMAT_OPTIONS.PARSER_VERSION", "1.0"))
        opened = _text(place, schema, given)
    _add_folders(place, opened, [c for c in table.columns if c.name in partitions])
    alias, parts = source.alias or table.name, () if source.alias else (table.schema, table.name)
    sql, row_source = _attached(place, compiler, opened, alias, parts)
    row_source.table = table
    return sql, row_source


def _add_folders(place: _Place, opened: Opened, columns: list[TableColumn]) -> None:
    """Columns whose values are in the names of the folders, as Spark partitions a table: only files that a query asks
    for are read.
    """
    for index, column in enumerate(columns):
        own, kind = f"{place.label}_p{index}", with_length(column.type, 1)
        opened.partitions[own] = (pa.string(), [_folder_value(file, column.name) for file in opened.files])
        value = convert(Value(own, SqlType("varchar", -1), trimmed=False), kind, place.line)
        opened.columns.append((column.name, kind, _collated(place.pool, value.sql, kind, column.collation)))


def _folder_value(file: LakeFile, column: str) -> str | None:
    for part in reversed(file.name.split("/")[:-1]):
        name, found, value = part.partition("=")
        if found and unquote(name).lower() == column.lower():
            return None if value == _NULL_FOLDER else unquote(value)
    return None


def _label(compiler: ExpressionCompiler) -> str:
    compiler.context.counter += 1
    return f"l{compiler.context.counter}"


def _attached(
    place: _Place, compiler: ExpressionCompiler, opened: Opened, exposed: str, parts: s.Parts
) -> tuple[str, RowSource]:
    """Keep the scan for when the statement runs, and say how its columns are made of what it reads."""
    context, label = compiler.context, place.label
    context.cacheable = False
    texts = pa.string()
    constants: dict[str, tuple[pa.DataType, list[Any]]] = {
        f"{label}_f": (texts, [file.filename for file in opened.files]),
        f"{label}_u": (texts, [file.uri for file in opened.files]),
    }
    wildcards = max((len(file.parts) for file in opened.files), default=0)
    for index in range(wildcards):
        values = [file.parts[index] if index < len(file.parts) else None for file in opened.files]
        constants[f"{label}_w{index + 1}"] = (texts, values)
    constants.update(opened.partitions)
    scan = LakeScan(
        label,
        opened.files,
        opened.reader,
        lambda files: fetch(place.pool, files, place.line),
        opened.data,
        constants,
        opened.overhead,
    )
    name = f"{label}_rows"
    context.attachments[name] = scan
    alias = context.fresh("a")
    items, columns = [], []
    for index, (title, kind, sql) in enumerate(opened.columns, 1):
        items.append(f'{sql} AS "f{index}"')
        columns.append(SourceColumn(title, kind, f'{alias}."f{index}"', True, trimmed=False))
    hidden = {"FILENAME": f"{label}_f", "FILEPATH": f"{label}_u"}
    hidden |= {f"FILEPATH{index}": f"{label}_w{index}" for index in range(1, wildcards + 1)}
    items += [f'{column} COLLATE "binary" AS "{column}"' for column in hidden.values()]
    made = RowSource(exposed, columns, parts)
    made.file_columns = {key: f'{alias}."{column}"' for key, column in hidden.items()}
    return f"(SELECT {', '.join(items)} FROM {name}) AS {alias}", made


def _collated(pool: Pool, sql: str, kind: SqlType, collation: str) -> str:
    """Text of a case-sensitive collation (of the column, else of the database) is compared by code point."""
    if kind.name not in CHARACTER:
        return sql
    name = (collation or pool.collation).upper()
    return f'({sql}) COLLATE "binary"' if "_BIN" in name or "_CS_" in name else sql


def _first(files: list[LakeFile], place: _Place) -> LakeFile:
    if not files:
        raise SqlError(
            15809,
            f"Schema cannot be determined since no files were found matching the name pattern(s) '{place.uri}'. Please "
            "use WITH clause in the OPENROWSET function to define the schema.",
            line=place.line,
        )
    return files[0]


def _listed(place: _Place, schema: list[s.WithColumn]) -> list[LakeFile]:
    """The files of a location; with a schema a pattern may match nothing, a single file must exist."""
    uri, line = place.uri, place.line
    found = list_files(place.pool, uri, line)
    if not found and schema and "*" not in uri and not uri.endswith("/"):
        raise SqlError(
            13807, f"Content of directory on path '{uri}' cannot be listed. There is nothing at '{uri}'.", line=line
        )
    return found


# ---- Parquet and Delta --------


def native(kind: pa.DataType, file: str, line: int) -> SqlType:
    """The vendor's mapping of Parquet types. Nested columns are varchar(8000) with JSON in them."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_nested(kind):
        return _TEXT
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return _TEXT
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return SqlType("varbinary", 8000)
    if pa.types.is_fixed_size_binary(kind):
        return SqlType("varbinary", kind.byte_width)
    if pa.types.is_time(kind) and kind.unit == "ns":
        raise _unsupported("TIME(NANOS)", file, line)
    if pa.types.is_timestamp(kind):
        return SqlType("datetime2", scale=7)
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_duration(kind) or pa.types.is_interval(kind):
        raise _unsupported(str(kind).upper(), file, line)
    return from_arrow(kind, line)


def _unsupported(kind: str, file: str, line: int) -> SqlError:
    return SqlError(15815, f"External data type '{kind}' is currently not supported. File: '{file}'.", line=line)


def _base(column: str, kind: pa.DataType, target: SqlType) -> str:
    """A column of the scan as its native T-SQL type."""
    if pa.types.is_nested(kind):
        return f"CAST(to_json({column}) AS VARCHAR)"
    if pa.types.is_null(kind):
        return f"CAST({column} AS VARCHAR)"
    plain = pa.types.is_string(kind) or pa.types.is_binary(kind) or kind == arrow(target)
    return column if plain else f"CAST({column} AS {duck(target)})"


def _columnar(
    place: _Place, file_schema: pa.Schema, partitions: dict[str, str], schema: list[s.WithColumn]
) -> tuple[dict[str, tuple[str, pa.DataType]], list[tuple[str, SqlType, str]]]:
    """({scan's name: (file's name, type)}, columns of the query). partitions: Delta's, name -> scan's name."""
    pool, line = place.pool, place.line
    names = {name: f"{place.label}_c{index}" for index, name in enumerate(file_schema.names) if name not in partitions}
    data: dict[str, tuple[str, pa.DataType]] = {}
    columns: list[tuple[str, SqlType, str]] = []

    def scanned(name: str) -> tuple[str, pa.DataType]:
        kind = file_schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        own = partitions.get(name) or names[name]
        if name not in partitions:
            data[own] = (name, kind)
        return own, kind

    if not schema:
        for name in file_schema.names:
            own, kind = scanned(name)
            target = native(kind, place.uri, line)
            columns.append((name, target, _collated(pool, _base(own, kind, target), target, "")))
        return data, columns
    for wanted in schema:
        target = with_length(wanted.type, 1)
        strict, path = _json_path(wanted.path)
        name, deeper = (path[0], path[1:]) if path else (wanted.name, [])
        if name not in file_schema.names:
            if strict:
                raise SqlError(13608, "Property cannot be found on the specified JSON path.", line=line)
            columns.append((wanted.name, target, f"CAST(NULL AS {duck(target)})"))
            continue
        own, kind = scanned(name)
        source = native(kind, place.uri, line)
        if deeper and pa.types.is_nested(kind):
            inner = errors.literal("$." + ".".join(f'"{part}"' for part in deeper))
            sql = f"json_extract_string(to_json({own}), {inner})"
            source = SqlType("varchar", -1)
        else:
            _compatible(place, wanted, source, kind)
            sql = _base(own, kind, source)
        value = implicit(Value(sql, replace(source, length=-1) if source.length else source), target, line)
        columns.append((wanted.name, target, _collated(pool, value.sql, target, wanted.collation)))
    return data, columns


def _json_path(path: str | None) -> tuple[bool, list[str]]:
    """``strict $.a.b`` -> (True, [a, b])."""
    if not path:
        return False, []
    strict = path.startswith("strict ")
    text = path.removeprefix("strict ").removeprefix("lax ").strip()
    return strict, [part.strip('"') for part in text.removeprefix("$").lstrip(".").split(".") if part]


def _compatible(place: _Place, wanted: s.WithColumn, source: SqlType, kind: pa.DataType) -> None:
    target = wanted.type
    if any(source.name in family and target.name in family for family in _FAMILIES):
        return
    physical = {
        pa.int32(): "INT32",
        pa.int64(): "INT64",
        pa.float64(): "DOUBLE",
        pa.float32(): "FLOAT",
        pa.bool_(): "BOOLEAN",
        pa.string(): "BYTE_ARRAY",
    }.get(kind, str(kind).upper())
    raise SqlError(
        15814,
        f"Column '{wanted.name}' of type '{target.name.upper()}' is not compatible with external data type 'Parquet "
        f"physical type: {physical}', please try with '{str(source).upper()}'. File/External table name: "
        f"'{place.uri}'.",
        line=place.line,
    )


def _parquet(place: _Place, schema: list[s.WithColumn]) -> Opened:
    """The schema is the first file's, as the vendor infers it."""
    files = _listed(place, schema)
    if not files and schema:
        return _nothing(schema)
    first = _first(files, place)
    opened = open_parquet(first, fetch(place.pool, [first], place.line)[0])
    data, columns = _columnar(replace(place, uri=first.uri), opened.schema_arrow, {}, schema)
    return Opened(files, ParquetReader(data), {own: kind for own, (_, kind) in data.items()}, columns)


def _nothing(schema: list[s.WithColumn]) -> Opened:
    columns = [(c.name, with_length(c.type, 1), f"CAST(NULL AS {duck(with_length(c.type, 1))})") for c in schema]
    return Opened([], ParquetReader({}), {}, columns)


def _delta(place: _Place, schema: list[s.WithColumn]) -> Opened:
    """The files of the newest version; the partition columns come from the log, not from the files."""
    if "*" in place.uri:
        raise SqlError(
            13807, f"Content of directory on path '{place.uri}/_delta_log/*.*' cannot be listed.", line=place.line
        )
    table = delta_files(place.pool, place.uri, place.line)
    names = {name: f"{place.label}_p{index}" for index, name in enumerate(table.partitions)}
    data, columns = _columnar(place, table.schema, names, schema)
    constants = {names[name]: (table.schema.field(name).type, values) for name, values in table.partitions.items()}
    return Opened(
        table.files,
        ParquetReader(data),
        {own: kind for own, (_, kind) in data.items()},
        columns,
        constants,
        table.log_bytes,
    )


# ---- delimited text --------


@dataclass(frozen=True)
class _Text:
    layout: DelimitedText
    header: bool
    max_errors: int
    parser: str


def _text_options(options: dict[str, str], line: int) -> _Text:
    parser = options.get("PARSER_VERSION", "1.0")
    if parser not in {"1.0", "2.0"}:
        raise SqlError(15868, f"PARSER_VERSION = '{parser}' is not supported.", line=line)
    header = options.get("HEADER_ROW", "FALSE").upper() == "TRUE"
    if header and parser != "2.0":
        raise SqlError(15869, "HEADER_ROW is not supported for PARSER_VERSION 1.0.", line=line)
    if "DATA_COMPRESSION" in options and parser == "2.0":
        raise SqlError(15869, "DATA_COMPRESSION is not supported for PARSER_VERSION 2.0.", line=line)
    page = options.get("CODEPAGE", "65001").upper()
    if page not in {"65001", "ACP", "RAW"}:
        raise errors.not_implemented(f"CODEPAGE = '{page}'", line)
    wide = options.get("DATAFILETYPE", "char").lower().startswith("wide")
    layout = DelimitedText(
        parse_delimiter(options.get("FIELDTERMINATOR", ",")),
        parse_delimiter(options.get("ROWTERMINATOR", "")),
        parse_delimiter(options.get("FIELDQUOTE", '"')),
        int(options.get("FIRSTROW", "1")),
        "utf-16" if wide else "utf-8",
        options.get("DATA_COMPRESSION", ""),
        options.get("ESCAPECHAR", options.get("ESCAPE_CHAR", "")),
    )
    return _Text(layout, header, int(options.get("MAXERRORS", "0")), parser)


def _text(place: _Place, schema: list[s.WithColumn], given: _Text) -> Opened:
    files = _listed(place, schema)
    overhead = 0
    if schema:
        if not files:
            return _nothing(schema)
        asked = [((c.ordinal or index) - 1, c.name, with_length(c.type, 1), c.collation) for index, c in
                 enumerate(schema, 1)]  # fmt: skip
    else:
        first = _first(files, place)
        asked = _inferred(place, first, given)
        overhead = min(first.size, _INFERRED_BYTES)
    names = {f"{place.label}_c{index}": (o, name, kind) for index, (o, name, kind, _) in enumerate(asked)}
    reader = TextReader(place.pool.engine.connection, given.layout, names, given.header, given.max_errors, given.parser)
    data = {own: arrow(kind) for own, (_, _, kind) in names.items()}
    columns = [
        (name, kind, _collated(place.pool, own, kind, collation))
        for own, (_, name, kind, collation) in zip(names, asked, strict=True)
    ]
    return Opened(files, reader, data, columns, overhead=overhead)


def _inferred(place: _Place, file: LakeFile, given: _Text) -> list[tuple[int, str, SqlType, str]]:
    """Names from the header or C1, C2, ..; types from the first 100 rows; what isn't clear is varchar(8000)."""
    rows = read_rows(fetch(place.pool, [file], place.line)[0], given.layout)
    if rows.num_columns == 0 or rows.num_rows == 0:
        raise SqlError(15811, f"No columns found in the data file '{file.uri}'.", line=place.line)
    if given.header:
        titles = [str(column[0].as_py() or f"C{index}") for index, column in enumerate(rows.columns, 1)]
        rows = rows.slice(1)
    else:
        titles = [f"C{index}" for index in range(1, rows.num_columns + 1)]
    head = rows.slice(0, _INFERRED_ROWS)
    found = []
    for index, (title, column) in enumerate(zip(titles, head.columns, strict=True)):
        found.append((index, title, _guessed(column), ""))
    return found


def _guessed(column: pa.ChunkedArray) -> SqlType:
    values = [value for value in column.to_pylist() if value is not None]
    if not values:
        return _TEXT
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(pa.table({"v": values}), buffer)
    kind = pyarrow.csv.read_csv(io.BytesIO(buffer.getvalue())).schema.field(0).type
    if pa.types.is_integer(kind):
        return SqlType("bigint")
    if pa.types.is_floating(kind):
        return SqlType("float")
    if pa.types.is_date(kind):
        return SqlType("date")
    if pa.types.is_timestamp(kind):
        return SqlType("datetime2", scale=7)
    if pa.types.is_time(kind):
        return SqlType("time", scale=7)
    if pa.types.is_boolean(kind):
        return SqlType("bit")
    return _TEXT
