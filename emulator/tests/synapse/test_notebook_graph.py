"""`runMultiple` without Spark: order, retries, what fails and what is left out."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from localazure_compute import notebook_graph
from localazure_compute.notebook_graph import RunMultipleFailedException

Called = list[tuple[str, dict[str, Any]]]


def run(dag: Any, answers: Mapping[str, Any]) -> tuple[dict[str, Any], Called]:
    """Run a graph of notebooks that answer, or raise, what `answers` says."""
    called: Called = []

    def call(path: str, arguments: Mapping[str, Any], seconds: float) -> str:
        called.append((path, dict(arguments)))
        answer = answers[path]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    return notebook_graph.run(notebook_graph.parse(dag), call), called


def activity(name: str, *dependencies: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "path": name, "dependencies": list(dependencies), **more}


def test_a_list_is_a_graph_without_dependencies() -> None:
    results, called = run(["a", "b"], {"a": 1, "b": 2})
    assert results == {"a": {"exitVal": "1", "exception": None}, "b": {"exitVal": "2", "exception": None}}
    assert sorted(path for path, _ in called) == ["a", "b"]


def test_dependencies_come_first_and_their_exit_values_are_arguments() -> None:
    last = activity("c", "a", "b", args={"x": "<@activity('a').exitValue()>", "n": 1})
    results, called = run({"activities": [last, activity("a"), activity("b", "a")]}, {"a": 7, "b": 8, "c": 9})
    assert [path for path, _ in called] == ["a", "b", "c"]
    assert called[-1][1] == {"x": "<7>", "n": 1}
    assert list(results) == ["a", "b", "c"]


def test_notebooks_run_side_by_side_as_many_as_allowed() -> None:
    meeting = threading.Barrier(2, timeout=5)

    def call(path: str, _arguments: Mapping[str, Any], _seconds: float) -> str:
        meeting.wait()
        return path

    graph = notebook_graph.parse({"activities": [activity(name) for name in "abcd"], "concurrency": 2})
    assert [each["exitVal"] for each in notebook_graph.run(graph, call).values()] == list("abcd")


def test_a_failed_one_is_tried_again_and_then_those_behind_it_are_left_out() -> None:
    dag = {"activities": [activity("a", retry=1), activity("b", "a"), activity("c")]}
    assert run(dag, {"a": [RuntimeError("once"), 1], "b": 2, "c": 3})[0]["b"]["exitVal"] == "2"
    with pytest.raises(RunMultipleFailedException, match=r"2 of 3 notebooks failed\. a: twice; b: skipped") as failed:
        run(dag, {"a": [RuntimeError("once"), RuntimeError("twice")], "c": 3})
    assert failed.value.result["c"] == {"exitVal": "3", "exception": None}


def test_the_whole_has_a_time_limit() -> None:
    graph = notebook_graph.parse({"activities": [activity("a"), activity("b", "a")], "timeoutInSeconds": 0.05})
    never = threading.Event()
    with pytest.raises(RunMultipleFailedException, match=r"within 0\.05 s"):
        notebook_graph.run(graph, lambda *_: str(never.wait(2)))


@pytest.mark.parametrize(
    ("dag", "message"),
    [
        ([], "no activities"),
        ("a", "a list of notebooks"),
        ({"activities": [activity("a"), activity("a")]}, "two activities have the name 'a'"),
        ({"activities": [activity("a", "b")]}, "'b', which isn't in the graph"),
        ({"activities": [activity("a", "b"), activity("b", "a")]}, "circle: a, b"),
        ({"activities": [{"name": "a"}]}, r"activities\[0\] needs path"),
        ({"activities": [activity("a", retries=1)]}, "unknown key 'retries'"),
        ({"activities": [activity("a", timeoutPerCellInSeconds="1")]}, "must be a number"),
        ({"activities": [activity("a", args={"x": "@activity('b').exitValue()"})]}, "'b', which isn't a dependency"),
    ],
)
def test_what_is_no_graph_is_refused(dag: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        notebook_graph.parse(dag)
