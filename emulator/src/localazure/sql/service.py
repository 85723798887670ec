"""Statements that configure the service: credentials, workload groups, the master key, KILL, DBCC.

They are kept in the catalogue, where its views show them. Secrets are dropped by the parser. Row-level policies and
encryption are refused: nothing here would enforce them. Users, roles and permissions: see ``localazure.sql.security``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from localazure.sql import errors, workload
from localazure.sql import syntax as s
from localazure.sql.catalog import Setting, Table, View, now
from localazure.sql.distributions import DISTRIBUTIONS, node_of, pieces, space_used
from localazure.sql.results import Message, Result, ResultSet, RowsAffected, SqlError
from localazure.sql.results_of_rows import rows
from localazure.sql.sqltypes import BIGINT, FLOAT, INT
from localazure.sql.statistics import show_statistics
from localazure.sql.system_functions import split_object_name

if TYPE_CHECKING:
    from localazure.sql.serverless import Serverless
    from localazure.sql.session import Session

_SECURITY = frozenset({"SECURITY POLICY", "CERTIFICATE", "SYMMETRIC KEY", "DATABASE ENCRYPTION KEY"})
# ALTER DATABASE .. SET or MODIFY of these changes speed, not results.
# https://learn.microsoft.com/en-us/sql/t-sql/statements/alter-database-transact-sql-set-options
_SPEED = frozenset(
    {
        "RESULT_SET_CACHING",
        "QUERY_STORE",
        "READ_COMMITTED_SNAPSHOT",
        "AUTO_CREATE_STATISTICS",
        "EDITION",
        "MAXSIZE",
        "SERVICE_OBJECTIVE",
    }
)


def administer(session: Session, statement: s.Administration) -> Iterator[Result]:
    kind = statement.kind
    if kind.startswith("DBCC"):
        yield from _dbcc(session, statement)
        return
    if kind == "KILL":
        _kill(session, statement)
    elif kind.partition(" ")[2] in _SECURITY:
        raise errors.no_security(kind, statement.line)
    elif session.pool.server is not None and kind in {"CREATE DATABASE", "ALTER DATABASE"}:
        _serverless_database(session, session.pool.server, statement)
    elif kind == "CREATE DATABASE":
        raise errors.not_implemented("CREATE DATABASE", statement.line)
    elif session.pool.server is not None and _refused_by_serverless(kind):
        raise errors.unsupported(kind, statement.line)
    elif kind.startswith("CREATE "):
        _create(session, statement, kind.removeprefix("CREATE "))
    elif kind == "ALTER DATABASE":
        _alter_database(session, statement)
    elif kind == "ALTER MATERIALIZED VIEW":
        _alter_materialized(session, statement)
    elif kind.startswith("ALTER "):
        subject = kind.removeprefix("ALTER ")
        found = session.pool.catalog.setting(subject, statement.name)
        if found is not None and subject == workload.GROUP:
            options = {**found.options, **statement.options}
            workload.check(session.pool.catalog, subject, options, statement.line)
            with session.pool.catalog.change(session.cursor) as change:
                change.put_setting(replace(found, options=options))
        elif found is not None and subject == "DATABASE SCOPED CREDENTIAL":
            with session.pool.catalog.change(session.cursor) as change:
                change.put_setting(replace(found, options={**found.options, **statement.options}))
        elif subject != "DATABASE SCOPED CONFIGURATION" and found is None:
            raise SqlError(
                15151,
                f"Cannot alter the {subject.lower()} '{statement.name}', because it does not exist or you do not have "
                "permission.",
                line=statement.line,
            )
    yield RowsAffected(None)


_DEDICATED_ONLY = frozenset({"WORKLOAD GROUP", "WORKLOAD CLASSIFIER", "MATERIALIZED VIEW", "DATABASE ENCRYPTION KEY"})


def _refused_by_serverless(kind: str) -> bool:
    """https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/overview-features"""
    return kind.partition(" ")[2] in _DEDICATED_ONLY


def _serverless_database(session: Session, server: Serverless, statement: s.Administration) -> None:
    """https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/create-use-views#prerequisites"""
    collation = statement.options.get("COLLATE", "")
    if statement.kind == "CREATE DATABASE":
        if session.transaction_count:
            raise SqlError(226, "CREATE DATABASE statement not allowed within multi-statement transaction.",
                           line=statement.line)  # fmt: skip
        server.create(statement.name, collation, statement.line)
    elif collation:
        name = session.database if statement.name.lower() == "current" else statement.name
        server.collate(name, collation, statement.line)
    else:
        raise errors.not_implemented("ALTER DATABASE", statement.line)


