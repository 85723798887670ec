"""The OAuth 2.0 client credentials flow as Microsoft Entra answers it.

- metadata: https://learn.microsoft.com/entra/identity-platform/v2-protocols-oidc
- v2.0 token endpoint: https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
- v1 token endpoint (`resource` instead of `scope`), which the SQL drivers use for a service principal's own log-in:
  https://learn.microsoft.com/previous-versions/azure/active-directory/azuread-dev/v1-oauth2-client-creds-grant-flow
- errors: https://learn.microsoft.com/entra/identity-platform/reference-error-codes

Clients turn Microsoft's instance discovery off (`disable_instance_discovery=True`), because no public directory of
authorities lists this one.
"""

from __future__ import annotations

import datetime
import hmac
import json
import logging
import uuid
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localazure.core.auth import LIFETIME_SECONDS, Identity, Tokens
from localazure.core.errors import BadRequest
from localazure.core.registry import Operation
from localazure.identity.machine import MachineIdentity
from localazure.settings import Settings

log = logging.getLogger(__name__)

_FORM_LIMIT = 64 * 1024
_NO_STORE = {"Cache-Control": "no-store, no-cache", "Pragma": "no-cache"}


class _Refused(Exception):
    """A token that isn't given: HTTP status, OAuth's error word, Entra's number and message."""

    def __init__(self, status: int, error: str, number: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.number = number
        self.message = message


class Entra:
    """The tenant's endpoints. Implements `Service`."""

    def __init__(self, settings: Settings, tokens: Tokens) -> None:
        self._settings = settings
        self._tokens = tokens

    def operations(self) -> list[Operation]:
        """Metadata, keys and tokens, in their v1 and v2.0 addresses."""
        metadata = "/.well-known/openid-configuration"
        return [
            Operation("OpenIdConfiguration_GetV2", "GET", "/{tenant}/v2.0" + metadata, self._metadata_v2, None),
            Operation("OpenIdConfiguration_Get", "GET", "/{tenant}" + metadata, self._metadata_v1, None),
            Operation("SigningKeys_GetV2", "GET", "/{tenant}/discovery/v2.0/keys", self._keys, None),
            Operation("SigningKeys_Get", "GET", "/{tenant}/discovery/keys", self._keys, None),
            Operation("Token_IssueV2", "POST", "/{tenant}/oauth2/v2.0/token", self._token_v2, None, _FORM_LIMIT),
            Operation("Token_Issue", "POST", "/{tenant}/oauth2/token", self._token_v1, None, _FORM_LIMIT),
            *MachineIdentity(self._settings, self._tokens).operations(),
        ]

    async def start(self) -> None:
        """Nothing runs here."""

    async def stop(self) -> None:
        """Nothing runs here."""

    async def _metadata_v2(self, request: Request, identity: Identity) -> Response:
        return self._metadata(request, "v2.0/")

    async def _metadata_v1(self, request: Request, identity: Identity) -> Response:
        return self._metadata(request, "")

    def _metadata(self, request: Request, version: str) -> Response:
        try:
            self._check_tenant(request)
        except _Refused as refused:
            return self._error(refused)
        base = f"{self._settings.api_url}/{request.path_params['tenant']}"
        return JSONResponse(
            {
                "issuer": self._tokens.issuer,
                "authorization_endpoint": f"{base}/oauth2/{version}authorize",
                "token_endpoint": f"{base}/oauth2/{version}token",
                "jwks_uri": f"{base}/discovery/{version}keys",
                "token_endpoint_auth_methods_supported": ["client_secret_post"],
                "response_types_supported": ["code"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "tenant_region_scope": None,
                "cloud_instance_name": "localhost",
            }
        )

    async def _keys(self, request: Request, identity: Identity) -> Response:
        try:
            self._check_tenant(request)
        except _Refused as refused:
            return self._error(refused)
        return JSONResponse(self._tokens.jwks())

    async def _token_v2(self, request: Request, identity: Identity) -> Response:
        try:
            form = await self._authenticated_form(request)
            # https://resource/.default, where the resource itself may end in a slash.
            scope = _required(form, "scope")
            resource = scope.removesuffix("/.default")
            if resource == scope:
                raise _Refused(
                    400, "invalid_scope", 1002012,
                    f"The provided value for scope {scope} is not valid. Client credential flows must have a scope "
                    "value with /.default suffixed to the resource identifier (application ID URI).",
                )  # fmt: skip
            token = self._issue(resource)
        except _Refused as refused:
            return self._error(refused)
        body: dict[str, Any] = {
            "token_type": "Bearer",
            "expires_in": LIFETIME_SECONDS,
            "ext_expires_in": LIFETIME_SECONDS,
            "access_token": token,
        }
        return _compact(body)

    async def _token_v1(self, request: Request, identity: Identity) -> Response:
        try:
            form = await self._authenticated_form(request)
            resource = _required(form, "resource")
            token = self._issue(resource)
        except _Refused as refused:
            return self._error(refused)
        now = int(datetime.datetime.now(datetime.UTC).timestamp())
        # In v1 numbers are strings.
        body = {
            "token_type": "Bearer",
            "expires_in": str(LIFETIME_SECONDS),
            "ext_expires_in": str(LIFETIME_SECONDS),
            "expires_on": str(now + LIFETIME_SECONDS),
            "not_before": str(now),
            "resource": resource,
            "access_token": token,
        }
        return _compact(body)

    def _issue(self, resource: str) -> str:
        if resource not in self._tokens.audiences():
            raise _Refused(
                400, "invalid_resource", 500011,
                f"The resource principal named {resource} was not found in the tenant named localazure.",
            )  # fmt: skip
        return self._tokens.issue(self._tokens.object_id, resource)

    async def _authenticated_form(self, request: Request) -> dict[str, str]:
        """The request's form, once tenant, application and secret are known to be right."""
        self._check_tenant(request)
        form = await _form(request)
        if (grant := _required(form, "grant_type")) != "client_credentials":
            raise _Refused(
                400, "unsupported_grant_type", 70003,
                f"The app requested an unsupported grant type '{grant}'. localazure implements client_credentials.",
            )  # fmt: skip
        client, secret = _required(form, "client_id"), form.get("client_secret", "")
        if not _same(client, self._settings.client_id):
            raise _Refused(
                400, "unauthorized_client", 700016,
                f"Application with identifier '{client}' was not found in the directory 'localazure'. This can happen "
                "if the application has not been installed by the administrator of the tenant or consented to by any "
                "user in the tenant. You may have sent your authentication request to the wrong tenant.",
            )  # fmt: skip
        if not secret:
            raise _Refused(
                401, "invalid_client", 7000216,
                "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type.",
            )  # fmt: skip
        if not _same(secret, self._settings.client_secret):
            raise _Refused(
                401, "invalid_client", 7000215,
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret "
                f"value, not the client secret ID, for a secret added to app '{client}'.",
            )  # fmt: skip
        return form

    def _check_tenant(self, request: Request) -> None:
        tenant = request.path_params["tenant"]
        if tenant.lower() != self._settings.tenant_id.lower():
            raise _Refused(
                400, "invalid_request", 90002,
                f"Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into "
                "the correct cloud. Check with your subscription administrator, this may happen if there are no active "
                "subscriptions for the tenant.",
            )  # fmt: skip

    def _error(self, refused: _Refused) -> Response:
        trace, correlation = str(uuid.uuid4()), str(uuid.uuid4())
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        log.warning("token refused: AADSTS%d %s", refused.number, refused.error)
        return JSONResponse(
            {
                "error": refused.error,
                "error_description": f"AADSTS{refused.number}: {refused.message} Trace ID: {trace} "
                f"Correlation ID: {correlation} Timestamp: {now}",
                "error_codes": [refused.number],
                "timestamp": now,
                "trace_id": trace,
                "correlation_id": correlation,
                "error_uri": f"{self._settings.api_url}/error?code={refused.number}",
            },
            refused.status,
            _NO_STORE,
        )


async def _form(request: Request) -> dict[str, str]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise _Refused(
            400, "invalid_request", 900144, "The request body must be of type 'application/x-www-form-urlencoded'."
        )
    try:
        parsed = parse_qs((await request.body()).decode("ascii"), keep_blank_values=True, max_num_fields=50)
    except ValueError:
        raise BadRequest("The request's body isn't a valid form.") from None
    return {name: values[-1] for name, values in parsed.items()}


def _required(form: dict[str, str], name: str) -> str:
    if not form.get(name):
        raise _Refused(
            400, "invalid_request", 900144, f"The request body must contain the following parameter: '{name}'."
        )
    return form[name]


def _same(given: str, expected: str) -> bool:
    # In constant time: how long the comparison takes must not tell how much was right.
    return hmac.compare_digest(given.encode(), expected.encode())


def _compact(body: dict[str, Any]) -> Response:
    # Without spaces: the ODBC driver looks for `"access_token":"` in the text.
    content = json.dumps(body, separators=(",", ":"))
    return Response(content, HTTPStatus.OK, _NO_STORE, "application/json; charset=utf-8")
