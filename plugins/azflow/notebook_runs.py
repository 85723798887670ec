"""Synapse notebooks as remote runs: published under a name made of their content, run by an id we choose.

A run names its notebook, so publishing under a new name for each content keeps a run tied to what it ran, and two
branches of one project don't overwrite each other's notebook.

https://learn.microsoft.com/en-us/rest/api/synapse/data-plane/run-notebook
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError, RunExists, SpecError, first_line
from azflow.remote import Found, RunFailure, RunState, RunStates
from azflow.run_records import NotebookRecords
from azflow.spark_files import memory_hint, studio_url

if TYPE_CHECKING:
    from azure.synapse.artifacts import ArtifactsClient
    from azure.synapse.artifacts.models import RunNotebookResult

    from azflow.credentials import AsyncRestClient

logger = logging.getLogger(__name__)

SERVICE = "Synapse notebook run"
API_VERSION = "2022-03-01-preview"

#: Microsoft documents no list. Starting, Succeeded and Failed are in its examples, the others follow by analogy:
#: https://github.com/Azure/azure-rest-api-specs/tree/main/specification/synapse/data-plane/Microsoft.Synapse/preview/2022-03-01-preview/examples
STATES = RunStates(
    SERVICE,
    active=("Starting", "Running", "Cancelling"),
    succeeded=("Succeeded",),
    failed=("Failed",),
    cancelled=("Cancelled", "Canceled"),
)

#: What the same notebook raises again on the next try.
_DETERMINISTIC = frozenset(
    {"AnalysisException", "AssertionError", "AttributeError", "ImportError", "IndentationError", "KeyError"}
    | {"ModuleNotFoundError", "NameError", "ParseException", "SyntaxError", "TypeError", "ZeroDivisionError"}
)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
# IPython's "Cell In[3], line 4" and "Input In [3], in <cell line: 4>()".
_CELL_LINE = re.compile(r"Cell In ?\[\d+\], line (\d+)|<cell line: (\d+)>")
#: Tags of the cell that the service puts in for the parameters: Synapse's, papermill's.
_INJECTED = frozenset({"parameters_overwritten", "injected-parameters"})
#: Answers that the same request would get again: malformed, unknown names, too large.
REFUSALS = (400, 404, 405, 413, 422, 501)
_SOURCE_LINES = 15
_TRACE_LINES = 40


def parse_exit_value(text: str | None) -> object:
    """What the notebook handed to `notebook.exit`, parsed if it is JSON."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


