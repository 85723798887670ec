"""What a database holds beside its rows: schemas, tables with declared types, views, procedures, external objects.

DuckDB forgets varchar(n), distributions, partitions and identities, so each object is a document of ours, kept in the
same DuckDB file (schema ``$catalog``) and changed in the same DuckDB transaction as the table it describes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

import duckdb

from localazure.sql.results import SqlType

_SYSTEM_SCHEMAS = {"dbo": 1, "guest": 2, "information_schema": 3, "sys": 4}
_FIRST_OBJECT = 245575913  # object ids of a fresh database look like this; any positive int is valid
_IDS_OF_A_DATABASE = 1_000_000


@dataclass(frozen=True)
class TableColumn:
    """A declared column. ``default`` is the expression's T-SQL text; ``identity`` (seed, increment)."""

    name: str
    type: SqlType
    nullable: bool = True
    column_id: int = 0
    identity: tuple[int, int] | None = None
    default: str = ""
    default_name: str = ""
    collation: str = ""


@dataclass(frozen=True)
class Key:
    """PRIMARY KEY or UNIQUE, never enforced in a dedicated pool."""

    kind: str
    name: str
    columns: tuple[str, ...]
    object_id: int = 0


@dataclass(frozen=True)
class Partitioning:
    """``boundaries`` are the literals' texts, ascending; RANGE RIGHT puts a boundary's value in the next partition."""

    column: str
    range_right: bool
    boundaries: tuple[str, ...]


@dataclass(frozen=True)
class CatalogObject:
    """What sys.objects lists."""

    object_id: int
    schema: str
    name: str
    created: str
    modified: str

    @property
    def key(self) -> tuple[str, str]:
        return self.schema.lower(), self.name.lower()


@dataclass(frozen=True)
class Table(CatalogObject):
    """distribution: HASH, ROUND_ROBIN, REPLICATE; index: COLUMNSTORE, HEAP, CLUSTERED; external: the WITH options.

    statistics_dates: when those of a name (lower case) were made or updated last.
    """

    columns: tuple[TableColumn, ...] = ()
    distribution: str = "ROUND_ROBIN"
    hash_columns: tuple[str, ...] = ()
    index: str = "COLUMNSTORE"
    index_columns: tuple[str, ...] = ()
    partitioning: Partitioning | None = None
    keys: tuple[Key, ...] = ()
    indexes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    statistics: tuple[tuple[str, tuple[str, ...]], ...] = ()
    external: dict[str, str] | None = None
    temporary: bool = False
    statistics_dates: dict[str, str] | None = None

    @property
    def physical(self) -> str:
        """DuckDB's quoted name."""
        return f"{quote('temp' if self.temporary else schema_name(self.schema))}.{quote(self.name)}"

    def column(self, name: str) -> TableColumn | None:
        wanted = name.lower()
        return next((column for column in self.columns if column.name.lower() == wanted), None)

    def statistics_date(self, name: str) -> str:
        """When the statistics of this name were made or updated last, ISO 8601, UTC."""
        return (self.statistics_dates or {}).get(name.lower(), self.created)

    @property
    def identity_sequence(self) -> str:
        return f'"$catalog"."identity_{"t" if self.temporary else ""}{self.object_id}"'


@dataclass(frozen=True)
class View(CatalogObject):
    columns: tuple[str, ...] = ()
    query_text: str = ""
    text: str = ""
    distribution: str = ""
    disabled: bool = False
    materialized: bool = False


@dataclass(frozen=True)
class Procedure(CatalogObject):
    text: str = ""


@dataclass(frozen=True)
class Function(CatalogObject):
    """inline: table-valued."""

    text: str = ""
    inline: bool = False


@dataclass(frozen=True)
class Setting:
    """An object of the service without rows: external data source, file format, credential, workload group, user."""

    kind: str
    name: str
    options: dict[str, str] = field(default_factory=dict)
    object_id: int = 0


_CLASSES: dict[str, type[CatalogObject]] = {"table": Table, "view": View, "procedure": Procedure, "function": Function}


def quote(name: str) -> str:
    """A DuckDB identifier."""
    return '"' + name.replace('"', '""') + '"'


def schema_name(schema: str) -> str:
    """DuckDB's schema for a T-SQL schema: its own reserved names are set aside."""
    return f"user${schema}" if schema.lower() in {"main", "temp", "pg_catalog", "system"} else schema


