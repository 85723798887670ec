"""Registries: assets that several workspaces share, and the way of a workspace's assets into one.

The registry itself is an ARM resource; its assets are reached as the SDK reaches them, by way of discovery and the
management front end (`/mferp/managementfrontend`). Content is copied into the registry's own storage.
https://learn.microsoft.com/azure/machine-learning/how-to-share-models-pipelines-across-workspaces-with-registries
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from localazure.core.auth import Identity
from localazure.core.errors import BadRequest, Conflict, NotFound, NotImplementedOperation
from localazure.core.registry import Answer, Handler, Operation
from localazure.core.store import Store
from localazure.ml.assets import REGISTRIES, Assets
from localazure.ml.catalogue import COLLECTIONS, CollectionHandlers, containers_kind, versions_kind
from localazure.ml.resources import PROVIDER, page
from localazure.ml.states import timestamp
from localazure.settings import Settings
from localazure.storage.blobs import BlobStore
from localazure.storage.locations import Location

_GROUP = "/subscriptions/{subscription}/resourceGroups/{group}"
_REGISTRIES = f"{_GROUP}/providers/{PROVIDER}/registries"
_FRONT_END = "mferp/managementfrontend"
_REGISTRY = f"/{_FRONT_END}{_REGISTRIES}/{{registry}}"
# "Only alphanumeric characters, hyphens and underscores; 2 to 32 characters, beginning with one of the former."
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{1,31}")
_ASSET = re.compile(
    r"azureml://registries/(?P<registry>[^/]+)/(?P<collection>[^/]+)/(?P<name>[^/]+)/versions/(?P<version>[^/]+)"
)
_SOURCE = re.compile(
    r"azureml://locations/[^/]+/workspaces/(?P<workspace>[^/]+)/(?P<collection>models|data|environments)/(?P<name>[^/]+)"
    r"/versions/(?P<version>[^/]+)"
)
_ADDRESS = {"models": "modelUri", "data": "dataUri", "codes": "codeUri"}
# What a copy says of itself, of the workspace's asset.
_COPIED = (
    "description", "tags", "properties", "modelType", "flavors", "dataType", "image", "condaFile", "osType",
    "inferenceConfig", "stage",
)  # fmt: skip


class RegistriesService:
    """Answers for registries and their assets."""

    def __init__(self, settings: Settings, store: Store, blobs: BlobStore, workspaces: Mapping[str, Assets]) -> None:
        """`workspaces`: the assets of every workspace by its guid."""
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._workspaces = workspaces
        # Addresses of the storage account are everybody's.
        self._assets = next(iter(workspaces.values()))

    def operations(self) -> list[Operation]:
        """Registries_*, discovery, and Registry{Code,Environment,Data,Model,Component}{Containers,Versions}_*."""
        rows: list[tuple[str, str, str, Handler]] = [
            ("Registries_List", "GET", _REGISTRIES, self._list),
            ("Registries_Get", "GET", f"{_REGISTRIES}/{{registry}}", self._get),
            ("Registries_CreateOrUpdate", "PUT", f"{_REGISTRIES}/{{registry}}", self._put),
            ("Registries_Delete", "DELETE", f"{_REGISTRIES}/{{registry}}", self._delete),
            ("Registry_CreateTemporaryDataReference", "PUT", f"{_REGISTRY}/tempdatarefs/{{name}}/versions/{{version}}",
             self._temporary_reference),
            ("Registry_GetDataReference", "POST", f"{_REGISTRY}/datarefs/{{name}}/versions/{{version}}",
             self._reference),
            ("Registry_ImportAsset", "POST", f"{_REGISTRY}/import", self._import),
        ]  # fmt: skip
        for collection in COLLECTIONS:
            container = f"{_REGISTRY}/{collection.path}/{{name}}"
            version = f"{container}/versions/{{version}}"
            of = self._in_collection
            rows += [
                (f"Registry{collection.operations}{name}", method, path, of(collection.path, handler))
                for name, method, path, handler in (
                    ("Containers_List", "GET", f"{_REGISTRY}/{collection.path}", CollectionHandlers.list_containers),
                    ("Containers_Get", "GET", container, CollectionHandlers.get_container),
                    ("Containers_CreateOrUpdate", "PUT", container, CollectionHandlers.put_container),
                    ("Versions_List", "GET", f"{container}/versions", CollectionHandlers.list_versions),
                    ("Versions_Get", "GET", version, CollectionHandlers.get_version),
                    ("Versions_CreateOrUpdate", "PUT", version, CollectionHandlers.put_version),
                )
            ]
        found = [Operation(name, method, path, self._here(handler), "arm") for name, method, path, handler in rows]
        everywhere = f"/subscriptions/{{subscription}}/providers/{PROVIDER}/registries"
        discovery = "/registrymanagement/v1.0/registries/{registry}/discovery"
        return [
            *found,
            Operation("Registries_ListBySubscription", "GET", everywhere, self._here(self._list), "arm"),
            Operation("RegistryManagement_Discovery", "GET", discovery, self._discovery, "arm"),
        ]

    def seed(self) -> None:
        """The registry that localazure always has."""
        name = self._settings.registry
        if self._store.get(REGISTRIES, name.lower()) is None:
            self._store.put(REGISTRIES, name.lower(), self._document(name, {}))

    # -- registries

    async def _list(self, request: Request, identity: Identity) -> Answer:
        return page(request, self._settings, self._store.list(REGISTRIES))

    async def _get(self, request: Request, identity: Identity) -> Answer:
        return self._find(request.path_params["registry"])

    async def _put(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["registry"]
        if not _NAME.fullmatch(name):
            raise BadRequest(
                f"'{name}' is not a valid registry name: 2 to 32 letters, digits, '-' and '_', first a letter or "
                "digit.",
                "name",
                "UserError",
            )
        asked = await request.json()
        if not isinstance(asked, dict):
            raise BadRequest("The request body must be a JSON object.", code="InvalidRequestContent")
        known = self._store.get(REGISTRIES, name.lower())
        document = self._document(name, asked)
        if known is not None:
            document["systemData"]["createdAt"] = known["systemData"]["createdAt"]
        self._store.put(REGISTRIES, name.lower(), document)
        return (201 if known is None else 200), document

    async def _delete(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["registry"]
        self._find(name)
        await asyncio.to_thread(self._remove, name)
        return {}

    def _remove(self, registry: str) -> None:
        for collection in COLLECTIONS:
            kind, containers = versions_kind(collection.path, registry), containers_kind(collection.path, registry)
            for version in self._store.list(kind):
                *_, name, _, number = str(version["id"]).split("/")
                if address := version["properties"].get(_ADDRESS.get(collection.path, "")):
                    place = self._assets.location(str(address))
                    self._blobs.delete_prefix(place.container, place.path)
                self._store.delete(kind, f"{name}/{number}")
            for container in self._store.list(containers):
                self._store.delete(containers, str(container["name"]))
        self._store.delete(REGISTRIES, registry.lower())

    async def _discovery(self, request: Request, identity: Identity) -> Answer:
        name, settings = self._find(request.path_params["registry"])["name"], self._settings
        return {
            "registryName": name,
            "tenantId": settings.tenant_id,
            "primaryRegion": settings.location,
            "regions": [settings.location],
            "subscriptionId": settings.subscription_id,
            "resourceGroup": settings.resource_group,
            "primaryRegionResourceProviderUri": f"{settings.api_url}/",
            "registryFqdns": {settings.location: {"registryFqdn": settings.api_url}},
        }

    # -- assets

    def _in_collection(
        self, path: str, handler: Callable[[CollectionHandlers, Request, Identity], Awaitable[Answer]]
    ) -> Handler:
        async def handled(request: Request, identity: Identity) -> Answer:
            registry = self._find(request.path_params["registry"])["name"]
            return await handler(self._handlers(path, registry), request, identity)

        return handled

    def _handlers(self, path: str, registry: str) -> CollectionHandlers:
        collection = next(row for row in COLLECTIONS if row.path == path)
        return CollectionHandlers(self._settings, self._store, collection, self._assets, registry)

    async def _temporary_reference(self, request: Request, identity: Identity) -> Answer:
        """Where the client uploads an asset's content to before it creates the asset."""
        registry = self._find(request.path_params["registry"])["name"]
        asset = str((await request.json()).get("assetId"))
        match = _ASSET.fullmatch(asset)
        if match is None or match["registry"].lower() != registry.lower():
            raise BadRequest(f"'{asset}' is not the id of an asset of the registry '{registry}'.", "assetId")
        self._require_absent(match["collection"], registry, match["name"], match["version"])
        container = await self._new_container(registry, f"{match['collection']}/{match['name']}/{match['version']}")
        return self._blob_reference(container, self._url(container), "racwdl")

    async def _reference(self, request: Request, identity: Identity) -> Answer:
        """How the client downloads an asset's content."""
        self._find(request.path_params["registry"])
        uri = str((await request.json()).get("blobUri"))
        container = (await asyncio.to_thread(self._assets.location, uri)).container
        return self._blob_reference(container, uri, "rl")

    async def _import(self, request: Request, identity: Identity) -> Answer:
        """Copies a workspace's asset into the registry (the SDK's `share`). Answers with nothing, as the service."""
        registry = self._find(request.path_params["registry"])["name"]
        asked = (await request.json()).get("properties") or {}
        source = str(asked.get("sourceAssetId"))
        match = _SOURCE.fullmatch(source)
        if match is None:
            raise NotImplementedOperation(f"Registry_ImportAsset of '{source}'")
        if (assets := self._workspaces.get(match["workspace"].lower())) is None:
            raise BadRequest(f"There is no workspace with the id {match['workspace']}.", "sourceAssetId", "UserError")
        name = str(asked.get("destinationName") or match["name"])
        version = str(asked.get("destinationVersion") or match["version"])
        collection = match["collection"]
        handlers = self._handlers(collection, registry)
        self._require_absent(collection, registry, name, version)
        original = await asyncio.to_thread(_original, assets, collection, source)
        properties = {key: original[key] for key in _COPIED if original.get(key) is not None}
        if collection in _ADDRESS:
            field = _ADDRESS[collection]
            place = await self._copied(assets, registry, f"{collection}/{name}/{version}", str(original[field]))
            properties[field] = f"{self._url(place.container)}/{place.path}"
        elif original.get("build"):
            raise NotImplementedOperation("Registry_ImportAsset of an environment with a build context")
        await asyncio.to_thread(handlers.write, name, version, properties)
        return Response(status_code=200)

    def _require_absent(self, collection: str, registry: str, name: str, version: str) -> None:
        """Conflict if the version is there: its content can't be changed any more."""
        if self._store.get(versions_kind(collection, registry), f"{name}/{version}"):
            raise Conflict(f"{name}:{version} is already in {collection} of the registry '{registry}'.", "UserError")

    async def _copied(self, assets: Assets, registry: str, asset: str, uri: str) -> Location:
        """The place of a copy of what is at `uri`, in the registry's storage."""
        local = await asyncio.to_thread(assets.resolve, uri)
        target = Location(await self._new_container(registry, asset), local.name)
        await asyncio.to_thread(self._blobs.upload_tree, local, target)
        return target

    async def _new_container(self, registry: str, asset: str) -> str:
        # One an asset, as in the service: a client may write to what it was given, and only there.
        container = f"registry-{uuid.uuid5(uuid.NAMESPACE_URL, f'{registry.lower()}/{asset}')}"
        await asyncio.to_thread(self._blobs.create_container, container)
        return container

    def _blob_reference(self, container: str, uri: str, permissions: str) -> dict[str, Any]:
        token = self._blobs.sas(container, permissions=permissions).lstrip("?")
        return {
            "blobReferenceForConsumption": {
                "blobUri": uri,
                "credential": {"credentialType": "SAS", "sasUri": f"{self._url(container)}?{token}"},
            }
        }

    def _url(self, container: str) -> str:
        # Host style: the SDK takes the container's name from the path's first segment.
        settings = self._settings
        host = f"{settings.storage_account}.blob.core.{settings.public_host}:{settings.blob_port}"
        return f"https://{host}/{container}"

    # -- shared

    def _here(self, handler: Handler) -> Handler:
        """The handler, answering 404 for any other subscription or resource group."""

        async def scoped(request: Request, identity: Identity) -> Answer:
            params, settings = request.path_params, self._settings
            for kind, wanted, known in (
                ("subscription", params.get("subscription"), settings.subscription_id),
                ("resource group", params.get("group"), settings.resource_group),
            ):
                if wanted is not None and wanted.lower() != known.lower():
                    raise NotFound(
                        f"The {kind} '{wanted}' was not found; localazure has '{known}'.", code="ResourceNotFound"
                    )
            return await handler(request, identity)

        return scoped

    def _find(self, name: str) -> dict[str, Any]:
        document = self._store.get(REGISTRIES, name.lower())
        if document is None:
            known = ", ".join(each["name"] for each in self._store.list(REGISTRIES)) or "none"
            raise NotFound(f"The registry '{name}' was not found; there are: {known}.", code="ResourceNotFound")
        return document

    def _document(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        settings, now = self._settings, timestamp()
        group = f"/subscriptions/{settings.subscription_id}/resourceGroups/{settings.resource_group}"
        author = {"By": settings.client_id, "ByType": "Application", "At": now}
        properties = {"regionDetails": [{"location": settings.location}], "publicNetworkAccess": "Enabled"}
        given = {key: value for key, value in (asked.get("properties") or {}).items() if value is not None}
        return {
            "id": f"{group}/providers/{PROVIDER}/registries/{name}",
            "name": name,
            "type": f"{PROVIDER}/registries",
            "location": asked.get("location") or settings.location,
            "tags": asked.get("tags") or {},
            "identity": {"type": "SystemAssigned"},
            "properties": {
                **properties,
                **given,
                "discoveryUrl": f"{settings.api_url}/registrymanagement/v1.0/registries/{name}/discovery",
                "managedResourceGroup": {"resourceId": f"{group}-{name}"},
            },
            "systemData": {
                f"{verb}{key}": value for verb in ("created", "lastModified") for key, value in author.items()
            },
        }


def _original(assets: Assets, collection: str, source: str) -> dict[str, Any]:
    find = {"models": assets.model, "data": assets.data, "environments": assets.environment}
    properties: dict[str, Any] = find[collection](source)["properties"]
    return properties