class SynapseNotebookRuns:
    """`azflow.runs.RemoteRuns` over a Synapse workspace's development endpoint."""

    def __init__(self, connection: AzureConnection) -> None:
        connection.require("synapse_endpoint")
        self._connection = connection
        self._client: ArtifactsClient | None = None
        self._async_client: AsyncRestClient | None = None

    @property
    def client(self) -> ArtifactsClient:
        """Made on first use: the triggerer only polls and never needs it."""
        if self._client is None:
            self._client = self._connection.synapse_artifacts()
        return self._client

    # -- RemoteRuns --------------------------------------------------------------------------------------------------

    def lookup(self, name: str) -> Found | None:
        """The run with the id `name`. The service keeps no tags: no digest (it is part of the id)."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            result = self._result(name)
        except ResourceNotFoundError:
            return None
        return Found(name, self._state(result, name), None)

    def submit(self, name: str, payload: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Publish the notebook and those it runs, if their content isn't there yet, then run it under the id `name`.

        :raises SpecError: a notebook that it expects in the workspace isn't there.
        :raises ConfigurationError: the workspace refuses the run, in its words.
        """
        from azure.core.exceptions import HttpResponseError, ResourceExistsError

        for expected, place in (payload.get("expected") or {}).items():
            self._expect(expected, place)
        for other, content in (payload.get("others") or {}).items():
            self._publish(other, content, str(payload["spark_pool"]))
        self._publish(str(payload["notebook"]), payload["content"], str(payload["spark_pool"]))
        self._record(name, tags)
        request: dict[str, Any] = {
            "notebook": payload["notebook"],
            "sparkPool": payload["spark_pool"],
            "honorSessionTimeToLive": True,
            "parameters": payload["parameters"],
        }
        if payload.get("session_options"):
            request["sessionOptions"] = payload["session_options"]
        try:
            self.client.run_notebook.begin_create_run(
                name, io.BytesIO(json.dumps(request).encode()), content_type="application/json", polling=False
            )
        except ResourceExistsError:
            raise RunExists(name, service=SERVICE) from None
        except HttpResponseError as refused:
            if refused.status_code in REFUSALS and refused.response is not None:
                words = refusal(refused.response)
                raise ConfigurationError(f"The workspace refuses the notebook {payload['notebook']}: {words}") from None
            raise
        return name

    def state(self, id: str) -> RunState:
        """GET /notebooks/runs/{id}"""
        return self._state(self._result(id), id)

    async def astate(self, id: str) -> RunState:
        """As `state`, without the SDK's models: one small GET."""
        from azure.core.exceptions import HttpResponseError
        from azure.core.rest import HttpRequest

        if self._async_client is None:
            self._async_client = self._connection.async_rest_client(
                self._connection.synapse_endpoint, self._connection.synapse_scope
            )
        request = HttpRequest(
            "GET",
            self._run_url(id),
            headers={"Accept": "application/json"},
        )
        response = await self._async_client.send(request)
        if response.status_code != 200:  # noqa: PLR2004
            raise HttpResponseError(response=response)
        return STATES.of(str(response.json()["result"]["runStatus"]), id=id, url=self.url(id))

    def cancel(self, id: str) -> None:
        """POST /notebooks/runs/{id}/cancel; a run that is over already is no error.

        Without the SDK, whose import takes seconds: the triggerer cancels, too.
        """
        from azure.core.exceptions import HttpResponseError
        from azure.core.rest import HttpRequest

        client = self._connection.rest_client(self._connection.synapse_scope)
        with contextlib.closing(client):
            response = client.send_request(HttpRequest("POST", self._run_url(id, "/cancel")))
        if response.status_code >= REFUSALS[0] and not self.state(id).is_terminal:
            raise HttpResponseError(message=refusal(response), response=response)

    def result(self, id: str) -> dict[str, Any]:
        """``{"run_id", "status", "exit_value", "session_id", "spark_pool", "url"}``"""
        result = self._result(id)
        return {
            "run_id": id,
            "status": str(result.run_status),
            "exit_value": parse_exit_value(result.exit_value),
            "session_id": result.session_id,
            "spark_pool": result.spark_pool,
            "url": self.url(id),
        }

    def failure(self, id: str) -> RunFailure:
        """The failing cell: its number and error as the cause, its source and the traceback as the log's last lines."""
        error = self._result(id).error
        name, value = (error.ename or "", error.evalue or "") if error else ("", "")
        trace = [line for part in (error.traceback or [] if error else []) for line in _ANSI.sub("", part).splitlines()]
        cause = ": ".join(part for part in (name, value) if part) or "the service names no error"
        source: list[str] = []
        with contextlib.suppress(Exception):  # the cause is worth telling without the place
            place, source = self._failing_cell(id, trace)
            cause = f"{cause} ({place})" if place else cause
        if hint := memory_hint([name, value, *trace]):
            cause = f"{cause}\n{hint}"
        return RunFailure(cause, [*source, *trace[-_TRACE_LINES:]], retry_helps=is_retriable(name))

    def url(self, id: str) -> str:
        """The run in Synapse Studio; in a private cloud, which has none, its page at the development endpoint."""
        connection = self._connection
        if connection.cloud is not None:
            return f"{connection.synapse_endpoint.rstrip('/')}/notebooks/runs/{id}/view"
        return studio_url(connection, f"monitoring/notebookruns/{quote(id, safe='')}")

    def close(self) -> None:
        """Release the client's connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    async def aclose(self) -> None:
        """Release the triggerer's connections."""
        if self._async_client is not None:
            await self._async_client.close()
            self._async_client = None

    def _run_url(self, id: str, action: str = "") -> str:
        endpoint = self._connection.synapse_endpoint.rstrip("/")
        return f"{endpoint}/notebooks/runs/{quote(id, safe='')}{action}?api-version={API_VERSION}"

    # -- steps -------------------------------------------------------------------------------------------------------

    def _result(self, id: str) -> RunNotebookResult:
        result = self.client.run_notebook.get_status(id).result
        if result is None or result.run_status is None:
            raise ConfigurationError(
                f"{SERVICE} {id}: the answer of {self._connection.synapse_endpoint} has no runStatus."
            )
        return result

    def _state(self, result: RunNotebookResult, id: str) -> RunState:
        return STATES.of(str(result.run_status), id=id, url=self.url(id))

    def _record(self, name: str, tags: Mapping[str, str]) -> None:
        """Leave a record of the run for who looks for those that nobody waits for. It runs without one, too."""
        if not self._connection.storage_account_url:
            return
        try:
            with contextlib.closing(NotebookRecords(self._connection)) as records:
                records.write(name, tags)
        except Exception as problem:
            logger.warning("%s %s has no record in the lake: %s", SERVICE, name, first_line(problem))

    def _publish(self, name: str, content: Mapping[str, Any], spark_pool: str) -> None:
        """PUT /notebooks/{name} unless it exists; equal names mean equal content."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            self.client.notebook.get_notebook(name)
        except ResourceNotFoundError:
            resource = {
                "name": name,
                "properties": {
                    **content,
                    "bigDataPool": {"referenceName": spark_pool, "type": "BigDataPoolReference"},
                    "folder": {"name": "azflow"},
                },
            }
            self.client.notebook.begin_create_or_update_notebook(
                name,
                io.BytesIO(json.dumps(resource, ensure_ascii=False).encode()),
                content_type="application/json",
                polling_interval=1,
            ).result(120)

    def _expect(self, name: str, place: str) -> None:
        """GET /notebooks/{name}: what `%run` names must be there before the run costs anything."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            self.client.notebook.get_notebook(name)
        except ResourceNotFoundError:
            file, _, rest = place.partition(", ")
            raise SpecError(
                file, rest, f"there is no notebook {name!r}, neither below include/spark/notebooks nor in the workspace"
            ) from None

    def _failing_cell(self, id: str, trace: Sequence[str]) -> tuple[str, list[str]]:
        """Which cell of the executed notebook failed, and its source with line numbers; empty if that can't be told.

        Cells are counted as in the repository's file: the one that the service puts in for the parameters doesn't
        count.
        """
        snapshot = self.client.run_notebook.get_snapshot(id).result
        content = snapshot.snapshot.notebook_content if snapshot else None
        cells = [
            cell
            for cell in (content.properties.cells if content and content.properties else [])
            if not _INJECTED & set((cell.metadata or {}).get("tags") or [])
        ]
        for number, cell in enumerate(cells, start=1):
            for output in cell.outputs or []:
                kind = output.get("output_type") if isinstance(output, Mapping) else getattr(output, "output_type", "")
                if kind == "error":
                    lines = "".join(cell.source or []).splitlines()
                    first = next((line.strip() for line in lines if line.strip()), "")
                    place = f"cell {number} of {len(cells)}, which begins with: {first[:120]}"
                    return place, [f"Cell {number}:", *source_lines(lines, failing_line(trace))]
        return "", []


