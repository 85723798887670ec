"""The workspace's lake databases: what Spark's `CREATE DATABASE` and `CREATE TABLE` leave behind.

On Azure a metastore of the workspace holds them, for all its Spark pools; the serverless SQL pool shows them
(`localazure.sql.lake_databases`). Here every Spark process asks this service, with the secret it was started with
(`executors.spark_local`), through `localazure_compute.lake_catalogue`. The interface is localazure's own.
What is kept: `localazure.core.lake_catalogue`. https://learn.microsoft.com/azure/synapse-analytics/metadata/database
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from localazure.core.auth import Identity, Tokens
from localazure.core.errors import BadRequest, Conflict, NotFound, Unauthorized
from localazure.core.lake_catalogue import KIND
from localazure.core.registry import Answer, Operation
from localazure.core.store import Store
from localazure.executors.spark_local import CATALOGUE_PATH, SUBJECT
from localazure.settings import Settings

DEFAULT = "default"
_NAME = re.compile(r"\w{1,128}")
_DATABASE = CATALOGUE_PATH + "/databases/{database}"
_TABLE = _DATABASE + "/tables/{table}"

Document = dict[str, Any]


def warehouse(settings: Settings) -> str:
    """Where managed tables lie: the folder of the workspace's default lake that Synapse uses."""
    root = f"abfss://{settings.container}@{settings.storage_account}.dfs.core.windows.net"
    return f"{root}/synapse/workspaces/{settings.workspace}/warehouse"


