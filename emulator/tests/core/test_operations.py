from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from localazure.core.auth import Tokens
from localazure.core.errors import AzureError
from localazure.core.operations import LongRunning
from localazure.core.registry import Api
from localazure.core.store import Store
from localazure.settings import Settings


@pytest.fixture
def long_running(store: Store, certified: Settings) -> LongRunning:
    return LongRunning(store, certified)


@pytest.fixture
def client(long_running: LongRunning, tokens: Tokens, certified: Settings) -> TestClient:
    headers = {"Authorization": f"Bearer {tokens.issue('me', 'https://management.azure.com')}"}
    return TestClient(Api(long_running.operations(), tokens), base_url=certified.api_url, headers=headers)


def test_the_status_address_follows_the_operation(long_running: LongRunning, client: TestClient) -> None:
    operation = long_running.begin("/jobs/x")
    headers = long_running.headers(operation, kind="status")
    assert headers["Retry-After"] == "1"
    assert urlsplit(headers["Azure-AsyncOperation"]).path.endswith(f"/mfeOperationsStatus/{operation}")
    answer = client.get(headers["Azure-AsyncOperation"])
    assert (answer.json()["status"], answer.headers["Retry-After"]) == ("InProgress", "1")
    long_running.succeed(operation)
    assert client.get(headers["Azure-AsyncOperation"]).json()["status"] == "Succeeded"


def test_the_result_address_says_202_until_it_is_done(long_running: LongRunning, client: TestClient) -> None:
    operation = long_running.begin("/jobs/x")
    location = long_running.headers(operation, kind="result")["Location"]
    waiting = client.get(location)
    assert (waiting.status_code, waiting.headers["Location"]) == (202, location)
    long_running.succeed(operation)
    assert client.get(location).status_code == 200


def test_a_failure_is_told_on_both(long_running: LongRunning, client: TestClient) -> None:
    operation = long_running.begin("/deployments/x")
    long_running.fail(operation, AzureError(409, "ImageBuildFailure", "no such package"))
    status = client.get(long_running.headers(operation, kind="status")["Azure-AsyncOperation"]).json()
    assert status["status"] == "Failed"
    assert status["error"] == {"code": "ImageBuildFailure", "message": "no such package"}
    result = client.get(long_running.headers(operation, kind="result")["Location"])
    assert (result.status_code, result.json()["error"]["code"]) == (409, "ImageBuildFailure")


def test_a_restart_fails_what_was_in_progress(long_running: LongRunning, client: TestClient) -> None:
    done, interrupted = long_running.begin("/a"), long_running.begin("/b")
    long_running.succeed(done)
    assert long_running.recover() == 1
    status = client.get(long_running.headers(interrupted, kind="status")["Azure-AsyncOperation"]).json()
    assert status["error"]["code"] == "OperationInterrupted"
    assert long_running.recover() == 0


def test_an_unknown_operation_is_404(client: TestClient, long_running: LongRunning) -> None:
    assert client.get(long_running.headers("none", kind="status")["Azure-AsyncOperation"]).status_code == 404