def failing_line(trace: Sequence[str]) -> int | None:
    """The 1-based line of the cell where a traceback begins; None if it doesn't say."""
    for line in trace:
        if found := _CELL_LINE.search(line):
            return int(found[1] or found[2])
    return None


def source_lines(lines: Sequence[str], failing: int | None) -> list[str]:
    """A cell's source as a log shows it: numbered, the failing line marked, around it no more than `_SOURCE_LINES`."""
    begin = max(0, min((failing or 1) - 1 - _SOURCE_LINES // 2, len(lines) - _SOURCE_LINES))
    shown = [
        f"{'>' if number == failing else ' '}{number:4} | {line}"
        for number, line in enumerate(lines[begin : begin + _SOURCE_LINES], start=begin + 1)
    ]
    above = [f"       ({begin} lines above)"] if begin else []
    left = len(lines) - begin - len(shown)
    return [*above, *shown, *([f"       ({left} lines below)"] if left > 0 else [])]


def refusal(response: Any) -> str:
    """Synapse's words for why it refuses a request: code and message."""
    with contextlib.suppress(Exception):
        content = response.json()
        error = content.get("error") if isinstance(content.get("error"), Mapping) else content
        if message := error.get("message"):
            return f"{error.get('code') or response.status_code}: {message}"
    return f"{response.status_code} {response.reason}"


def is_retriable(error: str) -> bool:
    """Whether another try may help against a Python or JVM exception of this name; dotted or not."""
    return error.rpartition(".")[2] not in _DETERMINISTIC
