"""Records in the lake of runs that their service can't list: which task each was started for.

A Synapse notebook run has an id that we choose, no tags, and no operation lists runs. So each leaves a small file,
``azflow/spark/notebooks/<id>.json``, before it is asked for; whoever looks for runs that nobody waits for any more
(`azflow.orphans`) reads them, and deletes those of runs that are over.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from azflow.connection import AzureConnection
from azflow.spark_files import LAKE_FOLDER

_FOLDER = f"{LAKE_FOLDER}/notebooks"


@dataclass(frozen=True)
class RunRecord:
    """A run that was asked for.

    :ivar written: when, by the storage's clock.
    :ivar tags: of the waiting loop, ``azflow.dag`` and the like.
    """

    id: str
    written: datetime
    tags: Mapping[str, str]


class NotebookRecords:
    """The records of a connection's lake."""

    def __init__(self, connection: AzureConnection) -> None:
        connection.require("storage_account_url")
        self._container = connection.blob_service().get_container_client(connection.container)

    def write(self, id: str, tags: Mapping[str, str]) -> None:
        """Before the run is asked for; again after a crash."""
        self._container.upload_blob(f"{_FOLDER}/{id}.json", json.dumps({"tags": dict(tags)}), overwrite=True)

    def remove(self, id: str) -> None:
        """The run is over, or was never made. A record that isn't there is no error."""
        from azure.core.exceptions import ResourceNotFoundError

        with contextlib.suppress(ResourceNotFoundError):
            self._container.delete_blob(f"{_FOLDER}/{id}.json")

    def __iter__(self) -> Iterator[RunRecord]:
        """All that there are, in no order; what can't be read as one is left out."""
        from azure.core.exceptions import ResourceNotFoundError

        for blob in self._container.list_blobs(name_starts_with=f"{_FOLDER}/"):
            try:
                content: Any = json.loads(self._container.download_blob(blob.name).readall())
                tags = {str(name): str(value) for name, value in content["tags"].items()}
            except (ResourceNotFoundError, ValueError, KeyError, TypeError, AttributeError):
                continue
            yield RunRecord(blob.name.rpartition("/")[2].removesuffix(".json"), blob.last_modified, tags)

    def close(self) -> None:
        """Release the connections."""
        self._container.close()