def drop_database(session: Session, name: str, if_exists: bool, line: int) -> None:
    """DROP DATABASE of a serverless pool; a dedicated pool is dropped by its workspace."""
    server = session.pool.server
    if server is None:
        raise errors.not_implemented("DROP DATABASE", line)
    if if_exists and name.lower() not in server.databases:
        return
    server.drop(name, line)


def _alter_database(session: Session, statement: s.Administration) -> None:
    for key, value in statement.options.items():
        if key.endswith("SERVICE_OBJECTIVE"):
            session.pool.capacity.scale(value, statement.line)
            return
    words = " ".join(statement.options).split()
    if "RESULT_SET_CACHING" in words:
        with session.pool.catalog.change(session.cursor) as change:
            change.put_setting(Setting("OPTION", "RESULT_SET_CACHING", {"VALUE": words[-1]}, 0))
        return
    if _SPEED.isdisjoint(words):
        raise errors.not_implemented(" ".join(["ALTER DATABASE", *words[:2]]), statement.line)


def _create(session: Session, statement: s.Administration, kind: str) -> None:
    catalog = session.pool.catalog
    name = statement.name or "##MS_DatabaseMasterKey##"
    if kind == "DATABASE SCOPED CREDENTIAL" and session.pool.server is not None and session.database == "master":
        raise SqlError(33158, "Database credentials are not supported in master database.", line=statement.line)
    if catalog.setting(kind, name) is not None:
        number = 15578 if kind == "MASTER KEY" else 15530
        raise SqlError(
            number, f"{kind.capitalize()} '{name}' already exists in the current database.", line=statement.line
        )
    if kind in {workload.GROUP, workload.CLASSIFIER}:
        workload.check(catalog, kind, statement.options, statement.line)
    with catalog.change(session.cursor) as change:
        change.put_setting(Setting(kind, name, statement.options, catalog.new_id()))


def _alter_materialized(session: Session, statement: s.Administration) -> None:
    """REBUILD and DISABLE. A disabled view answers all the same, worked out from its tables, as in a pool."""
    schema, name = split_object_name(statement.name)
    found = session.pool.catalog.find(schema, name)
    if not isinstance(found, View) or not found.materialized:
        raise errors.invalid_object(statement.name, statement.line)
    action = statement.options["ACTION"]
    if action not in {"REBUILD", "DISABLE"}:
        raise errors.syntax(action, statement.line)
    with session.pool.catalog.change(session.cursor) as change:
        change.put(replace(found, disabled=action == "DISABLE", modified=now()))


def drop_setting(session: Session, kind: str, name: str, if_exists: bool, line: int) -> None:
    if kind in _SECURITY:
        raise errors.no_security(f"DROP {kind}", line)
    catalog = session.pool.catalog
    found = catalog.setting(kind, name or "##MS_DatabaseMasterKey##")
    if found is None:
        if if_exists:
            return
        raise SqlError(
            15151,
            f"Cannot drop the {kind.lower()} '{name}', because it does not exist or you do not have permission.",
            line=line,
        )
    workload.check_drop(catalog, kind, found.name, line)
    with catalog.change(session.cursor) as change:
        change.remove_setting(found)


def _kill(session: Session, statement: s.Administration) -> None:
    """``KILL 'SID52'`` ends what another session runs."""
    digits = "".join(letter for letter in statement.name if letter.isdigit())
    if not digits:
        raise SqlError(6106, f"Process ID {statement.name} is not an active process ID.", line=statement.line)
    session.pool.engine.kill(int(digits), session.spid)


