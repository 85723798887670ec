"""A Delta table's newest version: its files, its schema, and its partitions' values, from the transaction log.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/query-delta-lake-format
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from localazure.core.errors import AzureError
from localazure.sql import errors
from localazure.sql.lake import LakeFile, resolved, storage
from localazure.sql.results import SqlError

if TYPE_CHECKING:
    from localazure.sql.pool import Pool

# https://github.com/delta-io/delta/blob/master/PROTOCOL.md#table-features
_CHANGE_ROWS = frozenset({"deletionVectors", "columnMapping", "v2Checkpoint"})
_PLAIN_READER = 1


@dataclass
class DeltaFiles:
    """partitions: column -> its value in each file, in the files' order."""

    files: list[LakeFile]
    schema: pa.Schema
    partitions: dict[str, list[Any]]
    log_bytes: int


def delta_files(pool: Pool, uri: str, line: int) -> DeltaFiles:
    """Read the log; SqlError 13807 when there is none, 40517 for a table feature that changes what its files mean."""
    import deltalake

    location = resolved(pool, uri, line)
    folder = location.path.rstrip("/")
    log = location.__class__(location.container, f"{folder}/_delta_log" if folder else "_delta_log")
    blobs = storage(pool, line)
    try:
        local = blobs.materialize(log)
        log_bytes = sum(blob.size for blob in blobs.list(log.container, log.path + "/"))
    except AzureError as error:
        raise SqlError(
            13807,
            f"Content of directory on path '{uri.rstrip('/')}/_delta_log/*.*' cannot be listed. {error.message}",
            line=line,
        ) from error
    try:
        table = deltalake.DeltaTable(local.parent)
        protocol = table.protocol()
        schema = pa.schema(table.schema())
        actions = pa.table(table.get_add_actions(flatten=True))
    except deltalake.exceptions.DeltaError as error:
        text = str(error).split("\n", 1)[0]
        raise SqlError(13807, f"Resolving Delta logs on path '{uri}' failed with error: {text}", line=line) from error
    features = set(protocol.reader_features or ())
    if protocol.min_reader_version == _PLAIN_READER + 1:
        features.add("columnMapping")
    mapped = (table.metadata().configuration or {}).get("delta.columnMapping.mode", "none") != "none"
    used = (features & _CHANGE_ROWS) - (set() if mapped else {"columnMapping"})
    if used:
        raise errors.not_implemented(f"Delta table feature {', '.join(sorted(used))}", line)
    names = [str(name) for name in actions.column("path").to_pylist()]
    sizes = [int(size) for size in actions.column("size_bytes").to_pylist()]
    root = uri.rstrip("/")
    files = [
        LakeFile(location.container, f"{folder}/{unquote(name)}".lstrip("/"), size, f"{root}/{name}")
        for name, size in zip(names, sizes, strict=True)
    ]
    partitions: dict[str, list[Any]] = {}
    for name in table.metadata().partition_columns:
        values = actions.column(f"partition.{name}").cast(schema.field(name).type).to_pylist()
        partitions[name] = values
        for value, file in zip(values, files, strict=True):
            if value is None:
                raise SqlError(
                    13807,
                    f"Resolving Delta logs on path '{uri}' failed with error: Cannot find value of partitioning column "
                    f"'{name}' in file '{file.uri}'.",
                    line=line,
                )
    return DeltaFiles(files, schema, partitions, log_bytes)
