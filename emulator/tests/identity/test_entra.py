from __future__ import annotations

import uuid
from typing import Any

import jwt
import pytest
from starlette.testclient import TestClient

from localazure.core.auth import Tokens
from localazure.core.registry import Api
from localazure.identity.entra import Entra
from localazure.settings import Settings


@pytest.fixture
def client(certified: Settings, tokens: Tokens) -> TestClient:
    return TestClient(Api(Entra(certified, tokens).operations(), tokens), base_url=certified.api_url)


def form(settings: Settings, **changed: str) -> dict[str, str]:
    content = {
        "grant_type": "client_credentials",
        "client_id": settings.client_id,
        "client_secret": settings.client_secret,
        "scope": "https://management.azure.com/.default",
    }
    return {name: value for name, value in (content | changed).items() if value}


def ask(client: TestClient, settings: Settings, **changed: str) -> Any:
    return client.post(f"/{settings.tenant_id}/oauth2/v2.0/token", data=form(settings, **changed))


def test_metadata_leads_to_token_endpoint_and_keys(client: TestClient, certified: Settings, tokens: Tokens) -> None:
    metadata = client.get(f"/{certified.tenant_id}/v2.0/.well-known/openid-configuration").json()
    assert metadata["issuer"] == tokens.issuer
    answer = client.post(metadata["token_endpoint"], data=form(certified))
    token = answer.json()["access_token"]
    keys = jwt.PyJWKSet.from_dict(client.get(metadata["jwks_uri"]).json())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, audience="https://management.azure.com", algorithms=["RS256"])
    assert claims["tid"] == certified.tenant_id


def test_a_resource_may_end_in_a_slash(client: TestClient, certified: Settings) -> None:
    token = ask(client, certified, scope="https://database.windows.net//.default").json()["access_token"]
    assert jwt.decode(token, options={"verify_signature": False})["aud"] == "https://database.windows.net/"


@pytest.mark.parametrize(
    ("changed", "status", "error", "number"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client", 7000215),
        ({"client_secret": ""}, 401, "invalid_client", 7000216),
        ({"client_secret": "wröng"}, 401, "invalid_client", 7000215),
        ({"client_id": str(uuid.uuid4())}, 400, "unauthorized_client", 700016),
        ({"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
        ({"scope": "https://management.azure.com"}, 400, "invalid_scope", 1002012),
        ({"scope": "https://graph.microsoft.com/.default"}, 400, "invalid_resource", 500011),
        ({"scope": ""}, 400, "invalid_request", 900144),
    ],
)
def test_refusals_have_entras_shape(  # noqa: PLR0917
    client: TestClient, certified: Settings, changed: dict[str, str], status: int, error: str, number: int
) -> None:
    answer = ask(client, certified, **changed)
    body = answer.json()
    assert (answer.status_code, body["error"], body["error_codes"]) == (status, error, [number])
    assert body["error_description"].startswith(f"AADSTS{number}: ")
    assert body["trace_id"] in body["error_description"]
    assert certified.client_secret not in answer.text


def test_another_tenant_is_unknown(client: TestClient, certified: Settings) -> None:
    other = str(uuid.uuid4())
    answers = [
        client.get(f"/{other}/v2.0/.well-known/openid-configuration"),
        client.get(f"/{other}/discovery/v2.0/keys"),
        client.post(f"/{other}/oauth2/v2.0/token", data=form(certified)),
    ]
    assert [(a.status_code, a.json()["error_codes"]) for a in answers] == [(400, [90002])] * 3


def test_the_v1_flow_names_a_resource_and_answers_in_strings(client: TestClient, certified: Settings) -> None:
    answer = client.post(
        f"/{certified.tenant_id}/oauth2/token?api-version=2015-06-01",
        data=form(certified, scope="", resource="https://database.windows.net/"),
    )
    assert answer.json()["expires_in"] == "3600"
    assert '"access_token":"' in answer.text
    assert answer.headers["Cache-Control"].startswith("no-store")


def test_a_form_is_needed_and_bounded(client: TestClient, certified: Settings) -> None:
    url = f"/{certified.tenant_id}/oauth2/v2.0/token"
    assert client.post(url, json=form(certified)).json()["error"] == "invalid_request"
    assert client.post(url, data={"grant_type": "x" * 70_000}).status_code == 413
