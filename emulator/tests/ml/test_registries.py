"""Registries without a client: discovery, what is refused, and where references lead."""

from __future__ import annotations

from typing import Any

import pytest

from localazure.core.errors import NotFound
from localazure.ml.assets import Assets

ARM = "/subscriptions/{0}/resourceGroups/{1}/providers/Microsoft.MachineLearningServices/registries"


def arm(client: Any, path: str = "") -> str:
    return ARM.format(client.settings.subscription_id, client.settings.resource_group) + path


def test_a_registry_is_found_by_discovery_and_keeps_its_own_assets(
    with_client: Any, blobs: Any, assets: Assets
) -> None:
    async def test(client: Any) -> None:
        settings = client.settings
        await client.ok("PUT", arm(client, "/Shared"), {"location": "local", "tags": {"a": "b"}, "properties": {}})
        found = await client.ok("GET", "/registrymanagement/v1.0/registries/shared/discovery")
        assert (found["registryName"], found["subscriptionId"]) == ("Shared", settings.subscription_id)
        assert found["primaryRegionResourceProviderUri"] == f"{settings.api_url}/"
        front = f"/mferp/managementfrontend{arm(client, '/Shared')}"
        reference = await client.ok(
            "PUT",
            f"{front}/tempdatarefs/m/versions/1",
            {"assetId": "azureml://registries/Shared/models/m/versions/1"},
        )
        url = reference["blobReferenceForConsumption"]["blobUri"]
        container = url.rpartition("/")[2]
        assert url == f"https://azflowlake.blob.core.localhost:{settings.blob_port}/{container}"
        blobs.write(container, "m/weights.txt", b"1")
        body = {"properties": {"modelUri": f"{url}/m", "modelType": "custom_model"}}
        made = await client.ok("PUT", f"{front}/models/m/versions/1", body)
        assert made["id"] == "azureml://registries/Shared/models/m/versions/1"
        # What is there isn't uploaded again; the client takes 409 for that.
        again = await client.send(
            "PUT", f"{front}/tempdatarefs/m/versions/1", {"assetId": "azureml://registries/Shared/models/m/versions/1"}
        )
        assert again.status_code == 409
        assert (await client.send("GET", "models/m/versions/1")).status_code == 404
        names = [each["name"] for each in (await client.ok("GET", arm(client)))["value"]]
        assert sorted(names) == sorted(["Shared", settings.registry])

    with_client(test)
    assert (assets.model_folder("azureml://registries/shared/models/m/labels/latest") / "weights.txt").read_bytes()
    assert assets.environment("azureml://registries/azureml/environments/x/versions/3")["properties"] == {}
    with pytest.raises(NotFound, match="The registry 'other' was not found"):
        assets.environment("azureml://registries/other/environments/x/versions/3")
    with pytest.raises(NotFound, match="'m:2' was not found in models"):
        assets.model("azureml://registries/shared/models/m/versions/2")


def test_what_is_shared_must_be_there_and_new(with_client: Any) -> None:
    async def test(client: Any) -> None:
        settings = client.settings
        front = f"/mferp/managementfrontend{arm(client, '/' + settings.registry)}/import"
        address = "azureml://datastores/workspaceblobstore/paths/data/"
        await client.put("data/rows/versions/1", dataUri=address, dataType="uri_folder", tags={"rows": "1"})

        async def share(workspace: str, kind: str = "data", version: str = "1") -> Any:
            source = f"azureml://locations/local/workspaces/{workspace}/{kind}/rows/versions/{version}"
            return await client.send("POST", front, {"properties": {"referenceType": "Id", "sourceAssetId": source}})

        assert (await share(settings.workspace_guid)).status_code == 200
        for answer, status, message in (
            (await share(settings.workspace_guid), 409, "rows:1 is already in data"),
            (await share(settings.workspace_guid, version="2"), 404, "'rows:2' was not found"),
            (await share("00000000-0000-0000-0000-000000000000"), 400, "There is no workspace with the id"),
            (await share(settings.workspace_guid, kind="components"), 501, "Registry_ImportAsset"),
        ):
            assert answer.status_code == status
            assert message in answer.json()["error"]["message"]
        bad = await client.send("PUT", arm(client, "/a b"), {})
        assert "not a valid registry name" in bad.json()["error"]["message"]
        gone = await client.send("GET", "/registrymanagement/v1.0/registries/gone/discovery")
        assert f"there are: {settings.registry}" in gone.json()["error"]["message"]

    with_client(test)
