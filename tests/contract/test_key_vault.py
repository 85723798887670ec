"""Key Vault's secrets: Microsoft's own SDK (both ways to wait), Airflow's secrets backend, a job's managed identity."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.keyvault.secrets import SecretClient

pytestmark = pytest.mark.evidence("sdk")

CHECKOUT = Path(__file__).resolve().parents[2]
ENDED = {"Completed", "Failed", "Canceled"}


@pytest.fixture(scope="module")
def vault_uri(localazure: Any) -> str:
    """The vault's address at a host of its own, as Resource Manager tells it."""
    return str(arm(localazure, f"/resourceGroups/{localazure['resource_group']}{VAULTS}/{localazure['key_vault']}")
               ["properties"]["vaultUri"])  # fmt: skip


@pytest.fixture(scope="module")
def client(localazure: Any, vault_uri: str) -> Iterator[SecretClient]:
    # With the SDK's own checks: the vault's host must be below the resource of the challenge.
    with SecretClient(vault_uri, localazure.credential()) as made:
        yield made


@pytest.fixture
def name() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


VAULTS = "/providers/Microsoft.KeyVault/vaults"


def arm(localazure: Any, path: str, **query: str) -> dict[str, Any]:
    """What Resource Manager answers about the subscription."""
    token = localazure.credential().get_token("https://management.azure.com/.default").token
    answer = requests.get(
        f"{localazure['api_url']}/subscriptions/{localazure['subscription_id']}{path}",
        {"api-version": "2023-07-01", **query},
        headers={"Authorization": f"Bearer {token}"},
        verify=localazure["ca_bundle"],
        timeout=10,
    )
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def test_a_secret_its_versions_and_its_properties(client: SecretClient, name: str) -> None:
    first = client.set_secret(name, "one", tags={"team": "ml"}, content_type="text/plain")
    second = client.set_secret(name, "zwei ünd \U0001f511", enabled=True)
    assert (first.name, first.properties.vault_url) == (name, client.vault_url)
    assert client.get_secret(name).value == "zwei ünd \U0001f511"
    assert client.get_secret(name, first.properties.version).value == "one"
    assert client.get_secret(name.upper()).id == second.id

    later = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    changed = client.update_secret_properties(name, first.properties.version, expires_on=later, tags={"team": "bi"})
    assert (changed.expires_on, changed.tags, changed.content_type) == (later, {"team": "bi"}, "text/plain")
    assert client.update_secret_properties(name, content_type="json").version == second.properties.version

    versions = {each.version: each for each in client.list_properties_of_secret_versions(name)}
    assert set(versions) == {first.properties.version, second.properties.version}
    assert versions[first.properties.version].expires_on == later
    assert list(client.list_properties_of_secret_versions("never-there")) == []


def test_dates_inform_and_a_disabled_secret_is_not_read(client: SecretClient, name: str) -> None:
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    client.set_secret(name, "expired", expires_on=now - day)
    assert client.get_secret(name).value == "expired"
    client.set_secret(name, "early", not_before=now + day)
    assert client.get_secret(name).properties.not_before == now + day
    client.update_secret_properties(name, enabled=False)
    with pytest.raises(HttpResponseError, match="not allowed on a disabled secret") as refused:
        client.get_secret(name)
    assert refused.value.status_code == 403
    assert refused.value.error is not None and refused.value.error.innererror == {"code": "SecretDisabled"}
    assert client.update_secret_properties(name, enabled=True).enabled
    assert client.get_secret(name).value == "early"


def test_deleted_recovered_purged(client: SecretClient, name: str) -> None:
    client.set_secret(name, "one")
    client.set_secret(name, "two")
    poller = client.begin_delete_secret(name)
    poller.wait(timeout=10)
    assert poller.done() and poller.result().recovery_id == f"{client.vault_url}/deletedsecrets/{name}"
    with pytest.raises(ResourceNotFoundError, match=rf"\(name/id\) {name} was not found in this key vault"):
        client.get_secret(name)
    with pytest.raises(ResourceExistsError, match="currently in a deleted but recoverable state"):
        client.set_secret(name, "three")
    deleted = client.get_deleted_secret(name)
    assert deleted.scheduled_purge_date - deleted.deleted_date == datetime.timedelta(days=90)
    assert name in {each.name for each in client.list_deleted_secrets()}
    assert name not in {each.name for each in client.list_properties_of_secrets()}

    client.begin_recover_deleted_secret(name).wait(timeout=10)
    assert client.get_secret(name).value == "two"
    assert len(list(client.list_properties_of_secret_versions(name))) == 2

    client.begin_delete_secret(name).wait(timeout=10)
    client.purge_deleted_secret(name)
    with pytest.raises(ResourceNotFoundError, match=f"Deleted Secret not found: {name}"):
        client.get_deleted_secret(name)
    client.set_secret(name, "new")
    assert len(list(client.list_properties_of_secret_versions(name))) == 1


