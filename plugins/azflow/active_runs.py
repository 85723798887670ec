"""What runs for tasks of azflow's, service by service: found by its tags, its record in the lake, or its label.

Whether somebody still waits for it is `azflow.orphans`' question. What bears no mark of azflow's is never listed here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from azflow import ml_jobs, notebook_runs, spark_batches, sql_execution
from azflow.connection import AzureConnection
from azflow.ml_history import instant
from azflow.run_records import NotebookRecords

if TYPE_CHECKING:
    from azure.core import PipelineClient

_ARTIFACTS_VERSION = "2020-12-01"
_OK, _FORBIDDEN = 200, 403
#: A record whose run the service doesn't know for so long is one of a run that was never made.
_MADE_WITHIN = timedelta(days=1)
SQL_SERVICE = "Synapse SQL request"
_LABEL = "azflow:"


@dataclass(frozen=True)
class ActiveRun:
    """Something that runs for a task, or waits to.

    :ivar id: what the service cancels it by.
    :ivar name: what people know it by.
    :ivar created: an instant with a time zone.
    :ivar pool: the Spark pool whose `id` it is.
    """

    service: str
    id: str
    name: str
    dag: str
    run: str
    task: str
    map_index: int
    created: datetime
    url: str = ""
    pool: str = ""


class Source(Protocol):
    """A service that runs things for azflow."""

    #: What a run of it is called in messages.
    service: ClassVar[str]

    def active(self, oldest: datetime) -> Iterator[ActiveRun]:
        """What runs now and began after `oldest`."""
        ...

    def cancel(self, run: ActiveRun) -> None:
        """Ask for its end. What is over already is no error."""
        ...

    def close(self) -> None:
        """Release the connections."""
        ...


def sources(connection: AzureConnection, *, tidy: bool) -> Iterator[Source]:
    """The services that the connection names.

    :param tidy: delete the records of notebook runs that are over.
    """
    yield MachineLearningJobs(connection)
    if connection.synapse_endpoint and connection.storage_account_url:
        yield NotebookRuns(connection, tidy=tidy)
        yield Batches(connection)
    if connection.sql_server and connection.sql_database:
        yield SqlRequests(connection)


class MachineLearningJobs:
    """Azure ML jobs, by their tags."""

    service: ClassVar[str] = ml_jobs.SERVICE

    def __init__(self, connection: AzureConnection) -> None:
        self._runs = ml_jobs.AzureMLJobs(connection)

    def active(self, oldest: datetime) -> Iterator[ActiveRun]:
        """From the list of the jobs that have our tag, newest first."""
        for document in takewhile(lambda each: created(each) > oldest, self._runs.workspace.jobs(tag="azflow.dag")):
            if (run := read_job(document, self._runs.url(str(document["name"])))) is not None:
                yield run

    def cancel(self, run: ActiveRun) -> None:
        """See `AzureMLJobs.cancel`."""
        self._runs.cancel(run.id)

    def close(self) -> None:
        """Release the connections."""
        self._runs.close()


def read_job(document: Mapping[str, Any], url: str = "") -> ActiveRun | None:
    """A job's ARM resource; None if it is over or not one of a task's."""
    properties = document["properties"]
    if ml_jobs.STATES.of(str(properties.get("status"))).is_terminal:
        return None
    run = _of_task(ml_jobs.SERVICE, str(document["name"]), properties.get("tags"), created(document))
    return run and replace(run, url=url)


class Batches:
    """Spark batches of all pools, by their tags."""

    service: ClassVar[str] = spark_batches.SERVICE

    def __init__(self, connection: AzureConnection) -> None:
        self._connection = connection
        self._pools: dict[str, spark_batches.SparkBatches] = {}

    def active(self, oldest: datetime) -> Iterator[ActiveRun]:
        """From the pools' lists of batches."""
        for pool in spark_pools(self._connection):
            runs = self._pools[pool] = spark_batches.SparkBatches(self._connection, pool)
            seen: set[str] = set()
            for batch in runs.batches():
                run = _of_task(self.service, str(batch["id"]), batch.get("tags"), submitted(batch))
                if run is None or run.created <= oldest or run.id in seen or runs.state_of(batch).is_terminal:
                    continue
                seen.add(run.id)  # a batch that was made meanwhile moves the others to the next page
                yield replace(run, name=str(batch.get("name")), url=runs.url(run.id), pool=pool)

    def cancel(self, run: ActiveRun) -> None:
        """See `SparkBatches.cancel`."""
        self._pools[run.pool].cancel(run.id)

    def close(self) -> None:
        """Release the connections."""
        for runs in self._pools.values():
            runs.close()


def submitted(batch: Mapping[str, Any]) -> datetime:
    """When a batch was; one that doesn't say is as new as can be."""
    scheduler, livy = batch.get("schedulerInfo") or {}, batch.get("livyInfo") or {}
    text = str(scheduler.get("submittedAt") or livy.get("notStartedAt") or "")
    return instant(text) if text else datetime.max.replace(tzinfo=UTC)


