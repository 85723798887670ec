"""Notebooks and Spark batches: what is published and uploaded, one run whatever happens, failures that say where."""

from __future__ import annotations

import io
import json
import os
import threading
import time
import uuid
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred

import azflow.spark
import azflow.spark_batches
from azflow import notebook_files, notebook_runs, spark_files
from azflow.cloud import Cloud
from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError, SpecError
from azflow.notebook_files import bundle, declared_parameters, read_notebook, typed_parameters
from azflow.remote import NOTEBOOK_RUN, RunIdentity, payload_digest
from azflow.spark import SparkBatchOperator, SynapseNotebookOperator
from azflow.spark_batches import SparkBatches, driver_tail, last_exception
from azure_edge import edge
from livy_edge import ENDPOINT, Crash, LivyEdge, livy
from workspace_edge import context_of

__all__ = ["edge", "livy"]


@pytest.fixture(autouse=True)
def include(tmp_path: Path, azure_default: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("notebooks", "jobs"):
        (tmp_path / "spark" / folder).mkdir(parents=True)
    monkeypatch.setattr(azflow.spark, "INCLUDE", tmp_path)
    connection = json.loads(os.environ["AIRFLOW_CONN_AZURE_DEFAULT"])
    connection["extra"] |= {"synapse_endpoint": ENDPOINT, "spark_pool": "pool"}
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_DEFAULT", json.dumps(connection))
    return tmp_path


# -- notebooks as files ------------------------------------------------------------------------------------------------


def notebook(*sources: Any, **extra: Any) -> dict[str, Any]:
    cells = [
        {"cell_type": "code", "metadata": {}, "source": source, "outputs": [{}], "execution_count": 7}
        for source in sources
    ]
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells, **extra}


def put(include: Path, name: str, *sources: Any) -> None:
    path = include / "spark/notebooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(notebook(*sources)))


def source_of(content: dict[str, Any]) -> str:
    return "".join("".join(cell["source"]) for cell in content["cells"])


def test_a_notebooks_name_follows_its_content_but_not_its_outputs(tmp_path: Path) -> None:
    def name(content: dict[str, Any]) -> str:
        (tmp_path / "n.ipynb").write_text(json.dumps(content))
        return notebook_files.artifact_name("my notebook", read_notebook(tmp_path / "n.ipynb", "n.ipynb"))

    first = name(notebook("a = 1\nb = 2"))
    again = notebook(["a = 1\n", "b = 2"])
    again["cells"][0]["outputs"] = [{"output_type": "stream"}]
    assert name(again) == first
    assert name(notebook("a = 2")) != first
    assert first.startswith("my-notebook-")


@pytest.mark.parametrize("content", ["{", "[]", '{"nbformat": 3, "cells": []}', '{"nbformat": 4}'])
def test_what_is_no_notebook_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "n.ipynb").write_text(content)
    with pytest.raises(SpecError, match=r"^shown\.ipynb"):
        read_notebook(tmp_path / "n.ipynb", "shown.ipynb")


RUNNER = """%run lib/helpers { "a": 1 }
%run -b builtin.py
!pip list
ä = notebookutils.notebook.run("child", 60, {"x": 1}) + mssparkutils.notebook.run(name)
graph = {"activities": [{"name": "one", "path": "child", "args": {"path": "/data"}}]}
notebookutils.notebook.runMultiple(['child', "theirs"])
%run /Shared/theirs
"""


def test_notebooks_of_the_repository_that_a_notebook_runs_are_published_with_it(include: Path) -> None:
    put(include, "main.ipynb", RUNNER, "%%sql\nSELECT 'child'")
    put(include, "lib/helpers.ipynb", "%run child")
    put(include, "child.ipynb", "x = 1")
    found = bundle(include / "spark/notebooks", "main.ipynb")
    child, helpers = sorted(found.others)
    assert child.startswith("child-") and helpers.startswith("helpers-")
    assert source_of(found.others[helpers]) == f"%run {child}"
    assert source_of(found.content) == (
        f'%run {helpers} {{ "a": 1 }}\n%run -b builtin.py\n!pip list\n'
        f'ä = notebookutils.notebook.run("{child}", 60, {{"x": 1}}) + mssparkutils.notebook.run(name)\n'
        f'graph = {{"activities": [{{"name": "one", "path": "{child}", "args": {{"path": "/data"}}}}]}}\n'
        f'notebookutils.notebook.runMultiple(["{child}", "theirs"])\n%run /Shared/theirs\n%%sql\nSELECT \'child\''
    )
    assert found.expected == {"theirs": "include/spark/notebooks/main.ipynb, cell 1: %run /Shared/theirs"}
    # Another content of a notebook it runs makes it another notebook.
    put(include, "child.ipynb", "x = 2")
    assert bundle(include / "spark/notebooks", "main.ipynb").name != found.name


