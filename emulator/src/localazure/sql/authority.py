"""On whose behalf a session acts, and what a definition asks of them.

Queries and changes are checked where their names are bound (``Context.demand``); this module has the definitions.
https://learn.microsoft.com/en-us/sql/t-sql/statements/execute-as-transact-sql
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from localazure.sql import errors, logins, rules
from localazure.sql import syntax as s
from localazure.sql.catalog import CatalogObject, Function, Procedure, Table, View
from localazure.sql.permissions import CREDENTIAL, PRINCIPAL
from localazure.sql.principals import DBO, GUEST, Access, Directory, Identity, directory, no_entry
from localazure.sql.results import SqlError

if TYPE_CHECKING:
    from localazure.sql.interpreter import Frame
    from localazure.sql.pool import Pool
    from localazure.sql.session import Session


class Authority:
    """Who opened a session, and whose place it has taken by EXECUTE AS: (database, user), the last one counts."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.taken: list[tuple[int, int]] = []

    def access(self, pool: Pool) -> Access | None:
        """What the session may do in a database; None: everything. SqlError 916 when it has no business there."""
        if self.taken:
            number, user_id = self.taken[-1]
            if user_id == DBO and number == pool.number:
                return None
            known = directory_of(pool)
            if number != pool.number or user_id not in known.by_id:  # elsewhere, or dropped meanwhile
                raise no_entry(self.identity, pool.database)
            return known.access(user_id)
        if self.identity.administrator:
            return None
        known = directory_of(pool)
        user = known.user_of(self.identity)
        granted = _of_server(pool, self.identity)
        if user is None or granted is None:
            if granted is None:
                return None
            if pool is not pool.master_pool and logins.CONNECT_ANY not in granted:
                raise no_entry(self.identity, pool.database)
            return known.access(GUEST, logins.SELECT_ALL in granted)
        access = known.access(user.principal_id, granted is not None and logins.SELECT_ALL in granted)
        if not access.on_database("CONNECT"):
            raise no_entry(self.identity, pool.database)
        return access

    def execute_as(self, pool: Pool, statement: s.ExecuteAs) -> None:
        """Take a user's place; SqlError 15517 when there is none, or it isn't the session's to take."""
        user = directory_of(pool).find(statement.user)
        access = self.access(pool)
        if (
            user is None
            or user.is_role
            or not (access is None or access.allows("IMPERSONATE", PRINCIPAL, user.principal_id))
        ):
            raise SqlError(
                15517,
                f'Cannot execute as the database principal because the principal "{statement.user}" does not exist, '
                "this type of principal cannot be impersonated, or you do not have permission.",
                line=statement.line,
            )
        self.taken.append((pool.number, user.principal_id))

    @contextmanager
    def as_owner(self, pool: Pool) -> Iterator[None]:
        """What the catalogue itself has to read, to describe what a user may see."""
        self.taken.append((pool.number, DBO))
        try:
            yield
        finally:
            self.taken.pop()

    def revert(self) -> None:
        if self.taken:
            self.taken.pop()

    def user(self, pool: Pool) -> str:
        """CURRENT_USER."""
        access = self.access(pool)
        if access is None:
            return "dbo"
        found = access.directory.by_id.get(access.user_id)
        return found.name if found is not None else ""

    def login(self, pool: Pool) -> str:
        """SUSER_SNAME(): behind EXECUTE AS the log-in of that user; a user without one answers its own name."""
        if not self.taken:
            return self.identity.name
        found = directory_of(pool).by_id.get(self.taken[-1][1])
        return found.login or found.name if found is not None else ""


def _of_server(pool: Pool, identity: Identity) -> frozenset[str] | None:
    """What a serverless pool's log-in may do in all databases; None: everything."""
    if pool.kind.tables:
        return frozenset()
    master = pool.master_pool
    return None if logins.is_sysadmin(master, identity) else logins.server_permissions(master, identity)


def directory_of(pool: Pool) -> Directory:
    return directory(pool.catalog, pool.kind.tables)


