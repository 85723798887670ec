"""`notebookutils.credentials`: tokens of the notebook's identity, and the key vault's secrets by that identity.

Linked services aren't there.

https://learn.microsoft.com/azure/synapse-analytics/spark/microsoft-spark-utilities#credentials-utilities
"""

from __future__ import annotations

import base64
import json
import time

from localazure_compute import key_vault, tokens
from notebookutils import _help

_LINKED = "localazure has no linked services"
_REFUSED = {
    "getSecretWithLS": _LINKED,
    "putSecretWithLS": _LINKED,
    "getConnectionStringOrCreds": _LINKED,
    "getFullConnectionString": _LINKED,
    "getConnectionStringAsMap": _LINKED,
    "getPropertiesAll": _LINKED,
}


def getToken(audience: str, name: str = "") -> str:
    """A token for a key (Storage, Vault, DW, Synapse, AzureManagement, AML) or a resource. Raises PermissionError."""
    if name:
        raise NotImplementedError(f"notebookutils.credentials.getToken with a linked service: {_LINKED}")
    return tokens.token(audience)


def getSecret(akvName: str, secret: str, linkedService: str = "") -> str:
    """The value of a secret in the vault `akvName`, its current version. Raises RuntimeError in the vault's words."""
    if linkedService:
        raise NotImplementedError(f"notebookutils.credentials.getSecret with a linked service: {_LINKED}")
    return key_vault.get(akvName, secret)


def putSecret(akvName: str, secretName: str, secretValue: str, linkedService: str = "") -> str:
    """Put a secret into the vault `akvName`, as a new version; the value. Raises RuntimeError in the vault's words."""
    if linkedService:
        raise NotImplementedError(f"notebookutils.credentials.putSecret with a linked service: {_LINKED}")
    key_vault.put(akvName, secretName, secretValue)
    return secretValue


def isValidToken(token: str) -> bool:
    """Whether a token's time hasn't run out."""
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return bool(time.time() < float(claims["exp"]))
    except (IndexError, ValueError, KeyError, TypeError):
        return False


def help(method: str = "") -> None:
    """Print what there is."""
    _help.show("notebookutils.credentials", globals(), method)


def __getattr__(name: str) -> object:
    if name in _REFUSED:

        def refused(*_args: object, **_named: object) -> None:
            raise NotImplementedError(
                f"notebookutils.credentials.{name} is not implemented by localazure: {_REFUSED[name]}"
            )

        return refused
    raise AttributeError(f"module 'notebookutils.credentials' has no attribute {name!r}")
