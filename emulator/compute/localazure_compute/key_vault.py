"""The key vault's secrets, for `notebookutils.credentials`: one REST call each, with this process's own token.

The process environment says where (`localazure.executors.spark_local`):

    LOCALAZURE_KEY_VAULT       the vault's name
    LOCALAZURE_KEY_VAULT_URL   its address
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from localazure_compute import tokens

_API_VERSION = "7.4"


class VaultError(RuntimeError):
    """The vault refused; the message is its own and never holds a secret's value."""


def get(vault: str, name: str) -> str:
    """The value of a secret's current version. Raises VaultError."""
    return str(_call("GET", vault, name, None)["value"])


def put(vault: str, name: str, value: str) -> None:
    """A new version of a secret. Raises VaultError."""
    _call("PUT", vault, name, {"value": value})


def _call(method: str, vault: str, name: str, body: dict[str, Any] | None) -> dict[str, Any]:
    address = f"{_address(vault)}/secrets/{quote(name, safe='')}?api-version={_API_VERSION}"
    headers = {"Authorization": f"Bearer {tokens.token('Vault')}"}
    try:
        response = requests.request(method, address, json=body, headers=headers, timeout=30)
    except requests.RequestException as error:
        raise VaultError(f"the key vault '{vault}' didn't answer ({type(error).__name__})") from None
    if not response.ok:
        try:
            error = response.json()["error"]
            said = f"{error['code']}: {error['message']}"
        except (ValueError, KeyError, TypeError):
            said = f"HTTP {response.status_code}"
        raise VaultError(f"the key vault '{vault}' refused: {said}")
    found: dict[str, Any] = response.json()
    return found


def _address(vault: str) -> str:
    """The one vault's address. `vault` is its name, or an address whose host begins with it (Fabric's way)."""
    known, address = (os.environ.get(f"LOCALAZURE_KEY_VAULT{name}", "") for name in ("", "_URL"))
    if not known or not address:
        raise VaultError("this process knows no key vault: LOCALAZURE_KEY_VAULT is not set")
    host = urlsplit(vault).hostname if "://" in vault else vault
    if (host or "").partition(".")[0].lower() != known.lower() and vault.rstrip("/") != address:
        raise VaultError(f"there is no key vault '{vault}'; the workspace's is '{known}'")
    return address
