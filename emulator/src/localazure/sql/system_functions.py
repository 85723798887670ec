"""Functions about the server, the session and the catalogue.

https://learn.microsoft.com/en-us/sql/t-sql/functions/metadata-functions-transact-sql
Each is answered when the statement is compiled: with literal arguments as a literal, with columns by a lookup table.
"""

from __future__ import annotations

from collections.abc import Iterable

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.catalog import CatalogObject, Table
from localazure.sql.conversions import Value, convert
from localazure.sql.function_table import Invocation, function
from localazure.sql.results import SqlType
from localazure.sql.sqltypes import BIGINT, DATETIME, INT, SYSNAME, duck


def text_of_name(text: str | None) -> Value:
    if text is None:
        return Value("CAST(NULL AS VARCHAR)", SYSNAME)
    return Value(errors.literal(text), SYSNAME, True, trimmed=True, literal=text)


def integer(number: int | None, kind: SqlType = INT) -> Value:
    sql = "NULL" if number is None else str(number)
    return Value(f"CAST({sql} AS {duck(kind)})", kind, literal=None if number is None else sql)


def constant_of(i: Invocation, index: int) -> tuple[bool, object]:
    """(is a constant, its value) of an argument."""
    arg = i.call.args[index]
    if isinstance(arg, s.Literal | s.Variable | s.Unary | s.Cast) and not (
        isinstance(arg, s.Variable) and arg.name.startswith("@@")
    ):
        if isinstance(arg, s.Cast) and not isinstance(arg.operand, s.Literal | s.Variable):
            return False, None
        return True, i.compiler.constant(arg)
    if isinstance(arg, s.Call):
        value = i.compiler.value(arg, i.scope)
        if value.literal is not None or "NULL" in value.sql[:10]:
            return True, value.literal
    return False, None


def lookup(key: str, pairs: Iterable[tuple[object, object]], kind: SqlType) -> Value:
    """A CASE over everything the catalogue holds: catalogues are small."""
    branches = []
    for left, right in pairs:
        first = errors.literal(left.lower()) if isinstance(left, str) else str(left)
        second = errors.literal(right) if isinstance(right, str) else str(right)
        branches.append(f"WHEN {first} THEN {second}")
    if not branches:
        return Value(f"CAST(NULL AS {duck(kind)})", kind)
    return Value(f"CAST(CASE {key} {' '.join(branches)} END AS {duck(kind)})", kind)


def split_object_name(text: str) -> tuple[str, str]:
    """``[dbo].[t]`` as (schema, name)."""
    from localazure.sql.lexer import tokens

    parts: list[str] = []
    for token in tokens(text):
        if token.kind in {"word", "quoted"}:
            parts.append(token.text)
        elif token.key == "." and (not parts or parts[-1] == ""):
            parts.append("")
    if len(parts) == 1:
        return "dbo", parts[0]
    return (parts[-2] or "dbo", parts[-1]) if parts else ("dbo", "")


