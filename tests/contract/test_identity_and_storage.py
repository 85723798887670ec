"""azure-identity and azure-storage-blob against localazure. Evidence: `sdk` (the real clients, unmodified)."""

from __future__ import annotations

import base64
import datetime
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.storage.blob import BlobSasPermissions, BlobServiceClient, ContainerClient, generate_blob_sas

SCOPES = [
    "https://management.azure.com/.default",
    "https://ml.azure.com/.default",
    "https://dev.azuresynapse.net/.default",
    "https://database.windows.net/.default",
    "https://storage.azure.com/.default",
    "https://vault.azure.net/.default",
]


def claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    content: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return content


@pytest.mark.parametrize("scope", SCOPES)
def test_a_service_principal_gets_a_token_for_every_service(localazure: Any, scope: str) -> None:
    token = localazure.credential().get_token(scope)
    content = claims(token.token)
    assert content["aud"] == scope.removesuffix("/.default")
    assert content["tid"] == localazure["tenant_id"]
    assert content["appid"] == localazure["client_id"]
    assert content["iss"] == f"https://sts.windows.net/{localazure['tenant_id']}/"
    assert 3000 < token.expires_on - datetime.datetime.now().timestamp() <= 3600


def test_the_api_itself_may_be_the_audience(localazure: Any) -> None:
    # MLClient asks for <resource_manager>/.default when it is given another cloud.
    token = localazure.credential().get_token(localazure["api_url"] + "/.default")
    assert claims(token.token)["aud"] == localazure["api_url"]


@pytest.mark.parametrize(
    ("changed", "number"),
    [
        ({"client_secret": "local-only~wrong"}, "AADSTS7000215"),
        ({"client_id": str(uuid.uuid4())}, "AADSTS700016"),
    ],
)
def test_a_wrong_secret_or_application_is_refused_in_entras_words(
    localazure: Any, changed: dict[str, str], number: str
) -> None:
    with pytest.raises(ClientAuthenticationError, match=number):
        localazure.credential(**changed).get_token(SCOPES[0])


def test_a_wrong_tenant_is_refused(localazure: Any) -> None:
    with pytest.raises((ClientAuthenticationError, ValueError), match=r"AADSTS90002|authority configuration"):
        localazure.credential(tenant_id=str(uuid.uuid4())).get_token(SCOPES[0])


def test_the_v1_endpoint_answers_without_spaces(localazure: Any) -> None:
    # Evidence: recorded. The ODBC driver searches the text for `"access_token":"`.
    answer = requests.post(
        f"{localazure['api_url']}/{localazure['tenant_id']}/oauth2/token?api-version=2015-06-01",
        data={
            "grant_type": "client_credentials",
            "client_id": localazure["client_id"],
            "client_secret": localazure["client_secret"],
            "resource": "https://database.windows.net/",
        },
        verify=localazure["ca_bundle"],
        timeout=10,
    )
    assert answer.status_code == 200
    assert '"access_token":"' in answer.text
    assert claims(answer.json()["access_token"])["aud"] == "https://database.windows.net/"


def test_a_token_for_another_service_opens_nothing(localazure: Any) -> None:
    token = localazure.credential().get_token("https://storage.azure.com/.default").token
    path = f"/subscriptions/{localazure['subscription_id']}/providers/Microsoft.MachineLearningServices"
    url = f"{localazure['api_url']}{path}/locations/local/mfeOperationsStatus/none"
    answer = requests.get(url, headers={"Authorization": f"Bearer {token}"}, verify=localazure["ca_bundle"], timeout=10)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "InvalidAuthenticationTokenAudience"
    assert "WWW-Authenticate" in answer.headers


def test_what_is_not_implemented_says_so(localazure: Any) -> None:
    answer = requests.get(f"{localazure['api_url']}/no/such/thing", verify=localazure["ca_bundle"], timeout=10)
    assert answer.status_code == 501
    assert answer.json()["error"]["message"] == "GET /no/such/thing is not implemented by localazure"


