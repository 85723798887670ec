"""An online endpoint over HTTPS: Entra's tokens, Resource Manager's resources, blobs, and scoring.

What it is told, it does at once; every traffic map it is given is kept.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAME = "flights"
KEY = "the-key"

#: Rows in, (status, body) out.
Behaviour = Callable[[list[dict[str, Any]]], tuple[int, Any]]


def late_after(hour: int, delay: float = 0.0) -> Behaviour:
    """A model that says late from `hour` on."""

    def answer(rows: list[dict[str, Any]]) -> tuple[int, Any]:
        time.sleep(delay)
        return 200, {"predictions": [{"probability": 0.5, "late": row["hour"] >= hour} for row in rows]}

    return answer


def broken(status: int = 502, body: Any = "run() raised") -> Behaviour:
    """A model that answers every request the same."""
    return lambda rows: (status, body)


class FakeEndpoint:
    """The server. `models` are the deployments' behaviours; `deployments` their resources."""

    def __init__(self, folder: Path) -> None:
        self.models: dict[str, Behaviour] = {}
        self.deployments: dict[str, dict[str, Any]] = {}
        self.traffic: dict[str, int] = {}
        self.exists = True
        self.writes: list[dict[str, int]] = []
        self.fail_writes = 0  # so many writes are answered by 503
        self.conflicts = 0  # so many writes are answered by 409
        self.on_score: Callable[[int], None] = lambda count: None
        self.scored: list[str] = []
        #: The ids of the requests, as a data collector would keep them.
        self.ids: set[str] = set()
        self.unsigned = False  # leave out the header that names who answered
        #: Of the container lake by name, of others by container/name.
        self.blobs: dict[str, bytes] = {}
        #: Metric -> (status, body) for its query's filter; without it there are no metrics.
        self.metrics: Callable[[str, str], tuple[int, Any]] | None = None
        self._wheel: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.certificate = _certificate(folder)
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # headers and body are two writes

            def _do(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                content = self.rfile.read(length)
                status, body, headers = fake.answer(self.command, self.path, dict(self.headers), content)
                payload = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(payload)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _do

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://localhost:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, name: str, model: Behaviour, *, tags: dict[str, str] | None = None, state: str = "Succeeded") -> None:
        """A deployment, newer than those before."""
        self.models[name] = model
        born = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(days=len(self.deployments))
        self.deployments[name] = {
            "name": name,
            "tags": {"azflow.name": "x"} if tags is None else tags,
            "systemData": {"createdAt": born.isoformat()},
            "properties": {"provisioningState": state, "model": f"model-of-{name}"},
        }

    # -- HTTP --------------------------------------------------------------------------------------------------------

    def answer(
        self, method: str, target: str, headers: dict[str, str], content: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        path = unquote(urlsplit(target).path)
        query = parse_qs(urlsplit(target).query)
        if path.endswith("openid-configuration"):
            root = f"{self.url}/tenant"
            return 200, {
                "issuer": root,
                "authorization_endpoint": f"{root}/authorize",
                "token_endpoint": f"{root}/token",
                "jwks_uri": f"{root}/keys",
            }, {}  # fmt: skip
        if path.endswith("/token"):
            return 200, {"access_token": "a-token", "token_type": "Bearer", "expires_in": 3600}, {}
        if path == "/score":
            return self._score(headers, json.loads(content))
        if path.startswith("/account"):
            return self._blob(method, path, query, headers)
        if headers.get("Authorization") != "Bearer a-token":
            return 401, {"error": {"code": "AuthenticationFailed", "message": "no"}}, {}
        if path.endswith("/datastores/workspaceblobstore"):
            return 200, {"properties": {"accountName": "account", "containerName": "azureml"}}, {}
        if path.endswith(f"/onlineEndpoints/{NAME}/providers/microsoft.insights/metrics"):
            if self.metrics is None:
                return 404, {"error": {"code": "ResourceNotFound", "message": "no metrics here"}}, {}
            return *self.metrics(query["metricnames"][0], query["$filter"][0]), {}
        return self._resource(method, path, content)

    def _resource(self, method: str, path: str, content: bytes) -> tuple[int, Any, dict[str, str]]:
        found = re.fullmatch(rf".*/onlineEndpoints/{NAME}(/deployments(?:/([^/]+))?)?(/getLogs|/listKeys)?", path)
        if not found or not self.exists:
            return 404, {"error": {"code": "ResourceNotFound", "message": path}}, {}
        if found[3] == "/listKeys":
            return 200, {"primaryKey": KEY, "secondaryKey": "s"}, {}
        if found[3] == "/getLogs":
            return 200, {"content": "line one\nValueError: last line\n"}, {}
        if found[2]:
            return self._deployment(method, found[2])
        if found[1]:
            return 200, {"value": list(self.deployments.values())}, {}
        return self._write(json.loads(content)) if method == "PUT" else (200, self._document(), {})

    def _document(self) -> dict[str, Any]:
        properties = {
            "scoringUri": f"{self.url}/score",
            "traffic": dict(self.traffic),
            "mirrorTraffic": {"shadow": 10},
            "authMode": "Key",
        }
        return {"name": NAME, "location": "here", "tags": {"a": "b"}, "properties": properties}

    def _write(self, document: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if self.conflicts:
            self.conflicts -= 1
            return 409, {"error": {"code": "Conflict", "message": "in progress"}}, {}
        if self.fail_writes:
            self.fail_writes -= 1
            return 400, {"error": {"code": "BadRequest", "message": "not now"}}, {}
        expected = self._document()
        traffic = document["properties"].pop("traffic")
        expected["properties"].pop("traffic")
        # Nothing but the traffic may change: neither tags nor the mirror.
        assert document == expected
        self.traffic = traffic
        self.writes.append(traffic)
        return 200, document, {}

    def _deployment(self, method: str, name: str) -> tuple[int, Any, dict[str, str]]:
        if name not in self.deployments:
            return 404, {"error": {"code": "ResourceNotFound", "message": name}}, {}
        if method == "DELETE":
            if self.traffic.get(name):
                return 400, {"error": {"code": "BadRequest", "message": "has traffic"}}, {}
            del self.deployments[name]
            self.traffic.pop(name, None)
            return 200, None, {}
        return 200, self.deployments[name], {}

    def _score(self, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if headers.get("Authorization") != f"Bearer {KEY}":
            return 401, "no", {}
        with self._lock:
            self.scored.append(headers.get("azureml-model-deployment", ""))
            self.ids |= {headers.get("x-request-id", ""), headers.get("x-ms-client-request-id", "")}
            self.on_score(len(self.scored))
            name = headers.get("azureml-model-deployment") or self._next()
        if name not in self.models:
            return 404, "no such deployment", {}
        status, answer = self.models[name](body["data"])
        return status, answer, {} if self.unsigned else {"azureml-model-deployment": name}

    def _next(self) -> str:
        """Whoever lags most behind its share."""
        total = sum(self._wheel.values()) + 1
        behind = {name: share * total / 100 - self._wheel[name] for name, share in self.traffic.items() if share}
        name = max(behind, key=lambda each: behind[each]) if behind else ""
        self._wheel[name] += 1
        return name

    def _blob(
        self, method: str, path: str, query: dict[str, list[str]], headers: dict[str, str]
    ) -> tuple[int, Any, dict[str, str]]:
        container, _, name = path.removeprefix("/account/").partition("/")
        within = "" if container == "lake" else f"{container}/"
        if query.get("comp") == ["list"]:
            prefix = within + query.get("prefix", [""])[0]
            blobs = "".join(
                f"<Blob><Name>{name.removeprefix(within)}</Name><Properties><BlobType>BlockBlob</BlobType><Content-Length>{len(content)}</Content-Length></Properties></Blob>"
                for name, content in self.blobs.items()
                if name.startswith(prefix)
            )
            text = f"<?xml version='1.0'?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>"
            return 200, text.encode(), {"Content-Type": "application/xml"}
        content = self.blobs.get(within + name)
        if content is None:
            return 404, None, {"x-ms-error-code": "BlobNotFound"}
        kind = {"Content-Type": "application/octet-stream", "ETag": '"1"'}
        if method == "HEAD":
            return 200, content, kind | {"x-ms-blob-type": "BlockBlob"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("x-ms-range") or headers.get("Range") or "bytes=0-")
        assert asked is not None
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        return 206, content[first : last + 1], kind | {"Content-Range": f"bytes {first}-{last}/{len(content)}"}


def _certificate(folder: Path) -> Path:
    """A key and a certificate for localhost, signed by itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return file
