"""Folders of the lake that T-SQL exports to: emptied before, inspected after, named by an MLTable."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from azflow import tsql
from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

# https://parquet.apache.org/docs/file-format/: ... footer, 4 bytes length (little-endian), "PAR1"
_MAGIC = b"PAR1"
_TRAILER = 8
_FIRST_LOOK = 64 * 1024

#: More blobs than this below a LOCATION are no export to replace but a wrong LOCATION.
MOST_BLOBS = 10_000
#: The data source that is the lake where a script doesn't say what its data sources are.
LAKE_SOURCE = "lake"
_DELETERS = 8
_BLOCKS = frozenset({"if", "while", "else", "begin"})


@dataclass(frozen=True)
class Target:
    """Where one CETAS of a batch writes to.

    :param line: of the batch, 1-based.
    :param table: the external table, lower case.
    :param location: its LOCATION, as written.
    :param source: its DATA_SOURCE, lower case.
    :param conditional: it hangs on an IF or a loop: whether it will run can't be told from the text.
    """

    line: int
    table: str
    location: str
    source: str
    conditional: bool


def targets(batch: str) -> tuple[Target, ...]:
    """Where the CETAS statements of a batch write to. Pure."""
    found: list[Target] = []
    before = ""
    open_blocks = 0
    for statement in tsql.statements(batch):
        if statement.kind == "cetas":
            # CREATE EXTERNAL TABLE name ...
            table, _ = tsql.object_name(statement.tokens, 3)
            location, source = tsql.option(statement, "LOCATION"), tsql.option(statement, "DATA_SOURCE")
            found.append(Target(statement.line, table, location, source.lower(), before in _BLOCKS or open_blocks > 0))
        open_blocks += {"begin": 1, "end": -1}.get(statement.kind, 0)
        before = statement.kind
    return tuple(found)


def data_sources(script: str) -> dict[str, str]:
    """The external data sources that a script creates: location by name, lower case. Pure."""
    found = {}
    for batch in tsql.batches(script):
        for statement in tsql.statements(batch.text):
            if statement.words()[:4] == ("CREATE", "EXTERNAL", "DATA", "SOURCE"):
                name, _ = tsql.object_name(statement.tokens, 4)
                found[name] = tsql.option(statement, "LOCATION")
    return found


def folder(target: Target, sources: dict[str, str], connection: AzureConnection) -> str | None:
    """The folder of the lake's container that `target` writes to, without slashes at its ends; None: it isn't there.

    :param sources: what `data_sources` found; a source that isn't among them is the lake if it is called `lake`.
    :raises ConfigurationError: LOCATION is the data source's root, or leads out of it.
    """
    parts = [part for part in target.location.split("/") if part]
    if not parts or {".", ".."} & set(parts):
        raise ConfigurationError(
            f"{target.table} would be exported to LOCATION {target.location!r}. Each export needs a folder of its own: "
            f"what lies in it is replaced."
        )
    if target.source not in sources:
        return "/".join(parts) if target.source == LAKE_SOURCE else None
    lake, root = connection.lake_abfss_url.rstrip("/"), sources[target.source].rstrip("/")
    if root != lake and not root.startswith(f"{lake}/"):
        return None
    return "/".join([*root[len(lake) :].strip("/").split("/"), *parts]).strip("/")


def empty(connection: AzureConnection, folder: str) -> int:
    """Delete the blobs below a folder of the lake, markers first: nobody takes what is left for whole. How many.

    :raises ConfigurationError: there are more than `MOST_BLOBS`; nothing is deleted then.
    """
    with connection.blob_service() as service, service.get_container_client(connection.container) as container:
        listed = container.list_blobs(name_starts_with=f"{folder}/", include=["metadata"])
        # A hierarchical namespace lists folders as blobs; they needn't go, nor could they before their files.
        names = [
            blob.name
            for blob in itertools.islice(listed, MOST_BLOBS + 1)
            if (blob.metadata or {}).get("hdi_isfolder") != "true"
        ]
        if len(names) > MOST_BLOBS:
            raise ConfigurationError(
                f"{connection.container}/{folder} holds more than {MOST_BLOBS} blobs: that's no earlier export. If the "
                f"LOCATION is right, empty it by hand."
            )
        markers = [name for name in names if name.rpartition("/")[2].startswith("_")]
        _delete(container, markers)
        _delete(container, [name for name in names if name not in set(markers)])
    return len(names)


def _delete(container: ContainerClient, names: Sequence[str]) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    def one(name: str) -> None:
        try:
            container.delete_blob(name)
        except ResourceNotFoundError:
            return  # gone already, which is what we want

    with ThreadPoolExecutor(_DELETERS) as pool:
        list(pool.map(one, names))


@dataclass(frozen=True)
class Export:
    """A folder of Parquet files of one schema.

    :param folder: in the lake's container, without slashes at its ends.
    :param rows: of all files together.
    :param schema_hash: of names and types, in order.
    """

    folder: str
    files: tuple[str, ...]
    rows: int
    columns: tuple[str, ...]
    schema_hash: str


def inspect(connection: AzureConnection, folder: str) -> Export:
    """What is in the folder: only the footers are read.

    :raises ConfigurationError: there is nothing, or the files differ in their columns.
    """
    folder = folder.strip("/")
    where = f"{connection.container}/{folder}"
    with connection.blob_service() as service, service.get_container_client(connection.container) as container:
        found = [
            blob
            for blob in container.list_blobs(name_starts_with=f"{folder}/")
            if blob.size and _is_data(blob.name[len(folder) + 1 :])
        ]
        if not found:
            raise ConfigurationError(f"{where} holds no Parquet file; did the export run?")
        footers = [(blob.name, footer(container, blob.name, blob.size)) for blob in found]
    first_name, first = footers[0]
    schema = _schema(first)
    for name, other in footers[1:]:
        if _schema(other) != schema:
            raise ConfigurationError(f"{where}: {name} and {first_name} have different columns; export them anew.")
    rows = sum(each.num_rows for _, each in footers)
    if rows == 0:
        raise ConfigurationError(f"{where} holds no rows; is the partition's data complete?")
    text = "\n".join(f"{name} {kind}" for name, kind in schema)
    return Export(
        folder=folder,
        files=tuple(name for name, _ in footers),
        rows=rows,
        columns=tuple(name for name, _ in schema),
        schema_hash=hashlib.sha256(text.encode()).hexdigest()[:16],
    )


def write_mltable(connection: AzureConnection, export: Export, address: str) -> str:
    """Write the file ``MLTable`` that names the export into a folder beside it; that folder.

    Beside and not inside: whoever reads the export as a folder of Parquet files would take it for one.
    https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable

    :param address: the export's, ``azureml://subscriptions/.../paths/.../``.
    """
    folder = f"{export.folder}.mltable"
    table = {
        "$schema": "https://azuremlschemas.azureedge.net/latest/MLTable.schema.json",
        "type": "mltable",
        "paths": [{"pattern": f"{address.rstrip('/')}/*.parq*"}],
        "transformations": ["read_parquet"],
    }
    with connection.blob_service() as service:
        blob = service.get_blob_client(connection.container, f"{folder}/MLTable")
        blob.upload_blob(yaml.safe_dump(table, sort_keys=False).encode(), overwrite=True)
    return folder


def _is_data(name: str) -> bool:
    # Engines keep their markers (_SUCCESS, .crc) beside the data; folders of partitions aren't what an export is. A
    # dedicated pool's files end in .parquet or in .parq and the name of the compression.
    return "/" not in name and ".parq" in name and not name.startswith(("_", "."))


def footer(container: ContainerClient, name: str, size: int) -> Any:
    """pyarrow's FileMetaData of a blob, from its end."""
    import pyarrow.parquet  # type: ignore[import-untyped]

    with container.get_blob_client(name) as blob:
        end = _read(blob, max(0, size - _FIRST_LOOK), size)
        if end[-4:] != _MAGIC:
            raise ConfigurationError(f"{container.container_name}/{name} is no Parquet file.")
        length = int.from_bytes(end[-_TRAILER:-4], "little") + _TRAILER
        if length > len(end):
            end = _read(blob, size - length, size)
    # The reader looks from the end; what lies before the footer may be missing.
    return pyarrow.parquet.read_metadata(io.BytesIO(_MAGIC + end[-length:]))


def _read(blob: Any, start: int, end: int) -> bytes:
    content: bytes = blob.download_blob(offset=start, length=end - start).readall()
    return content


def _schema(metadata: Any) -> list[tuple[str, str]]:
    schema = metadata.schema.to_arrow_schema()
    return [(field.name, str(field.type)) for field in schema]
