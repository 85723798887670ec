"""Microsoft Entra's part: OpenID metadata, signing keys, and tokens for the one application."""

from __future__ import annotations

from localazure.core.service import Service, ServiceContext
from localazure.identity.entra import Entra


def build(context: ServiceContext) -> Service:
    """The identity service."""
    return Entra(context.settings, context.tokens)
