"""Waiting for a marker blob: found, not yet, too late, forbidden. The storage service is a fake client."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError

from azflow.arrival import BlobArrivalSensor, BlobArrivalTrigger, PartitionArrivalSensor, PartitionArrivalTrigger
from azflow.connection import AzureConnection
from azflow.errors import AccessDenied, ArrivalTimeout

MARKER = "landing/flights/2013-03-08/_SUCCESS"
WHEN = datetime(2013, 3, 9, 1, 30, tzinfo=UTC)


class FakeStorage:
    """A storage account in memory, sync and async: path -> size, or an error for every call."""

    def __init__(self, **blobs: int) -> None:
        self.blobs = blobs
        self.error: BaseException | None = None
        self.looks = 0

    def look(self, path: str) -> Any:
        self.looks += 1
        if self.error is not None:
            raise self.error
        if path not in self.blobs:
            raise ResourceNotFoundError("no such blob")
        return SimpleNamespace(name=path, etag='"0x1"', last_modified=WHEN, size=self.blobs[path])

    def service(self) -> Any:
        def client(container: str, path: str) -> Any:
            url = f"https://account.blob.core.windows.net/{container}/{path}"
            return SimpleNamespace(url=url, get_blob_properties=lambda: self.look(path))

        def list_blobs(name_starts_with: str) -> Any:
            return [self.look(name) for name in sorted(self.blobs) if name.startswith(name_starts_with)]

        class Service:
            get_blob_client = staticmethod(client)

            def get_container_client(self, container: str) -> Any:
                return SimpleNamespace(list_blobs=list_blobs)

            def __enter__(self) -> Any:
                return self

            def __exit__(self, *exception: object) -> None:
                pass

        return Service()


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> FakeStorage:
    fake = FakeStorage()
    monkeypatch.setattr(AzureConnection, "blob_service", lambda self: fake.service())
    return fake


def sensor(**arguments: Any) -> BlobArrivalSensor:
    settings: dict[str, Any] = {
        "blob": "landing/flights/{{ night.partition }}/_SUCCESS",
        "grace_seconds": 0.2,
        "poke_interval": 0.1,
    }
    made = BlobArrivalSensor(task_id="wait", **(settings | arguments))
    run = SimpleNamespace(dag_id="d", run_id="r", logical_date=None, run_after=None)
    context: Any = {"params": {"partition": "2013-03-08"}, "dag_run": run}
    made.render_template_fields(context, jinja2.Environment())
    return made


def test_a_marker_that_is_there_is_the_result_at_once(storage: FakeStorage) -> None:
    storage.blobs[MARKER] = 0
    assert sensor().execute({}) == {
        "blob": f"https://account.blob.core.windows.net/lake/{MARKER}",
        "container": "lake",
        "path": MARKER,
        "etag": "0x1",
        "last_modified": "2013-03-09T01:30:00+00:00",
        "size": 0,
    }


def test_after_the_grace_period_the_triggerer_waits(storage: FakeStorage) -> None:
    started = time.time()
    with pytest.raises(TaskDeferred) as deferred:
        sensor(container="other", timeout_minutes=60).execute({})
    trigger = deferred.value.trigger
    assert isinstance(trigger, BlobArrivalTrigger)
    assert (trigger.container, trigger.path, trigger.poke_interval) == ("other", MARKER, 0.1)
    assert trigger.deadline - trigger.started == 3600
    assert 0.1 < time.time() - started < 5
    assert storage.looks >= 2


def test_a_time_out_names_the_blob_since_when_and_what_is_there(storage: FakeStorage) -> None:
    storage.blobs |= {"landing/flights/2013-03-08/flights.csv": 91234, "landing/flights/2013-03-07/_SUCCESS": 0}
    waiting = sensor(timeout_minutes=2)
    with pytest.raises(AirflowException) as caught:
        waiting.resume({}, {"outcome": "timed_out", "started": WHEN.timestamp()})
    message = str(caught.value)
    assert f"https://account.blob.core.windows.net/lake/{MARKER} (waited for since 2013-03-09 01:30:00 UTC;" in message
    assert "in lake/landing/flights/2013-03-08: flights.csv (91,234 bytes, 2013-03-09 01:30 UTC))" in message
    assert "didn't arrive within 2 minutes" in message
    assert isinstance(caught.value.__cause__, ArrivalTimeout)
    assert caught.value.__cause__.blob.endswith("/_SUCCESS")


def test_a_long_listing_is_cut_and_an_empty_folder_said(storage: FakeStorage) -> None:
    with pytest.raises(AirflowException, match=r"lake/landing/flights/2013-03-08 is empty"):
        sensor().resume({}, {"started": 0})
    storage.blobs |= {f"landing/flights/2013-03-08/part-{number:03}.csv": 1 for number in range(40)}
    with pytest.raises(AirflowException, match=r"part-011\.csv [^)]*\), and more\)"):
        sensor().resume({}, {"started": 0})


def test_when_the_trigger_fires_the_worker_looks_itself(storage: FakeStorage) -> None:
    waiting = sensor()
    with pytest.raises(TaskDeferred):  # the trigger was wrong: wait on, to the same deadline
        waiting.resume({}, {"outcome": "there", "started": time.time()})
    storage.blobs[MARKER] = 3
    assert waiting.resume({}, {"outcome": "timed_out", "started": 0})["size"] == 3  # it came in the last moment


def forbidden() -> HttpResponseError:
    error = HttpResponseError("This request is not authorized to perform this operation.")
    error.status_code = 403
    return error


@pytest.mark.parametrize("error", [ClientAuthenticationError("invalid client secret"), forbidden()])
def test_a_refused_credential_names_the_connection(storage: FakeStorage, error: Exception) -> None:
    storage.error = error
    with pytest.raises(AirflowFailException, match="Connection 'azure_default' was refused") as caught:
        sensor().execute({})
    assert isinstance(caught.value.__cause__, AccessDenied)


def test_a_stop_ends_the_wait(storage: FakeStorage) -> None:
    waiting = sensor(grace_seconds=30)
    waiting.on_kill()
    with pytest.raises(AirflowException, match="stopped while it waited for https://account"):
        waiting.execute({})


# the trigger


class FakeCredential:
    async def close(self) -> None:
        pass


def watch(storage: FakeStorage, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> dict[str, Any]:
    class AsyncService:
        def __init__(self, url: str, credential: object) -> None:
            pass

        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *exception: object) -> None:
            pass

        def get_blob_client(self, container: str, path: str) -> Any:
            async def get_blob_properties() -> Any:
                return storage.look(path)

            return SimpleNamespace(url=f"https://account/{container}/{path}", get_blob_properties=get_blob_properties)

    async def aload(conn_id: str) -> AzureConnection:
        return AzureConnection(id=conn_id, storage_account_url="https://account")

    monkeypatch.setattr("azure.storage.blob.aio.BlobServiceClient", AsyncService)
    monkeypatch.setattr(AzureConnection, "aload", staticmethod(aload))
    monkeypatch.setattr(AzureConnection, "async_credential", lambda self: FakeCredential())
    now = time.time()
    settings: dict[str, Any] = {
        "container": "lake",
        "path": MARKER,
        "started": now,
        "deadline": now + 20,
        "poke_interval": 0.05,
    }
    trigger = BlobArrivalTrigger(conn_id="azure_default", **(settings | arguments))

    async def first() -> dict[str, Any]:
        async for event in trigger.run():
            payload: dict[str, Any] = event.payload
            return payload
        raise AssertionError("no event")

    return asyncio.run(first())


def test_the_trigger_survives_errors_until_the_blob_is_there(
    storage: FakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = storage.look
    answers = [ResourceNotFoundError("not yet"), ConnectionError("reset"), TimeoutError()]

    def unsteady(path: str) -> Any:
        if answers:
            raise answers.pop(0)
        storage.blobs[MARKER] = 0
        return look(path)

    monkeypatch.setattr(storage, "look", unsteady)
    assert watch(storage, monkeypatch)["outcome"] == "there"


def test_the_trigger_gives_up_at_its_deadline(storage: FakeStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    event = watch(storage, monkeypatch, started=5.0, deadline=time.time() + 0.2)
    assert event == {"outcome": "timed_out", "started": 5.0}
    assert storage.looks >= 3


def test_the_trigger_doesnt_wait_where_looking_is_forbidden(
    storage: FakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.error = forbidden()
    assert watch(storage, monkeypatch)["outcome"] == "denied"


def test_the_trigger_survives_serialisation() -> None:
    arguments = {
        "conn_id": "c",
        "container": "lake",
        "path": "a/b",
        "started": 1.5,
        "deadline": 2.5,
        "poke_interval": 30.0,
    }
    path, kept = BlobArrivalTrigger(**arguments).serialize()  # type: ignore[arg-type]
    assert (path, kept) == ("azflow.arrival.BlobArrivalTrigger", arguments)


# a table's partition


class FakePool:
    """A SQL pool with one table, as a DB-API connection: day -> rows; None: there is no table."""

    def __init__(self, rows: dict[str, int] | None) -> None:
        self.rows = rows
        self.asked: list[str] = []
        self.closed = 0

    def execute(self, query: str, values: tuple[str, ...] = ()) -> Any:
        self.asked.append(query)
        if "OBJECT_ID" in query:
            answer: Any = None if self.rows is None else 1
        else:
            assert self.rows is not None
            answer = max(self.rows, default=None) if "MAX" in query else self.rows.get(values[0], 0)
        return SimpleNamespace(fetchone=lambda: (answer,))

    def close(self) -> None:
        self.closed += 1


def partition_sensor(monkeypatch: pytest.MonkeyPatch, pool: FakePool, **arguments: Any) -> PartitionArrivalSensor:
    monkeypatch.setattr("azflow.synapse.connect", lambda connection, log: pool)
    settings = {"grace_seconds": 0.2, "poke_interval": 0.1, "min_rows": 500}
    return PartitionArrivalSensor(
        task_id="wait", table="ml.flight_features", column="flight_date", partition="2013-03-08", **settings | arguments
    )


def test_a_partition_with_enough_rows_is_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = FakePool({"2013-03-08": 979})
    found = partition_sensor(monkeypatch, pool).execute({})
    assert found == {"table": "ml.flight_features", "column": "flight_date", "partition": "2013-03-08", "rows": 979}
    assert pool.asked[-1] == "SELECT COUNT(*) FROM [ml].[flight_features] WHERE [flight_date] = ?"
    assert pool.closed == 1


@pytest.mark.parametrize("rows", [None, {}, {"2013-03-08": 499}])
def test_a_partition_that_isnt_whole_is_waited_for_in_the_triggerer(
    monkeypatch: pytest.MonkeyPatch, rows: dict[str, int] | None
) -> None:
    pool = FakePool(rows)
    with pytest.raises(TaskDeferred) as deferred:
        partition_sensor(monkeypatch, pool, timeout_minutes=60).execute({})
    trigger = deferred.value.trigger
    assert isinstance(trigger, PartitionArrivalTrigger)
    assert (trigger.table, trigger.partition, trigger.min_rows) == ("ml.flight_features", "2013-03-08", 500)
    assert trigger.deadline - trigger.started == 3600
    assert pool.closed == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (None, "there is no such table"),
        (
            {"2013-03-07": 900, "2013-03-08": 3},
            "3 rows of the 500 needed; the table's latest flight_date is 2013-03-08",
        ),
    ],
)
def test_a_partition_that_doesnt_come_is_named_with_what_is_there(
    monkeypatch: pytest.MonkeyPatch, rows: dict[str, int] | None, words: str
) -> None:
    with pytest.raises(AirflowException) as caught:
        partition_sensor(monkeypatch, FakePool(rows)).resume({}, {"outcome": "timed_out", "started": 0})
    assert "ml.flight_features, flight_date = 2013-03-08, on the pool" in str(caught.value)
    assert words in str(caught.value)


def test_the_triggers_looks_have_connections_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = FakePool({"2013-03-08": 3})
    looks = [ConnectionError("reset"), pool, pool]

    def connect(self: AzureConnection) -> FakePool:
        found = looks.pop(0)
        if not looks:
            pool.rows = {"2013-03-08": 979}
        if isinstance(found, Exception):
            raise found
        return found

    async def aload(conn_id: str) -> AzureConnection:
        return AzureConnection(id=conn_id)

    monkeypatch.setattr(AzureConnection, "sql_connect", connect)
    monkeypatch.setattr(AzureConnection, "aload", staticmethod(aload))
    now = time.time()
    arguments: dict[str, Any] = {"table": "ml.flight_features", "column": "flight_date", "partition": "2013-03-08"}
    arguments |= {"min_rows": 500, "started": now, "deadline": now + 20, "poke_interval": 0.01, "conn_id": "c"}
    trigger = PartitionArrivalTrigger(**arguments)
    assert trigger.serialize() == ("azflow.arrival.PartitionArrivalTrigger", arguments)

    async def first() -> Any:
        return [event.payload async for event in trigger.run()]

    assert asyncio.run(first()) == [{"outcome": "there", "started": now}]
    assert pool.closed == 2
