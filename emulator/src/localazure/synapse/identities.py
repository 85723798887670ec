"""What a Spark process asks for tokens: the workspace's token service, as `notebookutils.credentials` uses it.

On Azure a process of a Spark pool gets tokens of whoever started it. Here that is the one application; what the process
holds is a secret of its own (`executors.spark_local`), good for this address only. The request and the answer are those
of a managed identity's endpoint, api-version 2017-09-01:
https://learn.microsoft.com/azure/app-service/overview-managed-identity
"""

from __future__ import annotations

from starlette.requests import Request

from localazure.core.auth import Identity, Tokens
from localazure.core.errors import Unauthorized
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
        return self._tokens.of_managed_identity(request.query_params.get("resource", ""))
