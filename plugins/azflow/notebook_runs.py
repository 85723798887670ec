"""Synapse notebooks as remote runs: published under a name made of their content, run by an id we choose.

A run names its notebook, so publishing under a new name for each content keeps a run tied to what it ran, and two
branches of one project don't overwrite each other's notebook.

https://learn.microsoft.com/en-us/rest/api/synapse/data-plane/run-notebook
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError, RunExists, SpecError
from azflow.runs import Found, RunFailure, RunState, RunStates

if TYPE_CHECKING:
    from azure.synapse.artifacts import ArtifactsClient
    from azure.synapse.artifacts.models import RunNotebookResult

    from azflow.credentials import AsyncRestClient

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
_TYPES: dict[type, str] = {bool: "bool", int: "int", float: "float", str: "string"}


def read_notebook(path: Path, shown: str) -> dict[str, Any]:
    """The notebook in `path` without its outputs: nbformat 4, plain values.

    :param shown: what messages call the file.
    :raises SpecError: it can't be read or is no notebook.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise SpecError(shown, "", f"can't be read: {problem.strerror}") from None
    except json.JSONDecodeError as problem:
        raise SpecError(shown, f"line {problem.lineno}", f"is no JSON: {problem.msg}") from None
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4 or not isinstance(notebook.get("cells"), list):  # noqa: PLR2004
        raise SpecError(shown, "nbformat", "is no notebook of nbformat 4")
    cells = []
    for cell in notebook["cells"]:
        kept = {key: cell[key] for key in ("cell_type", "metadata", "source", "attachments") if key in cell}
        if isinstance(kept.get("source"), str):
            kept["source"] = kept["source"].splitlines(keepends=True)  # Synapse takes lists of lines only
        if cell.get("cell_type") == "code":
            kept |= {"outputs": [], "execution_count": None}
        cells.append(kept)
    return {
        "nbformat": 4,
        "nbformat_minor": notebook.get("nbformat_minor", 2),
        "metadata": notebook.get("metadata", {}),
        "cells": cells,
    }


def artifact_name(stem: str, content: Mapping[str, Any]) -> str:
    """The name `content` is published under: readable, and another one for another content."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', stem)[:100]}-{digest}"


def typed_parameters(parameters: Mapping[str, object], shown: str) -> dict[str, dict[str, object]]:
    """``{name: {"type", "value"}}`` as the service wants it; types are string, int, float, bool.

    A value is plain (its own type counts) or already ``{"type", "value"}``, whose value may be text from a template.

    :raises ConfigurationError: a type that isn't one of the four, or text that isn't of the type it should be.
    """
    return {name: _typed(name, value, shown) for name, value in parameters.items()}


def _typed(name: str, value: object, shown: str) -> dict[str, object]:
    where = f"{shown}: parameter {name!r}"
    if not isinstance(value, Mapping):
        if type(value) not in _TYPES:
            raise ConfigurationError(f"{where} is a {type(value).__name__}; use text, int, float or bool.")
        return {"type": _TYPES[type(value)], "value": value}
    kind, inner = str(value.get("type", "")).lower(), value.get("value")
    if set(value) != {"type", "value"} or kind not in _TYPES.values():
        raise ConfigurationError(f"{where} must be {{type, value}}; type is one of {', '.join(_TYPES.values())}.")
    try:
        if kind == "bool":
            if str(inner).lower() not in ("true", "false"):
                raise ValueError(f"{inner!r} is neither true nor false")
            return {"type": kind, "value": str(inner).lower() == "true"}
        convert: dict[str, Any] = {"int": int, "float": float, "string": str}
        return {"type": kind, "value": convert[kind](inner)}
    except (TypeError, ValueError) as problem:
        raise ConfigurationError(f"{where} should be of type {kind}: {problem}.") from None


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
        """The run with the id `name`. The service keeps no tags: no digest."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            result = self._result(name)
        except ResourceNotFoundError:
            return None
        return Found(name, self._state(result, name), None)

    def submit(self, name: str, payload: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Publish the notebook if its content isn't there yet, then run it under the id `name`."""
        from azure.core.exceptions import ResourceExistsError

        self._publish(str(payload["notebook"]), payload["content"], str(payload["spark_pool"]))
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
            f"{self._connection.synapse_endpoint.rstrip('/')}/notebooks/runs/{quote(id, safe='')}",
            params={"api-version": API_VERSION},
            headers={"Accept": "application/json"},
        )
        response = await self._async_client.send(request)
        if response.status_code != 200:  # noqa: PLR2004
            raise HttpResponseError(response=response)
        return STATES.of(str(response.json()["result"]["runStatus"]), id=id, url=self.url(id))

    def cancel(self, id: str) -> None:
        """POST /notebooks/runs/{id}/cancel; a run that is over already is no error."""
        from azure.core.exceptions import HttpResponseError

        try:
            self.client.run_notebook.cancel_run(id)
        except HttpResponseError:
            if not self.state(id).is_terminal:
                raise

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
        """The failing cell's error, and its traceback as the log's last lines."""
        error = self._result(id).error
        name, value = (error.ename or "", error.evalue or "") if error else ("", "")
        trace = [line for part in (error.traceback or [] if error else []) for line in _ANSI.sub("", part).splitlines()]
        cause = ": ".join(part for part in (name, value) if part) or "the service names no error"
        if cell := self._failing_cell(id):
            cause = f"{cause} ({cell})"
        return RunFailure(cause, trace[-40:], retry_helps=name.rpartition(".")[2] not in _DETERMINISTIC)

    def url(self, id: str) -> str:
        """The run in Synapse Studio; in a private cloud, which has none, its page at the development endpoint."""
        connection = self._connection
        if connection.cloud is not None:
            return f"{connection.synapse_endpoint.rstrip('/')}/notebooks/runs/{id}/view"
        workspace = (urlsplit(connection.synapse_endpoint).hostname or "").split(".")[0]
        resource = (
            f"/subscriptions/{connection.subscription_id}/resourceGroups/{connection.resource_group}"
            f"/providers/Microsoft.Synapse/workspaces/{workspace}"
        )
        return f"https://web.azuresynapse.net/monitoring/notebookruns/{id}?workspace={quote(resource, safe='')}"

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

    def _failing_cell(self, id: str) -> str:
        """Which cell of the executed notebook failed; empty if that can't be told."""
        try:
            snapshot = self.client.run_notebook.get_snapshot(id).result
            content = snapshot.snapshot.notebook_content if snapshot else None
            cells = content.properties.cells if content and content.properties else []
        except Exception:
            return ""
        for number, cell in enumerate(cells, start=1):
            for output in cell.outputs or []:
                kind = output.get("output_type") if isinstance(output, Mapping) else getattr(output, "output_type", "")
                if kind == "error":
                    first = next((line.strip() for line in cell.source or [] if line.strip()), "")
                    return f"cell {number} of {len(cells)}, which begins with: {first[:120]}"
        return ""
