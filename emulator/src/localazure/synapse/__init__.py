"""Azure Synapse's development endpoint: notebooks as artifacts, notebook runs on Spark, Spark pools."""

from __future__ import annotations

from localazure.core.service import Service, ServiceContext
from localazure.synapse.service import Synapse


def build(context: ServiceContext) -> Service:
    """The Synapse service."""
    return Synapse(context.settings, context.store)
