"""Spark pools (Synapse calls them Big Data pools): the one of the settings.

Shapes: Azure/azure-rest-api-specs, specification/synapse/data-plane/Microsoft.Synapse/stable/2020-12-01/
bigDataPools.json.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from localazure.core.auth import Identity
from localazure.core.errors import NotFound
from localazure.core.registry import Answer, Operation
from localazure.settings import Settings
from localazure.synapse import versions

SPARK_VERSION = "3.5"


class Pools:
    """The workspace's Spark pools."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def operations(self) -> list[Operation]:
        """List and get."""
        checked = versions.checked(versions.ARTIFACTS)
        return [
            Operation("BigDataPools_List", "GET", "/bigDataPools", checked(self._list), "synapse"),
            Operation("BigDataPools_Get", "GET", "/bigDataPools/{name}", checked(self._get), "synapse"),
        ]

    def resource(self, name: str) -> dict[str, Any]:
        """A pool. Raises NotFound, naming the one there is."""
        if name.lower() != self._settings.spark_pool.lower():
            raise NotFound(
                f"Spark pool {name!r} is not in workspace {self._settings.workspace!r}; there is"
                f" {self._settings.spark_pool!r}.",
                name,
                "ComputeNotFound",
            )
        return {
            "id": (
                f"/subscriptions/{self._settings.subscription_id}/resourceGroups/{self._settings.resource_group}"
                f"/providers/Microsoft.Synapse/workspaces/{self._settings.workspace}"
                f"/bigDataPools/{self._settings.spark_pool}"
            ),
            "name": self._settings.spark_pool,
            "type": "Microsoft.Synapse/workspaces/bigDataPools",
            "location": self._settings.location,
            "properties": {
                "provisioningState": "Succeeded",
                "sparkVersion": SPARK_VERSION,
                "nodeCount": 1,
                "nodeSize": "Small",
                "nodeSizeFamily": "MemoryOptimized",
                "autoScale": {"enabled": False},
                "autoPause": {"enabled": False},
            },
        }

    async def _list(self, request: Request, identity: Identity) -> Answer:
        return {"value": [self.resource(self._settings.spark_pool)]}

    async def _get(self, request: Request, identity: Identity) -> Answer:
        return self.resource(request.path_params["name"])