# ---- definitions --------

_EXTERNAL = {"DATA SOURCE": "ALTER ANY EXTERNAL DATA SOURCE", "FILE FORMAT": "ALTER ANY EXTERNAL FILE FORMAT"}
_DROPPED: dict[str, type[CatalogObject]] = {
    "TABLE": Table, "EXTERNAL TABLE": Table, "VIEW": View, "PROCEDURE": Procedure, "FUNCTION": Function
}  # fmt: skip


def check(session: Session, statement: s.Statement) -> None:
    """SqlError for a definition that the session's user may not make. Nothing to do for an owner of the database."""
    access = session.access()
    if access is not None:
        _Check(session, access, statement.line).statement(statement)


class _Check:
    """One statement's demands."""

    def __init__(self, session: Session, access: Access, line: int) -> None:
        self.session, self.access, self.line = session, access, line
        self.database = session.database

    def statement(self, statement: s.Statement) -> None:
        permission = rules.CREATED.get(type(statement))
        if permission is not None:
            self._made(statement, permission)
            return
        match statement:
            case s.Drop():
                for parts in statement.names:
                    self._drop(statement, parts)
            case s.CreateExternal():
                self._database(_EXTERNAL[statement.kind])
            case s.SwitchPartition():
                self._alters(statement.name)
                self._alters(statement.target)
            case s.Transfer():
                self._object("CONTROL", statement.name, f"Cannot find the object '{'.'.join(statement.name)}'")
                self._schema(statement.schema)
            case s.Statistics() | s.Index():
                self._alters(statement.table)
            case s.CopyInto():
                bulk(self.access, self.line)
            case (
                s.Truncate() | s.Rename() | s.AddColumns() | s.DropColumns() | s.AlterColumn() | s.ChangeBoundary()
            ):  # fmt: skip
                self._alters(statement.name)
            case _:  # a kind of definition that this table doesn't know is an owner's
                self._database("CONTROL")

    def _made(self, statement: s.Statement, permission: str) -> None:
        name: s.Parts = getattr(statement, "name", ())
        if isinstance(statement, s.CreateSchema):
            if not self.access.on_database(permission):
                raise errors.denied_on_database(permission, self.database, self.line)
            return
        if name[-1].startswith("#"):
            return
        context = self.session.context(_frame())
        schema, short = context.split_name(name, self.line)
        found = self.session.pool.catalog.find(schema, short)
        if found is not None and (getattr(statement, "alter", False) or getattr(statement, "replace", False)):
            self._object("ALTER", name, f"Cannot alter the {type(found).__name__.lower()} '{'.'.join(name)}'")
            return
        if not self.access.on_database(permission):
            raise errors.denied_on_database(permission, self.database, self.line)
        self._schema(schema)
        if isinstance(statement, s.CreateExternalTable):
            for needed in _EXTERNAL.values():
                self._database(needed)
            if statement.query is not None:
                bulk(self.access, self.line)

    def _schema(self, schema: str) -> None:
        if not self.access.on_schema("ALTER", schema):
            raise SqlError(
                2760,
                f'The specified schema name "{schema}" either does not exist or you do not have permission to use it.',
                line=self.line,
            )

    def _drop(self, statement: s.Drop, parts: s.Parts) -> None:
        kind = statement.kind
        if kind in _DROPPED:
            found = self.session.context(_frame()).find(parts, self.line)
            if isinstance(found, _DROPPED[kind]) and not self._may("CONTROL", found) and not self._on_schema(found):
                raise SqlError(
                    3701,
                    f"Cannot drop the {kind.lower()} '{'.'.join(parts)}', because it does not exist or you do not "
                    "have permission.",
                    state=5,
                    line=self.line,
                )
        elif kind == "SCHEMA":
            if not self.access.on_schema("CONTROL", parts[-1]) and not self.access.on_database("ALTER ANY SCHEMA"):
                raise missing(f"Cannot drop the schema '{parts[-1]}'", self.line)
        elif kind == "STATISTICS":
            self._alters(parts[:-1])
        elif kind == "DATABASE":  # of a serverless pool; whoever may drop one is no stranger to its server
            raise SqlError(
                3701,
                f"Cannot drop the database '{parts[-1]}', because it does not exist or you do not have permission.",
                line=self.line,
            )
        else:
            self._database(_EXTERNAL.get(kind.removeprefix("EXTERNAL "), "CONTROL"))

    def _on_schema(self, found: CatalogObject) -> bool:
        return self.access.on_schema("ALTER", found.schema)

    def _may(self, permission: str, found: CatalogObject) -> bool:
        return (isinstance(found, Table) and found.temporary) or self.access.on(permission, found)

    def _alters(self, parts: s.Parts) -> None:
        found = self.session.context(_frame()).find(parts, self.line)
        if found is not None and not self._may("ALTER", found):
            raise SqlError(
                1088,
                f'Cannot find the object "{".".join(parts)}" because it does not exist or you do not have permissions.',
                state=13,
                line=self.line,
            )

    def _object(self, permission: str, parts: s.Parts, what: str) -> None:
        found = self.session.context(_frame()).find(parts, self.line)
        if found is not None and not self._may(permission, found):
            raise missing(what, self.line)

    def _database(self, permission: str) -> None:
        if not self.access.on_database(permission):
            raise no_permission(self.line)


