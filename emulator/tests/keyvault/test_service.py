"""The vault over HTTP, where a client misbehaves or asks for what isn't there."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from localazure.core.auth import Tokens
from localazure.core.registry import Api
from localazure.core.store import Store
from localazure.keyvault.sealing import Seal
from localazure.keyvault.secrets import Secrets
from localazure.keyvault.service import KeyVault
from localazure.settings import Settings

VALUE = "never in a log"


@pytest.fixture
def vault(certified: Settings, tokens: Tokens, settings: Settings, store: Store) -> TestClient:
    secrets = Secrets(store, Seal(settings.home / "keyvault.key"))
    api = Api(KeyVault(certified, tokens, secrets).operations(), tokens)
    token = tokens.issue(tokens.object_id, "https://vault.azure.net")
    client = TestClient(api, base_url=certified.key_vault_uri, headers={"Authorization": f"Bearer {token}"})
    client.params = {"api-version": "7.4"}
    return client


def error(answer: Any) -> tuple[int, str, str]:
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "Property value has invalid value"),
        ({"value": 1}, "Property value has invalid value"),
        ([], "must be a JSON object"),
        ({"value": "x", "attributes": []}, "Property attributes has invalid value"),
        ({"value": "x", "attributes": [1]}, "Property attributes has invalid value"),
        ({"value": "x", "attributes": {"enabled": "yes"}}, "Property enabled has invalid value"),
        ({"value": "x", "attributes": {"exp": "2030"}}, "Property exp has invalid value"),
        ({"value": "x", "attributes": {"nbf": True}}, "Property nbf has invalid value"),
        ({"value": "x", "attributes": {"exp": -1}}, "Property exp has invalid value"),
        ({"value": "x", "attributes": {"nbf": 10**12}}, "Property nbf has invalid value"),
        ({"value": "\ud83d"}, "half of a surrogate pair"),
        ({"value": "x", "tags": {"a": "\udd11"}}, "half of a surrogate pair"),
        ({"value": "x", "contentType": "x" * 256}, "Property contentType has invalid value"),
        ({"value": "x", "tags": {"a": 1}}, "Property tags has invalid value"),
        ({"value": "x", "tags": {"a" * 257: ""}}, "Property tags has invalid value"),
        ({"value": "ü" * 12_801}, "beyond the maximum permitted length"),
    ],
)
def test_a_body_that_is_no_secret_is_refused(vault: TestClient, body: Any, words: str) -> None:
    status, code, message = error(vault.put("/secrets/name", content=json.dumps(body)))
    assert (status, code) == (400, "BadParameter")
    assert words in message
    assert vault.get("/secrets/name").status_code == 404


@pytest.mark.parametrize("content", ["", "{", '{"value": "x"', "[" * 100_000, "\xff"])
def test_a_body_that_is_no_json_is_the_clients_mistake(vault: TestClient, content: str) -> None:
    assert error(vault.put("/secrets/name", content=content.encode("latin-1")))[0] == 400
    assert error(vault.put("/secrets/name", content=b"x" * 300_000))[0] == 413


@pytest.mark.parametrize("name", ["a_b", "a.b", "x" * 128, "a%2Fb", "%C3%BC"])
def test_names_are_letters_digits_and_hyphens(vault: TestClient, name: str) -> None:
    assert error(vault.put(f"/secrets/{name}", json={"value": "x"}))[:2] == (400, "BadParameter")


def test_an_empty_value_is_a_value(vault: TestClient) -> None:
    assert vault.put("/secrets/empty", json={"value": ""}).json()["value"] == ""
    assert vault.get("/secrets/empty/").json()["value"] == ""


def test_ids_have_the_host_that_was_asked(vault: TestClient, certified: Settings) -> None:
    own = vault.put("/secrets/name", json={"value": "x"}).json()["id"]
    assert own.startswith(f"{certified.key_vault_uri}/secrets/name/")
    plain = vault.get(f"{certified.api_url}/secrets/name").json()["id"]
    assert plain.startswith(f"{certified.api_url}/secrets/name/")
    strange = vault.get("/secrets/name", headers={"Host": "elsewhere.example.com"}).json()["id"]
    assert strange == plain


def test_the_next_page_is_found_by_the_link_alone(vault: TestClient, certified: Settings) -> None:
    for number in range(5):
        vault.put(f"/secrets/Name-{number}", json={"value": "x"})
    answer = vault.get("/secrets", params={"maxresults": "2"}).json()
    found = [each["id"].rpartition("/")[2] for each in answer["value"]]
    while answer["nextLink"]:
        link = httpx.URL(answer["nextLink"])
        assert f"{link.scheme}://{link.netloc.decode()}" == certified.key_vault_uri
        page = vault.get(link.path, params=link.params)
        assert page.status_code == 200, page.text
        answer = page.json()
        found += [each["id"].rpartition("/")[2] for each in answer["value"]]
    assert found == [f"Name-{number}" for number in range(5)]
    assert error(vault.get("/secrets", params={"$skiptoken": "*"}))[:2] == (400, "BadParameter")
    assert error(vault.get("/secrets", params={"maxresults": "0"}))[:2] == (400, "BadParameter")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/keys"), ("POST", "/keys/k/create"), ("GET", "/certificates/c"), ("GET", "/storage")],
)
def test_keys_and_certificates_are_refused_by_name(vault: TestClient, method: str, path: str) -> None:
    status, code, message = error(vault.request(method, path))
    assert (status, code) == (501, "NotImplemented")
    assert f"{method} {path}" in message


def test_what_the_service_has_and_this_vault_not_is_refused(vault: TestClient, certified: Settings) -> None:
    assert error(vault.get("/secrets/name", params={"outContentType": "application/x-pem-file"}))[0] == 501
    assert error(vault.get("/secrets", params={"api-version": ""}))[2] == "api-version must be specified"
    assert error(vault.get("/secrets", params={"api-version": "7.6-preview.2"}))[0] == 400
    assert error(vault.put(certified.key_vault_id, json={}))[0] == 501


@pytest.mark.parametrize(
    "audience", ["https://vault.azure.net/", "https://management.azure.com", "https://ml.azure.com"]
)
def test_tokens_for_something_else_are_refused_with_the_challenge(
    vault: TestClient, tokens: Tokens, certified: Settings, audience: str
) -> None:
    token = tokens.issue(tokens.object_id, audience)
    answer = vault.put("/secrets/name", json={"value": "x"}, headers={"Authorization": f"Bearer {token}"})
    assert error(answer) == (
        401,
        "Unauthorized",
        f"AKV10022: Invalid audience. Expected {certified.key_vault_resource}, found: {audience}.",
    )
    assert f'resource="{certified.key_vault_resource}"' in answer.headers["www-authenticate"]
    # The vault's own host is below the resource: what the SDKs want of it.
    assert certified.key_vault_uri.endswith("." + certified.key_vault_resource.partition("://")[2])


@pytest.mark.parametrize("header", ["", "Basic abc", "Bearer", "Bearer not.a.token"])
def test_no_token_no_secret(vault: TestClient, header: str) -> None:
    answer = vault.get("/secrets/any", headers={"Authorization": header})
    assert (answer.status_code, "www-authenticate" in answer.headers) == (401, True)


def test_no_value_is_logged(vault: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        vault.put("/secrets/name", json={"value": VALUE})
        vault.put("/secrets/na_me", json={"value": VALUE})
        vault.put("/secrets/name", json={"value": VALUE, "tags": [VALUE]})
        vault.put("/secrets/name", content=f'{{"value": "{VALUE}"')
        vault.get("/secrets/name")
    assert VALUE not in caplog.text


def test_resource_manager_knows_the_one_vault(tokens: Tokens, certified: Settings, vault: TestClient) -> None:
    token = tokens.issue(tokens.object_id, "https://management.azure.com")
    headers = {"Authorization": f"Bearer {token}"}
    found = vault.get(certified.key_vault_id, headers=headers).json()
    assert found["properties"]["vaultUri"] == f"{certified.key_vault_uri}/"
    other = certified.key_vault_id.replace(certified.key_vault, "another")
    assert error(vault.get(other, headers=headers))[:2] == (404, "ResourceNotFound")
    resources = f"/subscriptions/{certified.subscription_id}/resources"
    assert error(vault.get(resources, headers=headers))[0] == 501