def now() -> str:
    return datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Snapshot:
    """The catalogue's maps at a moment; they are replaced by every change, never altered."""

    objects: dict[tuple[str, str], CatalogObject]
    settings: dict[tuple[str, str], Setting]
    schemas: dict[str, tuple[str, int]]


class Catalog:
    """Thread-safe. Readers see whole objects, never halves: objects are frozen and replaced."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, number: int = 0) -> None:
        """``number`` tells apart the catalogues of several databases in one file; their object ids don't overlap."""
        self.lock = threading.RLock()
        self.entries = '"$catalog".' + (f"entries_{number}" if number else "entries")
        self.version = 0
        self.schemas: dict[str, tuple[str, int]] = {}
        self.objects: dict[tuple[str, str], CatalogObject] = {}
        self.settings: dict[tuple[str, str], Setting] = {}
        self.directory: tuple[object, object] | None = None  # what localazure.sql.principals read from these settings
        self._next_id = _FIRST_OBJECT + number * _IDS_OF_A_DATABASE
        self._open(connection)

    def _open(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute('CREATE SCHEMA IF NOT EXISTS "$catalog"')
        connection.execute(f"CREATE TABLE IF NOT EXISTS {self.entries} (kind VARCHAR, key VARCHAR, document VARCHAR)")
        connection.execute("CREATE SCHEMA IF NOT EXISTS dbo")
        for name, number in _SYSTEM_SCHEMAS.items():
            self.schemas[name] = ("INFORMATION_SCHEMA" if name == "information_schema" else name, number)
        for kind, _key, text in connection.execute(f"SELECT kind, key, document FROM {self.entries}").fetchall():
            document = json.loads(text)
            if kind == "schema":
                self.schemas[document["name"].lower()] = (document["name"], document["id"])
            elif kind == "setting":
                setting = Setting(**document)
                self.settings[setting.kind.lower(), setting.name.lower()] = setting
            else:
                found = _read(kind, document)
                self.objects[found.key] = found
        used = [entry.object_id for entry in self.objects.values()] + [s.object_id for s in self.settings.values()]
        used += [key.object_id for entry in self.objects.values() if isinstance(entry, Table) for key in entry.keys]
        self._next_id = max([self._next_id, *used]) + 1

    def new_id(self) -> int:
        with self.lock:
            self._next_id += 1
            return self._next_id

    def find(self, schema: str, name: str) -> CatalogObject | None:
        return self.objects.get((schema.lower(), name.lower()))

    def by_id(self, object_id: int) -> CatalogObject | None:
        return next((entry for entry in self.objects.values() if entry.object_id == object_id), None)

    def setting(self, kind: str, name: str) -> Setting | None:
        return self.settings.get((kind.lower(), name.lower()))

    def tables(self) -> list[Table]:
        return [entry for entry in self.objects.values() if isinstance(entry, Table)]

    def snapshot(self) -> Snapshot:
        with self.lock:
            return Snapshot(self.objects, self.settings, self.schemas)

    def revert(self, before: Snapshot, after: Snapshot, connection: duckdb.DuckDBPyConnection) -> None:
        """Undo what lies between two snapshots, where nobody has changed it since."""
        with self.change(connection) as change:
            for key in before.objects.keys() | after.objects.keys():
                old, new = before.objects.get(key), after.objects.get(key)
                if old is not new and self.objects.get(key) is new:
                    if new is not None:
                        change.remove(new)
                    if old is not None:
                        change.put(old)
            for key in before.settings.keys() | after.settings.keys():
                was, became = before.settings.get(key), after.settings.get(key)
                if was is not became and self.settings.get(key) is became:
                    if was is not None:
                        change.put_setting(was)
                    elif became is not None:
                        change.remove_setting(became)
            for name in before.schemas.keys() ^ after.schemas.keys():
                if name in after.schemas:
                    change.remove_schema(after.schemas[name][0])
                else:
                    change.put_schema(before.schemas[name][0])

    @contextmanager
    def change(self, connection: duckdb.DuckDBPyConnection) -> Iterator[Change]:
        """One DuckDB transaction over rows, tables and catalogue; on an exception nothing has happened."""
        with self.lock:
            connection.execute("BEGIN TRANSACTION")
            change = Change(self, connection)
            try:
                yield change
                change.write()
                connection.execute("COMMIT")
            except BaseException:
                with suppress(duckdb.Error):  # DuckDB may have rolled back already
                    connection.execute("ROLLBACK")
                raise
            change.apply()
            self.version += 1


class Change:
    """The pending part of one catalogue transaction."""

    def __init__(self, catalog: Catalog, connection: duckdb.DuckDBPyConnection) -> None:
        self.catalog = catalog
        self.connection = connection
        self._puts: list[CatalogObject] = []
        self._removed: list[CatalogObject] = []
        self._settings: list[tuple[Setting, bool]] = []
        self._schemas: list[tuple[str, int, bool]] = []

    def run(self, sql: str) -> None:
        self.connection.execute(sql)

    def put(self, entry: CatalogObject) -> None:
        self._puts.append(entry)

    def remove(self, entry: CatalogObject) -> None:
        self._removed.append(entry)

    def put_setting(self, setting: Setting) -> None:
        self._settings.append((setting, True))

    def remove_setting(self, setting: Setting) -> None:
        self._settings.append((setting, False))

    def put_schema(self, name: str) -> None:
        used = [number for _, number in self.catalog.schemas.values()]
        self._schemas.append((name, max([4, *used]) + 1, True))

    def remove_schema(self, name: str) -> None:
        self._schemas.append((name, 0, False))

    def write(self) -> None:
        for entry in self._removed:
            self._delete(_kind(entry), ".".join(entry.key))
        for entry in self._puts:
            self._replace(_kind(entry), ".".join(entry.key), asdict(entry))
        for setting, keep in self._settings:
            key = f"{setting.kind}:{setting.name}".lower()
            if keep:
                self._replace("setting", key, asdict(setting))
            else:
                self._delete("setting", key)
        for name, number, keep in self._schemas:
            if keep:
                self._replace("schema", name.lower(), {"name": name, "id": number})
            else:
                self._delete("schema", name.lower())

    def _delete(self, kind: str, key: str) -> None:
        self.connection.execute(f"DELETE FROM {self.catalog.entries} WHERE kind = ? AND key = ?", [kind, key])

    def _replace(self, kind: str, key: str, document: dict[str, object]) -> None:
        self._delete(kind, key)
        self.connection.execute(
            f"INSERT INTO {self.catalog.entries} VALUES (?, ?, ?)", [kind, key, json.dumps(document)]
        )

    def apply(self) -> None:
        """Show the change: readers in other threads hold either the old maps or the new ones."""
        objects, settings, schemas = dict(self.catalog.objects), dict(self.catalog.settings), dict(self.catalog.schemas)
        for entry in self._removed:
            objects.pop(entry.key, None)
        for entry in self._puts:
            objects[entry.key] = entry
        for setting, keep in self._settings:
            key = setting.kind.lower(), setting.name.lower()
            if keep:
                settings[key] = setting
            else:
                settings.pop(key, None)
        for name, number, keep in self._schemas:
            if keep:
                schemas[name.lower()] = (name, number)
            else:
                schemas.pop(name.lower(), None)
        self.catalog.objects, self.catalog.settings, self.catalog.schemas = objects, settings, schemas


def _kind(entry: CatalogObject) -> str:
    return type(entry).__name__.lower()


def _read(kind: str, document: dict[str, object]) -> CatalogObject:
    """A catalogue object from its document; lists become the tuples the dataclasses hold."""
    values = {name: _frozen(value) for name, value in document.items()}
    if kind == "table":
        values["columns"] = tuple(
            TableColumn(**{**column, "type": SqlType(**column["type"]), "identity": _pair(column["identity"])})
            for column in document["columns"]  # type: ignore[attr-defined]
        )
        values["keys"] = tuple(Key(**{**key, "columns": tuple(key["columns"])}) for key in document["keys"])  # type: ignore[attr-defined]
        partitioning = document["partitioning"]
        if isinstance(partitioning, dict):
            values["partitioning"] = Partitioning(**{**partitioning, "boundaries": tuple(partitioning["boundaries"])})
    return _CLASSES[kind](**values)  # type: ignore[arg-type]


def _pair(value: list[int] | None) -> tuple[int, int] | None:
    return (value[0], value[1]) if value else None


def _frozen(value: object) -> object:
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value


def renumbered(columns: tuple[TableColumn, ...]) -> tuple[TableColumn, ...]:
    """Columns with their 1-based ids."""
    return tuple(replace(column, column_id=index) for index, column in enumerate(columns, 1))
