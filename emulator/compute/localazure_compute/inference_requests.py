"""What localazure adds to each request of Azure's inference server: the queue's limit, payload logging, whole answers.

A gunicorn configuration (https://docs.gunicorn.org/en/stable/settings.html#post-worker-init). The server's application
is wrapped in each worker; nothing of it is changed. On Azure both are the work of the router and of a sidecar:
https://learn.microsoft.com/azure/machine-learning/reference-yaml-deployment-kubernetes-online (request_settings),
https://learn.microsoft.com/azure/machine-learning/how-to-collect-production-data#perform-payload-logging.

Variables: LOCALAZURE_MAX_QUEUE_WAIT is how many seconds a request may wait for a worker. LOCALAZURE_PAYLOAD is JSON:
`{"collections": {"request": 100, "response": 100}}`, percent of the requests, sent to AZUREML_MDC_HOST and _PORT.
Standard library only: it runs in the deployment's own environment.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import logging
import os
import queue
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

logger = logging.getLogger("azmlinfsrv")

_SCORE = "/score"
_START, _REQUEST_ID = "HTTP_X_REQUEST_START", "HTTP_X_REQUEST_ID"
_LATE = [("Content-Type", "application/json"), ("x-azureml-queue-wait-exceeded", "true")]
_WHOLE = 100  # percent
# Payloads that wait to be sent. More are dropped: an answer never waits for its copy.
_MOST_WAITING = 2000
_SEND_SECONDS = 5.0
_END_SECONDS = 3.0

_sender: Sender | None = None


def post_worker_init(worker: Any) -> None:
    """gunicorn's hook: the worker has loaded the application and is about to serve."""
    global _sender
    answer_as_one()
    if limit := os.environ.get("LOCALAZURE_MAX_QUEUE_WAIT"):
        worker.wsgi = queue_limited(worker.wsgi, float(limit))
    if wanted := os.environ.get("LOCALAZURE_PAYLOAD"):
        _sender = Sender(os.environ["AZUREML_MDC_HOST"], int(os.environ["AZUREML_MDC_PORT"]))
        worker.wsgi = captured(worker.wsgi, json.loads(wanted)["collections"], _sender.put)


def worker_exit(server: Any, worker: Any) -> None:
    """gunicorn's hook: what was collected is sent before the worker ends."""
    if _sender is not None:
        _sender.close()


