"""Runs beside each other: what counts, what changed, and where they come from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from azflow.comparison import ComparedRun, compare, lines, read_run
from azflow.tracking import CompareRunsOperator, compare_url
from azure_edge import Edge, edge
from workspace_edge import context_of, job, tracked, workspace

__all__ = ["edge"]


def run(name: str, auc: float | None = None, **more: Any) -> ComparedRun:
    metrics = {} if auc is None else {"AUC_weighted": auc}
    return ComparedRun(name, name, **{"metrics": metrics, **more})


def test_a_run_is_ranked_among_its_predecessors() -> None:
    found = compare(run("d", 0.72), [run("c", 0.70), run("b", 0.73), run("a")])
    assert (found.metric, found.rank, found.unusual) == ("AUC_weighted", 2, False)
    assert found.summary == (
        "AUC_weighted 0.7200 (higher is better): 2nd of 3",
        "+0.0200 against the run before (c)",
        "-0.0100 against the best of them (b)",
    )


def test_of_an_error_less_is_better_also_of_a_steps() -> None:
    errors = [run(name, metrics={"train.root_mean_squared_error": value}) for name, value in (("b", 12.0), ("a", 9.0))]
    found = compare(errors[1], errors[:1])
    assert (found.rank, found.as_dict()["lower"]) == (1, True)


def test_what_is_far_from_the_usual_is_said() -> None:
    before = [run(str(index), 0.71 + index / 1000) for index in range(6)]
    assert compare(run("x", 0.717), before).unusual is False
    found = compare(run("x", 0.60), before)
    assert found.unusual and "unusual: the last 6 lie around 0.7125" in found.summary[-1]


def test_what_changed_is_named() -> None:
    old = run("a", 0.7, parameters={"rate": "0.1", "seed": "1"}, data={"train": "azureml:t:1"}, commit="aaa")
    new = run("b", 0.7, parameters={"rate": "0.2", "seed": "1"}, data={"train": "azureml:t:2"}, commit="bbb")
    found = compare(new, [old])
    assert found.changed == (
        "data train: azureml:t:1 -> azureml:t:2",
        "parameter rate: 0.1 -> 0.2",
        "commit: aaa -> bbb",
    )
    table = lines(found)
    assert table[0].split() == ["run", "started", "AUC_weighted", "rate", "data"]  # seed is the same in both
    assert table[1].startswith("* b") and "changed since the run before: parameter rate: 0.1 -> 0.2" in table
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()


@pytest.mark.parametrize(
    ("this", "others", "said"),
    [
        (run("a", 0.7), [], "no run before it"),
        (run("a", metrics={"loops": 3.0}), [run("b", 0.7)], "no known metric to compare by"),
        (run("a", 0.7), [run("b")], "no AUC_weighted to compare by"),
    ],
)
def test_nothing_to_compare_is_said(this: ComparedRun, others: list[ComparedRun], said: str) -> None:
    found = compare(this, others)
    assert (found.rank, found.summary) == (None, (said,))
    assert lines(found)[0].startswith("run")


def test_a_metric_may_be_chosen() -> None:
    both = [run(name, metrics={"AUC_weighted": 1.0, "loops": loops}) for name, loops in (("a", 3.0), ("b", 5.0))]
    assert compare(both[0], both[1:], "loops").rank == 2  # of an unknown metric, more is better


def mlflow_run(name: str, start: int, metrics: dict[str, float], **tags: str) -> dict[str, Any]:
    tags = {"azflow.dag": "d", "azflow.task": "train.job", "partition": f"day {start}", **tags}
    made = tracked(name, metrics, {"rate": "1"}, **tags)
    made["info"] |= {"start_time": start, "run_name": name}
    return made


def test_predecessors_are_found_and_read_from_their_best_trial(edge: Edge) -> None:
    runs = {
        "now": mlflow_run("now", 3, {}, **{"azflow.input.train": "azureml:t:3"}),
        "before": mlflow_run("before", 2, {}),
        "before_7": tracked("before_7", {"AUC_weighted": 0.6}, {"rate": "9"}),
        "later": mlflow_run("later", 4, {"AUC_weighted": 0.9}),
        "other": mlflow_run("other", 1, {"AUC_weighted": 0.9}, **{"azflow.task": "evaluate.job"}),
    }
    workspace(edge)
    edge.on("GET", "/mlflow/runs/get$", (404, {}))
    asked = iter(["now", "before_7"])
    edge.on("GET", "/mlflow/runs/get$", lambda match, body: (200, {"run": runs[next(asked)]}))
    listed = [runs[name] for name in ("later", "now", "before", "other")]
    refused = iter([(400, {"error_code": "INVALID_PARAMETER_VALUE"}), (200, {"runs": listed})])
    edge.on("POST", "/mlflow/runs/search$", lambda match, body: next(refused))
    job(edge, "now", jobType="AutoML")
    job(edge, "before", jobType="AutoML", properties={"best_child_run_id": "before_7"})
    operator = CompareRunsOperator(task_id="compare", last=5)
    left = {"name": "now", "metrics": {"AUC_weighted": 0.7}, "tracking_url": "http://m/#/experiments/7/runs/now?a=b"}
    found = operator.execute(context_of(operator, {"train.job": left}))
    assert [(one["label"], one["metrics"]) for one in found["runs"]] == [
        ("day 3", {"AUC_weighted": 0.7}),
        ("day 2", {"AUC_weighted": 0.6}),
    ]
    assert found["runs"][0]["data"] == {"train": "azureml:t:3"}
    assert (found["rank"], found["url"]) == (1, operator.run_url)
    searched = [body["filter"] for method, url, body in edge.asked if url.endswith("runs/search")]
    assert "tags.`azflow.task` = 'train.job'" in searched[0] and searched[1] == "attributes.status = 'FINISHED'"


def test_a_comparison_needs_the_job() -> None:
    operator = CompareRunsOperator(task_id="compare")
    with pytest.raises(AirflowFailException, match=r"train\.job left no job"):
        operator.execute(context_of(operator))


def test_the_page_of_a_comparison() -> None:
    url = compare_url("http://m/#/experiments/7/runs/a?wsid=/x", ["a", "b"])
    assert url == "http://m/#/compare-runs?runs=%5B%22a%22%2C%22b%22%5D&experiments=%5B%227%22%5D"
    studio = "https://ml.azure.com/experiments/id/7?wsid=/x"
    assert compare_url(studio, ["a", "b"]) == studio


def test_a_run_is_read_from_what_mlflow_says() -> None:
    found = read_run(mlflow_run("a", 1357000000000, {"auc": 0.5}, git_commit="abc"))
    assert (found.name, found.label, found.started) == ("a", "day 1357000000000", "2013-01-01T00:26:40+00:00")
    assert (found.metrics, found.parameters, found.commit) == ({"auc": 0.5}, {"rate": "1"}, "abc")
