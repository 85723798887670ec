"""Waits until a partition is complete: for the blob that its source writes last, or for its rows in a pool's table.

A source writes its files first and an empty marker last; only the marker is waited for, so that half-written files are
never read. A model that builds on another's table waits for the partition's rows there. The worker polls for a short
while (a deferral costs 3 s), then the triggerer waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from azflow import synapse
from azflow.connection import AzureConnection
from azflow.errors import AccessDenied, ArrivalTimeout
from azflow.runs import AzflowOperator, airflow_edge, as_azflow_error

if TYPE_CHECKING:
    from airflow.sdk import Context
    from azure.storage.blob import BlobServiceClient

#: Files of the folder that a time-out's message lists.
LISTED = 12
_GRACE_INTERVAL = 1.0
_LOOK_SECONDS = 60


@dataclass(frozen=True)
class Source:
    """What is waited for.

    :param address: for a person.
    :param look: what is there, as the sensor's XCom; None: not yet.
    :param beside: what there is instead, for a person who wonders why it doesn't come.
    """

    address: str
    look: Callable[[], dict[str, Any] | None]
    beside: Callable[[], str]


class ArrivalSensor(AzflowOperator):
    """The waiting that sensors of any source share; a subclass says what is looked at, and with which trigger.

    :param timeout_minutes: from this try's start; then the task fails and says what it waited for and what is there.
    :param poke_interval: seconds between two looks in the triggerer.
    :param grace_seconds: how long the worker looks before it defers.
    """

    ui_color = "#e6f4ea"

    def __init__(
        self, *, timeout_minutes: float = 360, poke_interval: float = 30, grace_seconds: float = 15, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.timeout_minutes = timeout_minutes
        self.poke_interval = poke_interval
        self.grace_seconds = grace_seconds

    @abstractmethod
    def source(self, connection: AzureConnection) -> contextlib.AbstractContextManager[Source]:
        """What is waited for, as long as the context lasts."""

    @abstractmethod
    def trigger(self, connection: AzureConnection, started: float, deadline: float) -> ArrivalTrigger:
        """What waits in the triggerer."""

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
        deadline = started + self.timeout_minutes * 60
        until = time.time() + (self.grace_seconds if patient else 0)
        with self.source(connection) as source:
            while True:
                if (found := source.look()) is not None:
                    self.log.info("%s is there: %s", source.address, found)
                    return found
                if time.time() >= deadline:
                    raise self._timed_out(source, started)
                if time.time() >= until:
                    break
                if patient and until - time.time() > self.grace_seconds - _GRACE_INTERVAL:
                    self.log.info("Waiting for %s", source.address)
                if self._stop().wait(min(_GRACE_INTERVAL, max(0.0, until - time.time()))):
                    raise AirflowException(f"The task was stopped while it waited for {source.address}.")
        self.defer(trigger=self.trigger(connection, started, deadline), method_name="resume")

    def _timed_out(self, source: Source, started: float) -> ArrivalTimeout:
        since = datetime.fromtimestamp(started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        described = f"{source.address} (waited for since {since}; {source.beside()})"
        error = ArrivalTimeout(described, self.timeout_minutes)
        error.blob = source.address
        return error


class BlobArrivalSensor(ArrivalSensor):
    """Waits until a blob exists.

    XCom: ``{"blob": URL, "container", "path", "etag", "last_modified": ISO, "size": bytes}``.

    :param blob: path inside the container; a template.
    :param container: default: the connection's; a template.
    """

    template_fields = ("container", "blob")

    def __init__(self, *, blob: str, container: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.container = container
        self.blob = blob

    @contextlib.contextmanager
    def source(self, connection: AzureConnection) -> Iterator[Source]:
        """The blob."""
        container, path = self._place(connection)
        with connection.blob_service() as service:
            yield Source(
                service.get_blob_client(container, path).url,
                lambda: look(service, container, path),
                lambda: folder(service, container, path),
            )

    def trigger(self, connection: AzureConnection, started: float, deadline: float) -> ArrivalTrigger:
        """Looks at the blob's properties."""
        container, path = self._place(connection)
        return BlobArrivalTrigger(
            conn_id=self.conn_id,
            container=container,
            path=path,
            started=started,
            deadline=deadline,
            poke_interval=self.poke_interval,
        )

    def _place(self, connection: AzureConnection) -> tuple[str, str]:
        return self.container or connection.container, self.blob.lstrip("/")