def administers(session: Session, statement: s.Administration) -> None:
    """The same of a statement that configures the service."""
    access = session.access()
    if access is None:
        return
    kind, line = statement.kind, statement.line
    if kind == "KILL" and not access.on_database("KILL DATABASE CONNECTION"):
        raise SqlError(6102, "User does not have permission to use the KILL statement.", severity=14, line=line)
    shows = access.on_database("VIEW DATABASE STATE") and kind.startswith(("DBCC PDW_SHOW", "DBCC SHOWRESULT"))
    if kind.startswith("DBCC") and not shows and not access.on_database("CONTROL"):
        user = session.authority.user(session.pool)
        raise SqlError(
            2571, f"User '{user}' does not have permission to run {kind}.", severity=14, state=3, line=line
        )  # fmt: skip
    if kind == "ALTER DATABASE" and not access.on_database("ALTER"):
        raise SqlError(
            5011,
            f"User does not have permission to alter database '{statement.name}', the database does not exist, or the "
            "database is not in a state that allows access checks.",
            severity=14,
            line=line,
        )
    if kind == "CREATE DATABASE":
        raise errors.denied_on_database(kind, "master", line)
    if kind not in {"KILL", "ALTER DATABASE"} and not shows and not access.on_database("CONTROL"):
        raise no_permission(line)


def references(access: Access, pool: Pool, data_source: str, line: int) -> None:
    """Reading through a data source with a database scoped credential takes REFERENCES on that.

    https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/develop-storage-files-storage-access-control
    """
    source = pool.catalog.setting("DATA SOURCE", data_source)
    name = source.options.get("CREDENTIAL", "") if source is not None else ""
    found = pool.catalog.setting("DATABASE SCOPED CREDENTIAL", name)
    if found is not None and not access.allows("REFERENCES", CREDENTIAL, found.object_id):
        raise missing(f"Cannot find the CREDENTIAL '{name}'", line)


def bulk(access: Access, line: int) -> None:
    """SqlError 4834 for who may not read files in bulk: OPENROWSET, COPY, CETAS."""
    if not access.on_database("ADMINISTER DATABASE BULK OPERATIONS"):
        raise SqlError(4834, "You do not have permission to use the bulk load statement.", line=line)


def no_permission(line: int) -> SqlError:
    return SqlError(15247, "User does not have permission to perform this action.", line=line)


def missing(what: str, line: int) -> SqlError:
    """What a user may not see or touch might as well not be there."""
    return SqlError(15151, f"{what}, because it does not exist or you do not have permission.", line=line)


def _frame() -> Frame:
    from localazure.sql.table_parts import frame_of

    return frame_of()