class NotebookRuns:
    """Notebook runs, by their records in the lake: the service lists none."""

    service: ClassVar[str] = notebook_runs.SERVICE

    def __init__(self, connection: AzureConnection, *, tidy: bool) -> None:
        self._runs = notebook_runs.SynapseNotebookRuns(connection)
        self._records = NotebookRecords(connection)
        self._tidy = tidy

    def active(self, oldest: datetime) -> Iterator[ActiveRun]:
        """Of each record that is left, what the service says of its run."""
        now = datetime.now(UTC)
        for record in self._records:
            found = self._runs.lookup(record.id)
            if found is None or found.state.is_terminal:
                if self._tidy and (found is not None or now - record.written > _MADE_WITHIN):
                    self._records.remove(record.id)
                continue
            if record.written > oldest:
                run = _of_task(self.service, record.id, record.tags, record.written)
                if run is not None:
                    yield replace(run, url=self._runs.url(record.id))

    def cancel(self, run: ActiveRun) -> None:
        """See `SynapseNotebookRuns.cancel`."""
        self._runs.cancel(run.id)

    def close(self) -> None:
        """Release the connections."""
        self._runs.close()
        self._records.close()


#: The login needs VIEW DATABASE STATE to see other sessions' requests, and to end them ALTER ANY CONNECTION (KILL).
#: https://learn.microsoft.com/sql/relational-databases/system-dynamic-management-views/sys-dm-pdw-exec-requests-transact-sql
_REQUESTS = """SELECT session_id, request_id, [label], DATEDIFF(second, submit_time, GETDATE()) AS age
FROM sys.dm_pdw_exec_requests
WHERE status IN ('Running', 'Suspended') AND [label] LIKE 'azflow:%' AND session_id <> SESSION_ID()
ORDER BY submit_time"""
_MOST_REQUESTS = 1000


class SqlRequests:
    """Requests of the dedicated pool, by their label. A request lives as long as its connection; one whose worker's
    machine is gone runs on until the pool notices."""

    service: ClassVar[str] = SQL_SERVICE

    def __init__(self, connection: AzureConnection) -> None:
        self._connection = connection
        self._opened: Any = None

    def active(self, oldest: datetime) -> Iterator[ActiveRun]:
        """What runs or waits for its turn. A pool that is paused refuses the connection: nothing runs there."""
        now = datetime.now(UTC)
        for session, request, label, age in sql_execution.run_batch(
            self._open(), _REQUESTS, keep_rows=_MOST_REQUESTS
        ).rows:
            begun = now - timedelta(seconds=float(age or 0))
            if begun > oldest and (place := labelled(str(label))) is not None:
                yield ActiveRun(self.service, str(session), str(request), *place, map_index=-1, created=begun)

    def cancel(self, run: ActiveRun) -> None:
        """KILL ends the session, and with it what it runs."""
        try:
            sql_execution.run_batch(self._open(), f"KILL '{run.id}'")
        except sql_execution.StatementFailed:
            still = "SELECT COUNT(*) FROM sys.dm_pdw_exec_sessions WHERE session_id = ? AND status <> 'Closed'"
            if sql_execution.run_batch(self._open(), still, (run.id,)).rows[0][0]:
                raise

    def close(self) -> None:
        """Close the connection."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _open(self) -> Any:
        from azflow.synapse import connect

        if self._opened is None:
            self._opened = connect(self._connection)
        return self._opened


def labelled(label: str) -> tuple[str, str, str] | None:
    """(dag, run, task) of a request's label, ``azflow:<dag>:<task>:<run>``; None if it is another kind of label."""
    parts = label.removeprefix(_LABEL).split(":", 2)
    if not label.startswith(_LABEL) or len(parts) != 3 or not all(parts):  # noqa: PLR2004
        return None
    dag, task, run = parts
    return dag, run, task


def spark_pools(connection: AzureConnection) -> list[str]:
    """The workspace's Spark pools; of who may not list them, the connection's own."""
    from azure.core.exceptions import HttpResponseError
    from azure.core.rest import HttpRequest

    url = f"{connection.synapse_endpoint.rstrip('/')}/bigDataPools?api-version={_ARTIFACTS_VERSION}"
    client: PipelineClient[Any, Any] = connection.rest_client(connection.synapse_scope)
    with contextlib.closing(client):
        response = client.send_request(HttpRequest("GET", url, headers={"Accept": "application/json"}))
        if response.status_code == _FORBIDDEN and connection.spark_pool:
            return [connection.spark_pool]
        if response.status_code != _OK:
            raise HttpResponseError(response=response)
        return [str(each["name"]) for each in response.json().get("value") or []]


def _of_task(service: str, id: str, tags: Mapping[str, Any] | None, begun: datetime) -> ActiveRun | None:
    """The run of the task that the tags name; None if they name none."""
    tags = tags or {}
    dag, run, task = (str(tags.get(f"azflow.{key}") or "") for key in ("dag", "run", "task"))
    if not (dag and run and task):
        return None
    return ActiveRun(service, id, id, dag, run, task, int(tags.get("azflow.map_index", -1)), begun)


def created(document: Mapping[str, Any]) -> datetime:
    """When an ARM resource was made; one that doesn't say is as new as can be."""
    text = str((document.get("systemData") or {}).get("createdAt") or "")
    return instant(text) if text else datetime.max.replace(tzinfo=UTC)
