"""The addresses of Livy at a workspace, and what their queries say."""

from __future__ import annotations

from starlette.requests import Request

from localazure.core.errors import BadRequest

POOL = "/livyApi/versions/{version}/sparkPools/{pool}"
VERSIONS = frozenset({"2019-11-01-preview", "2020-12-01", "2022-02-22-preview"})
#: Of a request: https://learn.microsoft.com/rest/api/synapse/concurrency-limits-spark-pools
BODY_LIMIT = 100 * 1024


def check_version(request: Request) -> None:
    """Raise BadRequest for a version of the Livy API that Synapse doesn't have."""
    version = request.path_params["version"]
    if version.lower() not in VERSIONS:
        raise BadRequest(
            f"The version {version!r} of the Livy API is invalid; there are {', '.join(sorted(VERSIONS))}.",
            "livyApiVersion",
            "InvalidApiVersionParameter",
        )


def is_detailed(request: Request) -> bool:
    """Whether more than plain Livy's fields are asked for."""
    return request.query_params.get("detailed", "").lower() == "true"


def whole(request: Request, name: str, default: int) -> int:
    """A number of the query. Raises BadRequest naming it."""
    text = request.query_params.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise BadRequest(f"{name} must be a whole number, not {text!r}.", name) from None
