"""Views of a dedicated pool's nodes: which table's rows lie where, and the row groups they make.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-tables-overview#table-size-queries
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from localazure.sql.catalog import Table
from localazure.sql.catalog_rows import tables_of
from localazure.sql.distributions import CONTROL_NODE, DISTRIBUTIONS, node_of, nodes, pieces
from localazure.sql.index_views import index_rows
from localazure.sql.view_columns import Spec, declare

if TYPE_CHECKING:
    from localazure.sql.session import Session

Rows = Iterable[tuple[Any, ...]]
# https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-memory-optimizations-for-columnstore-compression
_LARGEST_ROW_GROUP = 1_048_576
_SMALLEST_COMPRESSED = 102_400


def physical_name(table: Table) -> str:
    """What the table is called on the nodes."""
    return f"Table_{table.object_id:08x}_{table.distribution.lower()}"


def _node_id(table: Table, distribution: int) -> int:
    """The object id of one distribution's part."""
    return 1_000_000_000 + table.object_id % 10_000_000 * 100 + distribution


def _local(session: Session) -> list[Table]:
    return [table for table in tables_of(session) if table.external is None]


def _index(table: Table) -> int:
    return index_rows(table)[0][0]


def _nodes(session: Session) -> tuple[Spec, Rows]:
    spec = declare("pdw_node_id int, type nvarchar(32), name nvarchar(32), address nvarchar(32), is_passive bit")
    found = [(CONTROL_NODE, "CONTROL", "localazure-control", "127.0.0.1", False)]
    ids = sorted({node_of(session, distribution) for distribution in range(1, DISTRIBUTIONS + 1)})
    found += [(number, "COMPUTE", f"localazure-compute-{number}", "127.0.0.1", False) for number in ids]
    assert len(ids) == nodes(session)
    return spec, found


def _distributions(session: Session) -> tuple[Spec, Rows]:
    spec = declare("distribution_id int, pdw_node_id int, name nvarchar(32), position int")
    return spec, [(d, node_of(session, d), f"Distribution_{d}", d) for d in range(1, DISTRIBUTIONS + 1)]


def _mappings(session: Session) -> tuple[Spec, Rows]:
    spec = declare("physical_name nvarchar(36), object_id int")
    return spec, [(physical_name(table), table.object_id) for table in _local(session)]


def _nodes_tables(session: Session) -> tuple[Spec, Rows]:
    spec = declare(
        "name sysname, object_id int, principal_id int, schema_id int, parent_object_id int, type char(2), "
        "type_desc nvarchar(60), pdw_node_id int, distribution_id int"
    )
    return spec, [
        (physical_name(table), _node_id(table, d), None, 1, 0, "U ", "USER_TABLE", node_of(session, d), d)
        for table in _local(session)
        for d in range(1, DISTRIBUTIONS + 1)
    ]


def _nodes_partitions(session: Session) -> tuple[Spec, Rows]:
    spec = declare(
        "partition_id bigint, object_id int, index_id int, partition_number int, hobt_id bigint, rows bigint, "
        "data_compression tinyint, data_compression_desc nvarchar(60), pdw_node_id int, distribution_id int"
    )
    found = []
    for table, d, partition, rows, _ in _parts(session):
        number = _node_id(table, d) * 10_000 + partition
        heap = table.index == "HEAP"
        found.append(
            (
                number,
                _node_id(table, d),
                _index(table),
                partition,
                number,
                rows,
                0 if heap else 3,
                "NONE" if heap else "COLUMNSTORE",
                node_of(session, d),
                d,
            )
        )
    return spec, found


def _parts(session: Session) -> list[tuple[Table, int, int, int, int]]:
    """(table, distribution, partition, rows, pages), empty parts as well, as the vendor lists them."""
    found = []
    for table in _local(session):
        known = {(piece.distribution, piece.partition): piece for piece in pieces(session, table)}
        count = len(table.partitioning.boundaries) + 1 if table.partitioning else 1
        for d in range(1, DISTRIBUTIONS + 1):
            for partition in range(1, count + 1):
                piece = known.get((d, partition))
                found.append((table, d, partition, piece.rows if piece else 0, piece.pages if piece else 0))
    return found


def _partition_stats(session: Session) -> tuple[Spec, Rows]:
    spec = declare(
        "partition_id bigint, object_id int, index_id int, partition_number int, in_row_data_page_count bigint, "
        "in_row_used_page_count bigint, in_row_reserved_page_count bigint, lob_used_page_count bigint, "
        "lob_reserved_page_count bigint, row_overflow_used_page_count bigint, row_overflow_reserved_page_count bigint, "
        "used_page_count bigint, reserved_page_count bigint, row_count bigint, pdw_node_id int, distribution_id int"
    )
    found = []
    for table, d, partition, rows, pages in _parts(session):
        part = _node_id(table, d) * 10_000 + partition
        sizes = (pages, pages, pages, 0, 0, 0, 0, pages, pages)
        found.append((part, _node_id(table, d), _index(table), partition, *sizes, rows, node_of(session, d), d))
    return spec, found


