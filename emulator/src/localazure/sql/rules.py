"""What each kind of pool allows: one table, so that a serverless pool is a row and not a second engine.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/overview-features
https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-reference-tsql-statements
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.results import SqlError


@dataclass(frozen=True)
class PoolKind:
    """name: dedicated or serverless; refused_functions: T-SQL functions that this pool doesn't have.

    edition: DATABASEPROPERTYEX's; engine_edition: SERVERPROPERTY('EngineEdition'); returns: RETURN, CONTINUE and
    WAITFOR; replicated: a lake database, which Spark rules; hints: OPTION (..) and WITH (NOLOCK); grouping_sets;
    queries_in_while: WHILE (SELECT ..) > 0.
    """

    name: str
    edition: str
    engine_edition: int
    version: str
    refused_functions: frozenset[str] = field(default_factory=frozenset)
    offset_fetch: bool = False
    openrowset: bool = False
    tables: bool = True
    hints: bool = True
    grouping_sets: bool = True
    returns: bool = False
    queries_in_while: bool = True
    cross_database: bool = False
    ctas_needs_distribution: bool = True
    replicated: bool = False


DEDICATED = PoolKind(
    name="dedicated",
    edition="DataWarehouse",
    engine_edition=6,
    version="Microsoft Azure SQL Data Warehouse - 10.0.15554.0 (localazure)",
    # functions that the vendor lists for SQL Server and not for dedicated pools
    # https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/overview-features#functions
    refused_functions=frozenset(
        {
            "CHOOSE",
            "TRANSLATE",
            "STRING_ESCAPE",
            "PARSE",
            "TRY_PARSE",
            "SCOPE_IDENTITY",
            "IDENT_CURRENT",
            "GENERATE_SERIES",
            "ERROR_LINE",
            "NEWSEQUENTIALID",
            "CHECKSUM_AGG",
            "GROUPING_ID",
        }
    ),
)

SERVERLESS = PoolKind(
    name="serverless",
    edition="",
    engine_edition=11,
    version="Microsoft Azure SQL Data Warehouse - 10.0.15554.0 serverless (localazure)",
    refused_functions=frozenset({"SCOPE_IDENTITY", "IDENT_CURRENT"}),
    offset_fetch=True,
    openrowset=True,
    tables=False,
    hints=False,
    grouping_sets=False,
    returns=True,
    queries_in_while=False,
    cross_database=True,
    ctas_needs_distribution=False,
)

LAKE = replace(SERVERLESS, replicated=True)

# Statements about tables with rows of their own, under the names that error 15868 has for them. Temporary tables may
# be made, filled and altered: https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/develop-tables-temporary
SERVERLESS_REFUSES: dict[type[s.Statement], str] = {
    s.CreateTable: "CREATE TABLE",
    s.CreateTableAs: "CREATE TABLE AS SELECT",
    s.Truncate: "TRUNCATE TABLE",
    s.Rename: "RENAME OBJECT",
    s.Transfer: "ALTER SCHEMA",
    s.AddColumns: "ALTER TABLE",
    s.DropColumns: "ALTER TABLE",
    s.AlterColumn: "ALTER TABLE",
    s.SwitchPartition: "ALTER TABLE SWITCH",
    s.ChangeBoundary: "ALTER TABLE RANGE",
    s.Index: "CREATE INDEX",
    s.CopyInto: "COPY INTO",
}
_TEMPORARY_MAY = (s.CreateTable, s.Truncate, s.AddColumns, s.DropColumns, s.AlterColumn)


def check_definition(kind: PoolKind, database: str, statement: s.Statement) -> None:
    """SqlError for a definition that this kind of pool doesn't have.

    In a serverless pool's master database external objects can't be made (error 15896):
    https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/resources-self-help-sql-on-demand
    """
    if kind.tables:
        _check_master(database, statement)
        return
    word = SERVERLESS_REFUSES.get(type(statement))
    if word is not None:
        name = statement.table if isinstance(statement, s.Index) else getattr(statement, "name", ())
        temporary = bool(name) and name[-1].startswith("#")
        into = isinstance(statement, s.CreateTableAs) and statement.into
        if not (temporary and (into or isinstance(statement, _TEMPORARY_MAY))):
            raise errors.unsupported("SELECT INTO" if into else word, statement.line)
    if isinstance(statement, s.CreateView) and statement.materialized:
        raise errors.unsupported("CREATE MATERIALIZED VIEW", statement.line)
    if isinstance(statement, s.Statistics) and len(statement.columns) > 1:
        raise SqlError(15846, "Multi-column statistics are not supported.", line=statement.line)
    if database.lower() != "master":
        return
    here = {
        s.CreateExternalTable: "CREATE EXTERNAL TABLE",
        s.CreateExternal: "CREATE EXTERNAL",
        s.CreateProcedure: "CREATE PROCEDURE",
    }.get(type(statement))
    if here is not None:
        what = f"{here} {statement.kind}" if isinstance(statement, s.CreateExternal) else here
        raise SqlError(15896, f"{what} is not supported in master database.", line=statement.line)


#: Statements that make an object of a database, and the permission of the database that each takes.
CREATED: dict[type[s.Statement], str] = {
    s.CreateTable: "CREATE TABLE",
    s.CreateTableAs: "CREATE TABLE",
    s.CreateExternalTable: "CREATE TABLE",
    s.CreateView: "CREATE VIEW",
    s.CreateProcedure: "CREATE PROCEDURE",
    s.CreateFunction: "CREATE FUNCTION",
    s.CreateSchema: "CREATE SCHEMA",
}
# Objects of a dedicated pool's server are in its pools; its master database has log-ins.
_NOT_IN_MASTER = CREATED | {s.CreateExternal: "CREATE EXTERNAL"}


def _check_master(database: str, statement: s.Statement) -> None:
    word = _NOT_IN_MASTER.get(type(statement)) if database.lower() == "master" else None
    name = getattr(statement, "name", "")
    if word is not None and not (isinstance(name, tuple) and name[-1].startswith("#")):
        raise errors.denied_on_database(word, database, statement.line)
