"""What an online endpoint captured: where Azure ML's data collector put it, and whether there is any of some days.

https://learn.microsoft.com/azure/machine-learning/how-to-collect-production-data: without a data asset of its own a
collection lies in the workspace's default datastore, ``modelDataCollector/<endpoint>/<deployment>/<collection>/`` and
then by time in UTC.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from azflow.connection import AzureConnection
from azflow.edge import AzflowOperator, airflow_edge
from azflow.errors import ConfigurationError
from azflow.ml_workspace import Workspace
from azflow.online_endpoint import OnlineEndpoint

if TYPE_CHECKING:
    from airflow.sdk import Context
    from azure.storage.blob import BlobServiceClient

DATASTORE = "workspaceblobstore"
COLLECTION = "model_inputs"
#: Year, and as many of month, day, hour and minute as the deployment's ``rolling_rate`` makes folders of.
_FILED = re.compile(r"/(\d{4})(?:/(\d{2}))?(?:/(\d{2}))?(?:/\d{2}){0,2}/[^/]+\.jsonl$")


class CapturedDataOperator(AzflowOperator):
    """Answers whether the endpoint captured requests in the trailing days, and where they are.

    Nothing captured is an answer, not a failure: a reading of it is undefined, with the reason.

    XCom: ``{"folder", "why", "endpoint", "deployment", "from", "until", "days", "files", "bytes"}``; ``folder`` is the
    address of everything that the endpoint captured, empty where there is nothing of these days, and ``why`` then says
    so.

    :param endpoint_name: the online endpoint.
    :param champion: task id of the `ChampionOperator`; its deployment's collections are looked at.
    :param until: the last day, ISO, in UTC.
    :param days: how many.
    """

    template_fields = ("endpoint_name", "champion", "until")

    def __init__(
        self, *, endpoint_name: str, champion: str = "champion", until: str = "", days: int = 7, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.endpoint_name = endpoint_name
        self.champion = champion
        self.until = until
        self.days = days

    def execute(self, context: Context) -> dict[str, Any]:
        """Look at the deployment, then at what there is."""
        with airflow_edge(self.conn_id):
            found = context["ti"].xcom_pull(task_ids=self.champion)
            deployment = str(found.get("deployment") or "") if isinstance(found, Mapping) else ""
            last = _day(self.until)
            first = last - timedelta(days=self.days - 1)
            about = {
                "endpoint": self.endpoint_name,
                "deployment": deployment,
                "from": str(first),
                "until": str(last),
                "days": self.days,
                "files": 0,
                "bytes": 0,
            }
            connection = AzureConnection.load(self.conn_id)
            why = self._collects(connection, deployment)
            if not why:
                root = f"modelDataCollector/{self.endpoint_name}"
                sizes = list(captured_files(connection, root, first, last))
                about |= {"files": len(sizes), "bytes": sum(sizes)}
                if not sizes:
                    why = f"endpoint {self.endpoint_name} captured nothing from {first} to {last}"
        if why:
            self.log.warning("%s: readings of captured requests will be undefined", why)
            return {"folder": "", "why": why, **about}
        self.log.info(
            "%d file(s) of captured requests, %d bytes, from %s to %s", len(sizes), about["bytes"], first, last
        )
        return {"folder": f"azureml://datastores/{DATASTORE}/paths/{root}/", "why": "", **about}

    def _collects(self, connection: AzureConnection, deployment: str) -> str:
        """Why the deployment captures nothing that could be read; empty if it does."""
        name = f"{self.endpoint_name}/{deployment}"
        with contextlib.closing(OnlineEndpoint(connection, self.endpoint_name)) as endpoint:
            resource = endpoint.deployment(deployment) if deployment else None
        if resource is None:
            return f"endpoint {self.endpoint_name} has no deployment {deployment!r}"
        collections = (resource["properties"].get("dataCollector") or {}).get("collections") or {}
        collection = collections.get(COLLECTION) or {}
        if str(collection.get("dataCollectionMode", "")).lower() != "enabled":
            return f"deployment {name} doesn't collect {COLLECTION} (data_collector in deployment.yml)"
        if asset := str(collection.get("dataId") or ""):
            # The SDK registers an asset at the default place for every collection that names none.
            place = _place_of(connection, asset)
            if f"/modelDataCollector/{name}/" not in f"{place}/":
                return f"deployment {name} collects into {place or asset}; only the default place is looked at"
        return ""


def _place_of(connection: AzureConnection, asset: str) -> str:
    """The address behind a data asset's ARM id; empty if there is none."""
    name, _, version = asset.rpartition("/data/")[2].partition("/versions/")
    with contextlib.closing(Workspace(connection)) as workspace:
        found = workspace.version("data", name, version) or {}
    return str(found.get("properties", {}).get("dataUri", ""))


def captured_files(connection: AzureConnection, root: str, first: date, last: date) -> Iterator[int]:
    """The size in bytes of each file below `root` of the workspace's default datastore that holds events of these days.

    A file that is filed by month or year counts if it may hold such events.
    """
    with contextlib.closing(Workspace(connection)) as workspace:
        datastore = workspace.datastore(DATASTORE)
    container = str(datastore.get("containerName") or "")
    with blob_service(connection, datastore) as service:
        for blob in service.get_container_client(container).list_blobs(name_starts_with=f"{root}/"):
            if f"/{COLLECTION}/" in blob.name and may_hold(blob.name, first, last):
                yield int(blob.size or 0)


def may_hold(path: str, first: date, last: date) -> bool:
    """Whether a collection's file of that path can hold events of these days."""
    found = _FILED.search(path)
    if found is None:
        return False
    parts = tuple(int(part) for part in found.groups() if part)
    earliest, latest = ((day.year, day.month, day.day)[: len(parts)] for day in (first, last))
    return earliest <= parts <= latest


def blob_service(connection: AzureConnection, datastore: Mapping[str, Any]) -> BlobServiceClient:
    """A datastore's storage account; the workspace's own is another one than the lake's, as a rule."""
    from azure.storage.blob import BlobServiceClient

    account = str(datastore.get("accountName") or "")
    if account and account in connection.storage_account_url:
        return connection.blob_service()
    url = f"{datastore.get('protocol') or 'https'}://{account}.blob.{datastore.get('endpoint') or 'core.windows.net'}"
    return BlobServiceClient(url, credential=connection.credential())


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        raise ConfigurationError(f"watch.captured.until is {text!r}; it must be a day like 2013-03-08.") from None
