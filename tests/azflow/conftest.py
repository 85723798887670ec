from __future__ import annotations

import json

import pytest

CONNECTION = {
    "conn_type": "azflow",
    "login": "client",
    "password": "s3cret",
    "extra": {
        "tenant_id": "tenant",
        "subscription_id": "sub",
        "resource_group": "rg",
        "workspace": "ws",
        "storage_account_url": "https://lakeaccount.blob.core.windows.net",
    },
}


@pytest.fixture(autouse=True)
def azure_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default connection, as an operator would set it in the environment."""
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_DEFAULT", json.dumps(CONNECTION))