def test_pages(client: SecretClient, name: str) -> None:
    wanted = [f"{name}-{number:02}" for number in range(7)]
    for each in wanted:
        client.set_secret(each, each)
    pages = list(client.list_properties_of_secrets(max_page_size=3).by_page())
    found = [[each.name for each in page] for page in pages]
    assert all(len(page) == 3 for page in found[:-1])
    assert [each for page in found for each in page if each.startswith(name)] == wanted
    with pytest.raises(HttpResponseError, match="must be between 1 and 25"):
        list(client.list_properties_of_secrets(max_page_size=26))


def test_a_backup_is_restored_once_the_secret_is_gone(client: SecretClient, name: str) -> None:
    first = client.set_secret(name, "one", tags={"a": "b"})
    client.set_secret(name, "two")
    backup = client.backup_secret(name)
    assert b"one" not in backup and b"two" not in backup
    with pytest.raises(ResourceExistsError):
        client.restore_secret_backup(backup)
    client.begin_delete_secret(name).wait(timeout=10)
    with pytest.raises(ResourceExistsError, match="deleted but recoverable"):
        client.restore_secret_backup(backup)
    client.purge_deleted_secret(name)
    assert client.restore_secret_backup(backup).name == name
    assert client.get_secret(name).value == "two"
    again = client.get_secret(name, first.properties.version)
    assert (again.value, again.properties.tags) == ("one", {"a": "b"})
    with pytest.raises(HttpResponseError, match="Backup blob contains invalid or corrupt version"):
        client.restore_secret_backup(bytes(4728))


def test_bad_input_is_refused_in_the_services_words(localazure: Any, client: SecretClient, vault_uri: str) -> None:
    with pytest.raises(HttpResponseError, match="The request URI contains an invalid name: my_secret"):
        client.set_secret("my_secret", "x")
    assert client.set_secret("large", "x" * 25_600).value is not None
    with pytest.raises(HttpResponseError, match="beyond the maximum permitted length"):
        client.set_secret("large", "x" * 25_601)
    with pytest.raises(HttpResponseError, match="at most 15 tags"):
        client.set_secret("tagged", "x", tags={str(number): "" for number in range(16)})
    with SecretClient(vault_uri, localazure.credential(), api_version="7.0") as older:
        assert older.get_secret("large").value == "x" * 25_600
    answer = requests.get(
        f"{vault_uri}secrets",
        {"api-version": "2015-06-01"},
        headers={"Authorization": f"Bearer {vault_token(localazure)}"},
        verify=localazure["ca_bundle"],
        timeout=10,
    )
    assert answer.status_code == 400
    assert "The specified version (2015-06-01) is not recognized." in answer.json()["error"]["message"]


def vault_token(localazure: Any, scope: str = "https://vault.azure.net/.default") -> str:
    return str(localazure.credential().get_token(scope).token)


