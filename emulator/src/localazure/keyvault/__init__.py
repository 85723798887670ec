"""Azure Key Vault: the secrets of the workspace's one vault, and the vault in Resource Manager.

Keys and certificates aren't there; asked for, they are refused by name.
"""

from __future__ import annotations

from localazure.core.service import Service, ServiceContext
from localazure.keyvault.sealing import Seal
from localazure.keyvault.secrets import Secrets
from localazure.keyvault.service import KeyVault


def build(context: ServiceContext) -> Service:
    """The key vault."""
    seal = Seal(context.settings.home / "keys" / "keyvault.key")
    return KeyVault(context.settings, context.tokens, Secrets(context.store, seal))