def test_notebooks_that_run_each_other_or_fit_twice_are_refused(include: Path) -> None:
    put(include, "a.ipynb", "%run b")
    put(include, "b.ipynb", "%run a")
    put(include, "c.ipynb", "%run twin")
    for folder in ("x", "y"):
        put(include, f"{folder}/twin.ipynb", "1")
    with pytest.raises(SpecError, match=r"circle: a\.ipynb -> b\.ipynb -> a\.ipynb"):
        bundle(include / "spark/notebooks", "a.ipynb")
    with pytest.raises(SpecError, match=r"c\.ipynb: runs 'twin', and there are several: x/twin\.ipynb, y/twin\.ipynb"):
        bundle(include / "spark/notebooks", "c.ipynb")
    for name in ("missing.ipynb", "../a.ipynb", "/etc/a.ipynb"):
        with pytest.raises(SpecError, match=r"can't be read|must be relative"):
            bundle(include / "spark/notebooks", name)


PARAMETERS = "day = ''\nrows: int = 1\nshare = 0.5\nfast = False\nanything = None\n"


def declared(source: str = PARAMETERS) -> dict[str, str] | None:
    content = notebook(source)
    content["cells"][0]["metadata"] = {"tags": ["parameters"]}
    return declared_parameters(content)


def test_parameters_take_the_type_that_the_notebook_gives_them() -> None:
    given: dict[str, Any] = {"day": "2013-03-08", "rows": " 7 ", "share": 1, "fast": "True", "anything": 2}
    assert typed_parameters(given, "n.ipynb", declared()) == {
        "day": {"type": "string", "value": "2013-03-08"},
        "rows": {"type": "int", "value": 7},
        "share": {"type": "float", "value": 1.0},
        "fast": {"type": "bool", "value": True},
        "anything": {"type": "int", "value": 2},
    }
    typed = {"e": {"type": "int", "value": "7"}, "f": {"type": "Bool", "value": "False"}, "g": 1.5}
    assert typed_parameters(typed, "n.ipynb") == {
        "e": {"type": "int", "value": 7},
        "f": {"type": "bool", "value": False},
        "g": {"type": "float", "value": 1.5},
    }
    assert declared_parameters(notebook("a = 1")) is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("rows", "seven", r"n\.ipynb: parameter 'rows' should be of type int as the notebook's default is: 'seven'"),
        ("rows", 7.5, "should be of type int"),
        ("rows", True, "should be of type int"),
        ("share", "nan", "should be of type float"),
        ("fast", 1, "should be of type bool"),
        ("day", 20130308, "should be of type string"),
        ("rwos", 7, r"doesn't assign rwos; it has anything, day, fast, rows, share"),
        ("anything", None, "is a NoneType"),
        ("anything", [1], "is a list"),
        ("rows", {"type": "date", "value": "x"}, "type is one of"),
        ("rows", {"type": "int", "value": "x"}, "should be of type int: 'x'"),
        ("fast", {"type": "bool", "value": 3}, "should be of type bool"),
    ],
)
def test_a_parameter_of_the_wrong_type_is_refused_by_name(name: str, value: object, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        typed_parameters({name: value}, "n.ipynb", declared())


@pytest.mark.parametrize(("text", "value"), [(None, None), ("7", 7), ('{"rows": 3}', {"rows": 3}), ("done", "done")])
def test_exit_values_are_parsed_if_they_are_json(text: str | None, value: object) -> None:
    assert notebook_runs.parse_exit_value(text) == value


def test_the_payload_is_the_same_for_every_try(include: Path) -> None:
    put(include, "n.ipynb", "a = 1")
    operator = SynapseNotebookOperator(
        task_id="x", notebook="n.ipynb", parameters={"night": "{{ night.key }}"}, executor_size="Small", executors=2,
        conf={"spark.sql.shuffle.partitions": "{{ params.parts }}"}, session_options={"driverCores": 8},
    )  # fmt: skip
    context = context_of(operator, parts=3)
    payload = operator.payload(context)
    assert payload == operator.payload(context)
    assert payload["spark_pool"] == "pool"
    assert payload["parameters"] == {"night": {"type": "string", "value": context["night"].key}}
    assert payload["content"]["cells"][0]["outputs"] == []
    assert payload["session_options"] == {
        "driverCores": 8, "driverMemory": "28g", "executorCores": 4, "executorMemory": "28g", "numExecutors": 2,
        "conf": {"spark.sql.shuffle.partitions": "3"},
    }  # fmt: skip


# -- a notebook run that failed ----------------------------------------------------------------------------------------

TRACE = ["\x1b[0;31mKeyError\x1b[0m  Traceback", "Cell In[3], line 17\n     16 \n---> 17 b['missing']", "KeyError: 'x'"]


def failed_run(monkeypatch: pytest.MonkeyPatch, cells: list[Any], **error: Any) -> Any:
    runs = notebook_runs.SynapseNotebookRuns(AzureConnection(id="c", synapse_endpoint=ENDPOINT))
    fields = {"ename": "KeyError", "evalue": "'missing'", "traceback": TRACE, **error}
    result = SimpleNamespace(error=SimpleNamespace(**fields), run_status="Failed")
    content = SimpleNamespace(properties=SimpleNamespace(cells=cells))
    snapshot = SimpleNamespace(result=SimpleNamespace(snapshot=SimpleNamespace(notebook_content=content)))
    runs._client = SimpleNamespace(  # type: ignore[assignment]
        run_notebook=SimpleNamespace(
            get_status=lambda id: SimpleNamespace(result=result), get_snapshot=lambda id: snapshot
        )
    )
    return runs.failure("r")


def cell(source: str, *tags: str, fails: bool = False) -> Any:
    outputs = [{"output_type": "error"}] if fails else []
    return SimpleNamespace(metadata={"tags": list(tags)}, source=source.splitlines(keepends=True), outputs=outputs)


def test_a_failed_notebook_shows_the_cell_as_the_repository_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "".join(f"a{number} = {number}\n" for number in range(1, 17)) + "b['missing']\nc = 3\n"
    cells = [cell("p = 1", "parameters"), cell("p = 2", "parameters_overwritten"), cell(source, fails=True)]
    failure = failed_run(monkeypatch, cells)
    assert failure.cause == "KeyError: 'missing' (cell 2 of 2, which begins with: a1 = 1)"
    assert not failure.retry_helps
    assert failure.log_tail[:2] == ["Cell 2:", "       (3 lines above)"]
    assert ">  17 | b['missing']" in failure.log_tail
    assert "   18 | c = 3" in failure.log_tail and "    1 | a1 = 1" not in failure.log_tail
    assert failure.log_tail[-3:] == ["     16 ", "---> 17 b['missing']", "KeyError: 'x'"]


def test_a_failed_notebook_without_a_snapshot_says_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = failed_run(monkeypatch, [], ename="java.lang.OutOfMemoryError", evalue="Java heap space", traceback=[])
    assert failure.cause.splitlines()[0] == "java.lang.OutOfMemoryError: Java heap space"
    assert "larger executor_size" in failure.cause and failure.retry_helps and failure.log_tail == []


# -- batches -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(livy: LivyEdge, monkeypatch: pytest.MonkeyPatch) -> LivyEdge:
    """A minute of a lease passes while somebody waits a second for it."""

    def sleep(seconds: float) -> None:
        livy.leases.clear()

    monkeypatch.setattr(azflow.spark_batches, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    return livy


def job(include: Path, text: str = "print(1)") -> None:
    (include / "spark/jobs/job.py").write_text(text)


def a_try(**arguments: Any) -> tuple[SparkBatchOperator, Any]:
    """A fresh process's view of one try of the task."""
    given: dict[str, Any] = {"file": "job.py", "grace_seconds": 60, "poll_seconds": 0.001} | arguments
    operator = SparkBatchOperator(task_id="prepare.job", **given)
    return operator, context_of(operator)


def run(**arguments: Any) -> Any:
    operator, context = a_try(**arguments)
    return operator.execute(context)


def test_a_batch_is_made_of_the_repositorys_files(include: Path, quick: LivyEdge) -> None:
    job(include)
    package = include / "spark/jobs/history"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "days.py").write_text("DAYS = 28")
    (include / "spark/jobs/lookup.csv").write_text("a,b")
    operator, context = a_try(
        arguments=["--day", "{{ night.partition }}", 7, True], py_files=["history"], files=["lookup.csv"],
        archives=["abfss://other@account/planes.zip#planes"], conf={"spark.sql.ansi.enabled": True},
        executor_size="medium", executors=3,
    )  # fmt: skip
    found = operator.execute(context)
    assert {key: found[key] for key in ("id", "app_id", "state", "spark_pool", "file")} == {
        "id": 0, "app_id": "application_1_0000", "state": "success", "spark_pool": "pool", "file": "job.py",
    }  # fmt: skip
    (batch,) = quick.batches
    asked = batch["asked"]
    lake = "abfss://lake@lakeaccount.dfs.core.windows.net/"
    places = [asked["file"], *asked["pyFiles"], *asked["files"]]
    assert [place.rpartition("/")[2] for place in places] == ["job.py", "history.zip", "lookup.csv"]
    stored = [quick.blobs[f"lake/{place.removeprefix(lake)}"] for place in places]
    assert stored[0] == b"print(1)" and stored[2] == b"a,b"
    assert zipfile.ZipFile(io.BytesIO(stored[1])).namelist() == ["history/__init__.py", "history/days.py"]
    assert asked["args"] == ["--day", "2013-03-08", "7", "true"]
    assert asked["archives"] == ["abfss://other@account/planes.zip#planes"]
    assert asked["conf"] == {"spark.sql.ansi.enabled": "true"}
    assert (asked["executorMemory"], asked["driverCores"], asked["numExecutors"]) == ("56g", 8, 3)
    assert batch["name"].startswith("nightly-prepare-job-")
    assert batch["tags"]["azflow.task"] == "prepare.job"
    assert batch["tags"]["azflow.payload"] == payload_digest(operator.payload(context))
    # The link, in a public cloud Synapse Studio's.
    assert found["url"].startswith("https://web.azuresynapse.net/monitoring/sparkapplication/nightly-prepare-job-")
    assert "livyId=0" in found["url"] and context["ti"].pushed["azflow_run"]["url"] == found["url"]


def test_a_crash_at_any_request_leads_to_one_batch(include: Path, quick: LivyEdge) -> None:
    """At each of the requests that a task sends, before and after the service has it: the next try finds the batch."""
    job(include)
    calm = LivyEdge.__init__
    run()
    total = quick.requests
    assert total > 8
    for number in range(1, total + 1):
        for has_it in (False, True):
            calm(quick)
            quick.crash = (number, has_it)
            with pytest.raises(Crash):
                run()
            found = run()
            assert (len(quick.batches), found["state"]) == (1, "success"), (number, has_it, quick.asked)


def test_a_lost_answer_is_followed_by_a_look_not_by_a_second_request(include: Path, quick: LivyEdge) -> None:
    job(include)
    quick.lost_answers = [503]
    assert run()["id"] == 0
    assert [method for method, url, _ in quick.asked if method == "POST"] == ["POST"]


def test_of_two_workers_one_submits(include: Path, livy: LivyEdge) -> None:
    job(include)
    others: list[Any] = []
    thread = threading.Thread(target=lambda: others.append(run()))

    def meanwhile() -> None:
        thread.start()
        time.sleep(0.5)  # it comes to the lease meanwhile

    livy.during_post = meanwhile
    assert run()["id"] == 0
    thread.join(20)
    assert [found["id"] for found in others] == [0] and len(livy.batches) == 1


def test_a_failed_batch_is_followed_by_the_next_attempt_and_one_of_other_parameters_isnt_adopted(
    include: Path, quick: LivyEdge
) -> None:
    job(include)
    quick.ends_as = ("dead", "Failed")
    with pytest.raises(AirflowException):
        run()
    quick.ends_as = ("success", "Succeeded")
    assert run()["id"] == 1
    assert run()["id"] == 1
    job(include, "print(2)")
    assert run()["id"] == 2
    assert len({batch["name"] for batch in quick.batches}) == 3


def test_a_batch_among_many_is_found_without_the_record(include: Path, quick: LivyEdge) -> None:
    job(include)
    first = run()
    (mine,) = quick.batches
    others = [{**mine, "id": number, "name": f"other-{number}"} for number in range(45)]
    quick.batches = [*others, {**mine, "id": 45}]
    for path in [path for path in quick.blobs if "/batches/" in path]:
        del quick.blobs[path]
    assert run() == {**first, "id": 45, "url": first["url"].replace("livyId=0", "livyId=45")}
    assert len(quick.batches) == 46


LOG = [
    "stdout: ",
    "rows 3",
    "stderr: ",
    "Traceback (most recent call last):",
    '  File "job.py", line 1',
    "KeyError: 'x'",
]


def test_a_failure_says_what_the_service_and_the_driver_say(
    include: Path, quick: LivyEdge, capsys: pytest.CaptureFixture[str]
) -> None:
    job(include)
    quick.ends_as = ("dead", "Failed")
    quick.logs[0] = [*(f"line {number}" for number in range(300)), *LOG]
    error = {"message": "Application failed", "errorCode": "LIVY_JOB_STATE_DEAD", "source": "User"}
    quick.error_info = [error]
    with pytest.raises(AirflowFailException) as raised:
        run()
    said = str(raised.value)
    assert "Synapse Spark batch 0 ended as dead: LIVY_JOB_STATE_DEAD: Application failed (source: User)" in said
    assert (
        "KeyError: 'x'" in said.splitlines()[1] and "rows 3" in said and "line 299" in said and "line 100" not in said
    )
    log = capsys.readouterr().out
    assert "driver | rows 3" in log and "driver | line 50" not in log  # no more than the last 200


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (LOG, "KeyError"),
        ([*LOG, "java.io.IOException: Failed to delete: /tmp/x", "\tat java.lang.Thread.run"], "KeyError"),
        (["Caused by: java.lang.OutOfMemoryError: Java heap space", "\tat x.Y"], "java.lang.OutOfMemoryError"),
        (["Exception in thread", "fine"], ""),
        ([], ""),
    ],
)
def test_the_exception_that_ended_the_driver(lines: list[str], name: str) -> None:
    assert last_exception(lines)[0] == name


