"""Lake databases in the serverless pool: what Spark has in the workspace's catalogue, to be read and not changed.

Each database of Spark's is a database here, and its tables of Parquet, Delta and CSV are external tables in `dbo`.
Views aren't shown, nor are tables of other formats.
https://learn.microsoft.com/azure/synapse-analytics/metadata/database
https://learn.microsoft.com/azure/synapse-analytics/metadata/table
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from localazure.core.lake_catalogue import KIND
from localazure.core.store import Store
from localazure.sql import syntax as s
from localazure.sql.catalog import Setting, Table, TableColumn, now, renumbered
from localazure.sql.results import SqlError, SqlType
from localazure.sql.sqltypes import BIGINT, BIT, DATE, DATETIME2, FLOAT, INT, REAL, SMALLINT

if TYPE_CHECKING:
    from localazure.sql.pool import Pool
    from localazure.sql.serverless import Serverless

log = logging.getLogger(__name__)

COLLATION = "Latin1_General_100_BIN2_UTF8"
_SCHEMA = "dbo"
_SOURCE, _FORMAT = "DATA SOURCE", "FILE FORMAT"
_LONGEST = 8000
_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)")
_LENGTH = re.compile(r"(?:var)?char\((\d+)\)")
_TYPES = {
    "byte": SMALLINT,
    "short": SMALLINT,
    "integer": INT,
    "long": BIGINT,
    "float": REAL,
    "double": FLOAT,
    "date": DATE,
    "timestamp": DATETIME2,
    "timestamp_ntz": DATETIME2,
    "binary": SqlType("varbinary", _LONGEST),
    "string": SqlType("varchar", _LONGEST),
}


class LakeDatabases:
    """Keeps the pool's databases the catalogue's. Thread-safe."""

    def __init__(self, store: Store, server: Serverless) -> None:
        self._store = store
        self._server = server
        self._lock = threading.Lock()
        self._seen: list[dict[str, Any]] = []

    def synchronise(self) -> None:
        """Show what Spark has by now; next to nothing to do if that is what it had."""
        with self._lock:
            found = self._store.list(KIND)
            if found == self._seen:
                return
            here = {name for name, pool in self._server.databases.items() if pool.kind.replicated}
            for document in found:
                name = document["name"]
                if document.get("dropped"):
                    continue
                if name in self._server.databases and name not in here:
                    log.warning("the lake database %s isn't shown: the serverless pool has one of that name", name)
                    continue
                here.discard(name)
                pool = self._server.replicate(name, COLLATION)
                try:
                    _show(pool, document["tables"])
                except Exception:
                    # One database that can't be shown must not keep the pool from its others.
                    log.exception("the lake database %s isn't shown as it is now", name)
            for name in here:
                self._server.retract(name)
            self._seen = found


def refuse(pool: Pool, statement: s.Statement) -> None:
    """SqlError 15875 for a statement that would change what Spark rules: of its own a lake database may have users, and
    views, procedures and inline functions in schemas other than dbo.

    https://learn.microsoft.com/azure/synapse-analytics/sql/resources-self-help-sql-on-demand#operation-isnt-allowed-for-a-replicated-database
    """
    if not pool.kind.replicated:
        return
    match statement:
        case s.CreateExternal():
            operation = f"CREATE EXTERNAL {statement.kind}"
        case s.CreateExternalTable():
            operation = "CREATE EXTERNAL TABLE"
        case s.CreateView() if _is_dbo(statement.name):
            operation = "CREATE/ALTER VIEW"
        case s.CreateProcedure() if _is_dbo(statement.name):
            operation = "CREATE/ALTER PROCEDURE"
        case s.CreateFunction() if _is_dbo(statement.name):
            operation = "CREATE/ALTER FUNCTION"
        case s.Drop() if statement.kind.startswith("EXTERNAL") or any(_is_dbo(name) for name in statement.names):
            operation = f"DROP {statement.kind}"
        case s.Statistics():
            operation = f"{statement.action} STATISTICS"
        case s.Administration() if statement.kind.split()[0] in {"CREATE", "ALTER", "DROP"}:
            operation = statement.kind
        case _:
            return
    raise not_allowed(operation, statement.line)


def not_allowed(operation: str, line: int) -> SqlError:
    """https://learn.microsoft.com/sql/relational-databases/errors-events/database-engine-events-and-errors-15000-to-15999"""
    return SqlError(15875, f"Operation {operation} is not allowed for a replicated database.", line=line)


