"""localazure on this machine: started and ended by its own command line, known by the connection file it writes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from environments import COMPUTE, LOCALAZURE, ROOT, SetUpError, azurite

HOME = ROOT / "var" / "localazure"


def environment(home: Path = HOME, port_base: int | None = None) -> dict[str, str]:
    """What localazure's processes need to know of this checkout; `port_base` moves all its ports (default 18400)."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    return (
        inherited
        | {
            "LOCALAZURE_HOME": str(home),
            "LOCALAZURE_COMPUTE_PYTHON": str(COMPUTE.python),
            "LOCALAZURE_AZURITE": shlex.join(azurite()),
            "PYTHONPATH": str(ROOT / "emulator" / "src"),
            "DO_NOT_TRACK": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        | ({} if port_base is None else {"LOCALAZURE_PORT_BASE": str(port_base)})
    )


def command(*arguments: str, home: Path = HOME, port_base: int | None = None, quiet: bool = False) -> None:
    """Runs `localazure ARGUMENTS`; a failure raises with its words."""
    done = subprocess.run(
        [str(LOCALAZURE.python), "-m", "localazure", *arguments],
        env=environment(home, port_base),
        cwd=ROOT,
        check=False,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
    )
    if done.returncode:
        raise SetUpError(
            f"`localazure {' '.join(arguments)}` failed (exit {done.returncode}){': ' + done.stdout if quiet else ''}"
        )


def connection(home: Path = HOME) -> dict[str, Any]:
    """The endpoints and credentials of a running localazure."""
    found: dict[str, Any] = json.loads((home / "connection.json").read_text())
    return found


def airflow_connection(local: Mapping[str, Any]) -> dict[str, Any]:
    """Airflow connection `azure_default` that leads to it: as a team writes it for its own Azure, with other values."""
    return {
        "conn_type": "azflow",
        "login": local["client_id"],
        "password": local["client_secret"],
        "extra": {
            "tenant_id": local["tenant_id"],
            "subscription_id": local["subscription_id"],
            "resource_group": local["resource_group"],
            "workspace": local["workspace"],
            "synapse_endpoint": local["synapse_endpoint"],
            "synapse_workspace": local["workspace"],
            "spark_pool": local["spark_pool"],
            "sql_server": local["sql_server"],
            "sql_database": local["sql_database"],
            "sql_serverless_server": local["sql_server_ondemand"],
            "storage_account_url": local["storage_account_url"],
            "container": local["container"],
            "lake_abfss_url": f"abfss://{local['container']}@{local['storage_account']}.dfs.core.windows.net",
            "cloud": {
                "name": "PrivateAzure",
                "authority": local["api_url"],
                "resource_manager": local["api_url"],
                "portal": local["api_url"],
                "aml_resource_id": local["api_url"],
                "storage_endpoint": "core.private",
            },
            "verify": local["ca_bundle"],
        },
    }