def test_a_traceback_isnt_hidden_by_what_the_jvm_prints_after_it() -> None:
    assert driver_tail(["a", *LOG]) == ["a", *LOG]
    noisy = [*(f"line {number}" for number in range(50)), *LOG, *(f"\tat {number}" for number in range(100))]
    tail = driver_tail(noisy)
    assert len(tail) == 40 and "KeyError: 'x'" in tail and "line 49" in tail


async def test_states_are_livys_unless_the_result_says_more(include: Path, livy: LivyEdge) -> None:
    runs = SparkBatches(AzureConnection.load(), "pool")
    seen = {
        (state, result): runs.state_of({"id": 0, "state": state, "result": result}).phase
        for state, result in [
            ("not_started", "Uncertain"), ("running", "Uncertain"), ("success", "Succeeded"), ("success", "Failed"),
            ("dead", "Failed"), ("dead", "Cancelled"), ("killed", "Uncertain"), ("error", None),
        ]
    }  # fmt: skip
    assert list(seen.values()) == [
        *("active", "active", "succeeded", "failed", "failed", "cancelled", "cancelled", "failed"),
    ]


def test_long_waits_are_deferred_and_a_stopped_task_cancels_its_batch(
    include: Path, quick: LivyEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(include)
    quick.polls_until_end = 10**6
    with pytest.raises(TaskDeferred) as deferred:
        run(grace_seconds=0)
    serialized = deferred.value.trigger.serialize()[1]
    assert (serialized["factory"], serialized["arguments"]) == (
        "azflow.spark_batches.SparkBatches",
        {"spark_pool": "pool"},
    )
    monkeypatch.setattr(azflow.runs, "task_state", lambda *place: "failed")
    operator, context = a_try()
    operator.on_kill()
    with pytest.raises(AirflowFailException, match=r"Synapse Spark batch 0 was cancelled"):
        operator.execute(context)
    assert quick.batches[0]["result"] == "Cancelled"


def test_a_definition_is_run_under_a_name_of_ours(include: Path, quick: LivyEdge) -> None:
    properties = {
        "targetBigDataPool": {"referenceName": "pool", "type": "BigDataPoolReference"},
        "jobProperties": {
            "name": "theirs", "file": "abfss://x@y/main.py", "args": ["a"], "conf": {"one": "1"}, "className": None,
            "executorCores": 4, "numExecutors": 2,
        },
    }  # fmt: skip
    quick.on("GET", f"{ENDPOINT}/sparkJobDefinitions/nightly$", (200, {"properties": properties}))
    quick.on("GET", f"{ENDPOINT}/sparkJobDefinitions/none$", (404, {"error": {"code": "NotFound", "message": "no"}}))
    found = run(file="", definition="nightly", conf={"two": 2}, executors=5)
    asked = quick.batches[0]["asked"]
    assert (asked["file"], asked["args"], asked["artifactId"]) == ("abfss://x@y/main.py", ["a"], "nightly")
    assert (asked["conf"], asked["executorCores"], asked["numExecutors"]) == ({"one": "1", "two": "2"}, 4, 5)
    assert asked["name"].startswith("nightly-prepare-job-") and found["file"] == "nightly"
    with pytest.raises(AirflowFailException, match=r"no Spark job definition 'none'"):
        run(file="", definition="none")
    properties["targetBigDataPool"]["referenceName"] = "large"
    with pytest.raises(AirflowFailException, match=r"is for the pool large, the connection's is pool"):
        run(file="", definition="nightly")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"file": "missing.py"}, r"include/spark/jobs/missing\.py: doesn't exist"),
        ({"file": "../job.py"}, r"must be relative to include/spark/jobs"),
        ({"file": "data.csv"}, r"must end in \.py or \.jar"),
        ({"py_files": ["data.csv"]}, r"must end in \.py or \.zip"),
        ({"file": "app.jar"}, r"class_name must say which class"),
        ({"file": ""}, r"either a file or a definition"),
        ({"definition": "x"}, r"either a file or a definition"),
        ({"executor_size": "Tiny"}, r"executor_size is 'Tiny'; it is one of Small, Medium"),
        ({"executors": 0}, r"executors is 0"),
        ({"arguments": [None]}, r"is a NoneType"),
        ({"py_files": ["empty"]}, r"folder without Python files"),
    ],
)
def test_what_is_wrong_with_a_batch_is_said_before_anything_is_sent(
    include: Path,
    livy: LivyEdge,
    arguments: dict[str, Any],
    says: str,
) -> None:
    job(include)
    for name in ("data.csv", "app.jar"):
        (include / "spark/jobs" / name).write_text("x")
    (include / "spark/jobs/empty").mkdir()
    with pytest.raises(AirflowFailException, match=says):
        run(**arguments)
    assert livy.asked == []


