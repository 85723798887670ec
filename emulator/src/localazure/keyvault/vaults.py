"""The vault in Resource Manager: get and list. It is there from the start; making, changing and deleting one isn't.

Shapes: Azure/azure-rest-api-specs, specification/keyvault/resource-manager/Microsoft.KeyVault/stable/2023-07-01,
keyvault.json. https://learn.microsoft.com/rest/api/keyvault/keyvault/vaults
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from localazure.core.auth import Identity
from localazure.core.errors import NotFound, NotImplementedOperation
from localazure.core.registry import Answer, Operation
from localazure.keyvault.secrets import RETENTION_DAYS
from localazure.settings import Settings

_SUBSCRIPTION = "/subscriptions/{subscription}"
_GROUP = _SUBSCRIPTION + "/resourceGroups/{group}"
_VAULTS = "/providers/Microsoft.KeyVault/vaults"
_TYPE = "Microsoft.KeyVault/vaults"


class Vaults:
    """Answers Vaults_* as Microsoft's OpenAPI files name them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def operations(self) -> list[Operation]:
        """The four reading ones."""
        rows = (
            ("Vaults_Get", _GROUP + _VAULTS + "/{vault}", self._get),
            ("Vaults_ListByResourceGroup", _GROUP + _VAULTS, self._list),
            ("Vaults_ListBySubscription", _SUBSCRIPTION + _VAULTS, self._list),
            ("Vaults_List", _SUBSCRIPTION + "/resources", self._resources),
        )
        return [Operation(name, "GET", path, handler, "arm") for name, path, handler in rows]

    async def _get(self, request: Request, identity: Identity) -> Answer:
        self._check(request)
        return self._vault()

    async def _list(self, request: Request, identity: Identity) -> Answer:
        self._check(request)
        return {"value": [self._vault()]}

    async def _resources(self, request: Request, identity: Identity) -> Answer:
        """Resources of a subscription, of this one type."""
        self._check(request)
        if "".join(request.query_params.get("$filter", "").split()) != f"resourceTypeeq'{_TYPE}'":
            raise NotImplementedOperation(f"Resources_List without the filter resourceType eq '{_TYPE}'")
        found = self._vault()
        return {"value": [{name: found[name] for name in ("id", "name", "type", "location", "tags")}]}

    def _check(self, request: Request) -> None:
        """Raise NotFound, naming the part, for an address below another subscription, group or vault."""
        settings = self._settings
        known = {
            "subscription": settings.subscription_id,
            "group": settings.resource_group,
            "vault": settings.key_vault,
        }
        for part, given in request.path_params.items():
            if given.lower() != known[part].lower():
                message = f"There is no {part} '{given}'; localazure has '{known[part]}'."
                raise NotFound(message, code="ResourceNotFound")

    def _vault(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "id": settings.key_vault_id,
            "name": settings.key_vault,
            "type": _TYPE,
            "location": settings.location,
            "tags": {},
            "properties": {
                "tenantId": settings.tenant_id,
                "sku": {"family": "A", "name": "standard"},
                "accessPolicies": [],
                "enableRbacAuthorization": True,
                "enabledForDeployment": False,
                "enabledForDiskEncryption": False,
                "enabledForTemplateDeployment": False,
                "enableSoftDelete": True,
                "softDeleteRetentionInDays": RETENTION_DAYS,
                "vaultUri": f"{settings.key_vault_uri}/",
                "provisioningState": "Succeeded",
                "publicNetworkAccess": "Enabled",
            },
        }
