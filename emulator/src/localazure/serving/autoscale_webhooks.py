"""Who is told of a scale action: webhooks. https://learn.microsoft.com/azure/azure-monitor/autoscale/autoscale-webhook-email

E-mail is refused: nothing here sends any.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.serving.autoscale_settings import require_list, require_object

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 10.0


def check(notifications: Any) -> None:
    """Raise BadRequest or NotImplementedOperation for what can't be sent."""
    for index, given in enumerate(require_list(notifications, "notifications")):
        path = f"notifications[{index}]"
        notification = require_object(given, path)
        if str(notification.get("operation")).lower() != "scale":
            raise BadRequest(f"operation must be Scale, not {notification.get('operation')!r}.", f"{path}.operation")
        if any(require_object(notification.get("email") or {}, f"{path}.email").values()):
            raise NotImplementedOperation("AutoscaleSettings_CreateOrUpdate with notifications by e-mail")
        for webhook in require_list(notification.get("webhooks"), f"{path}.webhooks"):
            address = require_object(webhook, f"{path}.webhooks").get("serviceUri")
            if not str(address).startswith(("https://", "http://")):
                raise BadRequest("serviceUri must be the URI of a web service.", f"{path}.webhooks.serviceUri")
            require_object(webhook.get("properties") or {}, f"{path}.webhooks.properties")


async def tell(setting: Mapping[str, Any], deployment: Mapping[str, Any], before: int, after: int) -> None:
    """POST one scale action of `deployment` to the webhooks of `setting`. Who doesn't answer is left out."""
    async with httpx.AsyncClient(timeout=_TIMEOUT_SECONDS) as client:
        for notification in setting["properties"]["notifications"]:
            for webhook in notification.get("webhooks") or []:
                content = payload(setting, deployment, before, after, webhook.get("properties") or {})
                try:
                    (await client.post(webhook["serviceUri"], json=content)).raise_for_status()
                except httpx.HTTPError as error:
                    # Its address may carry a token.
                    log.warning("autoscale setting %s: a webhook failed (%s)", setting["name"], type(error).__name__)


def payload(
    setting: Mapping[str, Any], deployment: Mapping[str, Any], before: int, after: int, properties: Mapping[str, str]
) -> dict[str, Any]:
    """What a webhook is sent."""
    _, _, subscription, _, group, *_ = deployment["id"].split("/")
    return {
        "version": "1.0",
        "status": "Activated",
        "operation": "Scale Out" if after > before else "Scale In",
        "context": {
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "id": setting["id"],
            "name": setting["name"],
            "details": f"Autoscale successfully started scale operation for resource '{deployment['name']}' "
            f"from capacity '{before}' to capacity '{after}'",
            "subscriptionId": subscription,
            "resourceGroupName": group,
            "resourceName": deployment["name"],
            "resourceType": deployment["type"],
            "resourceId": deployment["id"],
            "resourceRegion": deployment["location"],
            "oldCapacity": str(before),
            "newCapacity": str(after),
        },
        "properties": dict(properties),
    }