def test_what_the_pool_refuses_is_said_in_its_words(include: Path, quick: LivyEdge) -> None:
    job(include)
    message = "executorCores 64 is over the node's 4"
    quick._livy = lambda request, rest, query: (  # type: ignore[method-assign]
        (400, {"error": {"code": "TooLarge", "message": message}})
        if request.method == "POST"
        else (200, {"from": 0, "total": 0, "sessions": []})
    )
    with pytest.raises(AirflowFailException, match=f"The Spark pool pool refuses the batch: .*{message}"):
        run()
    assert quick.leases == {}


def test_links_of_a_private_cloud_lead_to_its_own_pages() -> None:
    cloud = Cloud("p", "https://a", "https://a", "https://a", "core.private", "https://ml")
    private = AzureConnection(
        id="p", synapse_endpoint="https://localhost:1/", storage_account_url="https://s/x", cloud=cloud
    )
    assert notebook_runs.SynapseNotebookRuns(private).url("abc") == "https://localhost:1/notebooks/runs/abc/view"
    page = "https://localhost:1/livyApi/versions/2019-11-01-preview/sparkPools/pool/batches/7/view"
    assert SparkBatches(private, "pool").url("7") == page


def test_links_lead_to_studio() -> None:
    public = AzureConnection(
        id="p", synapse_endpoint="https://ws1.dev.azuresynapse.net", subscription_id="s", resource_group="g"
    )
    url = notebook_runs.SynapseNotebookRuns(public).url("abc")
    assert url.startswith("https://web.azuresynapse.net/monitoring/notebookruns/abc?workspace=%2Fsubscriptions%2Fs")
    assert url.endswith("workspaces%2Fws1")


def test_sizes_left_out_are_the_pools() -> None:
    assert spark_files.sizes(None, None, None) == {}


def test_a_notebook_runs_id_follows_what_it_was_given() -> None:
    """The service keeps no tags: a run with other parameters must not be found under the same id."""
    work = RunIdentity("d", "r", "t", -1, 0)
    ids = {work.name(NOTEBOOK_RUN, digest) for digest in ("one", "two")} | {work.at(1).name(NOTEBOOK_RUN, "one")}
    assert len(ids) == 3 and all(uuid.UUID(id) for id in ids)
    assert work.name(NOTEBOOK_RUN, "one") == RunIdentity("d", "r", "t", -1, 0).name(NOTEBOOK_RUN, "one")
