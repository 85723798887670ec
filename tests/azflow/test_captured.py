"""Captured requests of the watch: is there anything of these days, where, and why not."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from azflow.captured import CapturedDataOperator, may_hold
from azure_edge import Edge, edge
from workspace_edge import WORKSPACE, context_of

__all__ = ["edge"]

CHAMPION = {"name": "flight_delay", "version": "3", "path": "azureml:flight_delay:3", "deployment": "v3"}
# As the SDK deploys it: the collection's asset is one at the default place.
ENABLED = {"dataCollectionMode": "Enabled", "samplingRate": 1.0}
COLLECTS = {"collections": {"model_inputs": {**ENABLED, "dataId": "/data/default/versions/1"}}}
DATA = f"{WORKSPACE.removeprefix('https://management.azure.com')}/data"
NOT_COLLECTED = "deployment flight-delay/v3 doesn't collect model_inputs (data_collector in deployment.yml)"
FILED = "azureml/modelDataCollector/flight-delay/v{}/{}/{}/a.jsonl"


def captured(edge: Edge, collector: Any = COLLECTS, champion: Any = CHAMPION, **more: Any) -> dict[str, Any]:
    store = {"accountName": "lakeaccount", "containerName": "azureml"}
    edge.on("GET", "/datastores/workspaceblobstore$", (200, {"properties": store}))
    edge.on("GET", "/deployments/v3$", (200, {"name": "v3", "properties": {"dataCollector": collector}}))
    edge.on("GET", f"{WORKSPACE}/onlineEndpoints/flight-delay/deployments/gone$", (404, {}))
    default = "azureml://datastores/workspaceblobstore/paths/modelDataCollector/flight-delay/v3/model_inputs"
    edge.on("GET", "/data/default/versions/1$", (200, {"properties": {"dataUri": default}}))
    edge.on("GET", "/data/own/versions/1$", (200, {"properties": {"dataUri": "azureml://x/own/"}}))
    for version, collection, hour in (
        (3, "model_inputs", "2026/05/10/23"),
        (3, "model_outputs", "2026/05/10/23"),
        (2, "model_inputs", "2026/05/04/00"),
        (2, "model_inputs", "2026/05/03/23"),  # the day before the first
        (2, "model_inputs", "2026/05/11/00"),  # the day after the last
    ):
        edge.blobs[FILED.format(version, collection, hour)] = b"{}\n" * 10
    given = {"endpoint_name": "flight-delay", "until": "2026-05-10", "days": 7, **more}
    operator = CapturedDataOperator(task_id="captured", **given)
    found: dict[str, Any] = operator.execute(context_of(operator, {"champion": champion}))
    return found


def test_the_files_of_the_trailing_days_are_found_at_every_deployment(edge: Edge) -> None:
    assert captured(edge) == {
        "folder": "azureml://datastores/workspaceblobstore/paths/modelDataCollector/flight-delay/",
        "why": "",
        "endpoint": "flight-delay",
        "deployment": "v3",
        "from": "2026-05-04",
        "until": "2026-05-10",
        "days": 7,
        "files": 2,
        "bytes": 60,
    }


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"until": "2027-01-01"}, "endpoint flight-delay captured nothing from 2026-12-26 to 2027-01-01"),
        ({"collector": None}, NOT_COLLECTED),
        ({"collector": {"collections": {"model_inputs": {"dataCollectionMode": "Disabled"}}}}, NOT_COLLECTED),
        (
            {"collector": {"collections": {"model_inputs": {**ENABLED, "dataId": f"{DATA}/own/versions/1"}}}},
            "deployment flight-delay/v3 collects into azureml://x/own/; only the default place is looked at",
        ),
        ({"champion": {**CHAMPION, "deployment": "gone"}}, "endpoint flight-delay has no deployment 'gone'"),
        ({"champion": None}, "endpoint flight-delay has no deployment ''"),
    ],
)  # fmt: skip
def test_nothing_captured_is_an_answer_in_words(edge: Edge, more: dict[str, Any], why: str) -> None:
    found = captured(edge, **more)
    assert (found["folder"], found["why"], found["files"]) == ("", why, 0)


def test_a_day_that_is_none_names_the_key(edge: Edge) -> None:
    with pytest.raises(AirflowFailException, match=r"watch.captured.until is 'yesterday'"):
        captured(edge, until="yesterday")


@pytest.mark.parametrize(
    ("path", "holds"),
    [
        ("e/d/model_inputs/2026/05/10/23/59/a.jsonl", True),  # rolling_rate: minute
        ("e/d/model_inputs/2026/05/a.jsonl", True),  # month: may hold them
        ("e/d/model_inputs/2026/a.jsonl", True),
        ("e/d/model_inputs/2025/a.jsonl", False),
        ("e/d/model_inputs/2026/06/a.jsonl", False),
        ("e/d/model_inputs/a.jsonl", False),
    ],
)
def test_files_are_chosen_by_the_parts_of_their_date(path: str, holds: bool) -> None:
    assert may_hold(path, date(2026, 5, 4), date(2026, 5, 10)) is holds
