"""The machine's managed identity, as azure-identity asks for it."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from starlette.testclient import TestClient

from localazure.core.auth import Tokens
from localazure.core.registry import Api
from localazure.identity.entra import Entra
from localazure.identity.machine import TOKEN_PATH
from localazure.settings import Settings


def ask(settings: Settings, tokens: Tokens, header: str | None = None, **query: str) -> Any:
    client = TestClient(Api(Entra(settings, tokens).operations(), tokens), base_url=settings.api_url)
    query = {"api-version": "2019-08-01", "resource": "https://vault.azure.net"} | query
    headers = {"X-IDENTITY-HEADER": (settings.client_secret if header is None else header).encode("latin-1")}
    return client.get(TOKEN_PATH, params=query, headers=headers)


def test_whoever_has_the_header_gets_the_applications_token(certified: Settings, tokens: Tokens) -> None:
    answer = ask(certified, tokens).json()
    claims = jwt.decode(answer["access_token"], options={"verify_signature": False})
    assert (claims["aud"], claims["appid"]) == ("https://vault.azure.net", certified.client_id)
    assert (answer["expires_on"], answer["token_type"]) == (str(claims["exp"]), "Bearer")
    assert ask(certified, tokens, client_id=certified.client_id.upper()).status_code == 200


@pytest.mark.parametrize("header", ["", "local-only~wrong", "w\u00f6rong"])
def test_nobody_else_does(certified: Settings, tokens: Tokens, header: str) -> None:
    answer = ask(certified, tokens, header)
    assert answer.status_code == 401
    assert "access_token" not in answer.text


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"api-version": "2017-09-01"}, "2019-08-01"),
        ({"resource": "https://graph.microsoft.com"}, "There is no resource 'https://graph.microsoft.com'"),
        ({"client_id": "another"}, "no identity with the client id 'another'"),
    ],
)
def test_what_is_not_there_is_named(certified: Settings, tokens: Tokens, query: dict[str, str], words: str) -> None:
    answer = ask(certified, tokens, **query)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
