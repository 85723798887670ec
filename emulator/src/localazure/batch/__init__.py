"""Batch endpoints: models and pipeline components that are invoked with data and answer with a job."""

from __future__ import annotations

from localazure.batch.service import BatchService
from localazure.core.service import Service, ServiceContext


def build(context: ServiceContext) -> Service:
    """The service. Needs `ml.assets`, `ml.catalogue` and `ml.submission`."""
    return BatchService(
        context.settings,
        context.store,
        assets=context.require("ml.assets"),
        catalogue=context.require("ml.catalogue"),
        submission=context.require("ml.submission"),
    )
