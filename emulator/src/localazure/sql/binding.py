"""Names to columns: scopes, and what a compilation knows of its session.

A column that T-SQL calls invalid is refused here, before DuckDB sees the statement, so that a bad name never dooms an
open transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from localazure.sql import errors
from localazure.sql.catalog import Catalog, CatalogObject, Table, quote
from localazure.sql.conversions import Value
from localazure.sql.principals import Access
from localazure.sql.results import SqlError, SqlType
from localazure.sql.rules import PoolKind
from localazure.sql.scans import LakeScan
from localazure.sql.sqltypes import CHARACTER
from localazure.sql.syntax import Parts


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column that a row source offers. ``sql`` is qualified and quoted; refused: the error that reading it is."""

    name: str
    type: SqlType
    sql: str
    nullable: bool = True
    trimmed: bool = False
    hidden: bool = False
    refused: SqlError | None = None

    def value(self) -> Value:
        if self.refused is not None:  # the session's user may not read it
            raise self.refused
        if self.type.name in {"char", "nchar"} and self.trimmed and (self.type.length or 0) > 0:
            padded = f"rpad({self.sql}, {self.type.length}, ' ')"
            return Value(padded, self.type, self.nullable, bare=self.sql, name=self.name)
        trimmed = self.trimmed or self.type.name not in CHARACTER
        return Value(self.sql, self.type, self.nullable, trimmed=trimmed, name=self.name)


@dataclass(slots=True)
class RowSource:
    """One item of FROM: its exposed name, and for a table the parts it may also be qualified with."""

    alias: str
    columns: list[SourceColumn]
    parts: Parts = ()
    table: Table | None = None
    file_columns: dict[str, str] = field(default_factory=dict)

    def answers(self, qualifier: Parts) -> bool:
        wanted = [part.lower() for part in qualifier]
        if len(wanted) == 1:
            return wanted[0] == self.alias.lower()
        own = [part.lower() for part in self.parts]
        return bool(own) and own[-len(wanted) :] == wanted


@dataclass(slots=True)
class Scope:
    """The row sources visible to an expression; ``parent`` is the outer query of a correlated one."""

    sources: list[RowSource] = field(default_factory=list)
    parent: Scope | None = None

    def resolve(self, parts: Parts, line: int) -> SourceColumn:
        """The column that a reference means; SqlError 207, 209 or 4104."""
        scope: Scope | None = self
        qualifier, name = parts[:-1], parts[-1].lower()
        while scope is not None:
            found: list[SourceColumn] = []
            qualified = False
            for source in scope.sources:
                if qualifier and not source.answers(qualifier):
                    continue
                qualified = True
                found += [column for column in source.columns if column.name.lower() == name]
            if len(found) > 1:
                raise errors.ambiguous(".".join(parts), line)
            if found:
                return found[0]
            if qualifier and qualified:
                raise errors.invalid_column(parts[-1], line)
            scope = scope.parent
        if qualifier:
            raise errors.unbound(".".join(parts), line)
        raise errors.invalid_column(parts[-1], line)

    def source(self, qualifier: Parts) -> RowSource | None:
        return next((source for source in self.sources if source.answers(qualifier)), None)


Attachments = dict[str, pa.Table | LakeScan]
"""What a statement registers under these names while it runs."""


@dataclass(frozen=True)
class SystemRows:
    """The rows of a catalogue view at this moment."""

    columns: tuple[tuple[str, SqlType], ...]
    table: pa.Table