class LakeDatabases:
    """Answers Spark processes about databases and tables."""

    def __init__(self, settings: Settings, store: Store, tokens: Tokens) -> None:
        self._settings = settings
        self._store = store
        self._tokens = tokens

    def operations(self) -> list[Operation]:
        """The catalogue's operations; the secret stands in a header of its own."""
        rows: list[tuple[str, str, str, Callable[[Request], Any]]] = [
            ("LakeDatabases_List", "GET", f"{CATALOGUE_PATH}/databases", self._list),
            ("LakeDatabases_Get", "GET", _DATABASE, self._get),
            ("LakeDatabases_Create", "PUT", _DATABASE, self._create),
            ("LakeDatabases_Alter", "PATCH", _DATABASE, self._alter),
            ("LakeDatabases_Drop", "DELETE", _DATABASE, self._drop),
            ("LakeTables_Get", "GET", _TABLE, self._get_table),
            ("LakeTables_Create", "PUT", _TABLE, self._create_table),
            ("LakeTables_Alter", "PATCH", _TABLE, self._alter_table),
            ("LakeTables_Rename", "POST", f"{_TABLE}/rename", self._rename_table),
            ("LakeTables_Drop", "DELETE", _TABLE, self._drop_table),
        ]
        return [Operation(name, method, path, self._checked(handler), None) for name, method, path, handler in rows]

    def _checked(self, handler: Callable[[Request], Any]) -> Callable[[Request, Identity], Any]:
        async def checked(request: Request, identity: Identity) -> Answer:
            asking = self._tokens.verify(request.headers.get("secret", ""), "synapse").subject
            if not asking.startswith(SUBJECT):
                raise Unauthorized("The secret is no Spark process's.", "InvalidAuthenticationToken")
            answer: Answer = await handler(request)
            return answer

        return checked

    # ---- databases --------

    async def _list(self, _request: Request) -> Answer:
        self._make_default()
        return {"value": [_summary(each) for each in self._store.list(KIND)]}

    async def _get(self, request: Request) -> Answer:
        return _summary(self._database(_name(request, "database")))

    async def _create(self, request: Request) -> Answer:
        name, given = _name(request, "database"), await request.json()
        self._make_default()
        document = _database(name, given.get("location") or f"{warehouse(self._settings)}/{name}.db", given)
        if not self._store.insert(KIND, name, document):
            raise Conflict(f"The database '{name}' already exists.", "name", "DatabaseAlreadyExists")
        return 201, _summary(document)

    async def _alter(self, request: Request) -> Answer:
        name, given = _name(request, "database"), await request.json()
        changed = {key: given[key] for key in ("description", "location", "properties") if key in given}
        return _summary(self._change(name, lambda document: document | changed))

    async def _drop(self, request: Request) -> Answer:
        """With `cascade=true` its tables go as well. The answer is what there was."""
        name = _name(request, "database")
        if name == DEFAULT:
            raise BadRequest("The default database can't be dropped.", "database", "CannotDropDefaultDatabase")
        cascade = request.query_params.get("cascade", "false") == "true"
        found: Document = {}

        def close(document: Document) -> Document:
            if document["tables"] and not cascade:
                raise Conflict(f"The database '{name}' has tables.", "database", "DatabaseNotEmpty")
            found.update(document)
            # Nobody makes a table in it between this and its end.
            return document | {"tables": {}, "dropped": True}

        self._change(name, close)
        self._store.delete(KIND, name)
        return found

    # ---- tables --------

    async def _get_table(self, request: Request) -> Answer:
        name = _name(request, "table")
        found = self._database(_name(request, "database"))["tables"].get(name)
        if found is None:
            raise _no_table(request)
        answer: Document = found
        return answer

    async def _create_table(self, request: Request) -> Answer:
        table = _name(request, "table")
        given = await request.json() | {"name": table}

        def create(document: Document) -> Document:
            if table in document["tables"]:
                raise Conflict(f"The table '{document['name']}.{table}' already exists.", "table", "TableAlreadyExists")
            return document | {"tables": document["tables"] | {table: given}}

        self._change(_name(request, "database"), create)
        return 201, given

    async def _alter_table(self, request: Request) -> Answer:
        table, given = _name(request, "table"), await request.json()

        def alter(document: Document) -> Document:
            if table not in document["tables"]:
                raise _no_table(request)
            return document | {"tables": document["tables"] | {table: document["tables"][table] | given}}

        answer: Document = self._change(_name(request, "database"), alter)["tables"][table]
        return answer

    async def _rename_table(self, request: Request) -> Answer:
        """To `name`, and to `location` if its files move. The answer is the table under its new name."""
        table, given = _name(request, "table"), await request.json()
        new = given["name"]

        def rename(document: Document) -> Document:
            tables = dict(document["tables"])
            if table not in tables:
                raise _no_table(request)
            if new in tables:
                raise Conflict(f"The table '{document['name']}.{new}' already exists.", "table", "TableAlreadyExists")
            tables[new] = tables.pop(table) | given
            return document | {"tables": tables}

        answer: Document = self._change(_name(request, "database"), rename)["tables"][new]
        return answer

    async def _drop_table(self, request: Request) -> Answer:
        """The answer is what there was."""
        table = _name(request, "table")
        found: Document = {}

        def drop(document: Document) -> Document:
            tables = dict(document["tables"])
            if table not in tables:
                raise _no_table(request)
            found.update(tables.pop(table))
            return document | {"tables": tables}

        self._change(_name(request, "database"), drop)
        return found

    # ---- documents --------

    def _make_default(self) -> None:
        """Every workspace has it from its first use of Spark on."""
        described = {"description": "Default Hive database"}
        self._store.insert(KIND, DEFAULT, _database(DEFAULT, warehouse(self._settings), described))

    def _database(self, name: str) -> Document:
        if name == DEFAULT:
            self._make_default()
        found = self._store.get(KIND, name)
        if found is None or found.get("dropped"):
            raise _no_database(name)
        return found

    def _change(self, name: str, change: Callable[[Document], Document]) -> Document:
        if name == DEFAULT:
            self._make_default()

        def checked(document: Document) -> Document:
            if document.get("dropped"):
                raise _no_database(name)
            return change(document)

        try:
            return self._store.update(KIND, name, checked)
        except KeyError:
            raise _no_database(name) from None


def _database(name: str, location: str, given: Document) -> Document:
    described = {"description": given.get("description", ""), "properties": given.get("properties", {})}
    return {"name": name, "location": location, **described, "tables": {}}


def _summary(document: Document) -> Document:
    """A database with its tables' names and types alone."""
    tables = {name: table["type"] for name, table in document["tables"].items()}
    return {key: document[key] for key in ("name", "description", "location", "properties")} | {"tables": tables}


def _name(request: Request, part: str) -> str:
    name = str(request.path_params[part]).lower()
    if not _NAME.fullmatch(name):
        raise BadRequest(f"'{name}' isn't a name for a {part}: letters, digits and underscores are.", part)
    return name


def _no_database(name: str) -> NotFound:
    return NotFound(f"The database '{name}' isn't there.", "database", "DatabaseNotFound")


def _no_table(request: Request) -> NotFound:
    name = f"{_name(request, 'database')}.{_name(request, 'table')}"
    return NotFound(f"The table '{name}' isn't there.", "table", "TableNotFound")
