"""DBCC SHOW_STATISTICS: what a statistics object says about its columns, worked out when it is asked for.

https://learn.microsoft.com/en-us/sql/t-sql/database-console-commands/dbcc-show-statistics-transact-sql
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.catalog import Table, quote
from localazure.sql.results import Result, SqlError, SqlType
from localazure.sql.results_of_rows import rows
from localazure.sql.sqltypes import BIGINT, CHARACTER, REAL, SYSNAME
from localazure.sql.system_functions import split_object_name

if TYPE_CHECKING:
    from localazure.sql.session import Session

_STEPS = 200
_PARTS = ("STAT_HEADER", "DENSITY_VECTOR", "HISTOGRAM")
_TEXT = SqlType("nvarchar", 4000)


def show_statistics(session: Session, statement: s.Administration) -> Iterator[Result]:
    """The header, the density vector and the histogram; WITH names those that are wanted."""
    line = statement.line
    written, name = statement.options.get("0", ""), statement.options.get("1", "")
    table = session.pool.catalog.find(*split_object_name(written))
    if not isinstance(table, Table):
        raise errors.invalid_object(written, line)
    wanted = name.strip("[]").lower()
    found = next((columns for title, columns in table.statistics if title.lower() == wanted), None)
    if found is None:
        raise SqlError(2767, f"Could not locate statistics '{name}' in the system catalogs.", line=line)
    asked = statement.options.get("WITH", "").upper().split(",") if "WITH" in statement.options else list(_PARTS)
    if unknown := [part for part in asked if part not in _PARTS]:
        raise errors.not_implemented(f"DBCC SHOW_STATISTICS WITH {unknown[0]}", line)
    made = {"STAT_HEADER": _header, "DENSITY_VECTOR": _density, "HISTOGRAM": _histogram}
    for part in _PARTS:
        if part in asked:
            yield made[part](session, table, name.strip("[]"), found)


def _header(session: Session, table: Table, name: str, columns: tuple[str, ...]) -> Result:
    first = quote(columns[0])
    count, steps = _one(session, f"SELECT count(*), least({_STEPS}, count(DISTINCT {first})) FROM {table.physical}")
    spec = [
        ("Name", SYSNAME),
        ("Updated", SqlType("nvarchar", 30)),
        ("Rows", BIGINT),
        ("Rows Sampled", BIGINT),
        ("Steps", BIGINT),
        ("Density", REAL),
        ("Average key length", REAL),
        ("String Index", SqlType("varchar", 3)),
        ("Filter Expression", _TEXT),
        ("Unfiltered Rows", BIGINT),
    ]
    column = table.column(columns[0])
    text = "YES" if column is not None and column.type.name in CHARACTER else "NO "
    stamp = table.statistics_date(name).replace("T", " ")[:19]
    return rows(spec, [(name, stamp, count, count, steps, 0.0, 0.0, text, None, count)])


def _density(session: Session, table: Table, name: str, columns: tuple[str, ...]) -> Result:
    found = []
    for length in range(1, len(columns) + 1):
        prefix = ", ".join(quote(column) for column in columns[:length])
        (distinct,) = _one(session, f"SELECT count(*) FROM (SELECT DISTINCT {prefix} FROM {table.physical})")
        found.append((1 / distinct if distinct else None, 0.0, ", ".join(columns[:length])))
    return rows([("All density", REAL), ("Average Length", REAL), ("Columns", _TEXT)], found)


def _histogram(session: Session, table: Table, name: str, columns: tuple[str, ...]) -> Result:
    """At most 200 steps of about as many rows each, by the first column. RANGE_HI_KEY is text here."""
    key = quote(columns[0])
    sql = (
        f"WITH v AS (SELECT {key} AS k, count(*) AS n FROM {table.physical} WHERE {key} IS NOT NULL GROUP BY 1), "
        f"b AS (SELECT k, n, ntile({_STEPS}) OVER (ORDER BY k) AS b FROM v) "
        "SELECT CAST(max(k) AS VARCHAR), sum(n) - arg_max(n, k), arg_max(n, k), count(*) - 1 FROM b GROUP BY b "
        "ORDER BY b"
    )
    found = [
        (high, float(inside), float(equal), int(distinct), float(inside) / distinct if distinct else 1.0)
        for high, inside, equal, distinct in session.cursor.execute(sql).fetchall()
    ]
    spec = [
        ("RANGE_HI_KEY", _TEXT),
        ("RANGE_ROWS", REAL),
        ("EQ_ROWS", REAL),
        ("DISTINCT_RANGE_ROWS", BIGINT),
        ("AVG_RANGE_ROWS", REAL),
    ]
    return rows(spec, found)


def _one(session: Session, sql: str) -> tuple[int, ...]:
    return tuple(int(value) for value in session.cursor.execute(sql).fetchall()[0])
