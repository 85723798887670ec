"""Who is champion: the model of the deployment with the most traffic, and what the registry is told about it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from azure.core.exceptions import ResourceNotFoundError

from azflow.connection import AzureConnection
from azflow.evaluation import ChampionOperator, serving_model
from azflow.registry import ModelRegistry

ARM_ID = "/subscriptions/s/resourceGroups/g/providers/x/workspaces/w/models/flight_delay/versions/3"


def client(traffic: dict[str, int] | None, model: Any = ARM_ID) -> Any:
    def endpoint(name: str) -> Any:
        if traffic is None:
            raise ResourceNotFoundError("no such endpoint")
        return SimpleNamespace(traffic=traffic)

    return SimpleNamespace(
        online_endpoints=SimpleNamespace(get=endpoint),
        online_deployments=SimpleNamespace(get=lambda name, endpoint: SimpleNamespace(model=model, name=name)),
    )


@pytest.mark.parametrize("model", [ARM_ID, f"azureml:{ARM_ID}", "azureml:flight_delay:3"])
def test_the_deployment_with_the_most_traffic_serves(model: str) -> None:
    assert serving_model(client({"blue": 10, "green": 90}, model), "e") == {
        "name": "flight_delay",
        "version": "3",
        "path": "azureml:flight_delay:3",
        "deployment": "green",
    }


@pytest.mark.parametrize("traffic", [None, {}, {"blue": 0}])
def test_without_traffic_nobody_serves(traffic: dict[str, int] | None) -> None:
    assert serving_model(client(traffic), "e") is None


@pytest.fixture
def promoted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    monkeypatch.setattr(ModelRegistry, "promote", lambda self, *arguments: calls.append((self.name, *arguments)))
    return calls


def run(monkeypatch: pytest.MonkeyPatch, traffic: dict[str, int] | None, challenger: str) -> Any:
    monkeypatch.setattr(AzureConnection, "ml_client", lambda self: client(traffic))
    context: Any = {}
    return ChampionOperator(task_id="champion", endpoint_name="e", challenger=challenger).execute(context)


def test_before_a_comparison_the_champion_is_only_looked_up(
    monkeypatch: pytest.MonkeyPatch, promoted: list[Any]
) -> None:
    assert run(monkeypatch, {"blue": 100}, "azureml://c")["version"] == "3"
    assert promoted == []


def test_without_a_champion_the_challenger_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, None, "azureml://c") == {
        "name": "",
        "version": "none",
        "path": "azureml://c",
        "deployment": "",
    }


def test_scoring_needs_a_champion_and_the_registry_learns_of_it(
    monkeypatch: pytest.MonkeyPatch, promoted: list[Any]
) -> None:
    run(monkeypatch, {"blue": 100}, "")
    assert promoted == [("flight_delay", "3", "blue")]
    with pytest.raises(AirflowFailException, match="there is no model to score with"):
        run(monkeypatch, {}, "")


def test_a_label_that_cannot_be_moved_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise ValueError("no")

    monkeypatch.setattr(ModelRegistry, "promote", broken)
    assert run(monkeypatch, {"blue": 100}, "")["name"] == "flight_delay"
