"""What a Spark process asks for tokens: the workspace's token service, as `notebookutils.credentials` uses it.

On Azure a process of a Spark pool gets tokens of whoever started it. Here that is the one application; what the process
holds is a secret of its own (`executors.spark_local`), good for this address only. The request and the answer are those
of a managed identity's endpoint, api-version 2017-09-01:
https://learn.microsoft.com/azure/app-service/overview-managed-identity
"""

from __future__ import annotations

import time

from starlette.requests import Request

from localazure.core.auth import LIFETIME_SECONDS, Identity, Tokens
from localazure.core.errors import BadRequest, Unauthorized
from localazure.core.registry import Answer, Operation
from localazure.executors.spark_local import SUBJECT, TOKEN_PATH


class SparkIdentities:
    """Answers Spark processes that ask for a token."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def operations(self) -> list[Operation]:
        """The one operation; the secret stands in a header of its own."""
        return [Operation("SparkIdentity_GetToken", "GET", TOKEN_PATH, self._token, None)]

    async def _token(self, request: Request, identity: Identity) -> Answer:
        asking = self._tokens.verify(request.headers.get("secret", ""), "synapse").subject
        if not asking.startswith(SUBJECT):
            raise Unauthorized("The secret is no Spark process's.", "InvalidAuthenticationToken")
        resource = request.query_params.get("resource", "")
        if resource not in self._tokens.audiences():
            known = ", ".join(sorted(each for each in self._tokens.audiences() if not each.endswith("/")))
            raise BadRequest(f"There is no resource '{resource}'; there are {known}.", "resource", "UserError")
        expires = int(time.time()) + LIFETIME_SECONDS
        token = self._tokens.issue(self._tokens.object_id, resource)
        return {"access_token": token, "expires_on": str(expires), "resource": resource, "token_type": "Bearer"}
