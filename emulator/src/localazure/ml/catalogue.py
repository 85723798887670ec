"""Versioned assets: code, environments, data, models, components. One behaviour, a row a collection.

A name is a container, created with its first version. What a version says about its content can't be changed later;
tags,
description, archive flag and stage can. https://learn.microsoft.com/rest/api/azureml/data-versions (and siblings).
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request

from localazure.core.auth import Identity
from localazure.core.errors import BadRequest, NotFound
from localazure.core.registry import Answer, Operation
from localazure.core.store import Store
from localazure.ml.resources import WORKSPACE, body, in_workspace, page, resource, touched, visible
from localazure.settings import Settings
from localazure.storage.blobs import BlobStore


@dataclass(frozen=True)
class Collection:
    """One kind of asset: its path, what Microsoft's operations are called after, and what a version must say."""

    path: str
    operations: str
    label: str
    needs_one_of: tuple[str, ...]
    copied: tuple[str, ...] = ()  # properties that the container repeats


COLLECTIONS = (
    Collection("codes", "Code", "code", ("codeUri",)),
    Collection("environments", "Environment", "environment", ("image", "build", "condaFile")),
    Collection("data", "Data", "data", ("dataUri",), copied=("dataType",)),
    Collection("models", "Model", "model", ("modelUri",)),
    Collection("components", "Component", "component", ("componentSpec",)),
)
_MUTABLE = frozenset({"tags", "description", "properties", "isArchived", "stage", "isAnonymous", "autoDeleteSetting"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,254}")
_DEFAULT_VERSION = "azureml_default"  # what the SDK asks for where no version is named
_ADDRESSES = frozenset({"modelUri", "dataUri"})
_MADE_BY = re.compile(r"(?:azureml://jobs/|runs:/)([^/]+)/")


def versions_kind(path: str, registry: str | None = None) -> str:
    """The store's kind of a collection's versions, in the workspace or a registry; keys are `name/version`."""
    return f"ml.{path}" if registry is None else f"ml.registries.{registry.lower()}.{path}"


def containers_kind(path: str, registry: str | None = None) -> str:
    """The store's kind of a collection's containers; keys are names."""
    return versions_kind(path, registry) + ".containers"


def curated(settings: Settings, name: str, version: str | None = None) -> dict[str, Any] | None:
    """The version of one of Microsoft's curated environments, which every workspace has under names of their own;
    None for any other name. What is in its image isn't here: jobs run in the compute environment and say so.
    """
    if not name.lower().startswith("azureml-"):
        return None
    version = version or "1"
    properties = {
        "image": f"mcr.microsoft.com/azureml/curated/{name.lower()}:{version}",
        "environmentType": "Curated",
        "osType": "Linux",
        "isArchived": False,
        "isAnonymous": False,
        "tags": {},
        "properties": {},
    }
    return resource(settings, f"environments/{name}/versions/{version}", properties)


class Addresses(Protocol):
    """What is needed to know of addresses; `localazure.ml.assets.Assets` has it."""

    def registered_uri(self, reference: str) -> str: ...
    def same_place(self, one: str, other: str) -> bool: ...
    def component_of_job(self, spec: dict[str, Any]) -> dict[str, Any]: ...


class Catalogue:
    """Answers for every versioned asset."""

    def __init__(self, settings: Settings, store: Store, blobs: BlobStore, addresses: Addresses) -> None:
        self._settings = settings
        self._addresses = addresses
        self._store = store
        self._blobs = blobs

    def operations(self) -> list[Operation]:
        """{Code,Environment,Data,Model,Component}{Containers,Versions}_*."""
        found: list[Operation] = []
        for collection in COLLECTIONS:
            of = CollectionHandlers(self._settings, self._store, collection, self._addresses)
            container = f"{WORKSPACE}/{collection.path}/{{name}}"
            rows = (
                ("Containers_List", "GET", f"{WORKSPACE}/{collection.path}", of.list_containers),
                ("Containers_Get", "GET", container, of.get_container),
                ("Containers_CreateOrUpdate", "PUT", container, of.put_container),
                ("Versions_List", "GET", f"{container}/versions", of.list_versions),
                ("Versions_Get", "GET", f"{container}/versions/{{version}}", of.get_version),
                ("Versions_CreateOrUpdate", "PUT", f"{container}/versions/{{version}}", of.put_version),
                ("Versions_Update", "PATCH", f"{container}/versions/{{version}}", of.patch_version),
            )
            found += [
                Operation(collection.operations + name, method, path, in_workspace(self._settings, handler), "arm")
                for name, method, path, handler in rows
            ]
        upload = f"{WORKSPACE}/codes/{{name}}/versions/{{version}}/startPendingUpload"
        name = "CodeVersions_CreateOrGetStartPendingUpload"
        return [*found, Operation(name, "POST", upload, in_workspace(self._settings, self._start_upload), "arm")]

    def add(self, path: str, name: str, version: str, properties: dict[str, Any]) -> dict[str, Any]:
        """Registers a version on a job's behalf (its named outputs). An existing one is left as it is."""
        collection = next(row for row in COLLECTIONS if row.path == path)
        handlers = CollectionHandlers(self._settings, self._store, collection, self._addresses)
        return handlers.write(name, version, properties)[1]

    async def _start_upload(self, request: Request, identity: Identity) -> Answer:
        name, version = request.path_params["name"], request.path_params["version"]
        # A container of its own, as in the service. Code names are random ids, but needn't be container names.
        container = f"code-{uuid.uuid5(uuid.NAMESPACE_URL, f'{name}/{version}')}"
        await asyncio.to_thread(self._blobs.create_container, container)
        url = f"{self._settings.blob_url}/{container}"
        token = self._blobs.sas(container, permissions="racwdl").lstrip("?")
        return {
            "pendingUploadType": "TemporaryBlobReference",
            "pendingUploadId": container,
            "blobReferenceForConsumption": {
                "blobUri": url,
                "storageAccountArmId": (
                    f"/subscriptions/{self._settings.subscription_id}/resourceGroups/{self._settings.resource_group}"
                    f"/providers/Microsoft.Storage/storageAccounts/{self._settings.storage_account}"
                ),
                "credential": {"credentialType": "SAS", "sasUri": f"{url}?{token}"},
            },
        }


class CollectionHandlers:
    """The handlers of one collection, of the workspace or of a registry."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        collection: Collection,
        addresses: Addresses,
        registry: str | None = None,
    ) -> None:
        self._settings = settings
        self._addresses = addresses
        self._store = store
        self._collection = collection
        self._registry = registry
        self._versions = versions_kind(collection.path, registry)
        self._containers = containers_kind(collection.path, registry)

    async def list_containers(self, request: Request, identity: Identity) -> Answer:
        found = [self._described(each) for each in self._store.list(self._containers) if visible(request, each)]
        return page(request, self._settings, found)

    async def get_container(self, request: Request, identity: Identity) -> Answer:
        return self._described(self._container(request.path_params["name"]))

    async def put_container(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["name"]
        asked = (await body(request))["properties"]
        changes = {key: value for key, value in asked.items() if key in _MUTABLE | {"dataType"}}
        created = self.contain(name, changes)
        return (201 if created else 200), self._described(self._container(name))

    def contain(self, name: str, changes: dict[str, Any]) -> bool:
        """Makes the container `name`, or changes what may change of it; whether it is new."""
        if self._store.get(self._containers, name) is None:
            self._store.put(self._containers, _checked(name, "name"), self._resource(name, changes))
            return True
        self._store.update(
            self._containers, name, lambda old: touched({**old, "properties": {**old["properties"], **changes}})
        )
        return False

    async def list_versions(self, request: Request, identity: Identity) -> Answer:
        query = request.query_params
        name = request.path_params["name"]
        # The SDK asks for a snapshot's hash under a random name: the whole workspace is meant (measured).
        wanted_hash = query.get("hash") if self._collection.path == "codes" else None
        found = self._store.list(self._versions, "" if wanted_hash else f"{name}/")
        if not found and (one := self._curated(name)) is not None:
            found = [one]
        if wanted_hash:
            found = [
                each for each in found if (each["properties"].get("properties") or {}).get("hash_sha256") == wanted_hash
            ]
        tags = _tags(query.get("$tags") or query.get("tags") or "")
        found = [each for each in found if visible(request, each) and _tagged(each, tags)]
        order = (query.get("$orderBy") or query.get("orderBy") or "createdtime desc").lower().split()
        if order[0] not in ("createdtime", "createdat", "modifiedtime"):
            raise BadRequest(f"$orderBy {order[0]} is not known; use createdtime or modifiedtime.")
        field = "lastModifiedAt" if order[0] == "modifiedtime" else "createdAt"
        found.sort(key=lambda each: each["systemData"][field], reverse=order[1:] != ["asc"])
        return page(request, self._settings, found)

    async def get_version(self, request: Request, identity: Identity) -> Answer:
        return self._version(request.path_params["name"], request.path_params["version"])

    async def put_version(self, request: Request, identity: Identity) -> Answer:
        asked = (await body(request))["properties"]
        name, version = request.path_params["name"], request.path_params["version"]
        # In a thread: what a run made is looked up in storage.
        created, document = await asyncio.to_thread(self.write, name, version, asked)
        return (201 if created else 200), document

    async def patch_version(self, request: Request, identity: Identity) -> Answer:
        name, version = request.path_params["name"], request.path_params["version"]
        asked = (await body(request))["properties"]
        if fixed := sorted(set(asked) - _MUTABLE):
            raise self._immutable(fixed)
        self._version(name, version)

        def merge(old: dict[str, Any]) -> dict[str, Any]:
            for key, value in asked.items():
                kept = old["properties"].get(key)
                old["properties"][key] = (
                    _merged(kept, value) if isinstance(kept, dict) and isinstance(value, dict) else value
                )
            return touched(old)

        return self._store.update(self._versions, f"{name}/{version}", merge)

    def write(self, name: str, version: str, asked: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        """Creates a version, or updates what may change of it: (created, document)."""
        if self._collection.path == "components" and isinstance(asked.get("componentSpec"), dict):
            version, asked = self._sourced(version, asked)
        key = f"{_checked(name, 'name')}/{_checked(version, 'version')}"
        label = self._collection.label
        if not any(asked.get(needed) for needed in self._collection.needs_one_of):
            needed = " or ".join(self._collection.needs_one_of)
            raise BadRequest(f"A {label} version needs {needed}; {name}:{version} has none.", needed, "UserError")
        for field in _ADDRESSES & set(asked):
            source = str(asked[field])
            asked = {**asked, field: self._addresses.registered_uri(source)}
            if match := _MADE_BY.match(source):
                asked.setdefault("jobName", match[1])
        known = self._store.get(self._versions, key)
        if known is None:
            properties = {"isArchived": False, "isAnonymous": False, "tags": {}, "properties": {}, **asked}
            if self._collection.path == "models":
                # The SDK reads flavours unconditionally: null breaks it (measured).
                properties["flavors"] = properties.get("flavors") or {}
            document = self._resource(f"{name}/versions/{version}", properties)
            self._store.put(self._versions, key, document)
            self._contain(name, properties)
            return True, document
        old = known["properties"]
        if old.get("isAnonymous") and asked.get("isAnonymous") and self._collection.path == "components":
            # Its version is a hash of what it does, made by the SDK; what it is called may differ.
            return False, known
        changed = [
            field
            for field, value in asked.items()
            if field not in _MUTABLE
            and value
            and value != old.get(field)
            and not (field in _ADDRESSES and self._addresses.same_place(str(value), str(old.get(field))))
        ]
        if changed:
            raise self._immutable(sorted(changed))
        changes = {field: value for field, value in asked.items() if field in _MUTABLE and value is not None}
        return False, self._store.update(
            self._versions, key, lambda each: touched({**each, "properties": {**each["properties"], **changes}})
        )

    def _sourced(self, version: str, asked: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """A component that names a job as its source has that job's graph; (version, properties)."""
        spec = self._addresses.component_of_job(asked["componentSpec"])
        if spec is not asked["componentSpec"] and asked.get("isAnonymous"):
            # The SDK calls every one of them 1: what it is has to tell them apart.
            version = str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(spec, sort_keys=True)))
        return version, {**asked, "componentSpec": spec}

    def _contain(self, name: str, properties: dict[str, Any]) -> None:
        if self._store.get(self._containers, name) is None:
            kept = {field: properties[field] for field in self._collection.copied if field in properties}
            kept |= {"isArchived": False, "tags": {}, "properties": {}}
            self._store.put(self._containers, name, self._resource(name, kept))

    def _resource(self, path: str, properties: dict[str, Any]) -> dict[str, Any]:
        return resource(self._settings, f"{self._collection.path}/{path}", properties, registry=self._registry)

    def _described(self, container: dict[str, Any]) -> dict[str, Any]:
        """The container with what follows from its versions."""
        versions = self._store.list(self._versions, f"{container['name']}/")
        numbers = [int(each["name"]) for each in versions if each["name"].isdecimal()]
        newest = max(versions, key=lambda each: each["systemData"]["createdAt"], default=None)
        newest = newest or self._curated(container["name"])
        derived = {"latestVersion": newest and newest["name"], "nextVersion": str(max(numbers, default=0) + 1)}
        return {**container, "properties": {**container["properties"], **derived}}

    def _container(self, name: str) -> dict[str, Any]:
        document = self._store.get(self._containers, name)
        if document is None and self._curated(name) is not None:
            document = self._resource(name, {"isArchived": False, "tags": {}, "properties": {}})
        if document is None:
            raise NotFound(f"The {self._collection.label} '{name}' was not found.", code="ResourceNotFound")
        return document

    def _version(self, name: str, version: str) -> dict[str, Any]:
        if version == _DEFAULT_VERSION:
            version = str(self._described(self._container(name))["properties"]["latestVersion"])
        document = self._store.get(self._versions, f"{name}/{version}") or self._curated(name, version)
        if document is None:
            raise NotFound(f"The {self._collection.label} '{name}:{version}' was not found.", code="ResourceNotFound")
        return document

    def _curated(self, name: str, version: str | None = None) -> dict[str, Any] | None:
        if self._collection.path != "environments" or self._registry is not None:
            return None
        return curated(self._settings, name, version)

    def _immutable(self, fields: list[str]) -> BadRequest:
        label = self._collection.label
        # The service's words, e.g. https://aka.ms/azuremldataversionupdate
        message = (
            f"A {label} version with this name and version already exists. If you are trying to create a new {label} "
            f"version, use a different name or version. If you are trying to update an existing {label} version, its "
            f"{', '.join(fields)} cannot be changed. Only description, tags, and isArchived can be updated."
        )
        return BadRequest(message, ", ".join(fields), "UserError")


def _checked(text: str, what: str) -> str:
    if not _NAME.fullmatch(text):
        raise BadRequest(
            f"'{text}' is not a valid asset {what}: letters, digits, '.', '-' and '_', up to 255, first a letter "
            f"or digit.",
            what,
            "UserError",
        )
    return text


def _tags(text: str) -> dict[str, str | None]:
    """`a,b=c` -> {a: None, b: "c"}."""
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {key: value if equals else None for key, equals, value in pairs}


def _tagged(document: dict[str, Any], wanted: dict[str, str | None]) -> bool:
    tags = document["properties"].get("tags") or {}
    return all(key in tags and value in (None, tags[key]) for key, value in wanted.items())


def _merged(old: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A JSON merge patch (RFC 7396): null removes."""
    merged = {**old, **changes}
    return {key: value for key, value in merged.items() if value is not None}
