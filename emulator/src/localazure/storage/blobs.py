"""A client for the account's blobs, over Azurite's HTTPS interface, signed with the account key.

https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api. Written against the protocol
instead of an SDK: localazure's environment holds none of the SDKs it serves.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import ssl
import threading
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlencode

import httpx

from localazure.core.errors import AzureError, NotFound
from localazure.settings import Settings
from localazure.storage.locations import Location
from localazure.storage.mirror import Mirror

_VERSION = "2021-12-02"
# A blob above this many bytes is sent in blocks of as many.
_BLOCK = 32 * 1024 * 1024
_APPEND_BLOCK = 4 * 1024 * 1024
_PARALLEL = 4

T = TypeVar("T")


@dataclass(frozen=True)
class Blob:
    """A blob as a listing shows it. `size` in bytes; `etag` without quotes; `last_modified` in UTC."""

    name: str
    size: int
    etag: str
    last_modified: datetime.datetime


# Under these names because `BlobStore.list` hides the built-in one inside the class.
Blobs = list[Blob]
Names = list[str]


class BlobStore:
    """The storage account's blobs. Synchronous and thread-safe. Missing blobs and containers raise NotFound."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._key = base64.b64decode(settings.storage_account_key)
        self._lock = threading.Lock()
        self._opened: httpx.Client | None = None
        self._mirror = Mirror(settings.home / "cache", self.list, self.download_file)

    # Containers.
    def create_container(self, container: str) -> None:
        """Make the container, if it isn't there."""
        self._send("PUT", container, query={"restype": "container"}, accept=(HTTPStatus.CONFLICT,))

    def container_exists(self, container: str) -> bool:
        """Whether there is such a container."""
        response = self._send("GET", container, query={"restype": "container"}, accept=(HTTPStatus.NOT_FOUND,))
        return response.status_code == HTTPStatus.OK

    def list(self, container: str, prefix: str = "") -> Blobs:
        """Every blob whose name begins with `prefix`, in name order."""
        found: Blobs = []
        marker = ""
        while True:
            query = {"restype": "container", "comp": "list", "prefix": prefix, "marker": marker}
            response = self._send("GET", container, query={name: value for name, value in query.items() if value})
            # The document comes from our own Azurite, so that a hostile one is no concern.
            root = ET.fromstring(response.content)
            found += [_blob(element) for element in root.iter("Blob")]
            marker = root.findtext("NextMarker") or ""
            if not marker:
                return found

    # Blobs.
    def exists(self, container: str, name: str) -> bool:
        """Whether there is such a blob."""
        response = self._send("HEAD", container, name, accept=(HTTPStatus.NOT_FOUND,))
        return response.status_code == HTTPStatus.OK

    def properties(self, container: str, name: str) -> Blob:
        """The blob's size, ETag and time."""
        headers = self._send("HEAD", container, name).headers
        return Blob(
            name=name,
            size=int(headers["content-length"]),
            etag=headers["etag"].strip('"'),
            last_modified=parsedate_to_datetime(headers["last-modified"]),
        )

    def read(self, container: str, name: str) -> bytes:
        """The blob's content."""
        return self._send("GET", container, name).content

    def write(self, container: str, name: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Write a block blob, in place of the one that may be there."""
        self._put(container, name, data, content_type)

    def append(self, container: str, name: str, data: bytes) -> None:
        """Add to the end of an append blob, which is made if it isn't there. One writer a blob.

        https://learn.microsoft.com/rest/api/storageservices/append-block
        """
        if not self.exists(container, name):
            self._send("PUT", container, name, headers={"x-ms-blob-type": "AppendBlob"})
        for start in range(0, len(data), _APPEND_BLOCK):
            block = data[start : start + _APPEND_BLOCK]
            self._send("PUT", container, name, query={"comp": "appendblock"}, content=block)

    def download_file(self, container: str, name: str, path: Path) -> str:
        """Write the blob's content to `path`, all or nothing; its ETag, without quotes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        url, headers = self._signed("GET", container, name, {}, {})
        try:
            with self._client().stream("GET", url, headers=headers) as response:
                if response.status_code != HTTPStatus.OK:
                    response.read()
                    raise self._error("GET", container, name, response)
                with draft.open("wb") as file:
                    for chunk in response.iter_bytes(1024 * 1024):
                        file.write(chunk)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return response.headers["etag"].strip('"')

    def upload_file(
        self, container: str, name: str, path: Path, content_type: str = "application/octet-stream"
    ) -> None:
        """Write a file's content as a block blob, in place of the one that may be there."""
        with path.open("rb") as file:
            first = file.read(_BLOCK)
            if len(first) < _BLOCK:
                self._put(container, name, first, content_type)
                return
            identifiers: Names = []
            block = first
            while block:
                # All ids of a blob must have one length.
                identifier = base64.b64encode(f"{len(identifiers):08d}".encode()).decode()
                self._send("PUT", container, name, query={"comp": "block", "blockid": identifier}, content=block)
                identifiers.append(identifier)
                block = file.read(_BLOCK)
        listed = "".join(f"<Latest>{identifier}</Latest>" for identifier in identifiers)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
        headers = {"x-ms-blob-content-type": content_type}
        self._send("PUT", container, name, query={"comp": "blocklist"}, headers=headers, content=body)

    def delete(self, container: str, name: str) -> bool:
        """Remove a blob; whether there was one."""
        response = self._send("DELETE", container, name, accept=(HTTPStatus.NOT_FOUND,))
        return response.status_code == HTTPStatus.ACCEPTED

    def delete_prefix(self, container: str, prefix: str) -> int:
        """Remove every blob whose name begins with `prefix`; how many there were."""
        if not prefix:
            raise ValueError(f"an empty prefix would remove everything in {container!r}")
        names = [blob.name for blob in self.list(container, prefix)]
        return sum(self._each(lambda name: self.delete(container, name), names))

    # Trees.
    def upload_tree(self, local: Path, location: Location) -> Names:
        """Upload a file (to the location itself) or every file below a folder; the blobs' names, sorted."""
        if local.is_file():
            self.upload_file(location.container, location.path, local)
            return [location.path]
        if not local.is_dir():
            raise FileNotFoundError(f"{local} is neither a file nor a folder; nothing can be uploaded to {location}")
        files = {
            location.join(path.relative_to(local).as_posix()).path: path
            for path in sorted(local.rglob("*"))
            if path.is_file()
        }
        for _ in self._each(lambda name: self.upload_file(location.container, name, files[name]), files):
            pass
        return sorted(files)

    def materialize(self, location: Location) -> Path:
        """A local copy of a file, a folder, or (a path with `*`) a folder of what matches; see `storage.mirror`.

        Raises NotFound, naming the location, if there is nothing. What is returned must not be written to.
        """
        return self._mirror.materialize(location)

    # Addresses.
    def url(self, container: str, name: str = "") -> str:
        """The path-style address: `https://localhost:18402/azflowlake/<container>/<name>`."""
        return f"{self._settings.blob_url}/{container}" + (f"/{quote(name)}" if name else "")

    def sas(self, container: str, name: str | None = None, permissions: str = "rl", hours: float = 24) -> str:
        """A service SAS for a blob (else for the container), as a query string without "?".

        Letters of `permissions` must be in the order racwdl.
        https://learn.microsoft.com/rest/api/storageservices/create-service-sas#version-2020-12-06-and-later
        """
        resource = "c" if name is None else "b"
        expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
        expires = expiry.strftime("%Y-%m-%dT%H:%M:%SZ")
        account = self._settings.storage_account
        signed = f"/blob/{account}/{container}" + (f"/{name}" if name is not None else "")
        protocol = "https"
        fields = [
            permissions, "", expires, signed,
            "", "", protocol, _VERSION, resource,
            "", "",  # snapshot time, encryption scope
            "", "", "", "", "",  # overridden response headers
        ]  # fmt: skip
        return urlencode(
            {
                "sv": _VERSION,
                "spr": protocol,
                "se": expires,
                "sr": resource,
                "sp": permissions,
                "sig": self._signature("\n".join(fields)),
            }
        )

    # Life.
    def wait_until_ready(self, seconds: float) -> None:
        """Wait for the blob service. Raises TimeoutError, with the cause, when it doesn't answer in time."""
        end = time.monotonic() + seconds
        while True:
            try:
                self._send("GET", "", query={"comp": "list", "maxresults": "1"})
                return
            except httpx.TransportError as error:
                if time.monotonic() > end:
                    message = f"the blob service at {self._settings.blob_url} didn't answer in {seconds:.0f} s: {error}"
                    raise TimeoutError(message) from None
            time.sleep(0.2)

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _put(self, container: str, name: str, data: bytes, content_type: str) -> None:
        headers = {"x-ms-blob-type": "BlockBlob", "content-type": content_type}
        self._send("PUT", container, name, headers=headers, content=data)

    def _each(self, function: Callable[[str], T], names: Iterable[str]) -> Iterator[T]:
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="blobs") as pool:
            yield from pool.map(function, names)

    def _client(self) -> httpx.Client:
        with self._lock:
            if self._opened is None:
                # Not from the environment: a proxy has no business between us and the loopback interface.
                self._opened = httpx.Client(
                    verify=ssl.create_default_context(cafile=str(self._settings.ca_certificate)),
                    timeout=httpx.Timeout(60, connect=10),
                    limits=httpx.Limits(max_connections=32),
                    trust_env=False,
                )
            return self._opened

    def _send(
        self,
        method: str,
        container: str,
        name: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        accept: tuple[int, ...] = (),
    ) -> httpx.Response:
        url, signed = self._signed(method, container, name, query or {}, headers or {}, len(content))
        response = self._client().request(method, url, headers=signed, content=content)
        if response.is_success or response.status_code in accept:
            return response
        raise self._error(method, container, name, response)

    def _error(self, method: str, container: str, name: str, response: httpx.Response) -> AzureError:
        address = f"{self._settings.storage_account}/{container}" + (f"/{name}" if name else "")
        code = response.headers.get("x-ms-error-code", "")
        if response.status_code == HTTPStatus.NOT_FOUND:
            what = "container" if code == "ContainerNotFound" or not name else "blob"
            return NotFound(f"There is no {what} '{address}'.", code=code or "BlobNotFound")
        return AzureError(
            response.status_code,
            code or "StorageError",
            f"The blob service refused {method} '{address}': {response.status_code} {code}".rstrip(),
        )

    def _signed(  # noqa: PLR0917 - a request has these parts
        self,
        method: str,
        container: str,
        name: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        length: int = 0,
    ) -> tuple[str, dict[str, str]]:
        """The URL and headers of a request, signed with the shared key.

        https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
        """
        account = self._settings.storage_account
        # Characters as httpx sends them: signed is what is on the wire.
        path = f"/{account}/{quote(container)}" + (f"/{quote(name)}" if name else "")
        sent = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _VERSION, **headers}
        extensions = sorted((k.lower(), v) for k, v in sent.items() if k.lower().startswith("x-ms-"))
        lines = [
            method,
            "", "",  # Content-Encoding, Content-Language
            str(length) if length else "",
            "",  # Content-MD5
            headers.get("content-type", ""),
            "", "", "", "", "", "",  # Date, If-*, Range
            *(f"{k}:{v}" for k, v in extensions),
            # The account stands twice: once as such, once as the first segment of a path-style address.
            f"/{account}{path}",
            *(f"{k.lower()}:{query[k]}" for k in sorted(query)),
        ]  # fmt: skip
        sent["authorization"] = f"SharedKey {account}:{self._signature(chr(10).join(lines))}"
        url = self._settings.blob_url.removesuffix(f"/{account}") + path
        return (f"{url}?{urlencode(query, quote_via=quote)}" if query else url), sent

    def _signature(self, text: str) -> str:
        return base64.b64encode(hmac.new(self._key, text.encode(), hashlib.sha256).digest()).decode()


def _blob(element: ET.Element) -> Blob:
    def text(path: str) -> str:
        return element.findtext(path) or ""

    return Blob(
        name=text("Name"),
        size=int(text("Properties/Content-Length") or 0),
        etag=text("Properties/Etag").strip('"'),
        last_modified=parsedate_to_datetime(text("Properties/Last-Modified")),
    )
