"""Who is champion: the model of the deployment with the most traffic, and what the registry is told about it."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from azflow.connection import AzureConnection
from azflow.evaluation import ChampionOperator, serving_model
from azflow.registry import ModelRegistry
from azure_edge import Edge, edge
from workspace_edge import WORKSPACE

__all__ = ["edge"]

ARM_ID = "/subscriptions/s/resourceGroups/g/providers/x/workspaces/w/models/flight_delay/versions/3"


def serving(edge: Edge, traffic: dict[str, int] | None, model: Any = ARM_ID) -> AzureConnection:
    """A connection to a workspace whose endpoint `e` has this traffic; None: there is no such endpoint."""
    document = {"properties": {"traffic": traffic}}
    edge.on("GET", f"{WORKSPACE}/onlineEndpoints/e$", (404, {}) if traffic is None else (200, document))
    edge.on("GET", f"{WORKSPACE}/onlineEndpoints/e/deployments/", (200, {"properties": {"model": model}}))
    return AzureConnection.load("azure_default")


@pytest.mark.parametrize("model", [ARM_ID, f"azureml:{ARM_ID}", "azureml:flight_delay:3"])
def test_the_deployment_with_the_most_traffic_serves(edge: Edge, model: str) -> None:
    assert serving_model(serving(edge, {"blue": 10, "green": 90}, model), "e") == {
        "name": "flight_delay",
        "version": "3",
        "path": "azureml:flight_delay:3",
        "deployment": "green",
    }


@pytest.mark.parametrize("traffic", [None, {}, {"blue": 0}])
def test_without_traffic_nobody_serves(edge: Edge, traffic: dict[str, int] | None) -> None:
    assert serving_model(serving(edge, traffic), "e") is None


@pytest.fixture
def promoted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    monkeypatch.setattr(ModelRegistry, "promote", lambda self, *arguments: calls.append((self.name, *arguments)))
    return calls


def run(edge: Edge, traffic: dict[str, int] | None, challenger: str) -> Any:
    serving(edge, traffic)
    context: Any = {}
    return ChampionOperator(task_id="champion", endpoint_name="e", challenger=challenger).execute(context)


def test_before_a_comparison_the_champion_is_only_looked_up(edge: Edge, promoted: list[Any]) -> None:
    assert run(edge, {"blue": 100}, "azureml://c")["version"] == "3"
    assert promoted == []


def test_without_a_champion_the_challenger_runs_alone(edge: Edge) -> None:
    assert run(edge, None, "azureml://c") == {
        "name": "",
        "version": "none",
        "path": "azureml://c",
        "deployment": "",
    }


def test_scoring_needs_a_champion_and_the_registry_learns_of_it(edge: Edge, promoted: list[Any]) -> None:
    run(edge, {"blue": 100}, "")
    assert promoted == [("flight_delay", "3", "blue")]
    with pytest.raises(AirflowFailException, match="there is no model to score with"):
        run(edge, {}, "")


def test_a_label_that_cannot_be_moved_fails_nothing(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise ValueError("no")

    monkeypatch.setattr(ModelRegistry, "promote", broken)
    assert run(edge, {"blue": 100}, "")["name"] == "flight_delay"
