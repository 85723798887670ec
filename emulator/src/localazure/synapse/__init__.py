"""Azure Synapse: the development endpoint (notebooks, their runs on Spark, Spark pools) and SQL pools in ARM."""

from __future__ import annotations

from localazure.core.service import Service, ServiceContext
from localazure.synapse.service import Synapse
from localazure.synapse.sql_pools import SqlPools


def build(context: ServiceContext) -> Service:
    """The Synapse service."""
    pools = SqlPools(context.settings, context.store, context.long_running)
    return Synapse(context.settings, context.store, sql_pools=pools, blobs=context.blobs)
