"""Livy and the lake at the HTTP edge: batches with ids of the server's, names that needn't be unique, leases on blobs.

A request can be made to crash its sender: before the service has it, or after, when the answer is lost.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import requests
from requests.adapters import HTTPAdapter

import azure_edge
from azure_edge import Answer, Edge

ENDPOINT = "https://ws1.dev.azuresynapse.net"
BATCHES = f"{ENDPOINT}/livyApi/versions/2019-11-01-preview/sparkPools/pool/batches"


class Crash(BaseException):
    """The process is gone."""


class LivyEdge(Edge):
    """One pool's batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[dict[str, Any]] = []
        self.logs: dict[int, list[str]] = {}
        self.leases: dict[str, str] = {}
        self.ends_as: tuple[str, str] = ("success", "Succeeded")
        self.polls_until_end = 0
        self.requests = 0
        #: (number of the request, whether the service has it), once.
        self.crash: tuple[int, bool] | None = None
        #: Answers of the next submissions that are carried out all the same.
        self.lost_answers: list[int] = []
        #: Called when a submission has arrived and isn't carried out yet.
        self.during_post: Any = None
        self.error_info: list[dict[str, str]] | None = None

    def send(self, request: requests.PreparedRequest) -> requests.Response:
        self.requests += 1
        number, crash = self.requests, self.crash
        if crash == (number, False):
            self.crash = None
            raise Crash
        answer = self._answer(request)
        if crash == (number, True):
            self.crash = None
            raise Crash
        return answer

    def _answer(self, request: requests.PreparedRequest) -> requests.Response:
        url = urlsplit(str(request.url))
        plain = f"{url.scheme}://{url.netloc}{url.path}"
        if not plain.startswith(BATCHES):
            return super().send(request)
        self.asked.append((str(request.method), plain, azure_edge._json(request.body)))
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        return azure_edge._response(request, *self._livy(request, plain.removeprefix(BATCHES).strip("/"), query))

    def _livy(self, request: requests.PreparedRequest, rest: str, query: dict[str, str]) -> Answer:
        if request.method == "POST":
            body = json.loads(request.body or b"{}")
            id = len(self.batches)
            if self.during_post is not None:
                call, self.during_post = self.during_post, None
                call()
            made = {"id": id, "state": "not_started", "result": "Uncertain", "appId": None, "polls": 0, "asked": body}
            self.batches.append({**made, "name": body["name"], "tags": body["tags"], "errorInfo": self.error_info})
            if self.lost_answers:
                return self.lost_answers.pop(0), {"code": "Gone", "message": "the answer is lost"}
            return 200, self.batches[id]
        if not rest:
            begin, size = int(query.get("from", 0)), min(int(query.get("size", 20)), 20)
            return 200, {"from": begin, "total": len(self.batches), "sessions": self.batches[begin : begin + size]}
        id, _, what = rest.partition("/")
        if int(id) >= len(self.batches):
            return 404, {"code": "NotFound", "message": f"no batch {id}"}
        batch = self.batches[int(id)]
        if what == "log":
            lines = self.logs.get(int(id), [])
            size = int(query.get("size", 10))
            begin = int(query.get("from", max(0, len(lines) - size)))
            return 200, {"id": int(id), "from": begin, "total": len(lines), "log": lines[begin : begin + size]}
        if request.method == "DELETE":
            batch |= {"state": "dead", "result": "Cancelled"}
            return 200, b""
        if batch["state"] in ("not_started", "running"):
            batch["polls"] += 1
            if batch["polls"] > self.polls_until_end:
                state, result = self.ends_as
                batch |= {"state": state, "result": result, "appId": f"application_1_{int(id):04}"}
            else:
                batch["state"] = "running"
        return 200, batch

    def _storage(self, request: requests.PreparedRequest) -> Answer:
        path = unquote(urlsplit(str(request.url)).path).lstrip("/")
        headers = {name.lower(): value for name, value in request.headers.items()}
        if action := headers.get("x-ms-lease-action"):
            if action == "release":
                self.leases.pop(path, None)
                return 200, b"", {"ETag": '"1"'}
            if path in self.leases:
                return 409, b"", {"x-ms-error-code": "LeaseAlreadyPresent"}
            self.leases[path] = headers["x-ms-proposed-lease-id"]
            return 201, b"", {"ETag": '"1"', "x-ms-lease-id": self.leases[path]}
        if request.method == "PUT" and headers.get("if-none-match") == "*" and path in self.blobs:
            return 409, b"", {"x-ms-error-code": "BlobAlreadyExists"}
        return super()._storage(request)


@pytest.fixture
def livy(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> LivyEdge:
    """Every request of `requests` goes to the returned edge."""
    made = LivyEdge()
    monkeypatch.setattr(HTTPAdapter, "send", lambda adapter, request, **_: made.send(request))
    return made