def _dbcc(session: Session, statement: s.Administration) -> Iterator[Result]:
    """https://learn.microsoft.com/en-us/sql/t-sql/database-console-commands/dbcc-pdw-showspaceused-transact-sql"""
    name = statement.kind.removeprefix("DBCC ")
    if name == "PDW_SHOWSPACEUSED":
        tables = session.pool.catalog.tables()
        if statement.options:
            tables = [_named_table(session, statement.options["0"], statement.line)]
        found = space_used(session, tables)
        sizes = [(title, BIGINT) for title in ("RESERVED_SPACE", "DATA_SPACE", "INDEX_SPACE", "UNUSED_SPACE")]
        if statement.options:
            yield rows([("ROWS", BIGINT), *sizes, ("PDW_NODE_ID", INT), ("DISTRIBUTION_ID", INT)], found)
            return
        nodes = sorted({row[5] for row in found})
        summed = [(*(sum(row[i] for row in found if row[5] == node) for i in range(1, 5)), node) for node in nodes]
        yield rows([*sizes, ("PDW_NODE_ID", INT)], summed)
        return
    if name == "PDW_SHOWPARTITIONSTATS":
        yield _partition_statistics(session, statement)
        return
    if name == "PDW_SHOWMATERIALIZEDVIEWOVERHEAD":
        yield _overhead(session, statement)
        return
    if name == "SHOW_STATISTICS":
        yield from show_statistics(session, statement)
        return
    if name == "SHOWRESULTCACHESPACEUSED":
        size = session.pool.engine.results.kilobytes
        titles = ("RESERVED_SPACE", "DATA_SPACE", "INDEX_SPACE", "UNUSED_SPACE")
        yield rows([(title, BIGINT) for title in titles], [(size, size, 0, 0)])
        return
    if name == "DROPRESULTSETCACHE":
        session.pool.engine.results.clear()
    if name in {"DROPCLEANBUFFERS", "FREEPROCCACHE", "DROPRESULTSETCACHE", "SHRINKLOG"}:
        yield Message(
            2528,
            1,
            0,
            "DBCC execution completed. If DBCC printed error messages, contact your system administrator.",
            statement.line,
        )
        return
    if name == "PDW_SHOWEXECUTIONPLAN":
        raise errors.not_implemented(f"DBCC {name}", statement.line)
    raise errors.refused(f"DBCC {name}", statement.line)


def _partition_statistics(session: Session, statement: s.Administration) -> Result:
    """A row for each partition in each distribution.

    https://learn.microsoft.com/en-us/sql/t-sql/database-console-commands/dbcc-pdw-showpartitionstats-transact-sql
    """
    table = _named_table(session, statement.options.get("0", ""), statement.line)
    known = {(piece.partition, piece.distribution): piece for piece in pieces(session, table)}
    count = len(table.partitioning.boundaries) + 1 if table.partitioning else 1
    found = []
    for partition in range(1, count + 1):
        for distribution in range(1, DISTRIBUTIONS + 1):
            piece = known.get((partition, distribution))
            pages, held = (piece.pages, piece.rows) if piece else (0, 0)
            found.append((partition, pages, pages, held, node_of(session, distribution), distribution))
    spec = [("PARTITION_NUMBER", INT), ("USED_PAGE_COUNT", BIGINT), ("RESERVED_PAGE_COUNT", BIGINT),
            ("ROW_COUNT", BIGINT), ("PDW_NODE_ID", INT), ("DISTRIBUTION_ID", INT)]  # fmt: skip
    return rows(spec, found)


def _named_table(session: Session, written: str, line: int) -> Table:
    found = session.pool.catalog.find(*split_object_name(written))
    if not isinstance(found, Table) or found.external is not None:
        raise errors.invalid_object(written, line)
    return found


def _overhead(session: Session, statement: s.Administration) -> Result:
    """A view here is always worked out from its tables, so that nothing has piled up since its last rebuild.

    https://learn.microsoft.com/en-us/sql/t-sql/database-console-commands/dbcc-pdw-showmaterializedviewoverhead-transact-sql
    """
    written = statement.options.get("0", "")
    schema, name = split_object_name(written)
    found = session.pool.catalog.find(schema, name)
    if not isinstance(found, View) or not found.materialized:
        raise errors.invalid_object(written, statement.line)
    query = f"SELECT COUNT_BIG(*) FROM [{found.schema}].[{found.name}]"
    count = next(r for r in session.execute(query) if isinstance(r, ResultSet)).table.column(0)[0].as_py()
    columns = [("OBJECT_ID", INT), ("BASE_VIEW_ROWS", BIGINT), ("TOTAL_ROWS", BIGINT), ("OVERHEAD_RATIO", FLOAT)]
    return rows(columns, [(found.object_id, count, count, 1.0)])