def test_who_has_no_token_is_told_whom_to_ask(localazure: Any, vault_uri: str) -> None:
    url = f"{vault_uri}secrets/any?api-version=7.4"
    answer = requests.get(url, timeout=10, verify=localazure["ca_bundle"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "Unauthorized")
    authority = f'Bearer authorization="{localazure["api_url"]}/{localazure["tenant_id"]}", '
    assert answer.headers["WWW-Authenticate"].startswith(authority + 'resource="https://vault.localhost:')
    wrong = {"Authorization": f"Bearer {vault_token(localazure, 'https://management.azure.com/.default')}"}
    answer = requests.get(url, headers=wrong, timeout=10, verify=localazure["ca_bundle"])
    assert answer.status_code == 401
    assert answer.json()["error"]["message"].startswith("AKV10022: Invalid audience.")
    with (
        SecretClient(vault_uri, localazure.credential(client_secret="local-only~wrong")) as stranger,
        pytest.raises(ClientAuthenticationError, match="AADSTS7000215"),
    ):
        stranger.get_secret("any")


def test_without_a_name_of_its_own_the_vault_is_at_the_apis_address(
    localazure: Any, client: SecretClient, name: str
) -> None:
    client.set_secret(name, "one")
    with (
        SecretClient(localazure["key_vault_url"], localazure.credential()) as strict,
        pytest.raises(ValueError, match="verify_challenge_resource=False"),
    ):
        strict.get_secret(name)
    with SecretClient(localazure["key_vault_url"], localazure.credential(), verify_challenge_resource=False) as plain:
        assert plain.get_secret(name).id.startswith(f"{localazure['key_vault_url']}/secrets/{name}/")
        assert len(list(plain.list_properties_of_secrets(max_page_size=2))) > 0


def test_the_asynchronous_sdk(localazure: Any, vault_uri: str, name: str) -> None:
    from azure.identity.aio import ClientSecretCredential
    from azure.keyvault.secrets.aio import SecretClient as AsyncSecretClient

    async def live() -> list[str]:
        credential = ClientSecretCredential(
            localazure["tenant_id"],
            localazure["client_id"],
            localazure["client_secret"],
            authority=localazure["api_url"],
            disable_instance_discovery=True,
            connection_verify=localazure["ca_bundle"],
        )
        vault = AsyncSecretClient(vault_uri, credential, connection_verify=localazure["ca_bundle"])
        async with credential, vault:
            await vault.set_secret(name, "one")
            found = [str((await vault.get_secret(name)).value)]
            await vault.delete_secret(name)
            found += [each.name async for each in vault.list_deleted_secrets() if each.name == name]
            await vault.recover_deleted_secret(name)
            return [*found, str((await vault.get_secret(name)).value)]

    assert asyncio.run(live()) == ["one", name, "one"]


def test_resource_manager_and_the_workspace_name_the_vault(localazure: Any) -> None:
    group = f"/resourceGroups/{localazure['resource_group']}"
    listed = [
        arm(localazure, group + VAULTS)["value"],
        arm(localazure, VAULTS)["value"],
        arm(localazure, "/resources", **{"$filter": "resourceType eq 'Microsoft.KeyVault/vaults'"})["value"],
    ]
    identifiers = {each["id"] for page in listed for each in page}
    assert identifiers == {f"/subscriptions/{localazure['subscription_id']}{group}{VAULTS}/{localazure['key_vault']}"}
    workspace = localazure.ml_client().workspaces.get(localazure["workspace"])
    assert {workspace.key_vault} == identifiers


def test_a_job_reads_a_secret_with_its_managed_identity(
    localazure: Any, client: SecretClient, name: str, tmp_path: Path
) -> None:
    from azure.ai.ml import command
    from azure.ai.ml.entities import ManagedIdentityConfiguration

    client.set_secret(name, "of the night")
    (tmp_path / "read.py").write_text(
        "import sys\n"
        "from azure.identity import DefaultAzureCredential\n"
        "from azure.keyvault.secrets import SecretClient\n"
        "vault = SecretClient(sys.argv[1], DefaultAzureCredential(), verify_challenge_resource=False)\n"
        "assert vault.get_secret(sys.argv[2]).value == 'of the night'\n"
    )
    job = command(
        # These tests' own interpreter: it has azure-keyvault-secrets.
        command=f"PYTHONPATH= {sys.executable} read.py {localazure['key_vault_url']} {name}",
        code=str(tmp_path),
        environment="azureml://registries/azureml/environments/sklearn-1.5/labels/latest",
        compute="cpu-cluster",
        identity=ManagedIdentityConfiguration(),
    )
    job.name, job.experiment_name = f"vault-{uuid.uuid4().hex[:12]}", "contract-key-vault"
    ml_client = localazure.ml_client()
    ml_client.jobs.create_or_update(job)
    end = time.monotonic() + 120
    while (state := ml_client.jobs.get(job.name).status) not in ENDED:
        assert time.monotonic() < end, f"{job.name} is {state}"
        time.sleep(0.2)
    assert state == "Completed"


ASK_AIRFLOW = """
import asyncio, logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
from azflow.connection import AzureConnection
connection = AzureConnection.load("azure_default")
assert asyncio.run(AzureConnection.aload("azure_default")) == connection
with connection.rest_client() as client:
    from azure.core.rest import HttpRequest
    address = f"{connection.ml_workspace_url}?api-version=2024-04-01"
    answer = client.send_request(HttpRequest("GET", address))
    answer.raise_for_status()
    print("FOUND", connection.id, answer.json()["name"], repr(connection))
"""


def test_airflow_finds_its_connection_in_the_vault_and_no_log_has_the_secret(
    localazure: Any, client: SecretClient, tmp_path: Path
) -> None:
    client.set_secret("airflow-connections-azure-default", json.dumps(localazure.airflow_connection()))
    backend = {
        "connections_prefix": "airflow-connections",
        "variables_prefix": None,
        "config_prefix": None,
        "vault_url": localazure["key_vault_url"],
        "verify_challenge_resource": False,
    }
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "AZURE_", "MSI_"))}
    ended = subprocess.run(
        [sys.executable, "-c", ASK_AIRFLOW],
        env=inherited
        | {
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__SECRETS__BACKEND": "airflow.providers.microsoft.azure.secrets.key_vault.AzureKeyVaultBackend",
            "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(backend),
            # The identity of the machine, as a virtual machine on Azure has one: the vault's own secret is nowhere.
            "IDENTITY_ENDPOINT": f"{localazure['api_url']}/msi/machine/token",
            "IDENTITY_HEADER": localazure["client_secret"],
            "REQUESTS_CA_BUNDLE": localazure["ca_bundle"],
            "PYTHONPATH": str(CHECKOUT / "plugins"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert f"FOUND azure_default {localazure['workspace']}" in ended.stdout, ended.stdout[-4000:]
    secret = localazure["client_secret"]
    assert secret not in ended.stdout
    logs = [path for folder in (tmp_path, localazure.home / "logs") for path in folder.rglob("*") if path.is_file()]
    kept = [*logs, *localazure.home.glob("store.sqlite*")]
    assert not [path for path in kept if secret.encode() in path.read_bytes()]
