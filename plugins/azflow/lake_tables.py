"""Delta tables in the lake: which version is there, how many rows and which columns it has, from its log alone.

https://github.com/delta-io/delta/blob/master/PROTOCOL.md (Action reconciliation, Checkpoints, Per-file statistics)
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import yaml

from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

_COMMIT = re.compile(r"^(\d{20})\.json$")
_CHECKPOINT = re.compile(r"^(\d{20})\.checkpoint(?:\.\d{10}\.\d{10})?\.parquet$")
#: Reader features that change nothing about what the log says of rows and columns.
_UNDERSTOOD = frozenset({"deletionVectors", "columnMapping", "timestampNtz", "vacuumProtocolCheck", "variantType"})
_FEATURES_READER = 3


@dataclass(frozen=True)
class LakeTable:
    """One version of a Delta table.

    :param folder: in the lake's container, without slashes at its ends.
    :param rows: from the files' statistics; None if a file has none.
    :param schema_hash: of names and types, in order.
    :param written: when this version was committed, ISO; empty if the log doesn't say.
    """

    folder: str
    version: int
    files: int
    rows: int | None
    columns: tuple[str, ...]
    schema_hash: str
    written: str


@dataclass
class _State:
    """What a log says up to a version."""

    files: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    schema: str = ""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    written: int = 0

    def apply(self, action: Mapping[str, Any]) -> None:
        if add := action.get("add"):
            self.files[unquote(str(add["path"]))] = add
        if remove := action.get("remove"):
            self.files.pop(unquote(str(remove["path"])), None)
        if (metadata := action.get("metaData")) and metadata.get("schemaString"):
            self.schema = str(metadata["schemaString"])
        if protocol := action.get("protocol"):
            self.protocol = protocol
        if commit := action.get("commitInfo"):
            self.written = int(commit.get("inCommitTimestamp") or commit.get("timestamp") or 0)


def inspect_table(connection: AzureConnection, folder: str, version: int | None = None) -> LakeTable:
    """The table in a folder of the lake.

    :param version: None: the newest.
    :raises ConfigurationError: there is no such table or version, or its protocol is one that isn't understood here.
    """
    folder = folder.strip("/")
    where = f"{connection.container}/{folder}"
    with connection.blob_service() as service, service.get_container_client(connection.container) as container:
        names = [
            blob.name.rpartition("/")[2] for blob in container.list_blobs(name_starts_with=f"{folder}/_delta_log/")
        ]
        commits = {int(match[1]): name for name in names if (match := _COMMIT.match(name))}
        checkpoints: dict[int, list[str]] = {}
        for name in names:
            if match := _CHECKPOINT.match(name):
                checkpoints.setdefault(int(match[1]), []).append(name)
        if not commits and not checkpoints:
            raise ConfigurationError(f"{where} is no Delta table: it has no _delta_log with commits.")
        newest = max([*commits, *checkpoints])
        wanted = newest if version is None else version
        start = max((number for number in checkpoints if number <= wanted), default=-1)
        needed = list(range(start + 1, wanted + 1))
        if wanted > newest or any(number not in commits for number in needed):
            oldest = min([*commits, *checkpoints])
            raise ConfigurationError(f"{where} has no version {wanted}; its log reaches from {oldest} to {newest}.")
        state = _State()
        for name in sorted(checkpoints.get(start, ())):
            for action in _read_checkpoint(container, f"{folder}/_delta_log/{name}"):
                state.apply(action)
        for number in needed:
            for action in _read_commit(container, f"{folder}/_delta_log/{commits[number]}"):
                state.apply(action)
    _check_protocol(where, state.protocol)
    columns = _columns(where, state.schema)
    text = "\n".join(f"{name} {kind}" for name, kind in columns)
    written = datetime.fromtimestamp(state.written / 1000, UTC).isoformat(timespec="seconds") if state.written else ""
    return LakeTable(
        folder=folder,
        version=wanted,
        files=len(state.files),
        rows=_rows(state.files.values()),
        columns=tuple(name for name, _ in columns),
        schema_hash=hashlib.sha256(text.encode()).hexdigest()[:16],
        written=written,
    )


def write_table_pointer(connection: AzureConnection, table: LakeTable, address: str) -> str:
    """Write the file ``MLTable`` that names this version of the table into a folder beside it; that folder.

    https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable#delta-lake

    :param address: the table's, ``azureml://subscriptions/.../paths/.../``.
    """
    folder = f"{table.folder}.mltable/{table.version}"
    content = {
        "$schema": "https://azuremlschemas.azureedge.net/latest/MLTable.schema.json",
        "type": "mltable",
        "paths": [{"folder": address}],
        "transformations": [{"read_delta_lake": {"version_as_of": table.version}}],
    }
    with connection.blob_service() as service:
        blob = service.get_blob_client(connection.container, f"{folder}/MLTable")
        blob.upload_blob(yaml.safe_dump(content, sort_keys=False).encode(), overwrite=True)
    return folder


def _read_commit(container: ContainerClient, name: str) -> Iterator[Mapping[str, Any]]:
    content = bytes(container.download_blob(name).readall())
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                raise ConfigurationError(
                    f"{container.container_name}/{name}, line {number} is no JSON: the table's log is damaged."
                ) from None


def _read_checkpoint(container: ContainerClient, name: str) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet  # type: ignore[import-untyped]

    content = io.BytesIO(container.download_blob(name).readall())
    file = pyarrow.parquet.ParquetFile(content)
    wanted = [column for column in ("add", "remove", "metaData", "protocol") if column in file.schema_arrow.names]
    for batch in file.iter_batches(columns=wanted):
        yield from batch.to_pylist()


def _check_protocol(where: str, protocol: Mapping[str, Any]) -> None:
    reader = int(protocol.get("minReaderVersion") or 1)
    features = set(protocol.get("readerFeatures") or ())
    if reader > _FEATURES_READER or (unknown := sorted(features - _UNDERSTOOD)):
        what = f"reader version {reader}" if reader > _FEATURES_READER else f"the reader feature {unknown[0]}"
        raise ConfigurationError(f"{where} needs {what}, which isn't understood here; its rows can't be counted.")


def _columns(where: str, schema: str) -> list[tuple[str, str]]:
    try:
        fields = json.loads(schema)["fields"]
        return [(str(each["name"]), json.dumps(each["type"])) for each in fields]
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{where}: the table's log names no columns; it is damaged.") from None


def _rows(files: Iterable[Mapping[str, Any]]) -> int | None:
    """Rows of the active files, without those that deletion vectors take out; None if a file has no statistics."""
    total = 0
    for add in files:
        try:
            count = json.loads(str(add.get("stats") or "{}")).get("numRecords")
        except ValueError:
            count = None
        if count is None:
            return None
        total += int(count) - int((add.get("deletionVector") or {}).get("cardinality") or 0)
    return total
