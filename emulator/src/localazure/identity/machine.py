"""The managed identity of the machine that localazure runs on, for its other programs: Airflow, a notebook, a shell.

Azure gives a virtual machine's or an app's programs tokens without a secret of their own, and azure-identity's
DefaultAzureCredential finds out where. Here they are told, as App Service tells its apps:

    IDENTITY_ENDPOINT   <api_url>/msi/machine/token
    IDENTITY_HEADER     the application's client_secret

It is the one application's identity.
https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference
"""

from __future__ import annotations

import hmac

from starlette.requests import Request

from localazure.core.auth import Identity, Tokens
from localazure.core.errors import BadRequest, Unauthorized
from localazure.core.registry import Answer, Operation
from localazure.settings import Settings

TOKEN_PATH = "/msi/machine/token"
_API_VERSION = "2019-08-01"


class MachineIdentity:
    """Answers whoever proves, by the header, to be of this machine."""

    def __init__(self, settings: Settings, tokens: Tokens) -> None:
        self._settings = settings
        self._tokens = tokens

    def operations(self) -> list[Operation]:
        """The one operation."""
        return [Operation("MachineIdentity_GetToken", "GET", TOKEN_PATH, self._token, None)]

    async def _token(self, request: Request, identity: Identity) -> Answer:
        given = request.headers.get("x-identity-header", "")
        # In constant time: how long the comparison takes must not tell how much was right.
        if not hmac.compare_digest(given.encode(), self._settings.client_secret.encode()):
            raise Unauthorized("The header X-IDENTITY-HEADER is missing or isn't this machine's.", "Unauthorized")
        query = request.query_params
        if query.get("api-version") != _API_VERSION:
            raise BadRequest(f"The api-version must be {_API_VERSION}.", "api-version", "UserError")
        asked = query.get("client_id", self._settings.client_id)
        if asked.lower() != self._settings.client_id.lower():
            raise BadRequest(f"This machine has no identity with the client id '{asked}'.", "client_id", "UserError")
        return self._tokens.of_managed_identity(query.get("resource", "")) | {"client_id": self._settings.client_id}
