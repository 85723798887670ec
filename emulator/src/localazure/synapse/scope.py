"""Where the workspace is in Resource Manager."""

from __future__ import annotations

from starlette.requests import Request

from localazure.core.errors import NotFound
from localazure.settings import Settings

PATH = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Synapse/workspaces/{workspace}"


def check(request: Request, settings: Settings) -> None:
    """Raise NotFound, naming the part, for an address below another subscription, group or workspace."""
    for part, name in (
        ("subscription", settings.subscription_id),
        ("group", settings.resource_group),
        ("workspace", settings.workspace),
    ):
        given = request.path_params[part]
        if given.lower() != name.lower():
            raise NotFound(f"There is no {part} '{given}'; localazure has '{name}'.", code="ResourceNotFound")


def workspace_id(settings: Settings) -> str:
    """The workspace's ARM id."""
    return (
        f"/subscriptions/{settings.subscription_id}/resourceGroups/{settings.resource_group}"
        f"/providers/Microsoft.Synapse/workspaces/{settings.workspace}"
    )
