"""The workspace itself: its ARM resource, discovery document and datastores.

https://learn.microsoft.com/rest/api/azureml/workspaces and .../datastores.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from localazure.core.auth import Identity
from localazure.core.errors import AzureError, BadRequest, NotFound, NotImplementedOperation
from localazure.core.registry import Answer, Handler, Operation
from localazure.core.store import Store
from localazure.ml.resources import WORKSPACE, body, in_workspace, page, resource, touched
from localazure.settings import Settings
from localazure.storage.blobs import BlobStore

DATASTORES = "ml.datastores"
BLOBSTORE = "workspaceblobstore"
ARTIFACTSTORE = "workspaceartifactstore"
ARTIFACT_CONTAINER = "azureml"

_DISCOVERED = (
    "api", "history", "studio", "experimentation", "hyperdrive", "modelmanagement", "inferencing", "pipelines",
    "notebooks", "catalog",
)  # fmt: skip


def tracking_uri(settings: Settings, scheme: str = "azureml") -> str:
    """The workspace's MLflow tracking URI; the SDK is given `azureml://`, plain MLflow needs `https://`."""
    return f"{scheme}://{settings.public_host}:{settings.api_port}/mlflow/v1.0{settings.workspace_id}"


class WorkspaceService:
    """Answers for the workspace and its datastores."""

    def __init__(self, settings: Settings, store: Store, blobs: BlobStore) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs

    def operations(self) -> list[Operation]:
        """Workspaces_* and Datastores_*, as Microsoft's OpenAPI files name them."""

        def operation(name: str, method: str, path: str, handler: Handler) -> Operation:
            return Operation(name, method, WORKSPACE + path, in_workspace(self._settings, handler), "arm")

        return [
            operation("Workspaces_Get", "GET", "", self._workspace),
            Operation("Discovery_Get", "GET", "/discovery/workspaces/{workspace}", self._discovery, None),
            operation("Datastores_List", "GET", "/datastores", self._datastores),
            operation("Datastores_Get", "GET", "/datastores/{name}", self._datastore),
            operation("Datastores_CreateOrUpdate", "PUT", "/datastores/{name}", self._put_datastore),
            operation("Datastores_Delete", "DELETE", "/datastores/{name}", self._delete_datastore),
            operation("Datastores_ListSecrets", "POST", "/datastores/{name}/listSecrets", self._secrets),
        ]

    def seed(self) -> None:
        """The datastores a workspace of localazure always has; existing ones are left as they are."""
        stores = ((BLOBSTORE, ARTIFACT_CONTAINER, "AccountKey"), (ARTIFACTSTORE, ARTIFACT_CONTAINER, "AccountKey"),
                  ("lake", self._settings.container, "Sas"))  # fmt: skip
        for name, container, credentials in stores:
            self._seed(DATASTORES, "datastores", name, {
                "datastoreType": "AzureBlob",
                "accountName": self._settings.storage_account,
                "containerName": container,
                "endpoint": f"core.{self._settings.public_host}:{self._settings.blob_port}",
                "protocol": "https",
                "isDefault": name == BLOBSTORE,
                "credentials": {"credentialsType": credentials},
                "tags": {},
            })  # fmt: skip

    def _seed(self, kind: str, path: str, name: str, properties: dict[str, Any], **more: Any) -> None:
        if self._store.get(kind, name) is None:
            self._store.put(kind, name, resource(self._settings, f"{path}/{name}", properties, **more))

    async def _workspace(self, request: Request, identity: Identity) -> Answer:
        settings = self._settings
        group = f"/subscriptions/{settings.subscription_id}/resourceGroups/{settings.resource_group}"
        document = {
            "id": settings.workspace_id,
            "name": settings.workspace,
            "type": "Microsoft.MachineLearningServices/workspaces",
            "location": settings.location,
            "identity": {"type": "SystemAssigned"},
            "properties": {
                "discoveryUrl": f"{settings.api_url}/discovery/workspaces/{settings.workspace}",
                "mlFlowTrackingUri": tracking_uri(settings),
                "workspaceId": settings.workspace_guid,
                "storageAccount": f"{group}/providers/Microsoft.Storage/storageAccounts/{settings.storage_account}",
                "keyVault": settings.key_vault_id,
                "provisioningState": "Succeeded",
            },
        }
        return document

    async def _discovery(self, request: Request, identity: Identity) -> Answer:
        return dict.fromkeys(_DISCOVERED, self._settings.api_url)

    async def _datastores(self, request: Request, identity: Identity) -> Answer:
        query = request.query_params
        names = {name for name in query.get("names", "").split(",") if name}
        found = [
            document
            for document in self._store.list(DATASTORES)
            if (query.get("isDefault", "").lower() != "true" or document["properties"].get("isDefault"))
            and (not names or document["name"] in names)
        ]
        return page(request, self._settings, found)

    async def _datastore(self, request: Request, identity: Identity) -> Answer:
        return self._find(DATASTORES, "datastore", request.path_params["name"])

    async def _put_datastore(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["name"]
        properties = (await body(request))["properties"]
        kind = properties.get("datastoreType")
        if kind != "AzureBlob":
            raise NotImplementedOperation(f"Datastores_CreateOrUpdate with datastoreType {kind}")
        if properties.get("accountName") != self._settings.storage_account:
            message = (
                f"The storage account '{properties.get('accountName')}' was not found; "
                f"localazure has '{self._settings.storage_account}'."
            )
            raise BadRequest(message, "accountName", "UserError")
        if not properties.get("containerName"):
            raise BadRequest("A datastore of type AzureBlob needs containerName.", "containerName", "UserError")
        # Secrets are write-only, in Azure as here; localazure needs none, the account is its own.
        (properties.get("credentials") or {}).pop("secrets", None)
        properties.setdefault("isDefault", False)
        known = self._store.get(DATASTORES, name)
        if known is None:
            document = resource(self._settings, f"datastores/{name}", properties)
        else:
            document = touched({**known, "properties": properties})
        self._store.put(DATASTORES, name, document)
        return (201 if known is None else 200), document

    async def _delete_datastore(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["name"]
        if self._find(DATASTORES, "datastore", name)["properties"].get("isDefault"):
            raise BadRequest(f"The default datastore '{name}' can't be deleted.", code="UserError")
        self._store.delete(DATASTORES, name)
        return {}

    async def _secrets(self, request: Request, identity: Identity) -> Answer:
        properties = self._find(DATASTORES, "datastore", request.path_params["name"])["properties"]
        kind = (properties.get("credentials") or {}).get("credentialsType")
        container = properties["containerName"]
        if kind in (None, "None"):
            name = request.path_params["name"]
            raise AzureError(400, "UserError", f"The datastore '{name}' is identity-based: it has no secrets.")
        if kind == "AccountKey":
            return {"secretsType": "AccountKey", "key": self._settings.storage_account_key}
        await asyncio.to_thread(self._blobs.create_container, container)
        token = self._blobs.sas(container, permissions="racwdl")
        return {"secretsType": "Sas", "sasToken": token.lstrip("?")}

    def _find(self, kind: str, what: str, name: str) -> dict[str, Any]:
        document = self._store.get(kind, name)
        if document is None:
            raise NotFound(f"The {what} '{name}' was not found in the workspace.", code="ResourceNotFound")
        return document
