"""`kill -9` at every step of a roll-out: the endpoint goes on serving, and a retry ends where the first try would have.

The operator runs in a forked process that ends itself, without a word, at one of its requests: before it is sent, and
for those that write also after it was answered. (After a read is before the next request.)
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from requests.adapters import HTTPAdapter

from azflow.connection import AzureConnection
from fake_endpoint import FakeEndpoint, broken, late_after
from rollout_bench import fake, include, roll_out, server, two

__all__ = ["fake", "include", "server", "two"]

STAGES = (10, 50, 100)


class Credential:
    """A token without asking for it."""

    def get_token(self, *scopes: str, **options: Any) -> Any:
        from azure.core.credentials import AccessToken

        return AccessToken("a-token", 4102444800)

    def get_token_info(self, *scopes: str, options: Any = None) -> Any:
        from azure.core.credentials import AccessTokenInfo

        return AccessTokenInfo("a-token", 4102444800)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AzureConnection, "credential", lambda self: Credential())


@pytest.fixture
def three(two: FakeEndpoint) -> FakeEndpoint:
    """Beside the champion and the new one: what served before the champion, and one that was turned down."""
    ancient = two.deployments["old"] | {"name": "ancient", "systemData": {"createdAt": "2020-01-01"}}
    refused = two.deployments["old"] | {"name": "refused", "systemData": {"createdAt": "2026-01-01T12:00:00+00:00"}}
    two.deployments = {"ancient": ancient, "refused": refused, **two.deployments}
    two.traffic = {"ancient": 0, "old": 100}
    return two


def rolled_out() -> dict[str, Any]:
    return roll_out(stages=STAGES, window_seconds=0.0, min_requests=1, sample_rows=4)


def requests_of(work: Callable[[], Any]) -> list[str]:
    """The requests that `work` makes, in order: method and path."""
    seen: list[str] = []
    send = HTTPAdapter.send

    def noted(adapter: HTTPAdapter, request: Any, **options: Any) -> Any:
        seen.append(f"{request.method} {request.path_url.partition('?')[0]}")
        return send(adapter, request, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTPAdapter, "send", noted)
        work()
    return seen


def killed_at(number: int, *, after: bool, work: Callable[[], Any]) -> bool:
    """Run `work` in a process that is killed at its request `number`; whether it was."""
    child = os.fork()
    if child == 0:
        try:
            _kill_at(number, after=after)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _kill_at(number: int, *, after: bool) -> None:
    send, made = HTTPAdapter.send, 0

    def counted(adapter: HTTPAdapter, request: Any, **options: Any) -> Any:
        nonlocal made
        made += 1
        if made == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = send(adapter, request, **options)
        if made == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    HTTPAdapter.send = counted  # type: ignore[method-assign]


def is_write(request: str) -> bool:
    return request.startswith(("PUT", "DELETE"))


def reset(endpoint: FakeEndpoint, kept: dict[str, Any]) -> None:
    endpoint.deployments = dict(kept["deployments"])
    endpoint.traffic = dict(kept["traffic"])
    endpoint.writes.clear()
    endpoint._wheel.clear()


def test_a_kill_at_every_request_leads_to_the_same_end(three: FakeEndpoint) -> None:
    kept = {"deployments": dict(three.deployments), "traffic": dict(three.traffic)}
    asked = requests_of(rolled_out)
    end = {"ancient": 0, "old": 0, "new": 100}
    assert sum(is_write(request) for request in asked) == 5  # three stages, and two deployments that nobody needs
    assert set(three.deployments) == {"old", "new"}
    for number, request in enumerate(asked, start=1):
        for after in (False, True) if is_write(request) else (False,):
            reset(three, kept)
            where = f"{'after' if after else 'before'} request {number}, {request}"
            assert killed_at(number, after=after, work=rolled_out), where
            # Dead: nobody restores anything, and somebody serves.
            assert sum(three.traffic.values()) == 100, where
            rolled_out()
            assert {name: share for name, share in three.traffic.items() if share} == {"new": 100}, where
            assert three.traffic.keys() <= end.keys(), where
            assert set(three.deployments) == {"old", "new"}, where
            assert all(sum(write.values()) == 100 for write in three.writes), where


def test_a_kill_while_a_bad_one_is_taken_back(three: FakeEndpoint) -> None:
    """It breaks at 50 %: whenever the worker dies, the retry ends with the champion alone."""

    def break_at_half(count: int) -> None:
        three.models["new"] = broken(500) if three.traffic.get("new") == 50 else late_after(15)

    three.on_score = break_at_half
    kept = {"deployments": dict(three.deployments), "traffic": dict(three.traffic)}

    def refused() -> None:
        with pytest.raises(Exception, match="failed"):
            rolled_out()

    asked = requests_of(refused)
    assert three.traffic == {"ancient": 0, "old": 100}
    writes = [number for number, request in enumerate(asked, start=1) if is_write(request)]
    assert len(writes) == 3  # 10 %, 50 %, and back
    for number in writes:
        for after in (False, True):
            reset(three, kept)
            three.models["new"] = late_after(15)
            assert killed_at(number, after=after, work=refused)
            assert sum(three.traffic.values()) == 100
            refused()
            assert {name: share for name, share in three.traffic.items() if share} == {"old": 100}
            assert set(three.deployments) == {"ancient", "refused", "old", "new"}  # kept for inspection


def test_the_first_model_of_all(two: FakeEndpoint) -> None:
    del two.deployments["old"]
    two.traffic = {}
    kept = {"deployments": dict(two.deployments), "traffic": {}}
    asked = requests_of(rolled_out)
    (write,) = (number for number, request in enumerate(asked, start=1) if is_write(request))
    for after in (False, True):
        reset(two, kept)
        assert killed_at(write, after=after, work=rolled_out)
        rolled_out()
        assert (two.traffic, set(two.deployments)) == ({"new": 100}, {"new"})