@dataclass
class Context:
    """What one compilation knows and collects.

    variables: declared types by lower-case name; constant: a variable's present value; parameters: the variables that
    the SQL names as $v_<name>; attachments: what to register under these names before running; lake: the rows of files
    in a serverless pool; pool, databases: where names are looked up; system, local, stored: a catalogue view, a
    temporary table, a table was named; cacheable: nothing in the SQL depends on the moment; access: what the session's
    user may do, None for everything; access_in: the same in another database; chain: the owner of the view, function or
    procedure that is being followed: what belongs to the same owner is open to whoever may use that one.
    https://learn.microsoft.com/en-us/sql/relational-databases/tutorial-ownership-chains-and-context-switching
    """

    catalog: Catalog
    kind: PoolKind
    database: str
    temporary: dict[str, Table]
    variables: dict[str, SqlType]
    constant: Callable[[str], object]
    server_value: Callable[[str, int], Value]
    system_rows: Callable[[str, str], SystemRows | None]
    external_rows: Callable[[Table], pa.Table]
    default_schema: str = "dbo"
    parameters: set[str] = field(default_factory=set)
    attachments: Attachments = field(default_factory=dict)
    cacheable: bool = True
    depth: int = 0
    counter: int = 0
    system: bool = False
    lake: Callable[..., tuple[str, RowSource]] | None = None
    pool: Any = None
    databases: Callable[[], list[tuple[str, int, str]]] = list
    session_values: dict[str, object] = field(default_factory=dict)
    local: bool = False
    stored: bool = False
    access: Access | None = None
    access_in: Callable[[Any], Access | None] | None = None
    chain: int | None = None
    user: str = "dbo"

    def fresh(self, prefix: str) -> str:
        """A quoted name that nothing else in this statement has."""
        self.counter += 1
        return quote(f"{prefix}${self.counter}")

    def split_name(self, parts: Parts, line: int) -> tuple[str, str]:
        """(schema, name); SqlError for another database, which a dedicated pool can't name."""
        if len(parts) > 3 or (len(parts) == 3 and parts[0].lower() not in {self.database.lower(), "", "tempdb"}):  # noqa: PLR2004
            if not self.kind.cross_database:
                raise SqlError(
                    40515,
                    f"Reference to database and/or server name in '{'.'.join(parts)}' is not supported in this "
                    "version of SQL Server.",
                    line=line,
                )
            if len(parts) > 3 or self.pool is None or self.pool.server is None:  # noqa: PLR2004
                raise errors.invalid_object(".".join(parts), line)
        return (parts[-2] if len(parts) > 1 and parts[-2] else self.default_schema), parts[-1]

    def find(self, parts: Parts, line: int) -> CatalogObject | None:
        """The object of this name: a temporary table, a table or a view."""
        if parts[-1].startswith("#"):
            self.cacheable = False
            self.local = True
            return self.temporary.get(parts[-1].lower())
        schema, name = self.split_name(parts, line)
        other = self.elsewhere(parts, line)
        found = (self.catalog if other is None else other.catalog).find(schema, name)
        if found is None and schema == self.default_schema and len(parts) == 1:  # behind a user's own schema comes dbo
            return self.catalog.find("dbo", name)
        return found

    def elsewhere(self, parts: Parts, line: int) -> Any:
        """The other database that a three-part name leads to; None for the present one."""
        if len(parts) != 3 or parts[0].lower() in {self.database.lower(), "", "tempdb"} or not self.kind.cross_database:  # noqa: PLR2004
            return None
        server = getattr(self.pool, "server", None)
        return None if server is None else server.database(parts[0], line)

    @contextmanager
    def inside(self, other: Any, schema: str = "") -> Iterator[None]:
        """Names are looked up in another database, or for a module in ``schema``: that of what is being expanded."""
        if other is None and self.access is None:
            yield
            return
        saved = self.pool, self.catalog, self.database, self.access, self.chain, self.default_schema
        if other is not None:
            self.access = self._access_elsewhere(other)
            self.pool, self.catalog, self.database = other, other.catalog, other.database
        if schema:
            self.default_schema = "dbo"
            self.chain = None if self.access is None else self.access.directory.owner_of(schema)
        try:
            yield
        finally:
            self.pool, self.catalog, self.database, self.access, self.chain, self.default_schema = saved

    # ---- permissions --------

    def _access_elsewhere(self, other: Any) -> Access | None:
        return self.access_in(other) if self.access_in is not None else None

    def _held(self, parts: Parts, entry: CatalogObject, line: int) -> tuple[Access, str] | None:
        """What the user may do where ``parts`` lead, and that database's name; None when nothing has to be asked."""
        other = self.elsewhere(parts, line)
        access, database = self.access, self.database
        if other is not None:
            access, database = self._access_elsewhere(other), other.database
        if access is None or (isinstance(entry, Table) and entry.temporary):
            return None
        if other is None and self.chain is not None and self.chain == access.directory.owner_of(entry.schema):
            return None
        return access, database

    def demand(self, permission: str, parts: Parts, entry: CatalogObject, line: int) -> None:
        """SqlError 229 when the session's user hasn't this permission on a table, a view, a procedure, a function."""
        held = self._held(parts, entry, line)
        if held is not None and not held[0].on(permission, entry):
            raise errors.denied(permission, (held[1], entry.schema, entry.name), line)

    def refused_columns(
        self, permission: str, parts: Parts, entry: CatalogObject, line: int, *, later: bool = False
    ) -> Callable[[str], SqlError | None] | None:
        """By a column's name the error that using it is; None when all are open. 229 when none is, unless ``later``."""
        held = self._held(parts, entry, line)
        if held is None:
            return None
        access, database = held
        names, where = access.refused_columns(permission, entry), (database, entry.schema, entry.name)
        if names is None:
            denied = errors.denied(permission, where, line)
            if not later:
                raise denied
            return lambda column: denied
        if not names:
            return None
        return lambda column: errors.denied(permission, where, line, column) if column.lower() in names else None

    def demand_on_database(self, permission: str, line: int) -> None:
        """SqlError 262 when the session's user hasn't this permission on the database."""
        if self.access is not None and not self.access.on_database(permission):
            raise errors.denied_on_database(permission, self.database, line)

    def check_mixed(self, line: int) -> None:
        """A serverless pool doesn't read files together with temporary tables or catalogue views.

        https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/develop-tables-temporary
        """
        if (self.local or self.system) and any(isinstance(scan, LakeScan) for scan in self.attachments.values()):
            raise SqlError(
                15816, "The query references an object that is not supported in distributed processing mode.", line=line
            )

    def table(self, parts: Parts, line: int) -> Table:
        """A table of this name or SqlError 208."""
        found = self.find(parts, line)
        if not isinstance(found, Table):
            raise errors.invalid_object(".".join(parts), line)
        return found

    def parameter(self, name: str, line: int) -> Value:
        """A variable as a bound parameter of DuckDB."""
        from localazure.sql.sqltypes import duck

        key = name.lower()
        kind = self.variables.get(key)
        if kind is None:
            raise errors.undeclared(name, line)
        self.parameters.add(key)
        return Value(f"CAST(${parameter_name(key)} AS {duck(kind)})", kind)


def parameter_name(variable: str) -> str:
    """DuckDB's name for a variable: letters, digits and underscores."""
    return "v_" + "".join(letter if letter.isalnum() else f"_{ord(letter)}_" for letter in variable.lstrip("@").lower())
