"""More than one workspace over the same store and MLflow server: whose documents are whose, and who answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from starlette.requests import Request

from localazure.core.auth import Identity
from localazure.core.errors import BadRequest
from localazure.core.registry import Answer, Handler, Operation
from localazure.core.store import Document, Documents, Store
from localazure.ml.assets import JOBS, REGISTRIES

_JOB_NAMES = "ml.jobs.workspaces"


class WorkspaceStore(Store):
    """The documents of one workspace in a store that several share. Registries belong to none of them.

    `first`: the workspace whose documents are under the kinds' plain names.
    """

    def __init__(self, store: Store, workspace: str, *, first: bool) -> None:
        self._store = store
        self._workspace = workspace
        self._suffix = "" if first else f"@{workspace.lower()}"

    def put(self, kind: str, key: str, document: Document) -> None:
        """See Store."""
        self._store.put(self._own(kind), key, document)

    def get(self, kind: str, key: str) -> Document | None:
        """See Store."""
        return self._store.get(self._own(kind), key)

    def list(self, kind: str, prefix: str = "") -> Documents:
        """See Store."""
        return self._store.list(self._own(kind), prefix)

    def delete(self, kind: str, key: str) -> bool:
        """See Store."""
        return self._store.delete(self._own(kind), key)

    def update(self, kind: str, key: str, change: Callable[[Document], Document]) -> Document:
        """See Store."""
        return self._store.update(self._own(kind), key, change)

    def insert(self, kind: str, key: str, document: Document) -> bool:
        """See Store. BadRequest for a job whose name another workspace has: a job's name is its MLflow run's id."""
        if kind == JOBS and not self._store.insert(_JOB_NAMES, key, {"workspace": self._workspace}):
            holder = (self._store.get(_JOB_NAMES, key) or {}).get("workspace")
            if holder != self._workspace:
                raise BadRequest(
                    f"The workspace '{holder}' has a job '{key}'. In localazure the workspaces share one MLflow "
                    "server, and with it the names of jobs; use another name.",
                    "name",
                    "UserError",
                )
        return self._store.insert(self._own(kind), key, document)

    def close(self) -> None:
        """Nothing: the store is closed by whom it belongs to."""

    def _own(self, kind: str) -> str:
        return kind if kind == REGISTRIES or kind.startswith(f"{REGISTRIES}.") else kind + self._suffix


def merged(first: list[Operation], others: Mapping[str, list[Operation]]) -> list[Operation]:
    """The operations of all workspaces as one list: below a workspace's path, the workspace named there answers.

    `others` are the operations of the other workspaces by name. An unknown workspace is the first one's to refuse, and
    what lies below no workspace's path is its alone.
    """
    found: dict[tuple[str, str], dict[str, Handler]] = {}
    for name, operations in others.items():
        for operation in operations:
            found.setdefault((operation.method, operation.path), {})[name.lower()] = operation.handler
    return [
        dataclasses.replace(operation, handler=_dispatch(operation.handler, found[operation.method, operation.path]))
        if "{workspace}" in operation.path and (operation.method, operation.path) in found
        else operation
        for operation in first
    ]


def _dispatch(first: Handler, others: Mapping[str, Handler]) -> Handler:
    async def handled(request: Request, identity: Identity) -> Answer:
        handler = others.get(str(request.path_params["workspace"]).lower(), first)
        return await handler(request, identity)

    return handled
