"""The lake as code inside the compute environment sees it: ADLS paths over the blob service's REST interface.

A notebook or job names its data `abfss://{container}@{account}.dfs.{suffix}/{path}`, `wasbs://` likewise, or in Azure
ML's Spark `azureml://[...]datastores/{datastore}/paths/{path}`. Hadoop's drivers for these aren't available to a local
Spark, so paths are mapped to blobs of the same account here. Credentials come from the process environment:

    LOCALAZURE_LAKE_ENDPOINT     path-style blob endpoint, e.g. https://localhost:18402/azflowlake
    LOCALAZURE_LAKE_ACCOUNT      the only account that can be reached
    LOCALAZURE_LAKE_SAS          account SAS (query string without '?')
    LOCALAZURE_LAKE_DATASTORES   JSON, datastore -> container; in jobs of Azure ML only

Sizes are bytes. Every error names the abfss path. Reference: https://learn.microsoft.com/rest/api/storageservices/
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import requests

API_VERSION = "2021-12-02"
PARALLEL = 8
HTTP_NOT_FOUND = 404
HTTP_CONFLICT = 409
HTTP_PRECONDITION_FAILED = 412
_ABFSS = re.compile(
    r"^(?:abfss?|wasbs?)://(?P<container>[^@/]+)@(?P<account>[^./]+)\.(?P<host>[^/]+)(?:/(?P<path>.*))?$", re.IGNORECASE
)
_IN_TEXT = re.compile(r"(?:abfss?|wasbs?)://[^@/\s]+@[^./\s]+\.[^/\s,;\"'`)]+", re.IGNORECASE)
_DATASTORE = re.compile(
    r"^azureml://(?:subscriptions/.+?/workspaces/[^/]+/)?datastores/(?P<datastore>[^/]+)(?:/paths)?(?:/(?P<path>.*))?$",
    re.IGNORECASE,
)
_SCHEMES = ("abfss://", "abfs://", "wasbs://", "wasb://", "azureml://")
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")
HOME = "/user/trusted-service-user"
_WILDCARD = re.compile(r"[*?\[{]")


class LakeError(OSError):
    """The lake refused or can't be reached; the message names operation and path."""


@dataclass(frozen=True)
class LakePath:
    """One ADLS path. `path` has neither leading nor trailing slash; empty means the container's root."""

    container: str
    account: str
    host: str
    path: str

    def __str__(self) -> str:
        return f"abfss://{self.container}@{self.account}.{self.host}/{self.path}"

    def child(self, name: str) -> LakePath:
        """The path `name` below this one."""
        return LakePath(self.container, self.account, self.host, f"{self.path}/{name}".strip("/"))

    def at(self, path: str) -> LakePath:
        """Another path of the same container."""
        return LakePath(self.container, self.account, self.host, path.strip("/"))

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Entry:
    """A blob of a listing. `path` is relative to the container."""

    path: str
    size: int
    etag: str
    modified: datetime
    is_folder_marker: bool


def is_lake(path: object) -> bool:
    """Whether a value is a path of the lake (what isn't stays Spark's own business)."""
    return isinstance(path, str) and path.lower().startswith(_SCHEMES)


def address(path: object) -> str | None:
    """A path as one of the lake, None if it is another file system's (`file:`).

    Without a scheme it is the default file system's: the workspace's container, in which a relative path begins at the
    user's folder. https://learn.microsoft.com/azure/synapse-analytics/spark/apache-spark-azure-create-spark-configuration
    """
    if not isinstance(path, str) or not path:
        return None
    if is_lake(path):
        return path
    container, account = os.environ.get("LOCALAZURE_LAKE_CONTAINER", ""), _account()
    if _SCHEME.match(path) or not container or not account:
        return None
    inner = path if path.startswith("/") else f"{HOME}/{path}"
    return f"abfss://{container}@{account}.dfs.core.windows.net{inner}"


def addresses(text: str) -> list[LakePath]:
    """The abfss and wasbs addresses that stand in a text, such as a statement or an argument."""
    return [parse(found) for found in _IN_TEXT.findall(text)]


