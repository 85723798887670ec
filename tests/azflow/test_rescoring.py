"""Scoring days again: which versions do it, and what is said of two on the same rows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from azflow.rescoring import (
    RescoredVersionsOperator,
    VersionComparisonOperator,
    VersionsPageOperator,
    comparison,
)
from azure_edge import Edge, edge
from workspace_edge import NIGHT, WORKSPACE, context_of

__all__ = ["edge"]


def versions(edge: Edge, traffic: dict[str, int], **given: str) -> dict[str, str]:
    """Version 3 serves from `green`; 1 and 3 are registered."""
    edge.on("GET", f"{WORKSPACE}/onlineEndpoints/e$", (200, {"properties": {"traffic": traffic}}))
    serving = {"properties": {"model": "azureml:flight_delay:3"}}
    edge.on("GET", f"{WORKSPACE}/onlineEndpoints/e/deployments/", (200, serving))
    edge.on("GET", f"{WORKSPACE}/models/flight_delay/versions/", (404, {}))
    edge.on("GET", f"{WORKSPACE}/models/flight_delay/versions/[13]$", (200, {"properties": {}}))
    operator = RescoredVersionsOperator(
        task_id="versions", registered_model="flight_delay", endpoint_name="e", model="flight_delay", **given
    )
    return operator.execute(context_of(operator))


def test_without_a_version_who_serves_scores(edge: Edge) -> None:
    assert versions(edge, {"green": 100}) == {
        "name": "flight_delay",
        "version": "3",
        "path": "azureml:flight_delay:3",
        "deployment": "green",
        "against": "",
        "against_path": "",
    }


def test_an_older_version_scores_beside_another_one(edge: Edge) -> None:
    found = versions(edge, {"green": 100}, version="1", against=" 3")
    assert (found["version"], found["deployment"]) == ("1", "batch")
    assert found["against_path"] == "azureml:flight_delay:3"


@pytest.mark.parametrize(
    ("traffic", "given", "said"),
    [
        ({}, {}, "No version of flight_delay serves; say in the form which one scores"),
        ({"green": 100}, {"version": "7"}, "no version 7 of the model flight_delay"),
        ({"green": 100}, {"against": "8"}, "no version 8 of the model flight_delay"),
    ],
)
def test_what_cannot_be_scored_with_is_said(
    edge: Edge, traffic: dict[str, int], given: dict[str, str], said: str
) -> None:
    with pytest.raises(AirflowFailException, match=said):
        versions(edge, traffic, **given)


EVIDENCE = {
    "metric": "roc_auc",
    "rows": 900,
    "unlabelled": 100,
    "challenger": {"value": 0.72, "low": 0.70, "high": 0.74, "brier": 0.1},
    "champion": {"value": 0.70, "low": 0.68, "high": 0.72},
    "difference": {"value": 0.02, "low": 0.01, "high": 0.03},
}


def test_the_comparison_names_its_versions(edge: Edge) -> None:
    edge.on("GET", "/datastores/lake$", (200, {"properties": {"accountName": "lakeaccount", "containerName": "lake"}}))
    edge.blobs["lake/evaluation/x/evidence.json"] = json.dumps(EVIDENCE).encode()

    def compared(outputs: dict[str, str]) -> dict[str, Any]:
        operator = VersionComparisonOperator(task_id="comparison", model="flight_delay")
        left = {"versions": {"version": "3", "against": "1"}, "compare": {"outputs": outputs}}
        return operator.execute(context_of(operator, left))

    assert compared({"evidence": "azureml://datastores/lake/paths/evaluation/x/"}) == {
        "metric": "roc_auc",
        "rows": 900,
        "unlabelled": 100,
        "version": {"version": "3", "value": 0.72, "low": 0.70, "high": 0.74},
        "against": {"version": "1", "value": 0.70, "low": 0.68, "high": 0.72},
        "difference": {"value": 0.02, "low": 0.01, "high": 0.03},
    }
    with pytest.raises(AirflowFailException, match="compare left no output 'evidence'; clear it"):
        compared({})


def test_without_outcomes_there_is_no_value_and_a_reason() -> None:
    problem = "none of the hold-out's 100 rows has its late yet"
    nothing: dict[str, Any] = {"metric": "roc_auc", "rows": 0, "unlabelled": 100, "problem": problem}
    found = comparison({**nothing, "challenger": {"value": None}, "champion": None, "difference": None}, "3", "1")
    assert found["problem"] == problem
    assert [found[name]["value"] for name in ("version", "against", "difference")] == [None, None, None]


# -- the page ----------------------------------------------------------------------------------------------------------


COLUMNS = ["flight_date", "flights", "agreement", "mean_difference", "mean_absolute_difference", "largest_difference",
           "labelled", "brier_score", "against_brier_score", "roc_auc", "against_roc_auc"]  # fmt: skip
ROWS = [
    [None, 1970, 0.9, 0.01, 0.05, 0.4, 1200, 0.18, 0.19, 0.74, 0.72],
    ["2013-03-07", 980, 0.9, 0.01, 0.05, 0.4, 1200, 0.18, 0.19, 0.741, 0.729],
    ["2013-03-08", 990, 0.9, 0.01, 0.05, 0.3, 0, None, None, None, None],  # no outcome yet
]
JUDGED = {
    "metric": "roc_auc", "rows": 1200, "unlabelled": 770,
    "version": {"version": "3", "value": 0.74, "low": 0.71, "high": 0.77},
    "against": {"version": "1", "value": 0.72, "low": 0.69, "high": 0.75},
    "difference": {"value": 0.02, "low": 0.01, "high": 0.03},
}  # fmt: skip


def shown(edge: Edge, rows: list[list[Any]], judged: Any) -> tuple[dict[str, Any], str]:
    operator = VersionsPageOperator(task_id="page", model="flight_delay")
    xcom = {"versions": {"version": "3", "against": "1"}, "figures": {"columns": COLUMNS, "rows": rows}}
    found = operator.execute(context_of(operator, {**xcom, "comparison": judged}))
    return found, edge.blobs[f"lake/{found['path']}"].decode()


def test_two_versions_become_a_page(edge: Edge) -> None:
    found, page = shown(edge, ROWS, JUDGED)
    assert found["path"] == f"reports/flight_delay/{NIGHT.partition}/{NIGHT.key}/versions.html"
    assert (found["days"], found["agreement"]) == (2, 0.9)
    assert "2013-03-07 to 2013-03-08" in page
    assert "90.0%" in page and "version 3 beside version 1" in page
    assert "roc_auc on 1,200 rows, with its interval; of 770 more rows the outcome isn&#x27;t known" in page
    assert "+0.012 on 1,200" in page  # the day whose outcomes are known; the other one has no AUC to plot
    assert page.count("2013-03-08") == 2  # in the title's range and in the table


def test_a_range_that_cannot_be_judged_says_why(edge: Edge) -> None:
    undefined = dict.fromkeys(("value", "low", "high"))
    judged = {**JUDGED, "problem": "no outcome yet", "difference": undefined}
    _, page = shown(edge, [[None, *ROWS[2][1:]], ROWS[2]], judged)
    assert "no outcome yet" in page and "Day by day" not in page
    found, page = shown(edge, [], None)
    assert (found["days"], found["agreement"]) == (0, None)
    assert "No flight of these days was scored by both versions" in page
