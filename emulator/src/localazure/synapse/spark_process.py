"""What the processes of a Spark of the workspace have in common: sessions of notebooks and of Livy, and batches."""

from __future__ import annotations

import os
from pathlib import Path

from localazure.executors import spark_local
from localazure.settings import Settings

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")


def environment(settings: Settings, folder: Path) -> dict[str, str]:
    """The environment of a process whose own files are below `folder` (its `tmp` must be there).

    Nothing of the server's own, and no more of the storage account than a SAS.
    """
    return {
        **{name: os.environ[name] for name in _INHERITED if name in os.environ},
        "PYTHONPATH": str(settings.compute_source),
        "PYTHONUNBUFFERED": "1",
        # Asked for at its start, the parent may be gone already, and whoever took its place be followed for ever.
        "LOCALAZURE_PARENT": str(os.getpid()),
        **spark_local.environment(settings, folder),
        "REQUESTS_CA_BUNDLE": str(settings.ca_bundle),
        "SSL_CERT_FILE": str(settings.ca_bundle),
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
    }