def parse(path: str) -> LakePath:
    """Read a path of the lake. Raises ValueError for any other form, LakeError for an unknown datastore."""
    if match := _DATASTORE.match(path):
        container, account, host = _container(match["datastore"], path), _account(), "dfs.core.windows.net"
    elif match := _ABFSS.match(path):
        container, account, host = match["container"], match["account"], match["host"]
    else:
        raise ValueError(
            f"{path!r} isn't an ADLS path; expected abfss://<container>@<account>.dfs.core.windows.net/<path>"
        )
    parts = [part for part in (match["path"] or "").split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise ValueError(f"{path!r} holds '.' or '..', which ADLS paths can't")
    return LakePath(container, account, host, "/".join(parts))


def _container(datastore: str, path: str) -> str:
    known: dict[str, str] = json.loads(os.environ.get("LOCALAZURE_LAKE_DATASTORES") or "{}")
    if datastore not in known:
        there = f"it has {', '.join(sorted(known))}" if known else "azureml:// paths are for jobs of Azure ML"
        raise LakeError(f"{path}: there is no datastore {datastore!r} here; {there}")
    return known[datastore]


def _account() -> str:
    return os.environ.get("LOCALAZURE_LAKE_ACCOUNT", "")


def split_wildcard(path: str) -> tuple[str, bool]:
    """The folder part before the first glob segment, and whether there is one: 'a/b*/c' -> ('a', True)."""
    fixed: list[str] = []
    for part in path.split("/"):
        if _WILDCARD.search(part):
            return "/".join(fixed), True
        fixed.append(part)
    return path, False


class Lake:
    """Blobs of one storage account. Thread-safe; transfers run `PARALLEL` at a time."""

    def __init__(self, endpoint: str, account: str, sas: str, verify: str | bool = True) -> None:
        self._endpoint = endpoint.rstrip("/")
        self.account = account
        self._sas = sas.lstrip("?")
        self._verify = verify
        self._local = threading.local()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Lake:
        """The lake that the process was started with. Raises LakeError naming what is missing."""
        environment = os.environ if environment is None else environment
        names = ("LOCALAZURE_LAKE_ENDPOINT", "LOCALAZURE_LAKE_ACCOUNT", "LOCALAZURE_LAKE_SAS")
        missing = [name for name in names if not environment.get(name)]
        if missing:
            raise LakeError(f"no lake in this process: {', '.join(missing)} not set")
        return cls(*(environment[name] for name in names), verify=environment.get("REQUESTS_CA_BUNDLE", True))

    # -- single blobs

    def size(self, path: LakePath) -> int | None:
        """Bytes of a blob; None if there is none (a folder isn't a blob)."""
        response = self._request("HEAD", path, missing_ok=True)
        if response is None or response.headers.get("x-ms-meta-hdi_isfolder", "").lower() == "true":
            return None
        return int(response.headers["Content-Length"])

    def properties(self, path: LakePath) -> Entry | None:
        """What is known of a blob, also of one that marks a folder; None if there is none."""
        response = self._request("HEAD", path, missing_ok=True)
        if response is None:
            return None
        return Entry(
            path=path.path,
            size=int(response.headers["Content-Length"]),
            etag=response.headers.get("ETag", ""),
            modified=parsedate_to_datetime(response.headers["Last-Modified"]),
            is_folder_marker=response.headers.get("x-ms-meta-hdi_isfolder", "").lower() == "true",
        )

    def read(self, path: LakePath, limit: int | None = None) -> bytes:
        """A blob's content, or its first `limit` bytes. Raises FileNotFoundError."""
        headers = {} if limit is None else {"x-ms-range": f"bytes=0-{limit - 1}"}
        if limit is not None and not self.size(path):
            if self.size(path) is None:
                raise FileNotFoundError(f"{path} doesn't exist")
            return b""
        response = self._request("GET", path, headers=headers)
        assert response is not None
        return response.content

    def write(self, path: LakePath, content: bytes, *, folder_marker: bool = False) -> None:
        """Create or replace a blob."""
        headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream"}
        if folder_marker:
            headers["x-ms-meta-hdi_isfolder"] = "true"
        self._request("PUT", path, headers=headers, data=content)

    def create(self, path: LakePath, content: bytes) -> bool:
        """Create a blob unless it is there; whether it was made. Of several that try, one succeeds."""
        headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream", "If-None-Match": "*"}
        return self._request("PUT", path, headers=headers, data=content, taken_ok=True) is not None

    def delete(self, path: LakePath) -> bool:
        """Delete a blob; whether there was one."""
        return self._request("DELETE", path, missing_ok=True) is not None

    def copy(self, source: LakePath, target: LakePath) -> None:
        """Copy a blob inside the account. Through this process: the local blob service doesn't copy by itself."""
        self.write(target, self.read(source))

    # -- folders

    def entries(self, path: LakePath) -> Iterator[Entry]:
        """All blobs below a folder, in name order. A folder that doesn't exist has none."""
        prefix = f"{path.path}/" if path.path else ""
        marker = ""
        while True:
            query = {"restype": "container", "comp": "list", "include": "metadata", "prefix": prefix, "marker": marker}
            response = self._request("GET", path.at(""), query=query, missing_ok=True)
            if response is None:
                return
            root = ElementTree.fromstring(response.content)
            for blob in root.iterfind("./Blobs/Blob"):
                yield _entry(blob)
            marker = root.findtext("NextMarker") or ""
            if not marker:
                return

    def exists(self, path: LakePath) -> bool:
        """Whether a blob or a folder with something in it is there."""
        return self.size(path) is not None or next(self.entries(path), None) is not None

    def delete_tree(self, path: LakePath, *, first: str = "_SUCCESS") -> int:
        """Delete everything below a folder; blobs named `first` go first, so that a reader sees it incomplete."""
        entries = list(self.entries(path))
        marked = [entry for entry in entries if entry.path.rsplit("/", 1)[-1] == first]
        for entry in marked:
            self.delete(path.at(entry.path))
        rest = [path.at(entry.path) for entry in entries if entry not in marked]
        self.each(self.delete, rest)
        return len(entries)

    def download(self, path: LakePath, target: Path) -> None:
        """Write a blob to a file; the file appears whole or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_bytes(self.read(path))
        partial.replace(target)

    def upload(self, source: Path, target: LakePath) -> None:
        self.write(target, source.read_bytes())

    @staticmethod
    def each(function: object, items: Iterable[object]) -> None:
        """Call `function` on every item (tuples are spread), several at a time; the first error is raised."""
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="lake") as pool:
            for future in [pool.submit(function, *(i if isinstance(i, tuple) else (i,))) for i in items]:  # type: ignore[arg-type]
                future.result()

    def containers(self) -> list[str]:
        """The account's containers, by name."""
        response = self._request("GET", LakePath("", self.account, "", ""), query={"comp": "list"})
        assert response is not None
        names = ElementTree.fromstring(response.content).iterfind("./Containers/Container/Name")
        return sorted(name.text or "" for name in names)

    # -- HTTP

    def _url(self, path: LakePath) -> str:
        return f"{self._endpoint}/{quote(path.container)}" + (f"/{quote(path.path)}" if path.path else "")

    def _request(
        self,
        method: str,
        path: LakePath,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        missing_ok: bool = False,
        taken_ok: bool = False,
    ) -> requests.Response | None:
        if path.account != self.account:
            raise LakeError(f"{path}: storage account {path.account!r} isn't this workspace's ({self.account!r})")
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
        parameters = "&".join([*(f"{k}={quote(v, safe='')}" for k, v in (query or {}).items() if v), self._sas])
        try:
            response: requests.Response = session.request(
                method,
                f"{self._url(path)}?{parameters}",
                headers={"x-ms-version": API_VERSION, **(headers or {})},
                data=data,
                verify=self._verify,
                timeout=120,
            )
        except requests.RequestException as error:
            # The exception's text holds the URL and with it the SAS: it must not be shown.
            raise LakeError(f"{method} {path}: the storage service didn't answer ({type(error).__name__})") from None
        if response.status_code == HTTP_NOT_FOUND:
            if missing_ok:
                return None
            raise FileNotFoundError(f"{path} doesn't exist")
        if taken_ok and response.status_code in (HTTP_CONFLICT, HTTP_PRECONDITION_FAILED):
            return None
        if not response.ok:
            code = response.headers.get("x-ms-error-code", "")
            raise LakeError(f"{method} {path}: storage answered {response.status_code} {code}".rstrip())
        return response


def _entry(blob: ElementTree.Element) -> Entry:
    properties = blob.find("Properties")
    assert properties is not None
    metadata = {item.tag.lower(): item.text for item in blob.find("Metadata") or ()}
    return Entry(
        path=blob.findtext("Name") or "",
        size=int(properties.findtext("Content-Length") or 0),
        etag=properties.findtext("Etag") or "",
        modified=parsedate_to_datetime(properties.findtext("Last-Modified") or ""),
        is_folder_marker=(metadata.get("hdi_isfolder") or "").lower() == "true",
    )
