"""The workspace's MLflow address: what is passed on, and to whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from localazure.core.auth import Tokens
from localazure.core.registry import Api
from localazure.settings import Settings
from localazure.tracking.proxy import TrackingProxy


class Streamed(httpx.AsyncByteStream):
    """A body that can be read once, as from a socket."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


def ask(settings: Settings, tokens: Tokens, answer: Any, *request: Any, token: str | None = None, **more: Any) -> Any:
    proxy = TrackingProxy(settings)
    proxy._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    api = Api(proxy.operations(), tokens)
    issued = tokens.issue("job:j", "https://ml.azure.com") if token is None else token
    headers = {"Authorization": f"Bearer {issued}"} if issued else {}

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api), base_url="https://localhost") as client:
            return await client.request(*request, headers=headers, **more)

    return asyncio.run(send())


def address(settings: Settings, rest: str, version: str = "v1.0") -> str:
    return f"/mlflow/{version}{settings.workspace_id}/{rest}"


def test_a_request_waits_until_the_runs_of_jobs_are_there(certified: Settings, tokens: Tokens) -> None:
    order: list[str] = []

    async def before() -> None:
        await asyncio.sleep(0)
        order.append("runs are there")

    def mlflow(request: httpx.Request) -> httpx.Response:
        order.append("asked")
        return httpx.Response(200, stream=Streamed(b"{}"))

    proxy = TrackingProxy(certified, before)
    proxy._client = httpx.AsyncClient(transport=httpx.MockTransport(mlflow))
    headers = {"Authorization": f"Bearer {tokens.issue('job:j', 'https://ml.azure.com')}"}

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=Api(proxy.operations(), tokens))
        async with httpx.AsyncClient(transport=transport, base_url="https://localhost") as client:
            return await client.get(address(certified, "api/2.0/mlflow/runs/get"), headers=headers)

    assert asyncio.run(send()).status_code == 200
    assert order == ["runs are there", "asked"]


def test_a_request_reaches_mlflow_whole_and_without_the_token(certified: Settings, tokens: Tokens) -> None:
    seen: list[httpx.Request] = []

    def mlflow(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, stream=Streamed(b'{"run":1}'), headers={"X-Run": "1"})

    path = address(certified, "api/2.0/mlflow/runs/create?a=b%20c", "v2.0")
    answer = ask(certified, tokens, mlflow, "POST", path, json={"experiment_id": "1"})
    assert (answer.status_code, answer.json(), answer.headers["x-run"]) == (201, {"run": 1}, "1")
    request = seen[0]
    assert str(request.url) == f"{certified.mlflow_url}/api/2.0/mlflow/runs/create?a=b%20c"
    assert request.read() == b'{"experiment_id":"1"}'
    assert "authorization" not in request.headers


def test_encoded_names_stay_encoded(certified: Settings, tokens: Tokens) -> None:
    seen: list[str] = []

    def mlflow(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(200, stream=Streamed(b"data"))

    ask(certified, tokens, mlflow, "GET", address(certified, "api/2.0/mlflow-artifacts/artifacts/a%2Fb%20c"))
    assert seen == ["/api/2.0/mlflow-artifacts/artifacts/a%2Fb%20c"]


@pytest.mark.parametrize("token", ["", "not-a-token"])
def test_without_a_good_token_nothing_is_passed_on(certified: Settings, tokens: Tokens, token: str) -> None:
    def mlflow(request: httpx.Request) -> httpx.Response:
        raise AssertionError("reached MLflow")

    assert ask(certified, tokens, mlflow, "GET", address(certified, "health"), token=token).status_code == 401


def test_a_server_that_is_not_there_yet_is_worth_another_try(certified: Settings, tokens: Tokens) -> None:
    def mlflow(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    answer = ask(certified, tokens, mlflow, "GET", address(certified, "health"))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
