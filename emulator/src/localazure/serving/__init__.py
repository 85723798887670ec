"""Online endpoints: inference servers of the deployments, and a router that splits traffic and checks keys."""

from __future__ import annotations

from localazure.core.service import Service, ServiceContext


def build(context: ServiceContext) -> Service:
    """The service. Needs `ml.assets`."""
    # Not above: the router's process and the supervisor take small modules of this package.
    from localazure.serving.service import ServingService

    return ServingService(context)
