"""Synapse Spark pools attached to a workspace as computes: which pool it is, and what a job may ask of it.

https://learn.microsoft.com/azure/machine-learning/how-to-manage-synapse-spark-pool
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from localazure.core.errors import AzureError, BadRequest
from localazure.core.store import Store
from localazure.executors import spark_local
from localazure.ml.nodes import COMPUTES
from localazure.settings import Settings
from localazure.synapse.capacity import Size
from localazure.synapse.pools import Pools

_POOL_ID = re.compile(r".*/providers/Microsoft\.Synapse/workspaces/[^/]+/bigDataPools/([^/]+)/?", re.IGNORECASE)
#: The compute's word -> the pool's (SynapseSparkProperties in Azure ML's machineLearningServices.json).
_SHOWN = {
    "sparkVersion": "sparkVersion",
    "nodeCount": "nodeCount",
    "nodeSize": "nodeSize",
    "nodeSizeFamily": "nodeSizeFamily",
    "autoScaleProperties": "autoScale",
    "autoPauseProperties": "autoPause",
}
_MEGABYTES = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024}


class AttachedSpark:
    """The Synapse workspace's pools as an Azure ML workspace sees them."""

    def __init__(self, synapse: Settings, pools: Store, computes: Store) -> None:
        """`pools` is the store of the Synapse workspace, `computes` the Azure ML workspace's."""
        self._pool = synapse.spark_pool
        self._pools = Pools(synapse, pools)
        self._computes = computes

    def attach(self, resource_id: str | None) -> dict[str, Any]:
        """The properties of a compute for the pool with this ARM id; none: the home's own pool. Raises BadRequest."""
        name = self._pool
        if resource_id:
            match = _POOL_ID.fullmatch(resource_id)
            if match is None:
                raise BadRequest(
                    f"resourceId must be the id of a Synapse Spark pool (.../bigDataPools/name), not '{resource_id}'.",
                    "resourceId",
                    "UserError",
                )
            name = match[1]
        try:
            pool = self._pools.resource(name)
        except AzureError as error:
            raise BadRequest(f"Can't attach '{resource_id}': {error.message}", "resourceId", "UserError") from None
        _, _, subscription, _, group, _, _, _, workspace, *_ = pool["id"].split("/")
        return {
            **{key: pool["properties"][word] for key, word in _SHOWN.items() if word in pool["properties"]},
            "subscriptionId": subscription,
            "resourceGroup": group,
            "workspaceName": workspace,
            "poolName": pool["name"],
        }

    def check(self, compute_id: str, conf: Mapping[str, str]) -> None:
        """Raise BadRequest for a job that the compute's pool could never run, naming what is too large."""
        compute = self._computes.get(COMPUTES, compute_id.rstrip("/").rpartition("/")[2])
        inner = (compute or {}).get("properties", {}).get("properties") or {}
        if "poolName" not in inner:
            return  # no such compute, or no Spark pool: the submission says so
        extent = self._pools.extent(inner["poolName"])

        def cores(key: str) -> int:
            return int(conf.get(key) or extent.node_vcores)

        def megabytes(key: str) -> int:
            text = conf.get(key)
            match = spark_local.MEMORY.match(text) if text else None
            return int(int(match[1]) * _MEGABYTES[match[2].lower()]) if match else extent.node_mb * 7 // 8

        most = conf.get("spark.dynamicAllocation.maxExecutors") or conf.get("spark.executor.instances") or 1
        size = Size(
            driver_cores=cores("spark.driver.cores"),
            driver_mb=megabytes("spark.driver.memory"),
            executor_cores=cores("spark.executor.cores"),
            executor_mb=megabytes("spark.executor.memory"),
            executors=int(most),
        )
        try:
            extent.check(size)
        except AzureError as error:
            raise BadRequest(error.message, "conf", "UserError") from None
