"""Who is champion: the model of the deployment with the most traffic, and what the registry is told about it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from azflow.connection import AzureConnection
from azflow.evaluation import ChampionOperator, PromoteOperator, serving_model
from azflow.registry import ModelRegistry, Registered
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


# -- without an endpoint ---------------------------------------------------------------------------------------------


def tagged(monkeypatch: pytest.MonkeyPatch, champion: Registered | None) -> None:
    monkeypatch.setattr(ModelRegistry, "champion", lambda self: champion)


def champion_of(name: str, challenger: str = "") -> Any:
    context: Any = {}
    return ChampionOperator(task_id="champion", registered_model=name, challenger=challenger).execute(context)


def test_without_an_endpoint_the_tag_says_who_is_champion(monkeypatch: pytest.MonkeyPatch, promoted: list[Any]) -> None:
    tagged(monkeypatch, Registered("arrival_delay", "4", role="champion"))
    expected = {"name": "arrival_delay", "version": "4", "path": "azureml:arrival_delay:4", "deployment": ""}
    assert champion_of("arrival_delay", "azureml://c") == expected == champion_of("arrival_delay")
    assert promoted == [], "the tag is where it belongs"
    tagged(monkeypatch, None)
    assert champion_of("arrival_delay", "azureml://c")["version"] == "none"
    with pytest.raises(AirflowFailException, match="No version of the model arrival_delay is tagged champion"):
        champion_of("arrival_delay")


def test_a_champion_is_looked_for_in_one_place() -> None:
    with pytest.raises(AirflowFailException, match="either endpoint_name or registered_model"):
        ChampionOperator(task_id="champion", endpoint_name="e", registered_model="m").execute({})


@pytest.mark.parametrize(("before", "retired"), [(None, ""), ("4", "4"), ("5", "")])
def test_promotion_moves_the_tag_and_tells_who_had_it(
    monkeypatch: pytest.MonkeyPatch, before: str | None, retired: str
) -> None:
    tagged(monkeypatch, Registered("m", before) if before else None)
    monkeypatch.setattr(ModelRegistry, "promote", lambda self, version: Registered(self.name, version, role="champion"))
    ti = SimpleNamespace(xcom_pull=lambda task_ids: {"name": "m", "version": "5"})
    promoted = PromoteOperator(task_id="promote").execute({"ti": ti})  # type: ignore[typeddict-item]
    assert (promoted["id"], promoted["role"], promoted["before"]) == ("azureml:m:5", "champion", retired)


def test_without_a_registration_nothing_is_promoted() -> None:
    ti = SimpleNamespace(xcom_pull=lambda task_ids: None)
    with pytest.raises(AirflowFailException, match=r"register\.model left no registered model"):
        PromoteOperator(task_id="promote").execute({"ti": ti})  # type: ignore[typeddict-item]
