"""Spark's catalogue is the workspace's: databases and tables that all sessions share and that outlive them.

Spark has one seam for that, `ExternalCatalog`, where Hive's metastore stands on a cluster. Here it is implemented in
Python and called back by the driver's JVM, so that SQL, Python and Scala see the same. The metadata is the service's
(`lake_catalogue`), the files are the lake's (`lake_filesystem`).

A Delta table is shown to the JVM as the Parquet files of its newest version, linked into a folder that only the JVM
sees; what writes to one goes through `spark_tables`. https://spark.apache.org/docs/3.5.9/sql-ref-syntax-ddl.html
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from pyspark import SparkContext
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from localazure_compute import jvm_callbacks, lake
from localazure_compute.lake_catalogue import Catalogue, Document
from localazure_compute.lake_filesystem import VERSION, Server, serve
from localazure_compute.spark_lake import Mirror, refuse

_CATALOG = "org.apache.spark.sql.catalyst.catalog"
DELTA = "delta"
_REFUSED = {
    "loadTable": "LOAD DATA",
    "loadPartition": "LOAD DATA",
    "loadDynamicPartitions": "Hive's tables",
    "createFunction": "CREATE FUNCTION",
    "dropFunction": "DROP FUNCTION",
    "alterFunction": "CREATE OR REPLACE FUNCTION",
    "renameFunction": "renaming a function",
    "alterTableStats": "ANALYZE TABLE",
    "createPartitions": "adding partitions to a table (its folders tell them)",
    "dropPartitions": "dropping a table's partitions (delete rows, or write with overwrite)",
    "renamePartitions": "renaming a table's partitions",
    "alterPartitions": "changing a table's partitions",
}


class WorkspaceCatalog:
    """`ExternalCatalog`. Java calls the methods by name; what they raise comes back to the Python that called Java."""

    def __init__(self, spark: SparkSession, catalogue: Catalogue, server: Server, mirror: Mirror) -> None:
        self._jvm = spark._jvm
        self._session = spark._jsparkSession
        self._hadoop = spark._jsc.hadoopConfiguration()
        self._catalogue, self._files, self._server, self._mirror = catalogue, server.files, server, mirror
        self._mounted: set[str] = set()
        self._described = 0
        self.mount(os.environ.get("LOCALAZURE_LAKE_CONTAINER", ""))

    class Java:
        implements = (f"{_CATALOG}.ExternalCatalog",)

    def __getattr__(self, name: str) -> Any:
        if name in _REFUSED:

            def refused(*_arguments: Any) -> Any:
                raise jvm_callbacks.raised(refuse(_REFUSED[name]))

            return refused
        raise AttributeError(name)

    def toString(self) -> str:
        return "the workspace's lake databases"

    def hashCode(self) -> int:
        return id(self) & 0x7FFFFFFF

    def equals(self, other: Any) -> bool:
        return other is self

    def mount_all(self) -> None:
        """Let the JVM find every container: its code may name any."""
        for container in self._mirror.lake.containers():
            self.mount(container)

    def mount(self, container: str) -> None:
        """Let the JVM find a container of the lake."""
        if container and container not in self._mounted:
            for key, value in self._server.configuration([container]).items():
                self._hadoop.set(key, value)
            self._mounted.add(container)

    @contextlib.contextmanager
    def described(self) -> Iterator[None]:
        """Meanwhile tables are what they are: a statement is about a table's description, not about its rows.

        For all threads: the JVM calls back in threads of its own.
        """
        self._described += 1
        try:
            yield
        finally:
            self._described -= 1

    def definition(self, database: str, table: str) -> Document | None:
        """What the catalogue holds of a table."""
        return self._catalogue.table(database, table)

    def location_of(self, database: str) -> str:
        """Where a database's managed tables lie. Raises AnalysisException."""
        return str(self._known(database)["location"])

    # ---- databases --------

    def createDatabase(self, definition: Any, ignore_if_exists: bool) -> None:
        with jvm_callbacks.reported():
            name, location = definition.name(), unquote(definition.locationUri().toString())
            document: Document = {
                "description": definition.description(),
                "properties": self._dict(definition.properties()),
            }
            # The session's own warehouse is Spark's default; the workspace's is the catalogue's.
            default = f"{self._session.sessionState().conf().warehousePath()}/{name}.db"
            if location.rstrip("/").removeprefix("file:") != default.removeprefix("file:"):
                document["location"] = checked(location).rstrip("/")
            try:
                self._catalogue.create_database(name, document)
            except AnalysisException as error:
                if not ignore_if_exists or error.error_class != "SCHEMA_ALREADY_EXISTS":
                    raise

    def dropDatabase(self, name: str, ignore_if_not_exists: bool, cascade: bool) -> None:
        with jvm_callbacks.reported():
            if ignore_if_not_exists and self._catalogue.database(name) is None:
                return
            found = self._catalogue.drop_database(name, cascade=cascade)
            for table in found["tables"].values():
                self._remove_files(table)
            folder = lake.parse(found["location"])
            if next(self._mirror.lake.entries(folder), None) is None:
                self._mirror.lake.delete(folder)

    def alterDatabase(self, definition: Any) -> None:
        with jvm_callbacks.reported():
            location = unquote(definition.locationUri().toString())
            properties = self._dict(definition.properties())
            described = {"description": definition.description(), "properties": properties}
            self._catalogue.alter_database(definition.name(), described | {"location": checked(location)})

    def getDatabase(self, name: str) -> Any:
        with jvm_callbacks.reported():
            found = self._known(name)
            uri = self._uri(found["location"])
            return self._classes.CatalogDatabase(
                found["name"], found["description"], uri, self._map(found["properties"])
            )

    def databaseExists(self, name: str) -> bool:
        with jvm_callbacks.reported():
            return self._catalogue.database(name) is not None

    def listDatabases(self, pattern: str | None = None) -> Any:
        with jvm_callbacks.reported():
            return self._matching([each["name"] for each in self._catalogue.databases()], pattern)

    def setCurrentDatabase(self, name: str) -> None:
        """The session keeps it."""

    # ---- tables --------

    def createTable(self, definition: Any, ignore_if_exists: bool) -> None:
        with jvm_callbacks.reported():
            database, name = definition.database(), definition.identifier().table()
            document = self._document(definition)
            if document["type"] == "MANAGED" and not document["location"]:
                document["location"] = f"{self.location_of(database)}/{name}"
            self.create(database, name, document, ignore_if_exists=ignore_if_exists)

    def create(self, database: str, name: str, document: Document, *, ignore_if_exists: bool = False) -> None:
        """Enter a table; a managed one has a folder from then on. Raises AnalysisException."""
        if document["type"] != "VIEW":
            checked(document["location"])
        try:
            self._catalogue.create_table(database, name, document)
        except AnalysisException as error:
            if not ignore_if_exists or error.error_class != "TABLE_OR_VIEW_ALREADY_EXISTS":
                raise
            return
        if document["type"] == "MANAGED":
            self._files.make_folder(lake.parse(document["location"]))

    def alter(self, database: str, name: str, document: Document) -> None:
        """Change part of what the catalogue holds of a table."""
        self._catalogue.alter_table(database, name, document)

    def dropTable(self, database: str, table: str, ignore_if_not_exists: bool, _purge: bool) -> None:
        with jvm_callbacks.reported():
            if ignore_if_not_exists and self._catalogue.table(database, table) is None:
                return
            self._remove_files(self._catalogue.drop_table(database, table))

    def renameTable(self, database: str, old: str, new: str) -> None:
        """A managed table's files move with it, as on a cluster."""
        with jvm_callbacks.reported():
            found = self._catalogue.table(database, old) or {}
            given: Document = {"name": new}
            place = f"{self.location_of(database)}/{old}"
            moves = found.get("type") == "MANAGED" and found["location"].rstrip("/") == place
            if moves:
                given["location"] = f"{self.location_of(database)}/{new}"
            self._catalogue.rename_table(database, old, given)
            if moves:
                self._files.rename(lake.parse(place), lake.parse(given["location"]))

    def alterTable(self, definition: Any) -> None:
        with jvm_callbacks.reported():
            database, name = definition.database(), definition.identifier().table()
            if (self._catalogue.table(database, name) or {}).get("provider") == DELTA:
                raise refuse("ALTER TABLE of a Delta table", "write with mergeSchema or overwriteSchema")
            self._catalogue.alter_table(database, name, self._document(definition))

    def alterTableDataSchema(self, database: str, table: str, schema: Any) -> None:
        with jvm_callbacks.reported():
            found = self._catalogue.table(database, table) or {}
            if found.get("provider") == DELTA:
                raise refuse("ALTER TABLE of a Delta table", "write with mergeSchema or overwriteSchema")
            given = json.loads(schema.json())
            fields = {field["name"]: field for field in json.loads(found["schema"])["fields"]}
            given["fields"] += [fields[name] for name in found["partitions"]]
            self._catalogue.alter_table(database, table, {"schema": json.dumps(given)})

    def getTable(self, database: str, table: str) -> Any:
        with jvm_callbacks.reported():
            found = self._catalogue.table(database, table)
            if found is None:
                missing = AnalysisException(f"The table or view `{database}`.`{table}` cannot be found.")
                missing.error_class = "TABLE_OR_VIEW_NOT_FOUND"
                raise missing
            return self._table(database, found)

    def getTablesByName(self, database: str, tables: Any) -> Any:
        with jvm_callbacks.reported():
            found = [self._catalogue.table(database, tables.apply(number)) for number in range(tables.size())]
            return self._seq([self._table(database, each) for each in found if each is not None])

    def tableExists(self, database: str, table: str) -> bool:
        with jvm_callbacks.reported():
            return self._catalogue.table(database, table) is not None

    def listTables(self, database: str, pattern: str | None = None) -> Any:
        with jvm_callbacks.reported():
            return self._matching(list(self._known(database)["tables"]), pattern)

    def listViews(self, database: str, pattern: str) -> Any:
        with jvm_callbacks.reported():
            views = [name for name, kind in self._known(database)["tables"].items() if kind == "VIEW"]
            return self._matching(views, pattern)

    # ---- functions and partitions: none of the catalogue's --------

    def functionExists(self, _database: str, _name: str) -> bool:
        return False

    def listFunctions(self, _database: str, _pattern: str) -> Any:
        return self._seq([])

    def listPartitions(self, *_arguments: Any) -> Any:
        return self._seq([])

    listPartitionNames = listPartitionsByFilter = listPartitions

    # ---- documents --------

    def _known(self, name: str) -> Document:
        found = self._catalogue.database(name)
        if found is None:
            missing = AnalysisException(f"The schema `{name}` cannot be found.")
            missing.error_class = "SCHEMA_NOT_FOUND"
            raise missing
        return found

    def _remove_files(self, table: Document) -> None:
        if table["type"] == "MANAGED":
            folder = lake.parse(table["location"])
            self._mirror.lake.delete_tree(folder)
            self._mirror.lake.delete(folder)

    def _document(self, table: Any) -> Document:
        storage, buckets = table.storage(), table.bucketSpec()
        uri = storage.locationUri()
        return {
            "type": table.tableType().name(),
            "provider": (_optional(table.provider()) or "").lower(),
            "location": unquote(uri.get().toString()) if uri.isDefined() else "",
            "options": {k: v for k, v in self._dict(storage.properties()).items() if k.lower() != "path"},
            "schema": table.schema().json(),
            "partitions": self._list(table.partitionColumnNames()),
            "buckets": [
                buckets.get().numBuckets(),
                self._list(buckets.get().bucketColumnNames()),
                self._list(buckets.get().sortColumnNames()),
            ]
            if buckets.isDefined()
            else None,
            "owner": table.owner(),
            "created": table.createTime(),
            "properties": self._dict(table.properties()),
            "comment": _optional(table.comment()),
            "text": _optional(table.viewText()),
            "original": _optional(table.viewOriginalText()),
        }

    def _table(self, database: str, document: Document) -> Any:
        if document["provider"] == DELTA and not self._described:
            document = self._newest_version(document)
        jvm, none = self._jvm, self._none()
        options = self._map(document["options"])
        location = self._some(self._uri(document["location"])) if document["location"] else none
        storage = self._classes.CatalogStorageFormat(location, none, none, none, False, options)
        identifier = jvm.org.apache.spark.sql.catalyst.TableIdentifier(
            document["name"], self._some(database), self._some("spark_catalog")
        )
        buckets = none
        if document["buckets"]:
            count, columns, sorted_by = document["buckets"]
            buckets = self._some(self._classes.BucketSpec(count, self._seq(columns), self._seq(sorted_by)))
        empty = self._map({})
        return self._classes.CatalogTable(
            identifier,
            getattr(self._classes.CatalogTableType, document["type"])(),
            storage,
            self._session.parseDataType(document["schema"]),
            self._some(document["provider"]) if document["provider"] else none,
            self._seq(document["partitions"]),
            buckets,
            document["owner"],
            document["created"],
            -1,
            "",
            self._map(document["properties"]),
            none,
            self._some(document["text"]) if document["text"] is not None else none,
            self._some(document["comment"]) if document["comment"] is not None else none,
            self._seq([]),
            False,
            True,
            empty,
            self._some(document["original"]) if document.get("original") is not None else none,
        )

    def _newest_version(self, document: Document) -> Document:
        """A Delta table as the Parquet table that its newest version is."""
        from localazure_compute.delta_folder import DeltaFolder, spark_schema

        folder = DeltaFolder(self._mirror, lake.parse(document["location"]))
        if not folder.exists:
            return document | {"provider": "parquet"}
        table = folder.table()
        linked = folder.path.child(f"{VERSION}{table.version()}")
        files = {file.relative_to(folder.local).as_posix(): file for file in folder.files(table)}
        self._files.link(linked, files)
        schema, partitions = spark_schema(table), list(table.metadata().partition_columns)
        # Spark has the partitions' columns last.
        fields = [each for each in schema.fields if each.name not in partitions]
        schema.fields = fields + [schema[name] for name in partitions]
        schema.names = [each.name for each in schema.fields]
        return document | {
            "provider": "parquet",
            "location": str(linked),
            "options": {},
            "schema": schema.json(),
            "partitions": partitions,
        }

    # ---- values between the two --------

    @property
    def _classes(self) -> Any:
        return self._jvm.org.apache.spark.sql.catalyst.catalog

    def _uri(self, location: str) -> Any:
        path = lake.parse(location)
        self.mount(path.container)
        return self._jvm.org.apache.hadoop.fs.Path(location).toUri()

    def _none(self) -> Any:
        return self._jvm.scala.Option.apply(None)

    def _some(self, value: Any) -> Any:
        return self._jvm.scala.Some(value)

    def _seq(self, items: list[Any]) -> Any:
        return self._jvm.PythonUtils.toSeq(items).toList()

    def _map(self, items: dict[str, str]) -> Any:
        return self._jvm.PythonUtils.toScalaMap(items)

    def _list(self, items: Any) -> list[Any]:
        return [items.apply(number) for number in range(items.size())]

    def _dict(self, items: Any) -> dict[str, str]:
        return dict(self._jvm.scala.collection.JavaConverters.mapAsJavaMapConverter(items).asJava())

    def _matching(self, names: list[str], pattern: str | None) -> Any:
        found = self._seq(sorted(names))
        if pattern is None:
            return found
        return self._jvm.org.apache.spark.sql.catalyst.util.StringUtils.filterPattern(found, pattern)