def _row_groups(session: Session) -> tuple[Spec, Rows]:
    """Row groups by the rule of a load: under 102,400 rows of a distribution stay open, more are compressed."""
    spec = declare(
        "object_id int, index_id int, partition_number int, row_group_id int, delta_store_hobt_id bigint, "
        "state tinyint, state_desc nvarchar(60), total_rows bigint, deleted_rows bigint, size_in_bytes bigint, "
        "trim_reason tinyint, trim_reason_desc nvarchar(60), pdw_node_id int, distribution_id int"
    )
    found = []
    for table in _local(session):
        if table.index != "COLUMNSTORE":
            continue
        for piece in pieces(session, table):
            left, group = piece.rows, 0
            while left:
                rows = min(left, _LARGEST_ROW_GROUP)
                full = rows == _LARGEST_ROW_GROUP
                compressed = rows >= _SMALLEST_COMPRESSED
                found.append(
                    (
                        _node_id(table, piece.distribution),
                        1,
                        piece.partition,
                        group,
                        None,
                        3 if compressed else 1,
                        "COMPRESSED" if compressed else "OPEN",
                        rows,
                        0,
                        piece.bytes * rows // piece.rows,
                        (0 if full else 2) if compressed else None,
                        ("NO_TRIM" if full else "BULKLOAD") if compressed else None,
                        node_of(session, piece.distribution),
                        piece.distribution,
                    )
                )
                left, group = left - rows, group + 1
    return spec, found


def _partition_functions(session: Session) -> tuple[Spec, Rows]:
    spec = declare(
        "name sysname, function_id int, type char(2), type_desc nvarchar(60), fanout int, boundary_value_on_right bit"
    )
    return spec, [
        (f"pf_{table.object_id}", table.object_id, "R ", "RANGE", len(p.boundaries) + 1, p.range_right)
        for table in _local(session)
        if (p := table.partitioning)
    ]


def _partition_schemes(session: Session) -> tuple[Spec, Rows]:
    spec = declare("name sysname, data_space_id int, type char(2), type_desc nvarchar(60), function_id int")
    return spec, [
        (f"ps_{table.object_id}", table.object_id, "PS", "PARTITION_SCHEME", table.object_id)
        for table in _local(session)
        if table.partitioning
    ]


def _range_values(session: Session) -> tuple[Spec, Rows]:
    """``value`` is sql_variant in the vendor's; text here."""
    spec = declare("function_id int, boundary_id int, parameter_id int, value nvarchar(4000)")
    return spec, [
        (table.object_id, number, 1, boundary.strip("'"))
        for table in _local(session)
        if table.partitioning
        for number, boundary in enumerate(table.partitioning.boundaries, 1)
    ]


def _cache_state(session: Session) -> tuple[Spec, Rows]:
    """A pool copies a replicated table when it is first read after a change; here one copy is always ready."""
    spec = declare("object_id int, state nvarchar(40)")
    return spec, [(table.object_id, "Ready") for table in _local(session) if table.distribution == "REPLICATE"]


def _empty(columns: str) -> Callable[[Session], tuple[Spec, Rows]]:
    spec = declare(columns)
    return lambda session: (spec, [])


VIEWS: dict[str, Callable[[Session], tuple[Spec, Rows]]] = {
    "sys.dm_pdw_nodes": _nodes,
    "sys.pdw_distributions": _distributions,
    "sys.pdw_table_mappings": _mappings,
    "sys.pdw_permanent_table_mappings": _mappings,
    "sys.pdw_nodes_tables": _nodes_tables,
    "sys.pdw_nodes_partitions": _nodes_partitions,
    "sys.dm_pdw_nodes_db_partition_stats": _partition_stats,
    "sys.dm_pdw_nodes_db_column_store_row_group_physical_stats": _row_groups,
    "sys.pdw_nodes_column_store_row_groups": _row_groups,
    "sys.dm_pdw_nodes_column_store_row_groups": _row_groups,
    "sys.partition_functions": _partition_functions,
    "sys.partition_schemes": _partition_schemes,
    "sys.partition_range_values": _range_values,
    "sys.pdw_replicated_table_cache_state": _cache_state,
    "sys.dm_pdw_dms_workers": _empty(
        "request_id nvarchar(32), step_index int, dms_step_index int, pdw_node_id int, distribution_id int, "
        "type nvarchar(32), status nvarchar(32), bytes_per_sec bigint, bytes_processed bigint, rows_processed bigint, "
        "start_time datetime, end_time datetime, total_elapsed_time int"
    ),
    "sys.dm_pdw_resource_waits": _empty(
        "wait_id bigint, session_id nvarchar(32), type nvarchar(255), object_type nvarchar(255), "
        "object_name nvarchar(386), request_id nvarchar(32), request_time datetime, acquire_time datetime, "
        "state nvarchar(50), priority int, concurrency_slots_used int, resource_class nvarchar(20)"
    ),
}