@function("OBJECT_ID", args=(1, 2))
def _object_id(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    constant, text = constant_of(i, 0)
    catalog, seen = i.compiler.context.catalog, _seen(i)
    kind = str(constant_of(i, 1)[1] or "").strip().upper() if len(i.call.args) > 1 else ""
    if not constant:
        pairs = [(f"{entry.schema}.{entry.name}", entry.object_id) for entry in seen]
        pairs += [(entry.name, entry.object_id) for entry in seen if entry.schema.lower() == "dbo"]
        key = f"replace(replace(lower({i.text(0).sql}), '[', ''), ']', '')"
        return lookup(key, pairs, INT)
    if text is None:
        return integer(None)
    schema, name = split_object_name(str(text))
    found: CatalogObject | None
    found = i.compiler.context.temporary.get(name.lower()) if name.startswith("#") else catalog.find(schema, name)
    if found is None or (kind and kind not in _type_codes(found)) or not (name.startswith("#") or found in seen):
        return integer(None)
    return integer(found.object_id)


def _seen(i: Invocation) -> list[CatalogObject]:
    """The objects that the session's user sees."""
    context = i.compiler.context
    access, found = context.access, list(context.catalog.objects.values())
    return found if access is None else [entry for entry in found if access.sees(entry)]


def _type_codes(entry: CatalogObject) -> set[str]:
    if isinstance(entry, Table):
        return {"U", "ET"} if entry.external is not None else {"U"}
    return {"V"} if type(entry).__name__ == "View" else {"P", "PC"}


@function("OBJECT_NAME", "OBJECT_SCHEMA_NAME", args=(1, 2))
def _object_name(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    entries = _seen(i)
    schema = i.call.name == "OBJECT_SCHEMA_NAME"
    return lookup(i.number(0, INT), [(e.object_id, e.schema if schema else e.name) for e in entries], SYSNAME)


@function("SCHEMA_ID", args=(0, 1))
def _schema_id(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    schemas = i.compiler.context.catalog.schemas
    if not i.call.args:
        return integer(1)
    constant, text = constant_of(i, 0)
    if constant:
        found = schemas.get(str(text).lower())
        return integer(found[1] if found else None)
    return lookup(f"lower({i.text(0).sql})", [(name, number) for name, number in schemas.values()], INT)


@function("SCHEMA_NAME", args=(0, 1))
def _schema_name(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    if not i.call.args:
        return text_of_name(i.compiler.context.default_schema)
    return lookup(
        i.number(0, INT), [(number, name) for name, number in i.compiler.context.catalog.schemas.values()], SYSNAME
    )


@function("DB_NAME", "ORIGINAL_DB_NAME", args=(0, 1))
def _db_name(i: Invocation) -> Value:
    database = i.compiler.context.database
    i.compiler.context.cacheable = False
    if not i.call.args:
        return text_of_name(database)
    databases = i.compiler.context.databases()
    return lookup(i.number(0, INT), [(2, "tempdb"), *((number, name) for name, number, _ in databases)], SYSNAME)


@function("DB_ID", args=(0, 1))
def _db_id(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    databases = [(name, number) for name, number, _ in i.compiler.context.databases()]
    if not i.call.args:
        return integer(next((number for name, number in databases if name == i.compiler.context.database), None))
    pairs = [("tempdb", 2), *databases]
    return lookup(f"lower({i.text(0).sql})", pairs, INT)


@function("TYPE_NAME", args=1)
def _type_name(i: Invocation) -> Value:
    from localazure.sql.catalog_rows import TYPE_IDS

    return lookup(i.number(0, INT), [(row[2], name) for name, row in TYPE_IDS.items()], SYSNAME)


@function("TYPE_ID", args=1)
def _type_id(i: Invocation) -> Value:
    from localazure.sql.catalog_rows import TYPE_IDS

    return lookup(f"lower({i.text(0).sql})", [(name, row[2]) for name, row in TYPE_IDS.items()], INT)


@function("COL_NAME", args=2)
def _col_name(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    pairs = [
        (f"{table.object_id}.{column.column_id}", column.name)
        for table in i.compiler.context.catalog.tables()
        for column in table.columns
    ]
    return lookup(f"({i.number(0, INT)} || '.' || {i.number(1, INT)})", pairs, SYSNAME)


@function("COL_LENGTH", args=2)
def _col_length(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    schema, name = split_object_name(i.compiler.constant_text(i.call.args[0], i.scope))
    found = i.compiler.context.catalog.find(schema, name)
    column = found.column(i.compiler.constant_text(i.call.args[1], i.scope)) if isinstance(found, Table) else None
    if column is None:
        return integer(None, SqlType("smallint"))
    from localazure.sql.catalog_rows import max_length

    return integer(max_length(column.type), SqlType("smallint"))


@function("COLUMNPROPERTY", args=3)
def _columnproperty(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    wanted = i.compiler.constant_text(i.call.args[2], i.scope).lower()
    pairs = []
    for table in i.compiler.context.catalog.tables():
        for column in table.columns:
            answers = {
                "isidentity": int(column.identity is not None),
                "allowsnull": int(column.nullable),
                "columnid": column.column_id,
                "iscomputed": 0,
                "ordinal": column.column_id,
            }
            if wanted in answers:
                pairs.append((f"{table.object_id}.{column.name}", answers[wanted]))
    return lookup(f"lower({i.number(0, INT)} || '.' || {i.text(1).sql})", pairs, INT)


@function("OBJECTPROPERTY", "OBJECTPROPERTYEX", args=2)
def _objectproperty(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    wanted = i.compiler.constant_text(i.call.args[1], i.scope).lower()
    kinds = {"istable": "Table", "isusertable": "Table", "isview": "View", "isprocedure": "Procedure"}
    entries = i.compiler.context.catalog.objects.values()
    if wanted == "ismsshipped":
        return lookup(i.number(0, INT), [(entry.object_id, 0) for entry in entries], INT)
    if wanted not in kinds:
        return integer(None)
    return lookup(i.number(0, INT), [(e.object_id, int(type(e).__name__ == kinds[wanted])) for e in entries], INT)


@function("SERVERPROPERTY", args=1)
def _serverproperty(i: Invocation) -> Value:
    """sql_variant in the vendor's; strings here, integers for the numeric properties."""
    kind = i.compiler.context.kind
    wanted = i.compiler.constant_text(i.call.args[0], i.scope).lower()
    texts = {
        "edition": "SQL Azure",
        "productversion": "12.0.2000.8",
        "servername": "localhost",
        "productlevel": "RTM",
        "collation": "SQL_Latin1_General_CP1_CI_AS",
        "machinename": "localhost",
        "productmajorversion": "12",
        "productminorversion": "0",
    }
    if wanted == "engineedition":
        return integer(kind.engine_edition)
    if wanted in {"isclustered", "ishadrenabled", "isintegratedsecurityonly"}:
        return integer(0)
    return text_of_name(texts.get(wanted))


@function("DATABASEPROPERTYEX", args=2)
def _databaseproperty(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    wanted = i.compiler.constant_text(i.call.args[1], i.scope).lower()
    texts = {
        "edition": i.compiler.context.kind.edition,
        "serviceobjective": i.compiler.context.pool.capacity.objective,
        "status": "ONLINE",
        "collation": "SQL_Latin1_General_CP1_CI_AS",
        "updateability": "READ_WRITE",
        "useraccess": "MULTI_USER",
        "recovery": "SIMPLE",
    }
    return text_of_name(texts.get(wanted))


@function("HOST_NAME", "APP_NAME", "SESSION_ID", "XACT_STATE", args=0)
def _session(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    return i.compiler.context.server_value(f"@@{i.call.name}", i.line)


@function("SESSION_CONTEXT", args=1)
def _session_context(i: Invocation) -> Value:
    """sql_variant in the vendor's; text here."""
    i.compiler.context.cacheable = False
    values = i.compiler.context.session_values
    found = values.get(i.compiler.constant_text(i.call.args[0], i.scope).lower())
    return text_of_name(None if found is None else str(found))


@function("ERROR_NUMBER", "ERROR_MESSAGE", "ERROR_SEVERITY", "ERROR_STATE", "ERROR_PROCEDURE", args=0)
def _error(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    return i.compiler.context.server_value(f"@@{i.call.name}", i.line)


@function("ROWCOUNT_BIG", args=0)
def _rowcount(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    return convert(i.compiler.context.server_value("@@ROWCOUNT", i.line), BIGINT, i.line)


@function("STATS_DATE", args=2)
def _statistics_date(i: Invocation) -> Value:
    """https://learn.microsoft.com/en-us/sql/t-sql/functions/stats-date-transact-sql"""
    table_id, number = i.number(0, INT), i.number(1, INT)
    branches = "".join(
        f" WHEN {table_id} = {table.object_id} AND {number} = {index} "
        f"THEN CAST('{table.statistics_date(name)}' AS TIMESTAMP)"
        for table in i.compiler.context.catalog.tables()
        for index, (name, _) in enumerate(table.statistics, 2)
    )
    return Value(f"CASE{branches} ELSE NULL END" if branches else "CAST(NULL AS TIMESTAMP)", DATETIME)


@function("FULLTEXTSERVICEPROPERTY", "CONNECTIONPROPERTY", args=(0, 2))
def _absent(i: Invocation) -> Value:
    """What localazure has nothing to say about: NULL, as the vendor's answer for an unknown id or property."""
    return text_of_name(None)
