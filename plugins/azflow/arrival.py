"""Waits for the blob whose presence says that a partition is complete.

A source writes its files first and an empty marker last; only the marker is waited for, so that half-written files are
never read. The worker polls for a short while (a deferral costs 3 s), then the triggerer waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from azflow.connection import AzureConnection
from azflow.errors import AccessDenied, ArrivalTimeout
from azflow.runs import AzflowOperator, airflow_edge, as_azflow_error

if TYPE_CHECKING:
    from airflow.sdk import Context
    from azure.storage.blob import BlobServiceClient

#: Files of the folder that a time-out's message lists.
LISTED = 12
_GRACE_INTERVAL = 1.0


class BlobArrivalSensor(AzflowOperator):
    """Waits until a blob exists.

    XCom: ``{"blob": URL, "container", "path", "etag", "last_modified": ISO, "size": bytes}``.

    :param blob: path inside the container; a template.
    :param container: default: the connection's; a template.
    :param timeout_minutes: from this try's start; then the task fails and says what it waited for and what is there.
    :param poke_interval: seconds between two looks in the triggerer.
    :param grace_seconds: how long the worker looks before it defers.
    """

    template_fields = ("container", "blob")
    ui_color = "#e6f4ea"

    def __init__(
        self,
        *,
        blob: str,
        container: str | None = None,
        timeout_minutes: float = 360,
        poke_interval: float = 30,
        grace_seconds: float = 15,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.container = container
        self.blob = blob
        self.timeout_minutes = timeout_minutes
        self.poke_interval = poke_interval
        self.grace_seconds = grace_seconds

    def execute(self, context: Context) -> dict[str, Any]:
        """Look for the grace period, then defer."""
        with airflow_edge(self.conn_id):
            return self._wait(time.time())

    def resume(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Called in a worker when the trigger has fired: it looks itself, whatever the trigger said."""
        with airflow_edge(self.conn_id):
            return self._wait(float(event["started"]), patient=False)

    def on_kill(self) -> None:
        """SIGTERM: end the wait; there is nothing remote to cancel."""
        self._stop().set()

    def _stop(self) -> threading.Event:
        # Made late: an Event can't be copied, and Airflow deep-copies operators.
        found: threading.Event = self.__dict__.setdefault("_azflow_stop", threading.Event())
        return found

    def _wait(self, started: float, *, patient: bool = True) -> dict[str, Any]:
        connection = AzureConnection.load(self.conn_id)
        container, path = self.container or connection.container, self.blob.lstrip("/")
        deadline = started + self.timeout_minutes * 60
        until = time.time() + (self.grace_seconds if patient else 0)
        with connection.blob_service() as service:
            url = service.get_blob_client(container, path).url
            while True:
                if (found := look(service, container, path)) is not None:
                    self.log.info("%s is there since %s.", url, found["last_modified"])
                    return found
                if time.time() >= deadline:
                    raise self._timed_out(service, container, path, started)
                if time.time() >= until:
                    break
                if patient and until - time.time() > self.grace_seconds - _GRACE_INTERVAL:
                    self.log.info("Waiting for %s", url)
                if self._stop().wait(min(_GRACE_INTERVAL, max(0.0, until - time.time()))):
                    raise AirflowException(f"The task was stopped while it waited for {url}.")
        self.defer(
            trigger=BlobArrivalTrigger(
                conn_id=self.conn_id,
                container=container,
                path=path,
                started=started,
                deadline=deadline,
                poke_interval=self.poke_interval,
            ),
            method_name="resume",
        )

    def _timed_out(self, service: BlobServiceClient, container: str, path: str, started: float) -> ArrivalTimeout:
        url = service.get_blob_client(container, path).url
        since = datetime.fromtimestamp(started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        described = f"{url} (waited for since {since}; {folder(service, container, path)})"
        error = ArrivalTimeout(described, self.timeout_minutes)
        error.blob = url
        return error


def look(service: BlobServiceClient, container: str, path: str) -> dict[str, Any] | None:
    """The blob as the sensor's XCom, or None while it (or its container) doesn't exist."""
    from azure.core.exceptions import ResourceNotFoundError

    client = service.get_blob_client(container, path)
    try:
        properties = client.get_blob_properties()
    except ResourceNotFoundError:
        return None
    return {
        "blob": client.url,
        "container": container,
        "path": path,
        "etag": str(properties.etag).strip('"'),
        "last_modified": properties.last_modified.isoformat(),
        "size": int(properties.size),
    }


def folder(service: BlobServiceClient, container: str, path: str) -> str:
    """What lies beside the blob, for a person who wonders why it doesn't come."""
    from azure.core.exceptions import AzureError, ResourceNotFoundError

    prefix = path.rpartition("/")[0]
    place = f"{container}/{prefix}" if prefix else container
    listed = []
    try:
        for blob in service.get_container_client(container).list_blobs(
            name_starts_with=f"{prefix}/" if prefix else None
        ):
            name = blob.name.removeprefix(prefix).lstrip("/")
            listed.append(f"{name} ({blob.size:,} bytes, {blob.last_modified:%Y-%m-%d %H:%M} UTC)")
            if len(listed) > LISTED:
                listed[-1] = "and more"
                break
    except ResourceNotFoundError:
        return f"the container {container} doesn't exist"
    except AzureError as problem:
        return f"{place} can't be listed: {str(problem).splitlines()[0]}"
    return f"in {place}: {', '.join(listed)}" if listed else f"{place} is empty"


class BlobArrivalTrigger(BaseTrigger):
    """Looks for one blob in the triggerer until it is there, its deadline has passed, or the look is forbidden.

    Fires ``{"outcome": "there" | "timed_out" | "denied", "started"}``; the worker then looks itself.

    :param started: since when it is waited for; seconds since 1970.
    :param deadline: until when; seconds since 1970.
    """

    def __init__(
        self, *, conn_id: str, container: str, path: str, started: float, deadline: float, poke_interval: float
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.container = container
        self.path = path
        self.started = started
        self.deadline = deadline
        self.poke_interval = poke_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """As Airflow wants it: class path and keyword arguments."""
        names = ("conn_id", "container", "path", "started", "deadline", "poke_interval")
        return f"{BlobArrivalTrigger.__module__}.BlobArrivalTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look every `poke_interval` seconds. A failed look is logged and tried again."""
        event = {"outcome": await self._watch(), "started": self.started}
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _watch(self) -> str:
        from azure.core.exceptions import ResourceNotFoundError
        from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

        connection = await AzureConnection.aload(self.conn_id)
        async with contextlib.AsyncExitStack() as stack:
            credential = connection.async_credential()
            stack.push_async_callback(credential.close)
            service = await stack.enter_async_context(
                AsyncBlobServiceClient(
                    connection.storage_account_url, credential=credential, **connection.transport_arguments
                )
            )
            client = service.get_blob_client(self.container, self.path)
            while True:
                try:
                    async with asyncio.timeout(60):
                        await client.get_blob_properties()
                    return "there"
                except ResourceNotFoundError:
                    pass
                except Exception as error:
                    if isinstance(as_azflow_error(error, self.conn_id), AccessDenied):
                        return "denied"
                    self.log.warning("Looking for %s failed (%r); trying again.", client.url, error)
                left = self.deadline - time.time()
                if left <= 0:
                    return "timed_out"
                await asyncio.sleep(min(self.poke_interval, left))
