"""A cloud that isn't public Azure: the endpoints an SDK can't know, from a connection's extras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from azflow.errors import ConfigurationError

SYNAPSE_SCOPE = "https://dev.azuresynapse.net/.default"
SQL_SCOPE = "https://database.windows.net/.default"


@dataclass(frozen=True)
class Cloud:
    """A cloud other than public Azure: the endpoints an SDK can't know.

    :param name: any name but those of Microsoft's clouds.
    :param authority: where tokens come from, ``https://host[:port]``.
    :param resource_manager: ARM, ``https://host[:port]``.
    :param portal: Azure portal or Azure ML studio, for links.
    :param storage_endpoint: suffix after ``<account>.blob.``, e.g. ``core.usgovcloudapi.net``.
    :param aml_resource_id: audience of Azure ML's own data plane.
    :param registry_discovery_endpoint: of Azure ML registries.
    :param sql_scope: token scope of the SQL pools.
    :param synapse_scope: token scope of the Synapse development endpoint.
    """

    name: str
    authority: str
    resource_manager: str
    portal: str
    storage_endpoint: str
    aml_resource_id: str
    registry_discovery_endpoint: str = ""
    sql_scope: str = SQL_SCOPE
    synapse_scope: str = SYNAPSE_SCOPE

    @classmethod
    def parse(cls, value: object, where: str) -> Cloud:
        """A cloud from the extras' ``cloud`` object; `where` names the connection in messages."""
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"{where}: cloud must be an object or null, not {type(value).__name__}.")
        known = set(cls.__dataclass_fields__)
        if unknown := sorted(set(value) - known):
            raise ConfigurationError(f"{where}: cloud has unknown key(s) {', '.join(unknown)}.")
        needed = ("name", "authority", "resource_manager", "portal", "storage_endpoint", "aml_resource_id")
        if missing := [key for key in needed if not value.get(key)]:
            raise ConfigurationError(f"{where}: cloud lacks {', '.join(missing)}.")
        return cls(**{key: str(text) for key, text in value.items() if text is not None})
