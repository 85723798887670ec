from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from localazure.core.auth import Identity, Tokens
from localazure.core.errors import Conflict, NotImplementedOperation
from localazure.core.registry import Api, Operation


async def echo(request: Request, identity: Identity) -> dict[str, Any]:
    return {"parameters": dict(request.path_params), "subject": identity.subject}


async def body(request: Request, identity: Identity) -> tuple[int, Any]:
    return 201, await request.json()


async def taken(request: Request, identity: Identity) -> JSONResponse:
    raise Conflict("the name is taken", target="name")


async def broken(request: Request, identity: Identity) -> dict[str, Any]:
    raise RuntimeError("secret detail")


def operation(name: str, method: str, path: str, handler: Any = echo, audience: str | None = None) -> Operation:
    return Operation(name, method, path, handler, audience, 1000)


@pytest.fixture
def client(tokens: Tokens) -> TestClient:
    api = Api(
        [
            operation("Jobs_Get", "GET", "/Workspaces/{w}/jobs/{name}", audience="arm"),
            operation("Jobs_Special", "GET", "/workspaces/{w}/jobs/special"),
            operation("Things_Put", "PUT", "/things/{name}", body),
            operation("Things_Delete", "DELETE", "/things/{name}", taken),
            operation("Things_Get", "GET", "/things/{name}", broken),
            operation("Files_Get", "GET", "/files/{id}/{rest:path}"),
            operation("Runs_Get", "GET", "/runs({id})/state"),
        ],
        tokens,
    )
    return TestClient(api, base_url="https://localhost")


def bearer(tokens: Tokens, audience: str = "https://management.azure.com") -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens.issue('somebody', audience)}"}


def test_fixed_segments_match_in_any_case_and_parameters_keep_theirs(client: TestClient, tokens: Tokens) -> None:
    answer = client.get("/WORKSPACES/MyWs/Jobs/MyJob", headers=bearer(tokens))
    assert answer.json() == {"parameters": {"w": "MyWs", "name": "MyJob"}, "subject": "somebody"}
    assert answer.headers["x-ms-request-id"]


def test_a_fixed_segment_wins_over_a_parameter(client: TestClient) -> None:
    assert client.get("/workspaces/w/jobs/special").json()["parameters"] == {"w": "w"}


def test_an_encoded_slash_belongs_to_the_name(client: TestClient, tokens: Tokens) -> None:
    answer = client.get("/workspaces/w/jobs/a%2Fb%20c", headers=bearer(tokens))
    assert answer.json()["parameters"]["name"] == "a/b c"


def test_the_rest_of_a_path_may_be_empty(client: TestClient) -> None:
    assert client.get("/files/7/a/b%20c/d").json()["parameters"] == {"id": "7", "rest": "a/b c/d"}
    assert client.get("/files/7").json()["parameters"] == {"id": "7", "rest": ""}


def test_a_parameter_inside_a_segment(client: TestClient) -> None:
    assert client.get("/runs(42)/state").json()["parameters"] == {"id": "42"}


def test_two_slashes_in_front_are_one(client: TestClient) -> None:
    assert client.get("https://localhost//files/7/x").json()["parameters"]["rest"] == "x"


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("PATCH", "/things/x"), ("GET", "/workspaces/w")])
def test_what_nobody_claims_is_501_by_name(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 501
    message = f"{method} {path} is not implemented by localazure"
    assert answer.json()["error"] == {"code": "NotImplemented", "message": message, "target": f"{method} {path}"}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic x"}, {"Authorization": "Bearer x.y.z"}])
def test_no_good_token_is_401_with_a_challenge(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.get("/workspaces/w/jobs/j", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer authorization_uri=")


def test_a_token_for_another_audience_is_401(client: TestClient, tokens: Tokens) -> None:
    answer = client.get("/workspaces/w/jobs/j", headers=bearer(tokens, "https://database.windows.net/"))
    assert answer.json()["error"]["code"] == "InvalidAuthenticationTokenAudience"


def test_json_in_and_out(client: TestClient) -> None:
    answer = client.put("/things/x", json={"a": [1]})
    assert (answer.status_code, answer.json()) == (201, {"a": [1]})


def test_bad_json_is_the_clients_fault(client: TestClient) -> None:
    answer = client.put("/things/x", content=b"{")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "InvalidRequestContent"


def test_a_large_body_is_413_declared_or_not(client: TestClient) -> None:
    large = json.dumps("x" * 2000).encode()
    assert client.put("/things/x", content=large).status_code == 413
    # A generator is sent in chunks, without a length.
    assert client.put("/things/x", content=iter([large[:900], large[900:]])).status_code == 413


def test_errors_have_azures_envelope(client: TestClient) -> None:
    answer = client.delete("/things/x")
    assert answer.status_code == 409
    assert answer.json() == {"error": {"code": "Conflict", "message": "the name is taken", "target": "name"}}


def test_our_own_failures_tell_no_details(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    answer = client.get("/things/x")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert answer.headers["x-ms-request-id"] in answer.json()["error"]["message"]
    assert "secret detail" in caplog.text


def test_an_address_has_one_owner(tokens: Tokens) -> None:
    with pytest.raises(ValueError, match="B and A both claim"):
        Api([operation("A", "GET", "/x/{a}"), operation("B", "GET", "/X/{b}")], tokens)
    with pytest.raises(ValueError, match="unknown audience"):
        Api([operation("A", "GET", "/x", audience="mars")], tokens)


def test_the_lifespan_is_entered_and_left(tokens: Tokens) -> None:
    events = []

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        events.append("start")
        yield
        events.append("stop")

    with TestClient(Api([], tokens, life)):
        assert events == ["start"]
    assert events == ["start", "stop"]


def test_a_failed_start_is_told(tokens: Tokens) -> None:
    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        raise NotImplementedOperation("starting")
        yield

    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Api([], tokens, life)({"type": "lifespan"}, receive, send))
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "starting is not implemented" in sent[0]["message"]
