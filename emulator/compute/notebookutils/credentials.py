"""`notebookutils.credentials`: refused by name; localazure has neither Key Vault nor linked services."""

from __future__ import annotations

_REFUSED = (
    "getToken",
    "getSecret",
    "getSecretWithLS",
    "putSecret",
    "putSecretWithLS",
    "isValidToken",
    "getConnectionStringOrCreds",
    "getFullConnectionString",
    "getPropertiesAll",
)


def __getattr__(name: str) -> object:
    if name in _REFUSED:

        def refused(*_args: object, **_named: object) -> None:
            raise NotImplementedError(f"notebookutils.credentials.{name} is not implemented by localazure")

        return refused
    raise AttributeError(f"module 'notebookutils.credentials' has no attribute {name!r}")