def queue_limited(application: Application, seconds: float) -> Application:
    """The application, without the requests that waited for a worker for longer than `seconds`: 503, at once.

    The router says in a header when it passed a request on. Waiting for a server that is only being started isn't
    waiting in its queue.
    """
    begun = time.time()

    def limited(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        started = environ.get(_START, "")
        if environ.get("PATH_INFO") == _SCORE and started.isdigit():
            waited = time.time() - max(int(started) / 1000, begun)
            if waited > seconds:
                start_response("503 Service Unavailable", _LATE)
                message = (
                    f"The request waited {waited:.1f} s for an instance, longer than max_queue_wait ({seconds:g} s). "
                    "There are too few instances for that many requests."
                )
                return [json.dumps({"error": {"code": "ServiceUnavailable", "message": message}}).encode()]
        return application(environ, start_response)

    return limited


def captured(application: Application, collections: dict[str, int], put: Callable[[Environ], None]) -> Application:
    """The application, with copies of requests and responses given to `put`. A pair is sampled as one."""

    def capturing(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        drawn = random.random() * _WHOLE
        wanted = {name for name, percent in collections.items() if drawn < percent}
        if environ.get("PATH_INFO") != _SCORE or not wanted:
            return application(environ, start_response)
        identifier = environ.setdefault(_REQUEST_ID, str(uuid.uuid4()))
        common = {"time": time.time(), "request": identifier}
        if "request" in wanted:
            # A sync worker is given bodies with a length; the server's own limit of them is none.
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(body)
            query = environ.get("QUERY_STRING")
            put(
                common
                | {
                    "name": "request",
                    "body": body,
                    "content_type": environ.get("CONTENT_TYPE") or "application/json",
                    "path": _SCORE + (f"?{query}" if query else ""),
                    "method": environ["REQUEST_METHOD"],
                }
            )
        if "response" not in wanted:
            return application(environ, start_response)
        told: dict[str, str] = {}

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            told.update({name.lower(): value for name, value in headers})
            return start_response(status, headers, *error)

        answered = application(environ, start)
        try:
            parts = list(answered)
        finally:
            if close := getattr(answered, "close", None):
                close()
        content = told.get("content-type", "application/json")
        put(common | {"time": time.time(), "name": "response", "body": b"".join(parts), "content_type": content})
        return parts

    return capturing


class Answer:
    """A connection that sends an answer's head together with the first of its body.

    gunicorn sends them one after the other: a server that is killed in between leaves half an answer, which the router
    can neither pass on nor ask for again.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._head: bytes | None = None
        self._begun = False

    def sendall(self, data: bytes) -> None:
        """Hold the first part, send the others."""
        if not self._begun:
            self._begun, self._head = True, data
            return
        self._connection.sendall((self._head or b"") + data)
        self._head = None

    def flush(self) -> None:
        """Send a head that nothing followed."""
        if self._head:
            self._connection.sendall(self._head)
            self._head = None

    def __getattr__(self, name: str) -> Any:
        # Anything else that is done with the connection (sending a file) comes after the head.
        self.flush()
        return getattr(self._connection, name)


def answer_as_one() -> None:
    """Let gunicorn's responses be sent by `Answer`."""
    from gunicorn.http.wsgi import Response

    begin, close = Response.__init__, Response.close

    def begun(self: Any, request: Any, connection: Any, configuration: Any) -> None:
        begin(self, request, Answer(connection), configuration)

    def closed(self: Any) -> None:
        close(self)
        self.sock.flush()

    Response.__init__, Response.close = begun, closed


class Sender:
    """Sends payloads in a thread of its own, on one connection."""

    def __init__(self, host: str, port: int) -> None:
        # `user:password@address`, the form that Microsoft's package takes.
        credentials, _, self._address = host.rpartition("@")
        self._port = port
        self._basic = "Basic " + base64.b64encode(credentials.encode()).decode()
        self._waiting: queue.Queue[Environ | None] = queue.Queue(_MOST_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="payload logging", daemon=True)
        self._thread.start()

    def put(self, payload: Environ) -> None:
        """Take a payload. Returns at once; one too many is dropped and counted in the log."""
        try:
            self._waiting.put_nowait(payload)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Send what is held, within a moment."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_END_SECONDS)
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while (payload := self._waiting.get()) is not None:
            for _ in range(2):  # a connection that was kept may have been closed meanwhile
                try:
                    connection = connection or http.client.HTTPConnection(
                        self._address, self._port, timeout=_SEND_SECONDS
                    )
                    connection.request("POST", "/modeldata/log", payload["body"], self._headers(payload))
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status >= http.HTTPStatus.BAD_REQUEST:
                        logger.warning("payload logging: the collector answered %d", answer.status)
                    break
                except (OSError, http.client.HTTPException) as error:
                    failure = error
                    if connection is not None:
                        connection.close()
                    connection = None
            else:
                logger.warning("payload logging: the collector can't be reached: %s", failure)
            if self._dropped:
                logger.warning("payload logging: %d payloads were dropped", self._dropped)
                self._dropped = 0

    def _headers(self, payload: Environ) -> dict[str, str]:
        headers = {
            "Authorization": self._basic,
            "Content-Type": payload["content_type"],
            "trace-id": str(uuid.uuid4()),
            "ce-type": f"azureml.inference.{payload['name']}",
            "ce-time": str(payload["time"]),
            "ce-x-request-id": payload["request"],
        }
        if payload["name"] == "request":
            headers |= {"ce-path": payload["path"], "ce-method": payload["method"]}
        return headers
