"""The model data collector: what is asked, answered and collected becomes JSON lines in the workspace's storage.

A scoring script collects what it wants (custom logging); whole requests and responses are collected without it (payload
logging: the collections `request` and `response`), by `localazure_compute.inference_requests`. On Azure a sidecar
beside the container takes the events of Microsoft's package `azureml-ai-monitoring` over HTTP, `POST /modeldata/log`
with a `ce-` header for every attribute, and writes them as CloudEvents:
https://learn.microsoft.com/azure/machine-learning/how-to-collect-production-data#collected-data. Here one listener on
the loopback interface serves all deployments. Each has a password of its own, which stands in the host that the
package is told (`AZUREML_MDC_HOST`), so that nobody else can write into a deployment's data.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import json
import logging
import secrets
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from localazure.core.errors import AzureError, BadRequest
from localazure.settings import Settings
from localazure.storage.blobs import BlobStore
from localazure.storage.locations import Location

log = logging.getLogger(__name__)

_CONTAINER, _FOLDER = "azureml", "modelDataCollector"
# What a window's files are called: https://learn.microsoft.com/azure/machine-learning/reference-yaml-deployment-kubernetes-online
_ROLLING = {
    "year": "%Y",
    "month": "%Y/%m",
    "day": "%Y/%m/%d",
    "hour": "%Y/%m/%d/%H",
    "minute": "%Y/%m/%d/%H/%M",
}
#: Collections of whole requests and responses, which aren't the scoring script's.
PAYLOAD = frozenset({"request", "response"})
_WHOLE = 100  # percent
# A payload above this, or one that isn't JSON, becomes a file of its own that the line names.
_MOST_EVENT_BYTES = 4 * 1024 * 1024
_MOST_PAYLOAD_BYTES = 48 * 1024 * 1024
# Events that can't be written for so long that they reach this are dropped, and counted in the log.
_MOST_WAITING_BYTES = 64 * 1024 * 1024
_FLUSH_SECONDS = 1.0
_MOST_COUNTED = 20_000


@dataclass(frozen=True)
class Collection:
    """One collection of a deployment. `data` is the id of its data asset, empty for the default place."""

    name: str
    percent: int
    data: str = ""


@dataclass(frozen=True)
class Collected:
    """What a deployment collects, and how its files roll over (a strftime pattern)."""

    collections: tuple[Collection, ...]
    rolling: str = _ROLLING["hour"]

    @classmethod
    def parse(cls, given: Mapping[str, Any] | None) -> Collected | None:
        """A deployment's `dataCollector`; None if nothing is to be collected. Raises BadRequest."""
        if not given:
            return None
        found = []
        for name, entry in (given.get("collections") or {}).items():
            if str(entry.get("dataCollectionMode", "")).lower() != "enabled":
                continue
            rate = entry.get("samplingRate")
            rate = 1.0 if rate is None else rate
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
                raise BadRequest(f"samplingRate of collection '{name}' must lie between 0 and 1.", "dataCollector")
            found.append(Collection(name.lower(), round(rate * _WHOLE), str(entry.get("dataId") or "")))
        rolling = str(given.get("rollingRate") or "hour").lower()
        if rolling not in _ROLLING:
            raise BadRequest(f"rollingRate must be one of {', '.join(_ROLLING)}, not '{rolling}'.", "dataCollector")
        return cls(tuple(found), _ROLLING[rolling]) if found else None


class Places(Protocol):
    """What is needed of the workspace's assets."""

    def location(self, reference: str) -> Location: ...


@dataclass
class _Source:
    """A deployment that may write."""

    password: str = field(repr=False)
    deployment: str  # endpoint/deployment
    id: str
    instance: str
    rolling: str
    folders: Mapping[str, Location]


