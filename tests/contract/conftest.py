"""A running localazure for the contract tests: Microsoft's own clients against it, over sockets.

The fixture `localazure` is the content of a connection.json. It starts one in a temporary folder, or takes a running
one:

    AZFLOW_LOCALAZURE_CONNECTION=<home>/connection.json pytest tests/contract

test_synapse_spark.py runs against a real workspace too: the variable then names a file with tenant_id, client_id,
client_secret (of a service principal that is Synapse Compute Operator and Artifact Publisher in the workspace, and
Storage Blob Data Contributor), api_url ("https://login.microsoftonline.com"), synapse_endpoint
("https://<workspace>.dev.azuresynapse.net"), spark_pool, storage_account, storage_account_url
("https://<account>.blob.core.windows.net"), container, and ca_bundle (certifi's file).

These tests know localazure as a program and as addresses; they import nothing of it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import port_leases

CHECKOUT = Path(__file__).resolve().parents[2]


class Localazure(dict[str, Any]):
    """The content of connection.json, and the command that rules the same home."""

    def __init__(self, connection: dict[str, Any], home: Path) -> None:
        super().__init__(connection)
        self.home = home

    def run(self, *arguments: str, timeout: float = 240) -> str:
        """Run `localazure <arguments>` for this home; its output. Fails the test if the command fails."""
        return _localazure(self.home, *arguments, timeout=timeout)

    def cloud(self) -> dict[str, str]:
        """The cloud as an azflow connection describes it."""
        port = self["storage_account_url"].split(":")[2].partition("/")[0]
        return {
            "name": "local",
            "authority": self["api_url"],
            "resource_manager": self["api_url"],
            "portal": self["api_url"],
            "storage_endpoint": f"core.localhost:{port}",
            "aml_resource_id": "https://ml.azure.com",
        }

    def credential(self, **changed: str) -> Any:
        """azure.identity's credential of the only application; `changed` replaces its arguments."""
        from azure.identity import ClientSecretCredential

        arguments = {name: self[name] for name in ("tenant_id", "client_id", "client_secret")} | changed
        return ClientSecretCredential(
            **arguments,
            authority=self["api_url"],
            disable_instance_discovery=True,
            connection_verify=self["ca_bundle"],
        )

    def airflow_connection(self) -> dict[str, Any]:
        """The Airflow connection that leads here, as far as Azure ML and the lake go."""
        names = ("tenant_id", "subscription_id", "resource_group", "workspace", "storage_account_url", "container")
        extra = {name: self[name] for name in names} | {"cloud": self.cloud(), "verify": self["ca_bundle"]}
        return {
            "conn_type": "azflow",
            "login": self["client_id"],
            "password": self["client_secret"],
            "extra": extra,
        }

    def ml_client(self, **scope: str) -> Any:
        """azure.ai.ml's client of the workspace, or of what `scope` names instead (registry_name=...)."""
        from azure.ai.ml import MLClient

        cloud = self.cloud()
        names = {
            "azure_portal": "portal",
            "resource_manager": "resource_manager",
            "active_directory": "authority",
            "aml_resource_id": "aml_resource_id",
            "storage_endpoint": "storage_endpoint",
            "registry_discovery_endpoint": "portal",
        }
        return MLClient(
            self.credential(),
            self["subscription_id"],
            self["resource_group"],
            **(scope or {"workspace_name": self["workspace"]}),
            cloud=cloud["name"],
            cloud_metadata={name: cloud[key] for name, key in names.items()},
        )


@pytest.fixture(scope="session")
def localazure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localazure]:
    """A running localazure. Its certificates are trusted for the whole session."""
    given = os.environ.get("AZFLOW_LOCALAZURE_CONNECTION")
    home = Path(given).parent if given else tmp_path_factory.mktemp("localazure")
    if not given:
        _localazure(home, "--port-base", str(port_leases.lease()), "up")
    patch = pytest.MonkeyPatch()
    try:
        connection = Localazure(json.loads((home / "connection.json").read_text()), home)
        # The SDKs' transports (requests, aiohttp and OpenSSL) read these.
        patch.setenv("REQUESTS_CA_BUNDLE", connection["ca_bundle"])
        patch.setenv("SSL_CERT_FILE", connection["ca_bundle"])
        _resolve_localhost(patch)
        yield connection
    finally:
        patch.undo()
        if not given:
            _localazure(home, "down")


def _localazure(home: Path, *arguments: str, timeout: float = 240) -> str:
    python = CHECKOUT / "var/env/localazure/bin/python"
    if not python.exists():
        pytest.skip("localazure's environment isn't built (bin/up builds it)")
    ended = subprocess.run(
        [python, "-m", "localazure", "--home", home, *arguments],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT / "emulator/src")},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if ended.returncode != 0:
        pytest.fail(f"localazure {' '.join(arguments)} failed:\n{ended.stderr}", pytrace=False)
    return ended.stdout


def _resolve_localhost(patch: pytest.MonkeyPatch) -> None:
    """Let names below `localhost` resolve (RFC 6761, 6.3); glibc doesn't where nsswitch.conf lacks `myhostname`."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(host, str) and host.lower().rstrip(".").endswith(".localhost"):
            host = "127.0.0.1"
        return resolve(host, *arguments, **options)

    patch.setattr(socket, "getaddrinfo", getaddrinfo)
