"""Versioned assets, datastores, and where their addresses lead."""

from __future__ import annotations

from typing import Any

import pytest

from localazure.core.errors import AzureError, BadRequest, NotFound
from localazure.ml.assets import Assets
from localazure.storage.locations import Location

URI = "azureml://datastores/workspaceblobstore/paths/data/"


def test_a_version_makes_its_container_and_counts_on(with_client: Any) -> None:
    async def test(client: Any) -> None:
        assert (await client.send("GET", "data/flights")).status_code == 404
        await client.put("data/flights/versions/1", dataUri=URI, dataType="uri_folder")
        await client.put("data/flights/versions/2013-03-08", dataUri=URI, dataType="uri_folder")
        container = (await client.ok("GET", "data/flights"))["properties"]
        assert (container["nextVersion"], container["latestVersion"]) == ("2", "2013-03-08")
        assert container["dataType"] == "uri_folder"
        listed = await client.ok("GET", "data/flights/versions?$orderBy=createdtime desc&$top=1")
        assert [version["name"] for version in listed["value"]] == ["2013-03-08"]

    with_client(test)


def test_content_is_fixed_tags_are_not(with_client: Any, blobs: Any) -> None:
    async def test(client: Any) -> None:
        await client.put("models/m/versions/1", modelUri=URI, modelType="custom_model", tags={"a": "1"})
        other = {"properties": {"modelUri": URI + "other/", "tags": {}}}
        answer = await client.send("PUT", "models/m/versions/1", other)
        assert answer.status_code == 400
        assert "its modelUri cannot be changed" in answer.json()["error"]["message"]
        # The same place in the long form, as the SDK sends a model it has read.
        long = (
            f"azureml://subscriptions/{client.settings.subscription_id}/resourcegroups/{client.settings.resource_group}"
            f"/workspaces/{client.settings.workspace}/datastores/workspaceblobstore/paths/data"
        )
        await client.put("models/m/versions/1", modelUri=long, tags={"b": "2"})
        patched = await client.ok("PATCH", "models/m/versions/1", {"properties": {"tags": {"b": None, "c": "3"}}})
        assert patched["properties"]["tags"] == {"c": "3"}
        assert patched["properties"]["modelUri"] == URI
        assert patched["properties"]["flavors"] == {}
        assert len((await client.ok("GET", "models/m/versions?tags=c%3D3"))["value"]) == 1
        assert (await client.ok("GET", "models/m/versions?tags=c%3D4"))["value"] == []

    with_client(test)


def test_archived_versions_and_containers_leave_the_lists(with_client: Any) -> None:
    async def test(client: Any) -> None:
        await client.put("models/m/versions/1", modelUri=URI)
        await client.put("models/m/versions/1", modelUri=URI, isArchived=True)
        assert (await client.ok("GET", "models/m/versions"))["value"] == []
        assert len((await client.ok("GET", "models/m/versions?listViewType=All"))["value"]) == 1
        await client.put("models/m", isArchived=True)
        assert (await client.ok("GET", "models"))["value"] == []
        assert (await client.send("GET", "models?listViewType=Some")).status_code == 400

    with_client(test)


@pytest.mark.parametrize(
    ("path", "properties", "message"),
    [
        ("data/d/versions/1", {"dataType": "uri_file"}, "needs dataUri"),
        ("models/-x/versions/1", {"modelUri": URI}, "not a valid asset name"),
        ("models/x/versions/1", {"modelUri": "azureml://jobs/none/outputs/o"}, "The job 'none' was not found"),
        ("datastores/d", {"datastoreType": "AzureBlob", "accountName": "other"}, "'other' was not found"),
        ("datastores/d", {"datastoreType": "AzureFile"}, "datastoreType AzureFile is not implemented"),
    ],
)
def test_what_is_wrong_is_named(with_client: Any, path: str, properties: dict[str, Any], message: str) -> None:
    async def test(client: Any) -> None:
        answer = await client.send("PUT", path, {"properties": properties})
        assert answer.status_code in (400, 404, 501)
        assert message in answer.json()["error"]["message"]

    with_client(test)


def test_datastores_give_secrets_of_their_kind_and_never_show_them(with_client: Any) -> None:
    async def test(client: Any) -> None:
        credentials = {"credentialsType": "AccountKey", "secrets": {"secretsType": "AccountKey", "key": "hidden"}}
        account = client.settings.storage_account
        shown = await client.put(
            "datastores/mine",
            datastoreType="AzureBlob", accountName=account, containerName="mine", credentials=credentials,
        )  # fmt: skip
        assert "hidden" not in str(shown)
        lake = await client.ok("POST", "datastores/lake/listSecrets")
        assert lake == {"secretsType": "Sas", "sasToken": "sp=racwdl"}
        store = await client.ok("POST", "datastores/workspaceartifactstore/listSecrets")
        assert store["secretsType"] == "AccountKey"
        default = await client.ok("GET", "datastores?isDefault=true")
        assert [each["name"] for each in default["value"]] == ["workspaceblobstore"]

    with_client(test)


def test_another_workspace_is_not_here(with_client: Any) -> None:
    async def test(client: Any) -> None:
        path = client.settings.workspace_id.replace(client.settings.workspace, "other")
        answer = await client.send("GET", path)
        assert answer.status_code == 404
        assert "The workspace 'other' was not found" in answer.json()["error"]["message"]

    with_client(test)


def test_every_spelling_of_a_reference_leads_to_the_data(with_client: Any, assets: Assets) -> None:
    async def test(client: Any) -> None:
        await client.put("data/flights/versions/1", dataUri=URI, dataType="uri_folder")
        await client.put("models/m/versions/3", modelUri=URI)
        workspace = client.settings.workspace_id
        place = Location("azureml", "data/")
        for reference in (
            URI,
            "azureml:flights:1",
            "azureml:flights@latest",
            "azureml:m@latest",
            f"{workspace}/data/flights/versions/1",
            f"azureml:{workspace}/data/flights/versions/1",
            f"{workspace}/models/m/labels/latest",
            f"azureml://locations/local/workspaces/{client.settings.workspace}/data/flights/versions/1",
            f"{client.settings.blob_url}/azureml/data/?sv=1&sig=x",
            f"abfss://azureml@{client.settings.storage_account}.dfs.core.windows.net/data/",
            f"wasbs://azureml@{client.settings.storage_account}.blob.core.windows.net/data/",
        ):
            assert assets.location(reference) == place, reference
        assert (assets.resolve("azureml:flights:1") / "rows.csv").read_text() == "a\n1\n"
        assert assets.model_folder("azureml:m:3").name == "data"
        assert assets.environment("azureml://registries/azureml/environments/x/versions/1")["properties"] == {}

    with_client(test)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("azureml:none:1", "no data or model asset 'none:1'"),
        ("azureml://jobs/none/outputs/o", "The job 'none' was not found"),
        ("runs:/none/model", "no artifact 'model'"),
        ("https://elsewhere.blob.core.windows.net/c/x", "no storage account 'elsewhere'"),
        ("s3://bucket/x", "isn't an address"),
    ],
)
def test_a_reference_that_leads_nowhere_is_named(assets: Assets, reference: str, message: str) -> None:
    with pytest.raises(AzureError, match=message) as caught:
        assets.resolve(reference)
    assert isinstance(caught.value, BadRequest | NotFound)
