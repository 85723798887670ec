"""How well a dedicated pool keeps the tables that a script has loaded: row groups of columnstores, statistics.

https://learn.microsoft.com/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-memory-optimizations-for-columnstore-compression
https://learn.microsoft.com/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-tables-statistics
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from azflow import tsql

#: Rows of a row group below which a columnstore loses much of its compression and speed; a full one has 1,048,576.
FEWEST_ROWS = 100_000
#: Part of deleted rows from which a rebuild pays.
MOST_DELETED = 0.1

_ROW_GROUPS = """SELECT SUM(CASE WHEN g.state_desc = 'COMPRESSED' THEN 1 ELSE 0 END) AS row_groups,
    SUM(CASE WHEN g.state_desc = 'COMPRESSED' THEN g.total_rows ELSE 0 END) AS compressed_rows,
    SUM(CASE WHEN g.state_desc IN ('OPEN', 'CLOSED') THEN g.total_rows ELSE 0 END) AS open_rows,
    SUM(g.deleted_rows) AS deleted_rows
FROM sys.tables AS t
JOIN sys.schemas AS s ON s.schema_id = t.schema_id
JOIN sys.pdw_permanent_table_mappings AS m ON m.object_id = t.object_id
JOIN sys.pdw_nodes_tables AS n ON n.name = m.physical_name
JOIN sys.dm_pdw_nodes_db_column_store_row_group_physical_stats AS g
    ON g.object_id = n.object_id AND g.pdw_node_id = n.pdw_node_id AND g.distribution_id = n.distribution_id
WHERE s.name = ? AND t.name = ?"""
_STATISTICS = """SELECT COUNT(*) AS n FROM sys.stats AS st
JOIN sys.tables AS t ON t.object_id = st.object_id
JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE s.name = ? AND t.name = ? AND (st.user_created = 1 OR st.auto_created = 1)"""

Query = Callable[[str, tuple[object, ...]], Sequence[Sequence[Any]]]


@dataclass(frozen=True)
class TableHealth:
    """One table. Row groups are those of a clustered columnstore; other tables have none.

    :param row_groups: compressed ones.
    :param open_rows: rows that wait in delta stores, uncompressed.
    :param statistics: how many there are, made by hand or by the pool.
    """

    table: str
    row_groups: int
    compressed_rows: int
    open_rows: int
    deleted_rows: int
    statistics: int

    def view(self) -> dict[str, Any]:
        """As an XCom has it."""
        return asdict(self)

    def problems(self) -> list[str]:
        """What should be done about it, in words; empty: nothing."""
        found = []
        rows = self.compressed_rows + self.open_rows
        if self.row_groups and self.compressed_rows / self.row_groups < FEWEST_ROWS:
            found.append(
                f"its {self.row_groups} row groups have {self.compressed_rows // self.row_groups} rows on average, "
                f"under {FEWEST_ROWS}: use fewer partitions or a larger resource class, then ALTER INDEX ALL ON "
                f"{self.table} REBUILD"
            )
        if self.open_rows > self.compressed_rows:
            found.append(
                f"{self.open_rows} of its {rows} rows lie uncompressed in delta stores: 60 distributions need 102,400 "
                f"rows each; make a table this small a HEAP or CLUSTERED INDEX, or ALTER INDEX ALL ON {self.table} "
                f"REBUILD"
            )
        if rows and self.deleted_rows > MOST_DELETED * rows:
            found.append(f"{self.deleted_rows} of its {rows} rows are deleted and still there: rebuild its index")
        if not self.statistics:
            found.append("it has no statistics, so that the pool plans joins blindly: CREATE STATISTICS after the load")
        return found


def loaded_tables(script: str) -> tuple[str, ...]:
    """``schema.table`` of each table that a script fills by CTAS, INSERT, COPY or MERGE, in order; none temporary."""
    found: dict[str, None] = {}
    for batch in tsql.batches(script):
        for statement in tsql.statements(batch.text):
            words = statement.words()
            if statement.kind == "ctas":
                start = 2
            elif statement.kind in ("insert", "copy", "merge"):
                verb = words.index(statement.kind.upper())
                start = verb + (2 if words[verb + 1 : verb + 2] == ("INTO",) else 1)
            else:
                continue
            name, _ = tsql.object_name(statement.tokens, start)
            if name and not name.rpartition(".")[2].startswith("#"):
                found[".".join((["dbo", *name.split(".")])[-2:])] = None
    return tuple(found)


def look(table: str, query: Query) -> TableHealth:
    """The table as the pool's views show it; they need VIEW DATABASE STATE.

    :param table: ``schema.table``.
    :param query: runs a query with its values and gives its rows.
    """
    schema, _, name = table.rpartition(".")
    ((groups, compressed, waiting, deleted),) = query(_ROW_GROUPS, (schema, name))
    ((statistics,),) = query(_STATISTICS, (schema, name))
    return TableHealth(table, *(int(value or 0) for value in (groups, compressed, waiting, deleted, statistics)))