def _optional(value: Any) -> str | None:
    return str(value.get()) if value.isDefined() else None


def checked(location: str) -> str:
    """A table lies in the lake. Raises AnalysisException."""
    if not lake.is_lake(location):
        raise AnalysisException(
            f"A table or database of the workspace lies in the lake, at an abfss:// path, not at {location!r}."
        )
    return location


#: The process's one context and its catalogue.
_attached: list[tuple[SparkContext, WorkspaceCatalog]] = []


def install(mirror: Mirror) -> None:
    """Give every SparkSession of this process the workspace's catalogue and the lake as a file system."""
    catalogue = Catalogue.from_environment()
    if catalogue is None:
        return
    original: Callable[..., None] = SparkSession.__init__

    def attach(session: SparkSession) -> None:
        # All sessions of a context share what is attached.
        if not _attached or _attached[0][0] is not session.sparkContext:
            _attached[:] = [(session.sparkContext, _attach(session, catalogue, mirror))]

    def init(self: SparkSession, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        attach(self)

    SparkSession.__init__ = init
    if (there := SparkSession.getActiveSession()) is not None:
        attach(there)


def current() -> WorkspaceCatalog:
    """This process's. Raises RuntimeError before there is a SparkSession, and outside of a workspace."""
    if not _attached:
        raise RuntimeError("there are tables by name in a workspace's Spark, once there is a SparkSession")
    return _attached[0][1]


def is_attached() -> bool:
    """Whether `current` has an answer."""
    return bool(_attached)


def _attach(spark: SparkSession, catalogue: Catalogue, mirror: Mirror) -> WorkspaceCatalog:
    from pyspark.java_gateway import ensure_callback_server_started

    ensure_callback_server_started(spark.sparkContext._gateway)
    jvm_callbacks.report_errors()
    made = WorkspaceCatalog(spark, catalogue, serve(mirror), mirror)
    # What stands in a session's way to its catalogue is a lazy value that takes no class but Spark's own two.
    wrapper = spark._jsparkSession.sharedState().externalCatalog()
    field = wrapper.getClass().getDeclaredField("delegate")
    field.setAccessible(True)
    field.set(wrapper, made)
    return made
