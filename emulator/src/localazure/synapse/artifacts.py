"""What every kind of workspace artifact has: write, read, list, rename, delete, with long-running answers.

Writing, renaming and deleting answer 202 with a `Location`; the result there is the resource (200) or nothing (204).
Shapes: Azure/azure-rest-api-specs, specification/synapse/data-plane/Microsoft.Synapse/stable/2020-12-01/artifacts.json
and the previews beside it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localazure.core.auth import Identity
from localazure.core.errors import AzureError, BadRequest, Conflict, NotFound
from localazure.core.registry import Answer
from localazure.core.store import Store
from localazure.settings import Settings
from localazure.synapse import scope

RESULT = "synapse.operation"
# https://learn.microsoft.com/azure/data-factory/naming-rules (Synapse's artifacts share them)
_NAME = re.compile(r"^[A-Za-z0-9_](?:[^<>*#.%&:\\+?/]{0,259})$")
#: Operations are done when they are answered; SDKs would wait 30 s without this, and a whole second with Retry-After.
SOON = {"x-ms-retry-after-ms": "100"}


@dataclass(frozen=True)
class Kind:
    """One kind of artifact: how documents are stored, addressed and named in messages.

    `check` takes a request's body and answers its properties; it raises BadRequest naming what is wrong.
    """

    store: str
    label: str
    type: str
    #: Where the result of a long-running operation is asked for.
    results: str
    check: Callable[[Any], dict[str, Any]]


class Artifacts:
    """The handlers of one kind. Documents keep the resource as Azure shows it."""

    def __init__(self, settings: Settings, store: Store, kind: Kind) -> None:
        self._settings = settings
        self._store = store
        self._kind = kind

    def resource(self, name: str) -> dict[str, Any]:
        """An artifact. Raises NotFound, naming it."""
        document = self._store.get(self._kind.store, name.lower())
        if document is None:
            raise self._missing(name)
        return document

    def all(self) -> Iterator[dict[str, Any]]:
        """Every artifact of the kind, by name."""
        yield from self._store.list(self._kind.store)

    def forget_operations(self) -> None:
        """Drop the results nobody asks for any more: those of an earlier life."""
        for document in self._store.list(RESULT):
            self._store.delete(RESULT, document["id"])

    async def list(self, request: Request, identity: Identity) -> Answer:
        """GET of the collection."""
        return {"value": [*self.all()]}

    async def get(self, request: Request, identity: Identity) -> Answer:
        """GET of one; 304 at the ETag of If-None-Match."""
        document = self.resource(request.path_params["name"])
        if request.headers.get("if-none-match") == document["etag"]:
            return Response(status_code=HTTPStatus.NOT_MODIFIED)
        return document

    async def put(self, request: Request, identity: Identity) -> Answer:
        """PUT of one; 412 unless it is at the ETag of If-Match."""
        name = request.path_params["name"]
        self._check_name(name, "name")
        body = await request.json()
        properties = self._kind.check(body)
        if body.get("name") not in (None, name):
            raise BadRequest(f"The body names the {self._kind.label} {body['name']!r}, the address {name!r}.", "name")
        known = self._store.get(self._kind.store, name.lower())
        wanted = request.headers.get("if-match")
        if wanted and wanted != "*" and (known is None or known["etag"] != wanted):
            label = self._kind.label.capitalize()
            raise AzureError(412, "PreconditionFailed", f"{label} {name!r} isn't at the ETag of If-Match.", name)
        self._write(name, properties)
        return self._accepted({"name": name})

    async def rename(self, request: Request, identity: Identity) -> Answer:
        """POST `{"newName"}` to `.../rename`."""
        name = request.path_params["name"]
        body = await request.json()
        wanted = body.get("newName") if isinstance(body, dict) else None
        if not isinstance(wanted, str):
            raise BadRequest('The body must be {"newName": text}.', "newName")
        self._check_name(wanted, "newName")
        known = self.resource(name)
        if wanted.lower() != name.lower() and self._store.get(self._kind.store, wanted.lower()) is not None:
            label = self._kind.label.capitalize()
            raise Conflict(f"{label} {wanted!r} is there already.", wanted, "ArtifactAlreadyExists")
        self._store.delete(self._kind.store, name.lower())
        self._write(wanted, known["properties"])
        return self._accepted({"name": wanted})

    async def delete(self, request: Request, identity: Identity) -> Answer:
        """DELETE of one."""
        name = request.path_params["name"]
        if not self._store.delete(self._kind.store, name.lower()):
            raise self._missing(name)
        return self._accepted({"name": None})

    async def result(self, request: Request, identity: Identity) -> Answer:
        """GET of a long-running operation's result."""
        operation = request.path_params["operation"]
        result = self._store.get(RESULT, operation)
        if result is None:
            raise NotFound(f"There is no operation {operation!r} on a {self._kind.label}.", operation)
        if result["name"] is None:
            return Response(status_code=HTTPStatus.NO_CONTENT)
        return self.resource(result["name"])

    def _write(self, name: str, properties: dict[str, Any]) -> None:
        collection = self._kind.type.rpartition("/")[2]
        resource = {
            "id": f"{scope.workspace_id(self._settings)}/{collection}/{name}",
            "name": name,
            "type": self._kind.type,
            "etag": str(uuid.uuid4()),
            "properties": properties,
        }
        self._store.put(self._kind.store, name.lower(), resource)

    def _check_name(self, name: str, target: str) -> None:
        if not _NAME.match(name):
            raise BadRequest(
                f"{name!r} can't name a {self._kind.label}: up to 260 characters, none of <>*#.%&:\\+?/",
                target,
                "InvalidArtifactName",
            )

    def _missing(self, name: str) -> NotFound:
        label = self._kind.label.capitalize()
        return NotFound(f"{label} {name!r} is not in workspace {self._settings.workspace!r}.", name, "ArtifactNotFound")

    def _accepted(self, result: dict[str, Any]) -> Response:
        operation = str(uuid.uuid4())
        self._store.put(RESULT, operation, {"id": operation, **result})
        location = f"{self._settings.api_url}/{self._kind.results}/{operation}?api-version=2020-12-01"
        return JSONResponse({}, HTTPStatus.ACCEPTED, {"Location": location, **SOON})