class DataCollector:
    """The listener, and what it holds until the next write."""

    def __init__(self, settings: Settings, blobs: BlobStore, places: Places) -> None:
        self._settings = settings
        self._blobs = blobs
        self._places = places
        self._sources: dict[str, _Source] = {}
        self._waiting: dict[Location, list[bytes]] = {}
        self._files: dict[Location, tuple[bytes, str]] = {}
        self._waiting_bytes = 0
        self._dropped = 0
        #: How many events there were: (minutes since 1970, endpoint/deployment, collection, whether dropped) -> number.
        self.counted: Counter[tuple[int, str, str, bool]] = Counter()
        self._server: _Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # Deployments.

    def environment(
        self, deployment: str, identifier: str, collected: Collected | None, folder: Path
    ) -> dict[str, str]:
        """The variables that make `azureml-ai-monitoring` send here; none if nothing is collected.

        `deployment` is `endpoint/deployment`, `folder` its version's folder, which the package's configuration is
        written to. Raises AzureError if a collection's data asset isn't there. Blocks.
        """
        if collected is None:
            self._sources.pop(deployment, None)
            return {}
        known = self._sources.get(deployment)
        self._sources[deployment] = source = _Source(
            password=known.password if known else secrets.token_urlsafe(24),
            deployment=deployment,
            id=identifier,
            instance=folder.name,
            rolling=collected.rolling,
            folders={each.name: self._folder(deployment, each) for each in collected.collections},
        )
        payload = {each.name: each.percent for each in collected.collections if each.name in PAYLOAD}
        configuration = {
            "runMode": "cloud",
            "collections": {
                each.name: {"enabled": True, "sampleRatePercentage": each.percent}
                for each in collected.collections
                if each.name not in PAYLOAD
            },
        }
        file = folder / "mdc-config.json"
        file.write_text(json.dumps(configuration))
        variables = {
            "AZUREML_MDC_CONFIG_PATH": str(file),
            "AZUREML_MDC_HOST": f"{deployment.replace('/', '.')}:{source.password}@127.0.0.1",
            "AZUREML_MDC_PORT": str(self._settings.data_collector_port),
        }
        return variables | ({"LOCALAZURE_PAYLOAD": json.dumps({"collections": payload})} if payload else {})

    def forget(self, deployment: str) -> None:
        """A deployment is deleted: what it sends is refused from now on."""
        self._sources.pop(deployment, None)

    def _folder(self, deployment: str, collection: Collection) -> Location:
        if collection.data:
            return self._places.location(collection.data)
        return Location(_CONTAINER, f"{_FOLDER}/{deployment}/{collection.name}")

    # Life.

    async def start(self, *more: Route) -> None:
        """Listen, for `more` than events as well. Raises OSError if the port is taken."""
        application = Starlette(routes=[Route("/modeldata/log", self._take, methods=["POST"]), *more])
        configuration = uvicorn.Config(
            application, host="127.0.0.1", port=self._settings.data_collector_port, log_config=None, access_log=False,
            lifespan="off", server_header=False,
        )  # fmt: skip
        self._server = _Server(configuration)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._server.serve()), loop.create_task(self._keep_flushing())]

    async def stop(self) -> None:
        """Stop listening and write what is held."""
        if self._server is not None:
            self._server.should_exit = True
            with contextlib.suppress(asyncio.CancelledError, SystemExit):
                await self._tasks[0]
            self._tasks[1].cancel()
            await self.flush()

    async def flush(self) -> None:
        """Write what is held. What can't be written is held on to."""
        waiting, self._waiting = self._waiting, {}
        whole, self._files = self._files, {}
        self._waiting_bytes = 0
        # Files first: a line never names one that isn't there yet.
        for place, (content, kind) in whole.items():
            try:
                await asyncio.to_thread(self._blobs.write, place.container, place.path, content, kind)
            except (AzureError, OSError) as error:
                log.warning("a collected payload can't be written to %s: %s", place, error)
                self._files[place] = (content, kind)
                self._waiting_bytes += len(content)
        for place, lines in waiting.items():
            try:
                await asyncio.to_thread(self._blobs.append, place.container, place.path, b"".join(lines))
            except (AzureError, OSError) as error:
                log.warning("collected data can't be written to %s: %s", place, error)
                self._hold(place, lines)
        if self._dropped:
            log.warning("%d collected events were dropped: storage took nothing for too long", self._dropped)
            self._dropped = 0

    async def _keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            await self.flush()

    # Events.

    async def _take(self, request: Request) -> Response:
        """One event. The sender goes on at once; it is written within seconds."""
        source = self._authorised(request)
        if source is None:
            return PlainTextResponse("unknown deployment or password", HTTPStatus.UNAUTHORIZED)
        collection = request.headers.get("ce-type", "").rpartition(".")[2].lower()
        folder = source.folders.get(collection)
        if folder is None:
            known = ", ".join(source.folders)
            return PlainTextResponse(f"'{collection}' is no collection; there are {known}", HTTPStatus.BAD_REQUEST)
        most = _MOST_PAYLOAD_BYTES if collection in PAYLOAD else _MOST_EVENT_BYTES
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > most:
                self._count(source, collection, dropped=True)
                message = f"the event is larger than {most // (1024 * 1024)} MB"
                return PlainTextResponse(message, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            time = _time(request.headers)
            window = folder.join(time.strftime(source.rolling))
            if collection in PAYLOAD:
                line = self._payload(request.headers, bytes(body), source.id, window)
            else:
                line, _ = event(request.headers, bytes(body), source.id)
        except ValueError as error:
            self._count(source, collection, dropped=True)
            return PlainTextResponse(f"the event can't be read: {error}", HTTPStatus.BAD_REQUEST)
        self._count(source, collection)
        self._hold(window.join(f"{source.instance}.jsonl"), [line])
        return PlainTextResponse("accepted", HTTPStatus.ACCEPTED)

    def _payload(self, headers: Mapping[str, str], body: bytes, source: str, window: Location) -> bytes:
        """A request or response as a line. One that is large or no JSON is held as a file, which the line names."""
        line = payload(headers, body, source)
        if line is None:
            identifier = headers.get("trace-id") or str(uuid.uuid4())
            place = window.join(identifier)
            url = f"{self._settings.blob_url}/{place.container}/{place.path}"
            line = payload({**headers, "trace-id": identifier}, body, source, url)
            assert line is not None
            if self._waiting_bytes + len(body) <= _MOST_WAITING_BYTES:
                self._files[place] = (body, headers.get("content-type", "application/octet-stream"))
                self._waiting_bytes += len(body)
            else:
                self._dropped += 1
        return line

    def _count(self, source: _Source, collection: str, *, dropped: bool = False) -> None:
        self.counted[(int(datetime.now(UTC).timestamp()) // 60, source.deployment, collection, dropped)] += 1
        while len(self.counted) > _MOST_COUNTED:
            del self.counted[next(iter(self.counted))]

    def _authorised(self, request: Request) -> _Source | None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        try:
            user, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        source = self._sources.get(user.replace(".", "/"))
        good = scheme.lower() == "basic" and source is not None and hmac.compare_digest(source.password, password)
        return source if good else None

    def _hold(self, place: Location, lines: list[bytes]) -> None:
        size = sum(len(line) for line in lines)
        if self._waiting_bytes + size > _MOST_WAITING_BYTES:
            self._dropped += len(lines)
            return
        self._waiting.setdefault(place, []).extend(lines)
        self._waiting_bytes += size


def event(headers: Mapping[str, str], body: bytes, source: str) -> tuple[bytes, datetime]:
    """A collected event as a line of its file, and when it was collected.

    https://learn.microsoft.com/azure/machine-learning/how-to-collect-production-data#collected-data. Raises ValueError
    if the body is no JSON or the time no number.
    """
    time = _time(headers)
    identifier = headers.get("ce-x-request-id") or headers.get("trace-id") or str(uuid.uuid4())
    written = {
        "specversion": "1.0",
        "id": headers.get("trace-id") or str(uuid.uuid4()),
        "source": source,
        "type": headers.get("ce-type", ""),
        "datacontenttype": headers.get("content-type", "application/json"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": json.loads(body),
        "correlationid": identifier,
        "xrequestid": identifier,
        "modelversion": headers.get("ce-model-version", "default"),
        "collectdatatype": headers.get("ce-collect-data-type", ""),
        "agent": headers.get("ce-agent", ""),
        "contentrange": f"bytes 0-{max(len(body) - 1, 0)}/{len(body)}",
    }
    return json.dumps(written, separators=(",", ":")).encode() + b"\n", time


def payload(headers: Mapping[str, str], body: bytes, source: str, url: str = "") -> bytes | None:
    """A whole request or response as a line of its file; None if it is too large for one or no JSON, and has no `url`.

    https://learn.microsoft.com/azure/machine-learning/how-to-collect-production-data#perform-payload-logging
    """
    data: Any = url
    if not url:
        if len(body) > _MOST_EVENT_BYTES:
            return None
        try:
            data = json.loads(body)
        except ValueError:
            return None
    identifier = headers.get("ce-x-request-id") or str(uuid.uuid4())
    written = {
        "specversion": "1.0",
        "id": headers.get("trace-id") or str(uuid.uuid4()),
        "source": source,
        "type": headers.get("ce-type", ""),
        "datacontenttype": headers.get("content-type", "application/json"),
        "time": _time(headers).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": data,
        **{name: headers[f"ce-{name}"] for name in ("path", "method") if headers.get(f"ce-{name}")},
        "contentrange": f"bytes 0-{max(len(body) - 1, 0)}/{len(body)}",
        "correlationid": identifier,
        "xrequestid": identifier,
        **({"datainblob": "true"} if url else {}),
    }
    return json.dumps(written, separators=(",", ":")).encode() + b"\n"


def _time(headers: Mapping[str, str]) -> datetime:
    """When an event was collected. Raises ValueError."""
    seconds = headers.get("ce-time")
    return datetime.fromtimestamp(float(seconds), UTC) if seconds else datetime.now(UTC)


class _Server(uvicorn.Server):
    """A server inside of another one's process: signals are the other one's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing is captured."""
        yield
