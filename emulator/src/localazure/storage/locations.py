"""Addresses of data, in every spelling the services use, resolved to a container and a path.

    https://{account}.blob|dfs.<any>/{container}/{path}              blob service, host style
    https://localhost:{port}/{account}/{container}/{path}            blob service, path style
    abfss://{container}@{account}.dfs.<any>/{path}                   Hadoop, ADLS Gen2 (abfs too)
    wasbs://{container}@{account}.blob.<any>/{path}                  Hadoop, blobs (wasb too)
    azureml://datastores/{datastore}/paths/{path}                    Azure ML, in its workspace
    azureml://subscriptions/.../workspaces/{w}/datastores/{d}/paths/{path}

https://learn.microsoft.com/azure/machine-learning/how-to-access-data-interactive#access-data-from-a-datastore-uri-like-a-filesystem
https://learn.microsoft.com/azure/storage/blobs/data-lake-storage-introduction-abfs-uri
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from localazure.core.errors import BadRequest, NotFound
from localazure.settings import Settings

# Azure ML makes the first two in every workspace; `lake` is this project's.
DATASTORE_CONTAINERS: Mapping[str, str] = {
    "workspaceblobstore": "azureml",
    "workspaceartifactstore": "azureml",
}

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_AZUREML = re.compile(
    r"azureml://(?:subscriptions/(?P<subscription>[^/]+)/resource[gG]roups/(?P<group>[^/]+)/"
    r"(?:providers/Microsoft\.MachineLearningServices/)?workspaces/(?P<workspace>[^/]+)/)?"
    r"datastores/(?P<datastore>[^/]+)(?:/paths/(?P<path>.*)|/?)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Location:
    """A place in the storage account. `path` has no slash in front; it is empty for the container itself.

    A path may end in "/" (a folder) and, for reading, may hold `*` wildcards.
    """

    container: str
    path: str

    def __str__(self) -> str:
        return f"{self.container}/{self.path}"

    def join(self, *parts: str) -> Location:
        """A place below this one."""
        return Location(self.container, "/".join(p.strip("/") for p in (self.path, *parts) if p.strip("/")))


def datastores(settings: Settings) -> dict[str, str]:
    """The datastores every workspace has: name -> container."""
    return {**DATASTORE_CONTAINERS, settings.container: settings.container, "lake": settings.container}


def parse(uri: str, settings: Settings, more_datastores: Mapping[str, str] | None = None) -> Location:
    """The location behind `uri`; query and fragment (a SAS) are ignored.

    `more_datastores` are those registered in the workspace besides the built-in ones: name -> container.
    Raises NotFound for another account or an unknown datastore, BadRequest for what isn't such an address.
    """
    if uri.startswith("azureml://"):
        return _azureml(uri, settings, {**datastores(settings), **(more_datastores or {})})
    try:
        parts = urlsplit(uri)
        host = (parts.hostname or "").lower()
    except ValueError:
        raise BadRequest(f"'{_shown(uri)}' isn't a valid URI.") from None
    # Hadoop's and SQL's wildcards contain no "?", so that a query is always a query.
    path = unquote(parts.path).lstrip("/")
    if parts.scheme in {"abfss", "abfs", "wasbs", "wasb"}:
        if not parts.username:
            raise BadRequest(f"'{_shown(uri)}' names no container ({parts.scheme}://container@account...).")
        account, container = host.partition(".")[0], unquote(parts.username)
    elif parts.scheme in {"https", "http"}:
        if host in _LOOPBACK or host == settings.public_host:
            account, _, path = path.partition("/")
        else:
            account = host.partition(".")[0]
            if host.split(".")[1:2] not in (["blob"], ["dfs"]):
                raise BadRequest(f"'{_shown(uri)}' isn't in a storage account of localazure.")
        container, _, path = path.partition("/")
    else:
        raise BadRequest(
            f"'{_shown(uri)}' isn't an address localazure understands (https, abfss, wasbs, azureml://datastores/...)."
        )
    if account != settings.storage_account:
        raise NotFound(
            f"There is no storage account '{account}' ('{_shown(uri)}'); localazure has '{settings.storage_account}'."
        )
    if not container:
        raise BadRequest(f"'{_shown(uri)}' names no container.")
    return Location(container, _checked(path, uri))


def _azureml(uri: str, settings: Settings, known: Mapping[str, str]) -> Location:
    match = _AZUREML.fullmatch(uri)
    if match is None:
        raise BadRequest(f"'{uri}' isn't a datastore address (azureml://datastores/<datastore>/paths/<path>).")
    for part, expected in (
        ("subscription", settings.subscription_id),
        ("group", settings.resource_group),
        ("workspace", settings.workspace),
    ):
        if match[part] is not None and match[part].lower() != expected.lower():
            raise NotFound(f"There is no {part} '{match[part]}' ('{uri}'); localazure has '{expected}'.")
    container = known.get(match["datastore"])
    if container is None:
        raise NotFound(
            f"There is no datastore '{match['datastore']}' ('{uri}'); the workspace has {', '.join(sorted(known))}."
        )
    # Not decoded: in this form a path is written as it is.
    return Location(container, _checked((match["path"] or "").lstrip("/"), uri))


def _checked(path: str, uri: str) -> str:
    # The path becomes a file's path in the local mirror.
    if ".." in path.split("/") or "\0" in path:
        raise BadRequest(f"'{_shown(uri)}' must not contain '..'.")
    return path


def _shown(uri: str) -> str:
    """The URI without its query, which may be a SAS."""
    return uri.partition("?")[0]
