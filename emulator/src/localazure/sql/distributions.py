"""Where a table's rows would lie: 60 distributions on the compute nodes of a pool of this size.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/massively-parallel-processing-mpp-architecture
The rows themselves are in one DuckDB table. A row's distribution is worked out when somebody asks, by a hash of the
distribution columns: not the vendor's hash, but skewed where that is skewed. Sizes are of uncompressed values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localazure.sql import partitions
from localazure.sql.catalog import Table, quote
from localazure.sql.catalog_rows import max_length
from localazure.sql.sqltypes import CHARACTER

if TYPE_CHECKING:
    from localazure.sql.session import Session

DISTRIBUTIONS = 60
CONTROL_NODE = 1
_FIRST_COMPUTE = 2
_DWU_OF_A_NODE = 500
_PAGE = 8192
_ROW_HEADER = 10


@dataclass(frozen=True)
class Piece:
    """The rows of one partition in one distribution."""

    distribution: int
    partition: int
    rows: int
    bytes: int

    @property
    def pages(self) -> int:
        return -(-self.bytes // _PAGE)


def nodes(session: Session) -> int:
    """Compute nodes: one up to DW500c, then one a 500 DWU.

    https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/memory-concurrency-limits
    """
    size = int("".join(letter for letter in session.pool.capacity.objective if letter.isdigit()))
    return max(1, size // _DWU_OF_A_NODE)


def node_of(session: Session, distribution: int) -> int:
    """The id of the compute node that has a distribution."""
    return _FIRST_COMPUTE + (distribution - 1) * nodes(session) // DISTRIBUTIONS


def distribution_sql(table: Table) -> str:
    """1 to 60 for every row. Text is hashed as it is compared: without case."""
    if table.distribution == "REPLICATE":
        return "1"
    if table.distribution != "HASH" or not table.hash_columns:
        return f"CAST(rowid % {DISTRIBUTIONS} AS INTEGER) + 1"
    keys = []
    for name in table.hash_columns:
        column = table.column(name)
        text = column is not None and column.type.name in CHARACTER
        keys.append(f"lower({quote(name)})" if text else quote(name))
    return f"CAST(hash({', '.join(keys)}) % {DISTRIBUTIONS} AS INTEGER) + 1"


def _bytes_sql(table: Table) -> str:
    fixed = _ROW_HEADER
    texts = []
    for column in table.columns:
        if column.type.name in CHARACTER:
            texts.append(f"coalesce(strlen({quote(column.name)}), 0)")
        elif column.type.name in {"binary", "varbinary"}:
            texts.append(f"coalesce(octet_length({quote(column.name)}), 0)")
        else:
            fixed += max_length(column.type)
    return " + ".join([str(fixed), *texts])


def pieces(session: Session, table: Table) -> list[Piece]:
    """Every partition's part in every distribution that has rows."""
    if table.external is not None or session.doomed:
        return []
    sql = (
        f"SELECT {distribution_sql(table)}, {partitions.number_sql(session, table)}, count(*), "
        f"sum({_bytes_sql(table)}) FROM {table.physical} GROUP BY 1, 2"
    )
    return [Piece(*map(int, row)) for row in session.cursor.execute(sql).fetchall()]


def space_used(session: Session, tables: Iterable[Table]) -> list[tuple[int, int, int, int, int, int, int]]:
    """DBCC PDW_SHOWSPACEUSED: (rows, reserved, data, index and unused KB, node, distribution), a row a distribution.

    https://learn.microsoft.com/en-us/sql/t-sql/database-console-commands/dbcc-pdw-showspaceused-transact-sql
    """
    rows = dict.fromkeys(range(1, DISTRIBUTIONS + 1), 0)
    used = dict.fromkeys(range(1, DISTRIBUTIONS + 1), 0)
    for table in tables:
        for piece in pieces(session, table):
            rows[piece.distribution] += piece.rows
            used[piece.distribution] += piece.pages * _PAGE // 1024
    return [(rows[d], used[d], used[d], 0, 0, node_of(session, d), d) for d in range(1, DISTRIBUTIONS + 1)]