@pytest.fixture
def container(localazure: Any) -> Iterator[ContainerClient]:
    with BlobServiceClient(localazure["storage_account_url"], localazure.credential()) as service:
        client = service.create_container(f"t{uuid.uuid4().hex[:12]}")
        yield client
        client.delete_container()


def test_the_lake_and_the_workspaces_container_are_there(localazure: Any) -> None:
    with BlobServiceClient(localazure["storage_account_url"], localazure.credential()) as service:
        assert {c.name for c in service.list_containers()} >= {"lake", "azureml"}


def test_blobs_with_an_entra_token(container: ContainerClient) -> None:
    container.upload_blob("landing/flights/2013-03-08/flights.csv", b"a,b\n1,2\n")
    container.upload_blob("landing/flights/2013-03-08/_SUCCESS", b"")
    names = [blob.name for blob in container.list_blobs(name_starts_with="landing/flights/")]
    assert names == ["landing/flights/2013-03-08/_SUCCESS", "landing/flights/2013-03-08/flights.csv"]
    assert container.download_blob("landing/flights/2013-03-08/flights.csv").readall() == b"a,b\n1,2\n"


def test_a_large_blob_is_sent_in_blocks(localazure: Any) -> None:
    content = bytes(range(256)) * 40_000
    with BlobServiceClient(
        localazure["storage_account_url"],
        localazure.credential(),
        max_single_put_size=1024 * 1024,
        max_block_size=1024 * 1024,
    ) as service:
        blob = service.get_blob_client("lake", f"test/{uuid.uuid4()}.bin")
        blob.upload_blob(content)
        try:
            assert blob.download_blob().readall() == content
        finally:
            blob.delete_blob()


def test_an_expired_or_foreign_token_is_refused(localazure: Any) -> None:
    # Azurite reads the audience: a token for the SQL pool is none for storage.
    class Foreign:
        def get_token(self, *scopes: str, **options: Any) -> Any:
            return localazure.credential().get_token("https://database.windows.net/.default")

    with (
        BlobServiceClient(localazure["storage_account_url"], Foreign()) as service,
        pytest.raises(HttpResponseError) as caught,
    ):
        list(service.list_containers())
    assert caught.value.status_code in (401, 403)


def test_host_style_addresses(localazure: Any, container: ContainerClient) -> None:
    # Uploads of Azure ML's SDK through a datastore: https://<account>.blob.<storage_endpoint>.
    url = f"https://{localazure['storage_account']}.blob.{localazure.cloud()['storage_endpoint']}"
    with BlobServiceClient(url, localazure.credential()) as service:
        service.get_blob_client(container.container_name, "by/host").upload_blob(b"host")
    assert container.download_blob("by/host").readall() == b"host"


def test_a_service_sas_of_the_sdk(localazure: Any, container: ContainerClient) -> None:
    # Evidence: sdk. The same key signs localazure's own SAS, so that Azurite accepts either.
    container.upload_blob("sas.txt", b"sas")
    key = json.loads((localazure.home / "settings.json").read_text())["storage_account_key"]
    sas = generate_blob_sas(
        localazure["storage_account"],
        container.container_name,
        "sas.txt",
        account_key=key,
        permission=BlobSasPermissions(read=True),
        expiry=datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5),
    )
    url = f"{localazure['storage_account_url']}/{container.container_name}/sas.txt"
    assert requests.get(f"{url}?{sas}", verify=localazure["ca_bundle"], timeout=10).content == b"sas"
    assert requests.get(url, verify=localazure["ca_bundle"], timeout=10).status_code in (403, 404)


def test_up_again_changes_nothing(localazure: Any) -> None:
    before = (localazure.home / "pids.json").read_text()
    localazure.run("up")
    assert (localazure.home / "pids.json").read_text() == before


def test_reset_is_refused_while_up(localazure: Any) -> None:
    with pytest.raises(pytest.fail.Exception, match="localazure is up"):
        localazure.run("reset")
