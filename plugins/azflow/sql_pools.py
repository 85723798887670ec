"""A dedicated SQL pool's life: paused, resumed, scaled through Resource Manager; never under others' running queries.

https://learn.microsoft.com/rest/api/synapse/resourcemanager/sql-pools
https://learn.microsoft.com/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-manage-compute-overview
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk.exceptions import AirflowException

from azflow import sql_execution, tsql
from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError, PoolInUse, ServiceUnavailable
from azflow.runs import Alphabet, Found, RemoteRunOperator, RemoteRuns, RunFailure, RunsReference, RunState, RunStates
from azflow.synapse import connect, request_label

if TYPE_CHECKING:
    from airflow.sdk import Context
    from azure.core import PipelineClient

    from azflow.credentials import AsyncRestClient

API_VERSION = "2021-06-01"
SERVICE = "Dedicated SQL pool"
Action = Literal["pause", "resume", "scale"]

_MOST_SECONDS_BETWEEN_LOOKS = 15.0
_OK, _CONFLICT, _ERROR = 200, 409, 400
#: The status may still be the old one for a while after Resource Manager has taken the request.
_STATES = RunStates(
    SERVICE,
    active=("Online", "Paused", "Pausing", "Resuming", "Scaling", "PreparingForScaling", "Creating", "Unknown"),
    succeeded=("Arrived",),
    failed=("Failed", "Offline", "Deleting", "Invisible", "Disabled"),
    cancelled=(),
)
_ARRIVED = RunState("Arrived", "succeeded")
_ENDS = {"pause": "paused", "resume": "online", "scale": "online"}
_ON_ITS_WAY = {"pause": ("pausing",), "resume": ("resuming",), "scale": ("scaling", "preparingforscaling")}


class SqlPoolChanges:
    """`azflow.remote.RemoteRuns` over one pool: its status is the run's, so that nothing has to be remembered.

    :param action: what is asked for.
    :param objective: the size to scale to, ``DW<n>c``.
    """

    def __init__(self, connection: AzureConnection, action: Action, objective: str = "") -> None:
        self._connection = connection
        self._action = action
        self._objective = objective
        self._client: PipelineClient[Any, Any] | None = None
        self._async_client: AsyncRestClient | None = None

    def lookup(self, name: str) -> Found | None:
        """The pool, if it is what it is to become, or on its way there."""
        pool = self.pool()
        state = self._state(pool)
        if state.succeeded or _status(pool) in _ON_ITS_WAY[self._action]:
            return Found(self._id, state, None)
        return None

    def submit(self, name: str, payload: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Ask Resource Manager, which carries it out later.

        :raises ConfigurationError: a paused pool can't be scaled.
        :raises ServiceUnavailable: another operation is under way.
        """
        from azure.core.exceptions import HttpResponseError

        if self._action == "scale" and _status(self.pool()) == "paused":
            raise ConfigurationError(f"The SQL pool {self._id} is paused and can't be scaled: resume it first.")
        if self._action == "scale":
            response = self._send("PATCH", "", {"sku": {"name": self._objective}})
        else:
            response = self._send("POST", f"/{self._action}")
        if response.status_code == _CONFLICT:
            problem = HttpResponseError(response=response)
            raise ServiceUnavailable(f"The SQL pool {self._id} is busy with another operation: {problem.message}")
        if response.status_code >= _ERROR:
            raise HttpResponseError(response=response)
        return self._id

    def state(self, id: str) -> RunState:
        """The pool's status."""
        return self._state(self.pool())

    async def astate(self, id: str) -> RunState:
        """As `state`, for the triggerer."""
        from azure.core.exceptions import HttpResponseError
        from azure.core.rest import HttpRequest

        if self._async_client is None:
            self._async_client = self._connection.async_rest_client(
                self._connection.resource_manager, self._connection.arm_scope
            )
        response = await self._async_client.send(HttpRequest("GET", self._address("")))
        if response.status_code != _OK:
            raise HttpResponseError(response=response)
        return self._state(response.json())

    def cancel(self, id: str) -> None:
        """Resource Manager can't take such an operation back: it goes on to its end."""
        raise ConfigurationError(f"a pool's {self._action} can't be taken back and goes on")

    def result(self, id: str) -> dict[str, Any]:
        """``{"pool", "action", "status", "objective"}``."""
        pool = self.pool()
        return {
            "pool": str(pool["name"]),
            "action": self._action,
            "status": str(pool["properties"]["status"]),
            "objective": str((pool.get("sku") or {}).get("name") or ""),
        }

    def failure(self, id: str) -> RunFailure:
        """The status is all that the resource tells; the portal's activity log has the reason."""
        return RunFailure(f"after {self._action} the pool is {self.pool()['properties'].get('status')}")

    def url(self, id: str) -> str:
        """The pool's page in the portal."""
        cloud = self._connection.cloud
        return f"{(cloud.portal if cloud else 'https://portal.azure.com').rstrip('/')}/#resource{self._id}/overview"

    def close(self) -> None:
        """Release the worker's connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    async def aclose(self) -> None:
        """Release the triggerer's connections."""
        if self._async_client is not None:
            await self._async_client.close()
            self._async_client = None

    def pool(self) -> dict[str, Any]:
        """GET .../sqlPools/{pool}.

        :raises ConfigurationError: there is no such pool.
        """
        from azure.core.exceptions import HttpResponseError

        response = self._send("GET", "")
        if response.status_code == 404:  # noqa: PLR2004
            raise ConfigurationError(
                f"There is no SQL pool {self._id}. Check the connection's sql_database, synapse_workspace and "
                f"resource_group."
            )
        if response.status_code != _OK:
            raise HttpResponseError(response=response)
        found: dict[str, Any] = response.json()
        return found

    @property
    def _id(self) -> str:
        return self._connection.sql_pool_id

    def _address(self, path: str) -> str:
        return f"{self._connection.resource_manager}{self._id}{path}?api-version={API_VERSION}"

    def _send(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> Any:
        from azure.core.rest import HttpRequest

        if self._client is None:
            self._client = self._connection.rest_client()
        return self._client.send_request(HttpRequest(method, self._address(path), json=content))

    def _state(self, pool: Mapping[str, Any]) -> RunState:
        arrived = _status(pool) == _ENDS[self._action]
        if self._action == "scale":
            arrived = arrived and str((pool.get("sku") or {}).get("name")).lower() == self._objective.lower()
        return _ARRIVED if arrived else _STATES.of(str(pool["properties"].get("status")), id=self._id)


def _status(pool: Mapping[str, Any]) -> str:
    return str(pool["properties"].get("status")).lower()


@dataclass(frozen=True)
class RunningRequest:
    """A row of sys.dm_pdw_exec_requests."""

    request: str
    session: str
    seconds: float
    label: str
    command: str

    def __str__(self) -> str:
        named = f", label {self.label!r}" if self.label else ""
        return f"{self.request} of session {self.session}{named}, for {self.seconds:.0f} s: {self.command}"


#: The login needs VIEW DATABASE STATE to see them.
#: https://learn.microsoft.com/sql/relational-databases/system-dynamic-management-views/sys-dm-pdw-exec-requests-transact-sql
_RUNNING = """SELECT TOP 50 request_id, session_id, total_elapsed_time, ISNULL([label], '') AS lbl,
    LEFT(command, 120) AS cmd
FROM sys.dm_pdw_exec_requests
WHERE status IN ('Running', 'Suspended') AND session_id <> SESSION_ID() AND ISNULL([label], '') <> ?
ORDER BY submit_time"""


def running_requests(connection: AzureConnection, label: str) -> list[RunningRequest]:
    """What other sessions run or wait for in the dedicated pool, oldest first, at most 50.

    :param label: requests with this label are the caller's own.
    """
    opened = connect(connection)
    try:
        rows: Sequence[Sequence[Any]] = sql_execution.run_batch(
            opened, _RUNNING, (label[: tsql.LABEL_LIMIT],), keep_rows=50
        ).rows
    finally:
        opened.close()
    return [
        RunningRequest(str(request), str(session), float(elapsed or 0) / 1000, str(own), " ".join(str(text).split()))
        for request, session, elapsed, own, text in rows
    ]


class SqlPoolOperator(RemoteRunOperator):
    """Pauses, resumes or scales the connection's dedicated SQL pool, and waits until it is there.

    A pool that is so already is left alone. Pausing and scaling end what runs, so both are refused while other
    sessions' requests run or are queued; the refusal names them.

    XCom: ``{"pool", "action", "status", "objective"}``.

    :param action: ``pause``, ``resume`` or ``scale``.
    :param objective: the size to scale to, e.g. ``DW200c``.
    :param wait_minutes: how long to wait for others' requests before refusing; the worker's slot is held meanwhile.
    :param guard: False: don't look for others' requests.
    """

    service = SERVICE
    alphabet: ClassVar[Alphabet] = Alphabet()
    template_fields = ("action", "objective")
    ui_color = "#dcebfb"

    def __init__(
        self,
        *,
        action: Action,
        objective: str = "",
        wait_minutes: float = 0,
        guard: bool = True,
        timeout_minutes: float = 60,
        **kwargs: Any,
    ) -> None:
        super().__init__(timeout_minutes=timeout_minutes, **kwargs)
        self.action = action
        self.objective = objective
        self.wait_minutes = wait_minutes
        self.guard = guard

    def remote_runs(self) -> RunsReference:
        """The pool, and what it is to become."""
        return RunsReference("azflow.sql_pools.SqlPoolChanges", {"action": self.action, "objective": self.objective})

    def payload(self, context: Context) -> dict[str, Any]:
        """Action and size."""
        if self.action not in _ENDS:
            raise ConfigurationError(f"SqlPoolOperator: action is {self.action!r}; use {', '.join(_ENDS)}.")
        if (self.action == "scale") != bool(self.objective):
            raise ConfigurationError("SqlPoolOperator: objective, e.g. 'DW200c', belongs to the action 'scale'.")
        return {"action": self.action, "objective": self.objective}

    def before_submit(self, context: Context, runs: RemoteRuns, payload: Mapping[str, Any]) -> None:
        """The guard: what would be ended is named."""
        if not self.guard or self.action == "resume":
            return
        connection = AzureConnection.load(self.conn_id)
        if _status(runs.pool()) != "online":  # type: ignore[attr-defined]
            return  # it runs nothing, or is on its way elsewhere, which `submit` says
        until, pause = time.monotonic() + self.wait_minutes * 60, 1.0
        while found := running_requests(connection, request_label(context)):
            if (left := until - time.monotonic()) <= 0:
                raise PoolInUse(connection.sql_database, self.action, [str(each) for each in found])
            self.log.info("%s waits for %s request(s), first %s", self.action, len(found), found[0])
            self._sleep(min(pause, left))
            pause = min(pause * 2, _MOST_SECONDS_BETWEEN_LOOKS)
            if self._stopping:
                raise AirflowException(f"The task was stopped while it waited to {self.action} the SQL pool.")
