"""The `api-version` every call of the development endpoint carries.

https://learn.microsoft.com/rest/api/synapse/data-plane/
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request

from localazure.core.auth import Identity
from localazure.core.errors import AzureError, BadRequest
from localazure.core.registry import Answer, Handler

#: Artifacts: what azure-synapse-artifacts sends, and the previews with the same shapes.
ARTIFACTS = frozenset({"2019-06-01-preview", "2020-12-01", "2021-06-01-preview", "2022-03-01-preview"})
#: Notebook runs came with the previews.
RUNS = frozenset({"2021-06-01-preview", "2022-03-01-preview"})


def checked(supported: frozenset[str]) -> Callable[[Handler], Handler]:
    """A decorator: refuse a call without an `api-version`, or with one the operation doesn't have."""

    def decorate(handler: Handler) -> Handler:
        async def answer(request: Request, identity: Identity) -> Answer:
            version = request.query_params.get("api-version", "")
            if not version:
                raise BadRequest(
                    "The api-version query parameter (?api-version=) is required.",
                    "api-version",
                    "MissingApiVersionParameter",
                )
            if version.lower() not in supported:
                known = ", ".join(sorted(supported))
                message = f"The api-version {version!r} is invalid. The supported versions are {known}."
                raise AzureError(400, "InvalidApiVersionParameter", message, "api-version")
            return await handler(request, identity)

        return answer

    return decorate
