"""Exported Parquet folders of the lake: what is in them, told from their footers, and the MLTable that names them."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

# https://parquet.apache.org/docs/file-format/: ... footer, 4 bytes length (little-endian), "PAR1"
_MAGIC = b"PAR1"
_TRAILER = 8
_FIRST_LOOK = 64 * 1024


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
        footers = [(blob.name, _footer(container, blob.name, blob.size)) for blob in found]
    first_name, first = footers[0]
    schema = _schema(first)
    for name, footer in footers[1:]:
        if _schema(footer) != schema:
            raise ConfigurationError(f"{where}: {name} and {first_name} have different columns; export them anew.")
    rows = sum(footer.num_rows for _, footer in footers)
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


def _footer(container: ContainerClient, name: str, size: int) -> Any:
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


def _schema(footer: Any) -> list[tuple[str, str]]:
    schema = footer.schema.to_arrow_schema()
    return [(field.name, str(field.type)) for field in schema]
