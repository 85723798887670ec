"""Key Vault's errors: its codes and words, and an `innererror` that says more than the code.

The words are those of the service's answers as Microsoft's SDKs recorded them:
https://github.com/Azure/azure-sdk-for-js, sdk/keyvault/keyvault-secrets/recordings (2021 to 2022), and
https://learn.microsoft.com/azure/key-vault/general/common-error-codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localazure.core.errors import AzureError


class VaultError(AzureError):
    """`{"error": {"code", "message"[, "innererror": {"code"}]}}`."""

    def __init__(
        self, status: int, code: str, message: str, inner: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, code, message, headers=headers)
        self._inner = inner

    def body(self) -> dict[str, Any]:
        """See AzureError."""
        found = super().body()
        if self._inner:
            found["error"]["innererror"] = {"code": self._inner}
        return found


def bad_parameter(message: str) -> VaultError:
    """400: something about the request."""
    return VaultError(400, "BadParameter", message)


def not_found(name: str) -> VaultError:
    """404: no such secret; `name` may end in `/<version>`."""
    return VaultError(
        404,
        "SecretNotFound",
        f"A secret with (name/id) {name} was not found in this key vault. If you recently deleted this secret you may "
        "be able to recover it using the correct recovery command. For help resolving this issue, please see "
        "https://go.microsoft.com/fwlink/?linkid=2125182",
    )


def deleted_not_found(name: str) -> VaultError:
    """404: no such deleted secret."""
    return VaultError(404, "SecretNotFound", f"Deleted Secret not found: {name}")


def deleted_but_recoverable(name: str) -> VaultError:
    """409: the name belongs to a deleted secret."""
    return VaultError(
        409,
        "Conflict",
        f"Secret {name} is currently in a deleted but recoverable state, and its name cannot be reused; in this state, "
        "the secret can only be recovered or purged.",
        "ObjectIsDeletedButRecoverable",
    )


def disabled() -> VaultError:
    """403: a disabled secret's value isn't given."""
    return VaultError(403, "Forbidden", "Operation get is not allowed on a disabled secret.", "SecretDisabled")
