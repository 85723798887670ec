"""Access tokens of whoever runs this Spark process, from the workspace's token service.

The process environment says where (`localazure.executors.spark_local`):

    LOCALAZURE_TOKEN_ENDPOINT   address; answers like a managed identity's endpoint, api-version 2017-09-01
    LOCALAZURE_TOKEN_SECRET     this process's secret, never shown
"""

from __future__ import annotations

import os
import time

import requests

#: The resources of `credentials.getToken`'s audience keys.
#: https://learn.microsoft.com/azure/synapse-analytics/spark/microsoft-spark-utilities#get-token
RESOURCES = {
    "storage": "https://storage.azure.com",
    "dw": "https://database.windows.net",
    "synapse": "https://dev.azuresynapse.net",
    "azuremanagement": "https://management.azure.com",
    "aml": "https://ml.azure.com",
    "ml": "https://ml.azure.com",
    "vault": "https://vault.azure.net",
}
#: Azure's other audiences: localazure has no such service.
ABSENT = ("DataLakeStore", "AzureOSSDB", "Kusto", "ADF", "AzureDataExplorer", "MSGraph")
_SPARE_SECONDS = 300
_HTTP_BAD_REQUEST = 400

_known: dict[str, tuple[str, float]] = {}


class TokenError(PermissionError):
    """No token is to be had; the message says for what and why."""


def token(audience: str) -> str:
    """A token for an audience key ("Storage", "DW", "Synapse", ...) or a resource's address; kept until shortly before
    it expires. Raises TokenError.
    """
    resource = RESOURCES.get(audience.lower(), audience)
    kept = _known.get(resource)
    if kept is not None and kept[1] - time.time() > _SPARE_SECONDS:
        return kept[0]
    endpoint, secret = (os.environ.get(f"LOCALAZURE_TOKEN_{name}", "") for name in ("ENDPOINT", "SECRET"))
    if not endpoint or not secret:
        raise TokenError("this process has no identity: LOCALAZURE_TOKEN_ENDPOINT is not set")
    query = {"resource": resource, "api-version": "2017-09-01"}
    try:
        response = requests.get(endpoint, query, headers={"secret": secret}, timeout=30)
    except requests.RequestException as error:
        raise TokenError(
            f"no token for {audience!r}: the token service didn't answer ({type(error).__name__})"
        ) from None
    if response.status_code == _HTTP_BAD_REQUEST:
        keys = ", ".join(sorted(RESOURCES))
        raise TokenError(f"no token for {audience!r}: localazure has no such service (audience keys: {keys})")
    if not response.ok:
        raise TokenError(f"no token for {audience!r}: the token service answered {response.status_code}")
    answer = response.json()
    _known[resource] = (answer["access_token"], float(answer["expires_on"]))
    return str(answer["access_token"])