def column(field: Mapping[str, Any], provider: str) -> TableColumn:
    """A column of Spark's schema (its JSON) as SQL shows it."""
    kind, metadata = field["type"], field.get("metadata") or {}
    if not isinstance(kind, str):  # arrays, maps, structs: their JSON
        return TableColumn(field["name"], SqlType("varchar", -1), collation=COLLATION)
    if kind == "boolean":
        # Of CSV the word.
        return TableColumn(field["name"], SqlType("varchar", 6) if provider == "csv" else BIT)
    if match := _DECIMAL.fullmatch(kind):
        return TableColumn(field["name"], SqlType("decimal", precision=int(match[1]), scale=int(match[2])))
    declared = _LENGTH.fullmatch(str(metadata.get("__CHAR_VARCHAR_TYPE_STRING", "")))
    if declared and kind == "string":
        return TableColumn(field["name"], SqlType("varchar", min(int(declared[1]), _LONGEST)), collation=COLLATION)
    found = _TYPES.get(kind, SqlType("varchar", _LONGEST))
    return TableColumn(field["name"], found, collation=COLLATION if found.name == "varchar" else "")


def _is_dbo(name: s.Parts) -> bool:
    return (len(name) < 2 or name[-2].lower() == _SCHEMA) and not name[-1].startswith("#")  # noqa: PLR2004


def _show(pool: Pool, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Make the pool's external tables those of the catalogue."""
    catalog = pool.catalog
    known = {each.name: each for each in catalog.tables() if each.schema == _SCHEMA and each.external is not None}
    with catalog.change(pool.engine.connection.cursor()) as change:
        for name, document in tables.items():
            layout = _layout(document)
            if layout is None:
                continue
            wanted = _table(name, document)
            there = known.pop(name, None)
            stamp = now()
            source = Setting(_SOURCE, name, {"LOCATION": document["location"]}, 0)
            for setting in (source, Setting(_FORMAT, name, layout, 0)):
                if (old := catalog.setting(setting.kind, name)) is None:
                    change.put_setting(replace(setting, object_id=catalog.new_id()))
                elif old.options != setting.options:
                    change.put_setting(replace(old, options=setting.options))
            if there is None:
                change.put(replace(wanted, object_id=catalog.new_id(), created=stamp, modified=stamp))
            elif (there.columns, there.external) != (wanted.columns, wanted.external):
                change.put(replace(wanted, object_id=there.object_id, created=there.created, modified=stamp))
        for gone in known.values():
            change.remove(gone)
            for kind in (_SOURCE, _FORMAT):
                if (setting_there := catalog.setting(kind, gone.name)) is not None:
                    change.remove_setting(setting_there)


def _table(name: str, document: Mapping[str, Any]) -> Table:
    provider = document["provider"]
    fields = json.loads(document["schema"])["fields"]
    external = {"DATA_SOURCE": name, "LOCATION": "/" if provider == "delta" else "/**", "FILE_FORMAT": name}
    if document["partitions"] and provider != "delta":
        external["PARTITIONS"] = json.dumps(document["partitions"])
    columns = tuple(column(field, provider) for field in fields)
    return Table(0, _SCHEMA, name, "", "", renumbered(columns), index="HEAP", external=external)


def _layout(document: Mapping[str, Any]) -> dict[str, str] | None:
    """The external file format of a table; None for one that isn't shown."""
    if document["type"] == "VIEW":
        return None
    match document["provider"]:
        case "parquet":
            return {"FORMAT_TYPE": "PARQUET"}
        case "delta":
            return {"FORMAT_TYPE": "DELTA"}
        case "csv":
            options = {key.lower(): value for key, value in document["options"].items()}
            has_header = options.get("header", "false").lower() == "true"
            return {
                "FORMAT_TYPE": "DELIMITEDTEXT",
                "FORMAT_OPTIONS.FIELD_TERMINATOR": options.get("sep", options.get("delimiter", ",")),
                "FORMAT_OPTIONS.STRING_DELIMITER": options.get("quote", '"'),
                "FORMAT_OPTIONS.FIRST_ROW": "2" if has_header else "1",
                "FORMAT_OPTIONS.PARSER_VERSION": "2.0",
            }
    return None
