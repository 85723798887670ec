"""Online endpoints: inference servers of the deployments, and a router that splits traffic and checks keys."""

from __future__ import annotations

from localazure.core.service import Service, ServiceContext
from localazure.serving.service import ServingService


def build(context: ServiceContext) -> Service:
    """The service. Needs `ml.assets`."""
    return ServingService(context)