class PartitionArrivalSensor(ArrivalSensor):
    """Waits until a partition's rows are in a table of the SQL pool.

    Whoever fills the table switches a partition in as a whole, or `min_rows` tells a half-filled one from a full one.

    XCom: ``{"table", "column", "partition", "rows"}``.

    :param table: ``schema.table``; one that doesn't exist yet is waited for too.
    :param column: the one that holds the partition's day.
    :param partition: the day, ISO; a template.
    :param min_rows: fewer are an empty or a half-filled partition.
    """

    template_fields = ("partition",)

    def __init__(self, *, table: str, column: str, partition: str, min_rows: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.column = column
        self.partition = partition
        self.min_rows = min_rows

    @contextlib.contextmanager
    def source(self, connection: AzureConnection) -> Iterator[Source]:
        """The partition."""
        pool = synapse.connect(connection, self.log)
        try:
            yield Source(
                f"{self.table}, {self.column} = {self.partition}, on the pool {connection.sql_database}",
                lambda: self._look(pool),
                lambda: self._beside(pool),
            )
        finally:
            pool.close()

    def trigger(self, connection: AzureConnection, started: float, deadline: float) -> ArrivalTrigger:
        """Counts the partition's rows."""
        return PartitionArrivalTrigger(
            conn_id=self.conn_id,
            table=self.table,
            column=self.column,
            partition=self.partition,
            min_rows=self.min_rows,
            started=started,
            deadline=deadline,
            poke_interval=self.poke_interval,
        )

    def _look(self, pool: Any) -> dict[str, Any] | None:
        rows = count_rows(pool, self.table, self.column, self.partition)
        if rows < self.min_rows:
            return None
        return {"table": self.table, "column": self.column, "partition": self.partition, "rows": rows}

    def _beside(self, pool: Any) -> str:
        if not _exists(pool, self.table):
            return "there is no such table"
        rows = count_rows(pool, self.table, self.column, self.partition)
        table, column = _quoted(self.table), _quoted(self.column)
        latest = pool.execute(f"SELECT MAX({column}) FROM {table}").fetchone()[0]
        return f"it has {rows} rows of the {self.min_rows} needed; the table's latest {self.column} is {latest}"


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


def count_rows(pool: Any, table: str, column: str, partition: str) -> int:
    """Rows of a partition; 0 also where the table doesn't exist.

    :param pool: an open DB-API connection.
    """
    if not _exists(pool, table):
        return 0
    query = f"SELECT COUNT(*) FROM {_quoted(table)} WHERE {_quoted(column)} = ?"
    return int(pool.execute(query, (partition,)).fetchone()[0])


def _exists(pool: Any, table: str) -> bool:
    return pool.execute("SELECT OBJECT_ID(?)", (table,)).fetchone()[0] is not None


def _quoted(name: str) -> str:
    return ".".join(f"[{part.replace(']', ']]')}]" for part in name.split("."))


class ArrivalTrigger(BaseTrigger):
    """Looks in the triggerer until it is there, its deadline has passed, or the look is forbidden.

    Fires ``{"outcome": "there" | "timed_out" | "denied", "started"}``; the worker then looks itself.

    :param started: since when it is waited for; seconds since 1970.
    :param deadline: until when; seconds since 1970.
    """

    #: The subclass's own arguments, by the names of its attributes.
    place: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, conn_id: str, started: float, deadline: float, poke_interval: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.started = started
        self.deadline = deadline
        self.poke_interval = poke_interval

    @abstractmethod
    def looker(
        self, connection: AzureConnection
    ) -> contextlib.AbstractAsyncContextManager[Callable[[], Awaitable[bool]]]:
        """A look: whether it is there."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """As Airflow wants it: class path and keyword arguments."""
        names = ("conn_id", *self.place, "started", "deadline", "poke_interval")
        return f"{type(self).__module__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look every `poke_interval` seconds. A failed look is logged and tried again."""
        event = {"outcome": await self._watch(), "started": self.started}
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _watch(self) -> str:
        connection = await AzureConnection.aload(self.conn_id)
        async with self.looker(connection) as look:
            while True:
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        if await look():
                            return "there"
                except Exception as error:
                    if isinstance(as_azflow_error(error, self.conn_id), AccessDenied):
                        return "denied"
                    self.log.warning("Looking for %s failed (%r); trying again.", self._described(), error)
                left = self.deadline - time.time()
                if left <= 0:
                    return "timed_out"
                await asyncio.sleep(min(self.poke_interval, left))

    def _described(self) -> str:
        return ", ".join(str(getattr(self, name)) for name in self.place)


class BlobArrivalTrigger(ArrivalTrigger):
    """Waits for one blob.

    :param container: its container.
    :param path: its path there.
    """

    place = ("container", "path")

    def __init__(self, *, container: str, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.container = container
        self.path = path

    @contextlib.asynccontextmanager
    async def looker(self, connection: AzureConnection) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
        """One request for the blob's properties."""
        from azure.core.exceptions import ResourceNotFoundError
        from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

        async with contextlib.AsyncExitStack() as stack:
            credential = connection.async_credential()
            stack.push_async_callback(credential.close)
            service = await stack.enter_async_context(
                AsyncBlobServiceClient(
                    connection.storage_account_url, credential=credential, **connection.transport_arguments
                )
            )
            client = service.get_blob_client(self.container, self.path)

            async def there() -> bool:
                try:
                    await client.get_blob_properties()
                except ResourceNotFoundError:
                    return False
                return True

            yield there


class PartitionArrivalTrigger(ArrivalTrigger):
    """Waits for a partition's rows. The driver blocks, so that each look has a thread, and a connection of its own: one
    that was kept open would hold a place in the pool for hours.

    :param table: ``schema.table``.
    :param column: the one that holds the partition's day.
    :param partition: the day, ISO.
    :param min_rows: how many rows make it whole.
    """

    place = ("table", "column", "partition", "min_rows")

    def __init__(self, *, table: str, column: str, partition: str, min_rows: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.column = column
        self.partition = partition
        self.min_rows = min_rows

    @contextlib.asynccontextmanager
    async def looker(self, connection: AzureConnection) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
        """Connect, count, close."""

        def count() -> int:
            with contextlib.closing(connection.sql_connect()) as pool:
                return count_rows(pool, self.table, self.column, self.partition)

        async def there() -> bool:
            return await asyncio.to_thread(count) >= self.min_rows

        yield there
