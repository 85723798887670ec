"""What localazure adds to a request inside the inference server."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from localazure_compute import inference_requests
from localazure_compute.inference_requests import Answer, Environ


def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/json"), ("x-request-id", environ["HTTP_X_REQUEST_ID"])])
    return [b'{"got": ', body, b"}"]


def call(app: inference_requests.Application, body: bytes = b"[1]", path: str = "/score", **more: str) -> Any:
    told: list[str] = []
    environ: Environ = {
        "PATH_INFO": path,
        "QUERY_STRING": "a=b",
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "HTTP_X_REQUEST_ID": "me",
        **more,
    }
    answer = b"".join(app(environ, lambda status, headers, *_: told.append(status)))
    return told[0], answer


def test_a_pair_is_captured_with_one_id() -> None:
    seen: list[Environ] = []
    app = inference_requests.captured(application, {"request": 100, "response": 100}, seen.append)
    assert call(app) == ("200 OK", b'{"got": [1]}')
    request, response = seen
    assert (request["body"], request["path"], request["method"]) == (b"[1]", "/score?a=b", "POST")
    assert (response["body"], response["content_type"]) == (b'{"got": [1]}', "application/json")
    assert request["request"] == response["request"] == "me"
    # Probes aren't payload.
    call(app, path="/")
    assert len(seen) == 2


def test_a_pair_is_sampled_as_one() -> None:
    seen: list[Environ] = []
    app = inference_requests.captured(application, {"request": 30, "response": 30}, seen.append)
    for _ in range(400):
        call(app)
    names = [each["name"] for each in seen]
    assert names == ["request", "response"] * (len(seen) // 2)
    assert 70 < len(seen) // 2 < 180


def test_who_waited_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    app = inference_requests.queue_limited(application, 0.5)
    arrived = str(int(time.time() * 1000))
    assert call(app, HTTP_X_REQUEST_START=arrived)[0] == "200 OK"
    assert call(app, HTTP_X_REQUEST_START="no number")[0] == "200 OK"
    # The server's start isn't a queue.
    assert call(app, HTTP_X_REQUEST_START=str(int(arrived) - 60_000))[0] == "200 OK"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1)
    status, body = call(app, HTTP_X_REQUEST_START=arrived)
    assert status == "503 Service Unavailable"
    assert "waited 1.0 s for an instance, longer than max_queue_wait (0.5 s)" in json.loads(body)["error"]["message"]
    assert call(app, path="/", HTTP_X_REQUEST_START=arrived)[0] == "200 OK"


class Connection:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.sent.append(data)

    def fileno(self) -> int:
        return 7


def test_an_answer_leaves_in_one_piece() -> None:
    whole, bare, file = Connection(), Connection(), Connection()
    answer = Answer(whole)
    answer.sendall(b"head")
    assert whole.sent == []
    answer.sendall(b"body")
    answer.sendall(b"more")
    answer.flush()
    assert whole.sent == [b"headbody", b"more"]
    # No body, or one that is sent by other means.
    answer = Answer(bare)
    answer.sendall(b"head")
    answer.flush()
    answer.flush()
    assert bare.sent == [b"head"]
    answer = Answer(file)
    answer.sendall(b"head")
    assert answer.fileno() == 7
    assert file.sent == [b"head"]
