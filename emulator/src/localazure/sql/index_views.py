"""Catalogue views of indexes, keys, partitions, statistics and distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localazure.sql import partitions as ranges
from localazure.sql.catalog import Key, Table
from localazure.sql.catalog_rows import (
    COLUMN,
    OBJECT,
    Rows,
    column_row,
    key_code,
    moment,
    schema_id,
    tables_of,
)
from localazure.sql.view_columns import Spec, declare

if TYPE_CHECKING:
    from localazure.sql.pool import Session


def index_rows(table: Table) -> list[tuple[int, str | None, str, tuple[str, ...], Key | None]]:
    """(index_id, name, type description, columns, key) of a table: its storage first, then keys and indexes."""
    name = {
        "HEAP": None,
        "COLUMNSTORE": f"ClusteredIndex_{table.object_id:x}",
        "CLUSTERED": f"ClusteredIndex_{table.object_id:x}",
    }[table.index]
    description = {"HEAP": "HEAP", "COLUMNSTORE": "CLUSTERED COLUMNSTORE", "CLUSTERED": "CLUSTERED"}[table.index]
    first = tuple(c.name for c in table.columns) if table.index == "COLUMNSTORE" else table.index_columns
    found: list[tuple[int, str | None, str, tuple[str, ...], Key | None]] = [
        (0 if table.index == "HEAP" else 1, name, description, first, None)
    ]
    for number, key in enumerate(table.keys, 2):
        found.append((number, key.name, "NONCLUSTERED", key.columns, key))
    for number, (title, columns) in enumerate(table.indexes, 2 + len(table.keys)):
        found.append((number, title, "NONCLUSTERED", columns, None))
    return found


_INDEX_TYPES = {"HEAP": 0, "CLUSTERED": 1, "NONCLUSTERED": 2, "CLUSTERED COLUMNSTORE": 5}


def indexes(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "object_id int, name sysname, index_id int, type tinyint, type_desc nvarchar(60), is_unique bit, "
        "data_space_id int, ignore_dup_key bit, is_primary_key bit, is_unique_constraint bit, "
        "fill_factor tinyint, is_padded bit, is_disabled bit, is_hypothetical bit, allow_row_locks bit, "
        "allow_page_locks bit, has_filter bit, filter_definition nvarchar(max)"
    )
    found = []
    for table in tables_of(session):
        for number, name, kind, _, key in index_rows(table):
            found.append(
                (
                    table.object_id,
                    name,
                    number,
                    _INDEX_TYPES[kind],
                    kind,
                    key is not None,
                    1,
                    False,
                    key is not None and key.kind == "PRIMARY KEY",
                    key is not None and key.kind == "UNIQUE",
                    0,
                    False,
                    False,
                    False,
                    True,
                    True,
                    False,
                    None,
                )
            )
    return spec, found


def index_columns(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "object_id int, index_id int, index_column_id int, column_id int, key_ordinal tinyint, "
        "partition_ordinal tinyint, is_descending_key bit, is_included_column bit, "
        "column_store_order_ordinal tinyint"
    )
    found = []
    for table in tables_of(session):
        split = table.partitioning.column.lower() if table.partitioning else ""
        for number, _, kind, columns, _ in index_rows(table):
            for position, name in enumerate(columns, 1):
                column = table.column(name)
                stored = kind == "CLUSTERED COLUMNSTORE"
                ordered = (
                    [c.lower() for c in table.index_columns].index(name.lower()) + 1
                    if stored and name.lower() in [c.lower() for c in table.index_columns]
                    else 0
                )
                found.append(
                    (
                        table.object_id,
                        number,
                        position,
                        column.column_id if column else 0,
                        0 if stored else position,
                        int(name.lower() == split),
                        False,
                        stored,
                        ordered,
                    )
                )
    return spec, found


def key_constraints(session: Session) -> tuple[Spec, Rows]:
    spec = [*OBJECT, *declare("unique_index_id int, is_system_named bit, is_enforced bit")]
    found = []
    for table in tables_of(session):
        for number, _, _, _, key in index_rows(table):
            if key is not None:
                code, description = key_code(key)
                found.append(
                    (
                        key.name,
                        key.object_id,
                        None,
                        schema_id(session, table.schema),
                        table.object_id,
                        code,
                        description,
                        moment(table.created),
                        moment(table.modified),
                        False,
                        False,
                        False,
                        number,
                        False,
                        False,
                    )
                )
    return spec, found


def identity_columns(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [
        *COLUMN,
        *declare("seed_value bigint, increment_value bigint, last_value bigint, is_not_for_replication bit"),
    ]
    found = [
        (*column_row(table, column), *column.identity, None, False)
        for table in tables_of(session)
        for column in table.columns
        if column.identity is not None
    ]
    return spec, found


def defaults(session: Session) -> tuple[Spec, Rows]:
    spec = [*OBJECT, *declare("parent_column_id int, definition nvarchar(max), is_system_named bit")]
    found = []
    for table in tables_of(session):
        for column in table.columns:
            if column.default:
                number = table.object_id * 4096 % 2147483647 + column.column_id
                found.append(
                    (
                        column.default_name or f"DF_{table.name}_{column.name}",
                        number,
                        None,
                        schema_id(session, table.schema),
                        table.object_id,
                        "D ",
                        "DEFAULT_CONSTRAINT",
                        moment(table.created),
                        moment(table.modified),
                        False,
                        False,
                        False,
                        column.column_id,
                        f"({column.default})",
                        not column.default_name,
                    )
                )
    return spec, found


def partitions(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "partition_id bigint, object_id int, index_id int, partition_number int, hobt_id bigint, "
        "rows bigint, data_compression tinyint, data_compression_desc nvarchar(60)"
    )
    found = []
    for table in tables_of(session):
        if table.external is not None:
            continue
        numbers = len(table.partitioning.boundaries) + 1 if table.partitioning else 1
        sql = (
            f"SELECT n, count(*) FROM (SELECT {ranges.number_sql(session, table)} AS n FROM {table.physical}) "
            "GROUP BY n"
        )
        counts = dict(session.cursor.execute(sql).fetchall()) if not session.doomed else {}
        first = index_rows(table)[0][0]
        for number in range(1, numbers + 1):
            identity = table.object_id * 10_000 + number
            found.append(
                (
                    identity,
                    table.object_id,
                    first,
                    number,
                    identity,
                    counts.get(number, 0),
                    0 if table.index == "HEAP" else 3,
                    "NONE" if table.index == "HEAP" else "COLUMNSTORE",
                )
            )
    return spec, found


def stats(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "object_id int, name sysname, stats_id int, auto_created bit, user_created bit, no_recompute bit, "
        "has_filter bit, filter_definition nvarchar(max), is_temporary bit, is_incremental bit"
    )
    found = []
    for table in tables_of(session):
        for number, (name, _) in enumerate(table.statistics, 2):
            found.append((table.object_id, name, number, False, True, False, False, None, False, False))
    return spec, found


def stats_columns(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare("object_id int, stats_id int, stats_column_id int, column_id int")
    found = []
    for table in tables_of(session):
        for number, (_, columns) in enumerate(table.statistics, 2):
            for position, name in enumerate(columns, 1):
                column = table.column(name)
                found.append((table.object_id, number, position, column.column_id if column else 0))
    return spec, found


def distributions(session: Session) -> tuple[Spec, Rows]:
    codes = {"HASH": 2, "REPLICATE": 3, "ROUND_ROBIN": 4}
    spec: Spec = declare("object_id int, distribution_policy tinyint, distribution_policy_desc nvarchar(60)")
    return spec, [(t.object_id, codes[t.distribution], t.distribution) for t in tables_of(session)]


def column_distributions(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare("object_id int, column_id int, distribution_ordinal tinyint")
    found = []
    for table in tables_of(session):
        keys = [name.lower() for name in table.hash_columns]
        for column in table.columns:
            found.append(
                (
                    table.object_id,
                    column.column_id,
                    keys.index(column.name.lower()) + 1 if column.name.lower() in keys else 0,
                )
            )
    return spec, found


def computed_columns(session: Session) -> tuple[Spec, Rows]:
    """A dedicated pool has none."""
    return [*COLUMN, *declare("definition nvarchar(max), uses_database_collation bit, is_persisted bit")], []
