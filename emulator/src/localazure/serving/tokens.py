"""Tokens in place of keys: who may score at an endpoint with `aml_token` or `aad_token`.

https://learn.microsoft.com/azure/machine-learning/how-to-authenticate-online-endpoint. The router asks here with a
request's headers, for endpoints with tokens only. A token that was good is remembered until it ends, so that its
signature is verified once.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localazure.core.auth import LIFETIME_SECONDS, Tokens
from localazure.core.errors import Unauthorized

#: The path of the verifier, on the listener that the router reaches; the endpoint's name comes after it.
PATH = "authorize"
# An endpoint's own tokens, which Entra doesn't issue.
_AUDIENCE = "urn:azureml:onlineEndpoint"
_REFRESH_AFTER_SECONDS = LIFETIME_SECONDS * 3 // 4
_MOST_REMEMBERED = 4096


class EndpointTokens:
    """Issues an endpoint's tokens, and judges those that callers send.

    `mode_of` gives an endpoint's authMode and the secret part of its identity, which a new endpoint of the same name
    doesn't share; None if there is no such endpoint.
    """

    def __init__(self, tokens: Tokens, mode_of: Callable[[str], tuple[str, str] | None]) -> None:
        self._tokens = tokens
        self._mode_of = mode_of
        self._good: dict[bytes, float] = {}

    def issue(self, subject: str, endpoint: str) -> dict[str, Any]:
        """A token for one endpoint, as `OnlineEndpoints_GetToken` answers it; times in seconds since 1970."""
        mode = self._mode_of(endpoint)
        assert mode is not None
        now = int(time.time())
        return {
            "accessToken": self._tokens.issue(subject, _AUDIENCE, endpoint=f"{endpoint}/{mode[1]}"),
            "expiryTimeUtc": now + LIFETIME_SECONDS,
            "refreshAfterTimeUtc": now + _REFRESH_AFTER_SECONDS,
            "tokenType": "Bearer",
        }

    async def judge(self, request: Request) -> Response:
        """The verdict on a scoring request: 204, or the 401 that its sender gets."""
        try:
            self._check(request.path_params["endpoint"], request.headers.get("authorization", ""))
        except Unauthorized as error:
            return JSONResponse(error.body(), HTTPStatus.UNAUTHORIZED, error.headers)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    def _check(self, endpoint: str, header: str) -> None:
        """Raise Unauthorized unless the header has a good token."""
        scheme, _, token = header.partition(" ")
        mode = self._mode_of(endpoint)
        if mode is None or scheme.lower() != "bearer" or not token:
            raise Unauthorized("The token is missing. Send it as: Authorization: Bearer <token>", "Unauthorized")
        remembered = hashlib.sha256("\n".join((endpoint, *mode, token)).encode()).digest()
        if self._good.get(remembered, 0.0) > time.time():
            return
        if mode[0] == "AADToken":
            claims = self._tokens.verify(token, "scoring").claims
        else:
            claims = self._tokens.verify(token, "endpoint").claims
            if claims.get("endpoint") != f"{endpoint}/{mode[1]}":
                raise Unauthorized(f"The token isn't one of endpoint '{endpoint}'.", "Unauthorized")
        while len(self._good) >= _MOST_REMEMBERED:
            del self._good[next(iter(self._good))]
        self._good[remembered] = float(claims["exp"])
