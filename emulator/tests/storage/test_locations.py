from __future__ import annotations

import pytest

from localazure.core.errors import AzureError, BadRequest, NotFound
from localazure.settings import Settings
from localazure.storage.locations import Location, parse

WORKSPACE = "azureml://subscriptions/10ca1000-0000-4000-8000-000000000003/resourcegroups/rg-azflow/workspaces/ml-azflow"


@pytest.mark.parametrize(
    ("uri", "container", "path"),
    [
        ("https://azflowlake.blob.core.windows.net/lake/a/b.csv", "lake", "a/b.csv"),
        ("https://azflowlake.dfs.core.windows.net/lake/a/", "lake", "a/"),
        ("https://azflowlake.blob.core.localhost:18402/lake/a%20b", "lake", "a b"),
        ("https://localhost:18402/azflowlake/lake/a/b", "lake", "a/b"),
        ("https://127.0.0.1:18402/azflowlake/lake", "lake", ""),
        ("https://azflowlake.blob.core.windows.net/lake/a?sv=2021&sig=x", "lake", "a"),
        ("https://azflowlake.dfs.core.windows.net/lake/flights/*/x*.csv", "lake", "flights/*/x*.csv"),
        ("abfss://lake@azflowlake.dfs.core.windows.net/a/b", "lake", "a/b"),
        ("abfss://lake@azflowlake.dfs.core.private/a", "lake", "a"),
        ("wasbs://lake@azflowlake.blob.core.windows.net/a", "lake", "a"),
        ("azureml://datastores/lake/paths/export/x", "lake", "export/x"),
        ("azureml://datastores/workspaceblobstore/paths/LocalUpload/1/x", "azureml", "LocalUpload/1/x"),
        ("azureml://datastores/workspaceartifactstore/paths/", "azureml", ""),
        ("azureml://datastores/lake", "lake", ""),
        (f"{WORKSPACE}/datastores/lake/paths/a b/c", "lake", "a b/c"),
        (f"{WORKSPACE.replace('resourcegroups', 'resourceGroups')}/datastores/lake/paths/a", "lake", "a"),
    ],
)
def test_every_spelling_leads_to_container_and_path(uri: str, container: str, path: str, settings: Settings) -> None:
    assert parse(uri, settings) == Location(container, path)


@pytest.mark.parametrize(
    ("uri", "kind", "named"),
    [
        ("https://other.blob.core.windows.net/lake/a", NotFound, "'other'"),
        ("https://localhost:18402/other/lake/a", NotFound, "'other'"),
        ("abfss://lake@other.dfs.core.windows.net/a", NotFound, "'other'"),
        ("azureml://datastores/none/paths/a", NotFound, "'none'"),
        (f"{WORKSPACE}-2/datastores/lake/paths/a", NotFound, "'ml-azflow-2'"),
        ("https://example.com/lake/a", BadRequest, "example.com"),
        ("https://azflowlake.blob.core.windows.net/", BadRequest, "no container"),
        ("abfss://azflowlake.dfs.core.windows.net/a", BadRequest, "no container"),
        ("azureml://jobs/x/outputs/y", BadRequest, "datastore address"),
        ("s3://bucket/a", BadRequest, "s3://"),
        ("/etc/passwd", BadRequest, "/etc/passwd"),
        ("https://localhost:18402/azflowlake/lake/%2e%2e/x", BadRequest, ".."),
        ("azureml://datastores/lake/paths/../x", BadRequest, ".."),
        ("https://[/x", BadRequest, "valid"),
    ],
)
def test_what_leads_nowhere_is_named(uri: str, kind: type[AzureError], named: str, settings: Settings) -> None:
    with pytest.raises(kind) as caught:
        parse(uri, settings)
    assert named in caught.value.message


def test_a_sas_never_shows_in_an_error(settings: Settings) -> None:
    with pytest.raises(NotFound) as caught:
        parse("https://other.blob.core.windows.net/lake/a?sig=topsecret", settings)
    assert "topsecret" not in caught.value.message


def test_registered_datastores_are_known(settings: Settings) -> None:
    assert parse("azureml://datastores/more/paths/x", settings, {"more": "box"}) == Location("box", "x")


def test_join(settings: Settings) -> None:
    assert Location("lake", "a/").join("b/", "", "c") == Location("lake", "a/b/c")
    assert Location("lake", "").join("x") == Location("lake", "x")
