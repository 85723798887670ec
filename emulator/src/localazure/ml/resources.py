"""ARM resources of one workspace: paths, ids, envelopes and pages, the same for every kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request

from localazure.core.auth import Identity
from localazure.core.errors import BadRequest, NotFound, NotImplementedOperation
from localazure.core.registry import Answer, Handler
from localazure.ml.states import timestamp
from localazure.settings import Settings

PROVIDER = "Microsoft.MachineLearningServices"
WORKSPACE = f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{PROVIDER}/workspaces/{{workspace}}"

_PAGE = 1000  # resources a page; the service's own limit differs by kind and isn't documented


def in_workspace(settings: Settings, handler: Handler) -> Handler:
    """The handler, answering 404 for any other subscription, group or workspace than the configured one."""

    async def scoped(request: Request, identity: Identity) -> Answer:
        require_workspace(settings, request.path_params)
        return await handler(request, identity)

    return scoped


def require_workspace(settings: Settings, params: Mapping[str, str]) -> None:
    """NotFound unless the path's subscription, group and workspace are the configured ones; by name what the second
    workspace doesn't have.
    """
    wanted = (params["subscription"], params["group"], params["workspace"])
    known = (settings.subscription_id, settings.resource_group, settings.workspace)
    for kind, name, expected in zip(("subscription", "resource group", "workspace"), wanted, known, strict=True):
        if name.lower() == expected.lower():
            continue
        if kind == "workspace" and name.lower() == settings.second_workspace.lower():
            raise NotImplementedOperation(f"An endpoint in the second workspace ('{name}')")
        raise NotFound(f"The {kind} '{name}' was not found; localazure has '{expected}'.", code="ResourceNotFound")


def resource(
    settings: Settings, path: str, properties: dict[str, Any], registry: str | None = None, **more: Any
) -> dict[str, Any]:
    """A new ARM resource at `path` below the workspace (or a registry), e.g. `jobs/train` or `models/m/versions/1`."""
    parts = path.split("/")
    now = timestamp()
    author = {"createdBy": settings.client_id, "createdByType": "Application"}
    return {
        "id": f"{settings.workspace_id if registry is None else f'azureml://registries/{registry}'}/{path}",
        "name": parts[-1],
        "type": f"{PROVIDER}/{'workspaces' if registry is None else 'registries'}/" + "/".join(parts[0::2]),
        "properties": properties,
        "systemData": {
            **author,
            "createdAt": now,
            "lastModifiedAt": now,
            "lastModifiedBy": settings.client_id,
            "lastModifiedByType": "Application",
        },
        **more,
    }


def touched(document: dict[str, Any]) -> dict[str, Any]:
    """The resource with its modification time set to now."""
    document["systemData"]["lastModifiedAt"] = timestamp()
    return document


async def body(request: Request) -> dict[str, Any]:
    """The request's JSON object with its `properties` object; 400 names what is missing."""
    content = await request.json()
    if not isinstance(content, dict) or not isinstance(content.get("properties"), dict):
        message = "The request body must be a JSON object with an object 'properties'."
        raise BadRequest(message, code="InvalidRequestContent")
    return content


def page(
    request: Request, settings: Settings, items: Sequence[dict[str, Any]], size: int | None = None
) -> dict[str, Any]:
    """One page of `items`: `$skip` (an offset) and `$top`/`count` as asked, `nextLink` while there is more.

    `$top` limits the page and not the list, as in the service.
    """
    query = request.query_params
    start = _number(query.get("$skip") or query.get("skip") or "0", "$skip")
    asked = query.get("$top") or query.get("count")
    length = min(_number(asked, "$top") or _PAGE if asked else size or _PAGE, _PAGE)
    answer: dict[str, Any] = {"value": list(items[start : start + length])}
    if start + length < len(items):
        pairs = [(key, value) for key, value in parse_qsl(request.url.query) if key not in ("$skip", "skip")]
        answer["nextLink"] = (
            f"{settings.api_url}{request.url.path}?{urlencode([*pairs, ('$skip', str(start + length))])}"
        )
    return answer


def _number(text: str, name: str) -> int:
    if not text.isdecimal():
        raise BadRequest(f"The query parameter {name} must be a number, not '{text}'.")
    return int(text)


def visible(request: Request, document: dict[str, Any]) -> bool:
    """Whether the resource belongs in the list asked for by `listViewType` (ActiveOnly, ArchivedOnly, All)."""
    view = request.query_params.get("listViewType", "ActiveOnly").lower()
    # For a registry's lists the SDK sends `ListViewType.ACTIVE_ONLY` on Python 3.11 and later (measured).
    view = view.rpartition(".")[2].replace("_", "")
    archived = bool(document["properties"].get("isArchived"))
    if view == "all":
        return True
    if view in ("activeonly", "archivedonly"):
        return archived == (view == "archivedonly")
    raise BadRequest(f"listViewType must be ActiveOnly, ArchivedOnly or All, not '{view}'.")
