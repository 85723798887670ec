"""How MLflow's server is started: one process in the compute environment, database and artifacts below `<home>/mlflow`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from localazure.settings import Settings

TELEMETRY_OFF: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
}


def command(settings: Settings) -> list[str]:
    """The program and its arguments."""
    return [
        str(settings.compute_python), "-m", "localazure_compute.tracking_server",
        "--home", str(settings.home / "mlflow"), "--port", str(settings.mlflow_port),
    ]  # fmt: skip


def environment(settings: Settings) -> dict[str, str]:
    """The server's environment: nothing of ours but the search path."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "TZ") if name in os.environ}
    return {**kept, **TELEMETRY_OFF, "PYTHONPATH": str(settings.compute_source), "PYTHONUNBUFFERED": "1"}
