"""Spark batches as remote runs: Livy chooses their ids, so they are found again by name and tags.

Livy takes the same batch twice: names needn't be unique, and a request that creates one can't be repeated safely. So

- the request is sent once; a lost answer is followed by a look, not by a second request (azure-core's own retries,
  which repeat a POST after 500, 503 and 504, are off for it);
- who creates a batch holds a lease on a record in the lake (``azflow/spark/batches/<name>.json``): of two workers that
  believe the task is theirs one waits, and then finds the other's batch;
- a lease lives longer than the request. After a crash between request and answer the next try waits until it has
  ended: by then the list of batches has what the request made.

The record keeps the id, which saves going through the list. Lost, it is made again from the list.

https://learn.microsoft.com/rest/api/synapse/data-plane/spark-batch
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError, RunExists, ServiceUnavailable
from azflow.notebook_runs import REFUSALS, is_retriable, refusal
from azflow.remote import DIGEST_TAG, Found, Phase, RunFailure, RunState, RunStates
from azflow.spark_files import LAKE_FOLDER, memory_hint, studio_url

if TYPE_CHECKING:
    from azure.core import PipelineClient
    from azure.storage.blob import BlobClient, BlobServiceClient

    from azflow.credentials import AsyncRestClient

SERVICE = "Synapse Spark batch"
#: As azure-synapse-spark 0.7 has it.
LIVY_VERSION = "2019-11-01-preview"
_ARTIFACTS_VERSION = "2020-12-01"

#: `state` is Livy's: https://learn.microsoft.com/rest/api/synapse/data-plane/spark-batch/get-spark-batch-job#livystates
STATES = RunStates(
    SERVICE,
    active=("not_started", "starting", "recovering", "running", "busy", "idle", "shutting_down"),
    succeeded=("success",),
    failed=("dead", "error"),
    cancelled=("killed",),
)
#: `result` is Synapse's, and right where they differ: a cancelled batch may be "dead", too.
_RESULTS: Mapping[str, Phase] = {"Succeeded": "succeeded", "Failed": "failed", "Cancelled": "cancelled"}

_OK, _BAD_REQUEST, _NOT_FOUND = 200, 400, 404
_PAGE = 20  # "By default it is 20 and that is the maximum."
_LOG_LINES = 40
_FOLLOWED_LINES = 200
_TRACEBACK = "Traceback (most recent call last)"
_EXCEPTION = re.compile(r"^(?:Caused by: )?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit))\b(:.*)?$")


class SparkBatches:
    """`azflow.remote.RemoteRuns` over one Spark pool of a Synapse workspace.

    :param spark_pool: ids are the pool's own.
    """

    #: Seconds a lease lives: 15 to 60. The request that makes a batch is given up before.
    lease_seconds: ClassVar[int] = 60

    def __init__(self, connection: AzureConnection, spark_pool: str) -> None:
        connection.require("synapse_endpoint", "storage_account_url")
        self._connection = connection
        self._pool = spark_pool
        self._rest: PipelineClient[Any, Any] | None = None
        self._async_rest: AsyncRestClient | None = None
        self._blobs: BlobServiceClient | None = None
        self._names: dict[str, str] = {}

    # -- RemoteRuns --------------------------------------------------------------------------------------------------

    def lookup(self, name: str) -> Found | None:
        """The batch called `name`: by the record's id, else from the list."""
        record = self._read(self._record(name)) or {}
        batch = self._batch(str(record["id"])) if "id" in record else None
        if batch is None or batch.get("name") != name:
            batch = self._named(name)
        return None if batch is None else self._found(batch)

    def submit(self, name: str, payload: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Create the batch, alone: see the module. Its files have to be in the lake.

        :raises ConfigurationError: the pool refuses it, in its words.
        """
        from azure.core.exceptions import HttpResponseError

        record = self._record(name)
        is_new = self._create(record)
        with self._leased(record, name) as lease:
            if not is_new and self.lookup(name) is not None:
                raise RunExists(name, service=SERVICE)
            body = {**payload["batch"], "name": name, "tags": dict(tags)}
            # Once, and answered or given up while the lease lives.
            limits = {"connection_timeout": self.lease_seconds / 4, "read_timeout": self.lease_seconds / 2}
            try:
                batch = self._call("POST", "?detailed=true", body, retry_total=0, **limits)
            except HttpResponseError as refused:
                if refused.status_code in REFUSALS:
                    raise ConfigurationError(
                        f"The Spark pool {self._pool} refuses the batch: {refused.message}"
                    ) from None
                raise
            id = str(batch["id"])
            self._names[id] = name
            with contextlib.suppress(Exception):  # the list has it, too
                content = json.dumps({"id": batch["id"], "spark_pool": self._pool, "name": name})
                record.upload_blob(content, overwrite=True, lease=lease)
        return id

    def state(self, id: str) -> RunState:
        """GET .../batches/{id}"""
        return self.state_of(self._known(id))

    async def astate(self, id: str) -> RunState:
        """As `state`, for the triggerer."""
        from azure.core.exceptions import HttpResponseError
        from azure.core.rest import HttpRequest

        connection = self._connection
        if self._async_rest is None:
            self._async_rest = connection.async_rest_client(connection.synapse_endpoint, connection.synapse_scope)
        response = await self._async_rest.send(HttpRequest("GET", self._url(f"/{id}?detailed=true")))
        if response.status_code != _OK:
            raise HttpResponseError(response=response)
        return self.state_of(response.json())

    def cancel(self, id: str) -> None:
        """DELETE .../batches/{id}; a batch that is over already, or gone, is no error."""
        from azure.core.exceptions import HttpResponseError

        try:
            self._call("DELETE", f"/{id}")
        except HttpResponseError:
            batch = self._batch(id)
            if batch is not None and not self.state_of(batch).is_terminal:
                raise

    def result(self, id: str) -> dict[str, Any]:
        """``{"id", "name", "app_id", "state", "result", "spark_pool", "url"}``"""
        batch = self._known(id)
        return {
            "id": int(id),
            "name": batch.get("name"),
            "app_id": batch.get("appId"),
            "state": batch.get("state"),
            "result": batch.get("result"),
            "spark_pool": self._pool,
            "url": self.url(id),
        }

    def failure(self, id: str) -> RunFailure:
        """What the service says (errorInfo) and which exception ended the driver; its last lines."""
        batch = self._known(id)
        log = self._log(id, batch)
        raised, said = last_exception(log)
        causes = [_error_text(error) for error in batch.get("errorInfo") or []]
        if said and not any(said in cause for cause in causes):
            causes.append(said)
        if hint := memory_hint([*log, *causes]):
            causes.append(hint)
        cause = "\n".join(causes) or "the service names no error"
        return RunFailure(cause, driver_tail(log), retry_helps=is_retriable(raised))

    def url(self, id: str) -> str:
        """The batch in Synapse Studio; in a private cloud, which has none, its page at the development endpoint."""
        if self._connection.cloud is not None:
            return self._url(f"/{id}/view")
        if id not in self._names:
            with contextlib.suppress(Exception):
                self._batch(id)
        name = quote(self._names.get(id, id), safe="")
        return studio_url(self._connection, f"monitoring/sparkapplication/{name}", livyId=id, sparkPoolName=self._pool)

    def close(self) -> None:
        """Release the worker's connections."""
        for client in (self._rest, self._blobs):
            if client is not None:
                client.close()
        self._rest = self._blobs = None

    async def aclose(self) -> None:
        """Release the triggerer's connections."""
        if self._async_rest is not None:
            await self._async_rest.close()
            self._async_rest = None

    # -- more that azflow asks ---------------------------------------------------------------------------------------

    def follow(self, id: str, progress: dict[str, Any]) -> list[str]:
        """What the driver printed since the last call, no more than its last `_FOLLOWED_LINES`.

        :param progress: where the last call ended; brought up to date, plain values.
        """
        begin = int(progress.get("read", 0))
        answer = self._optional(f"/{id}/log?from={begin}&size={_FOLLOWED_LINES}")
        total = int(answer.get("total") or 0)
        lines = [str(line) for line in answer.get("log") or []]
        if total - begin > _FOLLOWED_LINES:
            begin = total - _FOLLOWED_LINES
            lines = [str(line) for line in self._optional(f"/{id}/log?size={_FOLLOWED_LINES}").get("log") or []]
        progress["read"] = begin + len(lines)
        return lines

    def batches(self) -> Iterator[dict[str, Any]]:
        """All that the pool lists, whoever made them."""
        begin, total = 0, 1
        while begin < total:
            page = self._call("GET", f"?from={begin}&size={_PAGE}&detailed=true")
            sessions = page.get("sessions") or []
            if not sessions:
                break
            yield from sessions
            begin += len(sessions)
            total = int(page.get("total") or 0)

    def state_of(self, batch: Mapping[str, Any]) -> RunState:
        """The state of a batch as Livy shows it."""
        state = STATES.of(str(batch.get("state")), id=str(batch.get("id")))
        result = _RESULTS.get(str(batch.get("result")))
        if state.is_terminal and result is not None and result != state.phase:
            return RunState(f"{state.raw} ({batch['result']})", result)
        return state

    def definition(self, name: str) -> dict[str, Any]:
        """GET /sparkJobDefinitions/{name}: its properties.

        :raises ConfigurationError: the workspace has none of that name.
        """
        endpoint = self._connection.synapse_endpoint.rstrip("/")
        url = f"{endpoint}/sparkJobDefinitions/{quote(name, safe='')}?api-version={_ARTIFACTS_VERSION}"
        found = self._send("GET", url, missing_is_none=True)
        if found is None:
            raise ConfigurationError(f"The workspace {endpoint} has no Spark job definition {name!r}.")
        properties: dict[str, Any] = found["properties"]
        return properties

    # -- Livy --------------------------------------------------------------------------------------------------------

    def _url(self, rest: str) -> str:
        endpoint = self._connection.synapse_endpoint.rstrip("/")
        return f"{endpoint}/livyApi/versions/{LIVY_VERSION}/sparkPools/{quote(self._pool, safe='')}/batches{rest}"

    def _call(self, method: str, rest: str, body: object = None, **options: Any) -> dict[str, Any]:
        answer = self._send(method, self._url(rest), body, **options)
        assert answer is not None
        return answer

    def _send(
        self, method: str, url: str, body: object = None, *, missing_is_none: bool = False, **options: Any
    ) -> dict[str, Any] | None:
        from azure.core.exceptions import HttpResponseError
        from azure.core.rest import HttpRequest

        if self._rest is None:
            self._rest = self._connection.rest_client(self._connection.synapse_scope)
        request = HttpRequest(method, url, json=body, headers={"Accept": "application/json"})
        response = self._rest.send_request(request, **options)
        if missing_is_none and response.status_code == _NOT_FOUND:
            return None
        if response.status_code >= _BAD_REQUEST:
            raise HttpResponseError(message=refusal(response), response=response)
        found: dict[str, Any] = response.json() if response.text().strip() else {}
        return found

    def _optional(self, rest: str) -> dict[str, Any]:
        """An answer that nothing hangs on; empty where the service hasn't the operation."""
        return self._send("GET", self._url(rest), missing_is_none=True) or {}

    def _batch(self, id: str) -> dict[str, Any] | None:
        batch = self._send("GET", self._url(f"/{id}?detailed=true"), missing_is_none=True)
        if batch is not None and batch.get("name"):
            self._names[id] = str(batch["name"])
        return batch

    def _known(self, id: str) -> dict[str, Any]:
        batch = self._batch(id)
        if batch is None:
            raise ConfigurationError(f"{SERVICE} {id} isn't on the pool {self._pool} any more.")
        return batch

    def _named(self, name: str) -> dict[str, Any] | None:
        """The batch called `name`, from the list; of several the one that did the work, else one that still may."""
        found = {str(each["id"]): each for each in self.batches() if each.get("name") == name}
        order = {"succeeded": 0, "active": 1, "failed": 2, "cancelled": 2}
        return min(found.values(), key=lambda each: (order[self.state_of(each).phase], each["id"]), default=None)

    def _found(self, batch: Mapping[str, Any]) -> Found:
        id = str(batch["id"])
        return Found(id, self.state_of(batch), (batch.get("tags") or {}).get(DIGEST_TAG))

    def _log(self, id: str, batch: Mapping[str, Any]) -> list[str]:
        lines: Sequence[Any] = []
        with contextlib.suppress(Exception):
            lines = self._optional(f"/{id}/log?size={_FOLLOWED_LINES}").get("log") or []
        return [str(line).rstrip() for line in lines or batch.get("log") or []]

    # -- the record in the lake --------------------------------------------------------------------------------------

    def _record(self, name: str) -> BlobClient:
        if self._blobs is None:
            self._blobs = self._connection.blob_service()
        return self._blobs.get_blob_client(self._connection.container, f"{LAKE_FOLDER}/batches/{name}.json")

    def _create(self, record: BlobClient) -> bool:
        """Make the record unless it is there; whether it wasn't."""
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError

        try:
            record.upload_blob(b"{}", overwrite=False)
        except (ResourceExistsError, ResourceModifiedError):
            return False
        return True

    def _read(self, record: BlobClient) -> dict[str, Any] | None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            content = json.loads(record.download_blob().readall())
        except (ResourceNotFoundError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    @contextlib.contextmanager
    def _leased(self, record: BlobClient, name: str) -> Iterator[Any]:
        """Hold the record's lease; waits for who holds it.

        :raises ServiceUnavailable: it is held for longer than a lease lives.
        """
        from azure.core.exceptions import HttpResponseError

        deadline = time.monotonic() + self.lease_seconds + 10
        while True:
            try:
                lease = record.acquire_lease(self.lease_seconds)
                break
            except HttpResponseError as problem:
                if getattr(problem, "error_code", "") != "LeaseAlreadyPresent":
                    raise
                if time.monotonic() > deadline:
                    raise ServiceUnavailable(f"{SERVICE} {name} is being submitted by another worker.") from None
                time.sleep(1)
        try:
            yield lease
        except (ConfigurationError, RunExists):
            self._release(lease)  # no batch was made; after any other error the lease ends by itself, see the module
            raise
        self._release(lease)

    def _release(self, lease: Any) -> None:
        with contextlib.suppress(Exception):  # it ends by itself
            lease.release()


def driver_tail(log: Sequence[str]) -> list[str]:
    """The lines of a driver's log that a person wants: around the last Python traceback, else the last. Pure.

    What the JVM prints while it shuts down would hide it.
    """
    begin = max((number for number, line in enumerate(log) if line.startswith(_TRACEBACK)), default=None)
    if begin is None or begin >= len(log) - _LOG_LINES:
        return list(log[-_LOG_LINES:])
    first = max(0, begin - _LOG_LINES // 4)
    return list(log[first : first + _LOG_LINES])


def last_exception(log: Sequence[str]) -> tuple[str, str]:
    """The exception that ended the driver: (name, its line), that of the last Python traceback before any other; empty
    texts if there is none. Pure."""
    begin = max((number for number, line in enumerate(log) if line.startswith(_TRACEBACK)), default=None)
    for line in log[begin + 1 :] if begin is not None else ():
        if line[:1] not in (" ", "\t", "") and (found := _EXCEPTION.match(line.strip())):
            return found[1], line.strip()
    for line in reversed(log):
        if found := _EXCEPTION.match(line.strip()):
            return found[1], line.strip()
    return "", ""


def _error_text(error: Mapping[str, Any]) -> str:
    """``{"message", "errorCode", "source"}`` in a line."""
    code, message = error.get("errorCode") or "", error.get("message") or ""
    text = ": ".join(str(part) for part in (code, message) if part)
    source = error.get("source")
    return f"{text} (source: {source})" if source else text
