"""Azure at the HTTP edge: what `requests` would send is answered here. Everything above is the real code."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
import requests
from requests.adapters import HTTPAdapter

Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]


class Edge:
    """Answers by (method, regular expression of the URL without its query); records what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.blobs: dict[str, bytes] = {}
        self._rows: list[tuple[str, re.Pattern[str], Callable[..., Answer] | Answer]] = []

    def on(self, method: str, url: str, answer: Callable[..., Answer] | Answer) -> None:
        """Later rows win. A callable gets the match and the JSON body."""
        self._rows.insert(0, (method, re.compile(url), answer))

    def send(self, request: requests.PreparedRequest) -> requests.Response:
        assert request.url is not None
        plain = request.url.partition("?")[0]
        body = _json(request.body)
        self.asked.append((str(request.method), plain, body))
        for method, pattern, answer in self._rows:
            if method == request.method and (match := pattern.search(plain)):
                found = answer(match, body) if callable(answer) else answer
                return _response(request, *found)
        if ".blob.core.windows.net" in plain:
            return _response(request, *self._storage(request))
        raise AssertionError(f"nobody expected {request.method} {plain}")

    def _storage(self, request: requests.PreparedRequest) -> Answer:
        parts = urlsplit(str(request.url))
        query, path = parse_qs(parts.query), unquote(parts.path).lstrip("/")
        if query.get("comp") == ["list"]:
            prefix = f"{path}/{query.get('prefix', [''])[0]}"
            names = sorted(name for name in self.blobs if name.startswith(prefix))
            items = "".join(
                f"<Blob><Name>{escape(name.partition('/')[2])}</Name><Properties><Content-Length>"
                f"{len(self.blobs[name])}</Content-Length><BlobType>BlockBlob</BlobType>"
                "<Last-Modified>Fri, 08 Mar 2013 00:00:00 GMT</Last-Modified></Properties></Blob>"
                for name in names
            )
            listing = f"<?xml version='1.0'?><EnumerationResults><Blobs>{items}</Blobs></EnumerationResults>"
            return 200, listing.encode(), {"Content-Type": "application/xml"}
        if request.method == "PUT":
            content = request.body or b""
            self.blobs[path] = content.read() if hasattr(content, "read") else _bytes(content)
            return 201, b"", {"ETag": '"1"'}
        if path not in self.blobs:
            return 404, b"", {"x-ms-error-code": "BlobNotFound"}
        if request.method == "DELETE":
            del self.blobs[path]
            return 202, b""
        content = self.blobs[path]
        headers = {"ETag": '"1"', "x-ms-blob-type": "BlockBlob", "Last-Modified": "Fri, 08 Mar 2013 00:00:00 GMT"}
        if request.method == "HEAD":
            return 200, b"", {**headers, "Content-Length": str(len(content))}
        asked = str(request.headers.get("x-ms-range") or request.headers.get("Range") or "")
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", asked):
            first, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
            if first > last:
                return 416, b"", {"x-ms-error-code": "InvalidRange"}
            part = content[first : last + 1]
            where = {"Content-Range": f"bytes {first}-{last}/{len(content)}", "Content-Length": str(len(part))}
            return 206, part, {**headers, **where}
        return 200, content, {**headers, "Content-Length": str(len(content))}


@pytest.fixture
def edge(monkeypatch: pytest.MonkeyPatch) -> Edge:
    """Every request of `requests` goes to the returned `Edge`; credentials are not asked for."""
    from azure.core.credentials import AccessToken, AccessTokenInfo

    from azflow.connection import AzureConnection

    class Credential:
        def get_token(self, *scopes: str, **options: Any) -> AccessToken:
            return AccessToken("t", 4102444800)

        def get_token_info(self, *scopes: str, options: Any = None) -> AccessTokenInfo:
            return AccessTokenInfo("t", 4102444800)

        def close(self) -> None:
            pass

    made = Edge()
    monkeypatch.setattr(HTTPAdapter, "send", lambda adapter, request, **_: made.send(request))
    monkeypatch.setattr(AzureConnection, "credential", lambda self: Credential())
    return made


def _json(body: Any) -> Any:
    try:
        return json.loads(body)
    except (TypeError, ValueError):
        return body


def _bytes(content: Any) -> bytes:
    return content.encode() if isinstance(content, str) else bytes(content)


def _response(
    request: requests.PreparedRequest, status: int, content: Any, headers: dict[str, str] | None = None
) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.request = request
    response.url = str(request.url)
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    response.raw = _Raw(data, {"Content-Type": "application/json", **(headers or {})})
    response.headers = requests.structures.CaseInsensitiveDict(response.raw.headers)
    response.reason = str(status)
    return response


class _Raw(io.BytesIO):
    """What azure-core reads of urllib3's response."""

    def __init__(self, data: bytes, headers: dict[str, str]) -> None:
        super().__init__(data)
        self.headers = headers
        self.enforce_content_length = False

    def stream(self, size: int, decode_content: bool = True) -> Any:
        while chunk := self.read(size):
            yield chunk

    def release_conn(self) -> None:
        pass
