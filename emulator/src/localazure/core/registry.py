"""The operations localazure claims, and the web application that answers exactly those.

An operation carries the name that Microsoft's OpenAPI files give it (`Jobs_CreateOrUpdate`). Whatever isn't registered
is refused by name with 501: nothing is answered that isn't implemented. The order of a request's steps is fixed: find
the operation, bound the body, read the token, handle, serialise.
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from localazure.core.auth import ANONYMOUS, Identity, Tokens
from localazure.core.errors import AzureError, BadRequest, NotImplementedOperation, Unauthorized

log = logging.getLogger(__name__)

BODY_LIMIT = 64 * 1024 * 1024

Answer = Response | dict[str, Any] | tuple[int, Any]
Handler = Callable[[Request, Identity], Awaitable[Answer]]
Lifespan = Callable[[], AbstractAsyncContextManager[None]]

_SEGMENT = re.compile(r"\{(\w+)(:path)?\}")


@dataclass(frozen=True)
class Operation:
    """One operation of a service.

    `path` has `{name}` for a segment and, in the last place only, `{name:path}` for the rest (which may be empty).
    Fixed segments match in any case, as on Azure. `handler` answers with a Response, a dict (200), or (status, JSON
    value). `audience` is the group of the token that is needed (`Tokens.verify`), None for a public operation. Bodies
    above `body_limit` bytes are refused with 413; None lifts the limit (for handlers that stream).
    """

    name: str
    method: str
    path: str
    handler: Handler
    audience: str | None
    body_limit: int | None = BODY_LIMIT

    def pattern(self) -> re.Pattern[str]:
        """The regular expression of the path, over the still encoded path."""
        parts = []
        segments = self.path.strip("/").split("/")
        for index, segment in enumerate(segments):
            parameter = _SEGMENT.fullmatch(segment)
            if parameter and parameter[2]:
                if index != len(segments) - 1:
                    raise ValueError(f"{self.name}: {segment} must stand last in {self.path}")
                parts.append(f"(?:/(?P<{parameter[1]}>.*))?")
            elif parameter:
                parts.append(f"/(?P<{parameter[1]}>[^/]+)")
            elif "{" in segment:
                # `runs({id})` and the like: a parameter inside a segment.
                literal = _SEGMENT.split(segment)
                fixed = [f"(?i:{re.escape(text)})" for text in literal[0::3]]
                names = [f"(?P<{name}>[^/]+?)" for name in literal[1::3]]
                parts.append("/" + "".join(a + b for a, b in zip(fixed, [*names, ""], strict=True)))
            else:
                parts.append(f"/(?i:{re.escape(segment)})")
        return re.compile("".join(parts) + "/?")

    def specificity(self) -> tuple[int, ...]:
        """Fixed segments win over parameters, those over a rest; compared from the left."""
        return tuple(
            0 if "{" not in segment else 2 if segment.endswith(":path}") else 1
            for segment in self.path.strip("/").split("/")
        )


class Api:
    """An ASGI application of operations."""

    def __init__(self, operations: Iterable[Operation], tokens: Tokens, lifespan: Lifespan | None = None) -> None:
        self._tokens = tokens
        self._lifespan = lifespan
        self._routes: dict[str, list[tuple[re.Pattern[str], Operation]]] = {}
        claimed: dict[tuple[str, str], str] = {}
        for operation in sorted(operations, key=Operation.specificity):
            if operation.audience is not None and operation.audience not in tokens.groups():
                raise ValueError(f"{operation.name}: unknown audience {operation.audience!r}")
            address = (operation.method.upper(), _SEGMENT.sub("{}", operation.path).lower())
            if address in claimed:
                raise ValueError(f"{operation.name} and {claimed[address]} both claim {' '.join(address)}")
            claimed[address] = operation.name
            self._routes.setdefault(operation.method.upper(), []).append((operation.pattern(), operation))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point (https://asgi.readthedocs.io/en/latest/specs/main.html)."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            response = await self._answer(scope, receive)
            await response(scope, receive, send)
        else:
            # No service of localazure speaks WebSocket.
            await send({"type": "websocket.close", "code": 1008})

    def find(self, method: str, path: str) -> tuple[Operation, dict[str, str]]:
        """The operation behind a request line, and its parameters. Raises NotImplementedOperation.

        `path` is still percent-encoded: %2F inside a name must not end the segment.
        """
        # Clients that join an endpoint ending in "/" with a path beginning with "/" send two.
        path = "/" + path.lstrip("/")
        # HTTP: HEAD is GET without the body (RFC 9110, 9.3.2); the server drops it.
        for wanted in (method, "GET") if method == "HEAD" else (method,):
            for pattern, operation in self._routes.get(wanted, ()):
                if match := pattern.fullmatch(path):
                    return operation, {name: unquote(value or "") for name, value in match.groupdict().items()}
        raise NotImplementedOperation(f"{method} {unquote(path)}")

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        request_id = str(uuid.uuid4())
        try:
            raw_path = scope.get("raw_path") or scope["path"].encode()
            operation, parameters = self.find(scope["method"], raw_path.decode("latin-1").partition("?")[0])
            request = ApiRequest({**scope, "path_params": parameters}, receive, operation.body_limit)
            response = _response(await operation.handler(request, self._identity(request, operation)))
        except AzureError as error:
            if error.status == HTTPStatus.NOT_IMPLEMENTED:
                log.warning("%s", error.message)
            response = JSONResponse(error.body(), error.status, error.headers)
        except ClientDisconnect:
            response = Response(status_code=HTTPStatus.BAD_REQUEST)
        except Exception:
            log.exception("request %s: %s %s failed", request_id, scope["method"], scope["path"])
            message = f"localazure failed; its log has the cause under request {request_id}"
            response = JSONResponse({"error": {"code": "InternalServerError", "message": message}}, 500)
        # https://learn.microsoft.com/azure/azure-resource-manager/management/request-limits-and-throttling
        response.headers.setdefault("x-ms-request-id", request_id)
        return response

    def _identity(self, request: Request, operation: Operation) -> Identity:
        if operation.audience is None:
            return ANONYMOUS
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized(
                "Authentication failed. The 'Authorization' header is missing or isn't a bearer token.",
                headers=self._tokens.challenge(),
            )
        return self._tokens.verify(token.strip(), operation.audience)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        started = False
        try:
            if self._lifespan is None:
                await send({"type": "lifespan.startup.complete"})
                await receive()
            else:
                async with self._lifespan():
                    started = True
                    await send({"type": "lifespan.startup.complete"})
                    await receive()
        except Exception as error:
            log.exception("the API could not %s", "stop" if started else "start")
            phase = "shutdown" if started else "startup"
            await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})


class ApiRequest(Request):
    """Starlette's request, with a bounded body and JSON errors that are the client's."""

    def __init__(self, scope: Scope, receive: Receive, limit: int | None) -> None:
        super().__init__(scope, receive)
        self._limit = limit
        length = self.headers.get("content-length", "")
        if limit is not None and length.isdigit() and int(length) > limit:
            raise _too_large(limit)

    async def stream(self) -> AsyncIterator[bytes]:  # type: ignore[override]
        """The body in pieces. Raises AzureError 413 when it gets too large."""
        size = 0
        async for chunk in super().stream():
            size += len(chunk)
            if self._limit is not None and size > self._limit:
                raise _too_large(self._limit)
            yield chunk

    async def json(self) -> Any:
        """The body's JSON value. Raises BadRequest if it isn't JSON."""
        try:
            return json.loads(await self.body())
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"The request's body isn't valid JSON: {error}", code="InvalidRequestContent") from None


def _response(answer: Answer) -> Response:
    if isinstance(answer, Response):
        return answer
    if isinstance(answer, tuple):
        status, content = answer
        return Response(status_code=status) if content is None else JSONResponse(content, status)
    return JSONResponse(answer)


def _too_large(limit: int) -> AzureError:
    return AzureError(413, "RequestEntityTooLarge", f"The request's body is larger than {limit} bytes.")
