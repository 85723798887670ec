"""Spark jobs without a Spark: what is refused, what the plan says, how large the local one is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from localazure.core.errors import AzureError, NotImplementedOperation
from localazure.executors import processes
from localazure.executors.spark import SparkRunner

JOB: dict[str, Any] = {
    "jobType": "Spark",
    "experimentName": "nightly",
    "codeId": "/x/workspaces/ml-azflow/codes/c/versions/1",
    "entry": {"sparkJobEntryType": "SparkJobPythonEntry", "file": "main.py"},
    "resources": {"instanceType": "Standard_E4S_V3", "runtimeVersion": "3.4"},
    "conf": {
        "spark.driver.cores": "1",
        "spark.driver.memory": "28g",
        "spark.executor.cores": "4",
        "spark.executor.memory": "28g",
        "spark.executor.instances": "3",
        "spark.sql.ansi.enabled": "true",
    },
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"entry": {"sparkJobEntryType": "SparkJobScalaEntry", "className": "A"}},
            "entry.class_name is not implemented",
        ),
        ({"entry": {"file": ""}}, "needs entry.file"),
        ({"codeId": None}, "needs code"),
        ({"resources": None}, "One of either compute or resources must be specified"),
        ({"computeId": "/x/computes/synapse-spark"}, "Only one of either compute or resources"),
        ({"resources": {"instanceType": "standard_d2"}}, "must be specified for the list of standard_e4s_v3"),
        ({"resources": {"instanceType": "standard_e4s_v3", "runtimeVersion": "2.4"}}, "a version of Spark 3"),
        ({"inputs": {"a": {"jobInputType": "uri_file", "mode": "Download"}}}, "Input 'a' is using 'Download' mode"),
        ({"outputs": {"a": {"jobOutputType": "uri_folder", "mode": "Upload"}}}, "only 'direct' is supported"),
        ({"pyFiles": ["a.whl"]}, "not 'a.whl'"),
        ({"conf": {"spark.driver.memory": "much"}}, "spark.driver.memory must be a size"),
        ({"conf": {"spark.executor.cores": "-1"}}, "spark.executor.cores must be a whole number"),
        ({"conf": {"spark.dynamicAllocation.enabled": "True"}}, "are required when dynamic allocation is enabled"),
        (
            {
                "conf": {
                    "spark.dynamicAllocation.enabled": "true",
                    "spark.dynamicAllocation.minExecutors": "3",
                    "spark.dynamicAllocation.maxExecutors": "2",
                }
            },
            "equal or less than max executors",
        ),
        ({"conf": {"spark.jars.packages": "a:b:1"}}, "conf spark.jars.packages is not implemented"),
        ({"conf": {"spark.master": "yarn"}}, "conf spark.master is not implemented"),
    ],
)
def test_what_cannot_run_is_refused(home: Any, assets: Any, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(AzureError) as caught:
        SparkRunner(home, assets).validate({**JOB, **changed})
    assert message in caught.value.message
    assert isinstance(caught.value, NotImplementedOperation) == ("not implemented" in message)


def test_the_plan_has_every_address_and_a_bounded_spark(
    with_client: Any, blobs: Any, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []
    start = processes.start

    def recorded(argv: Any, *, env: Any, **more: Any) -> processes.Process:
        started.append((list(argv), dict(env)))
        return start(["true"], env=env, **more)

    monkeypatch.setattr(processes, "start", recorded)
    blobs.write("code-1", "src/main.py", b"")
    blobs.write("code-1", "src/helper.zip", b"")
    blobs.write("code-1", "src/data.zip", b"")

    async def test(client: Any) -> None:
        await client.put("codes/c/versions/1", codeUri=f"{client.settings.blob_url}/code-1/src")
        job = {
            **JOB,
            "codeId": f"{client.settings.workspace_id}/codes/c/versions/1",
            "inputs": {
                "rows": {
                    "jobInputType": "uri_file",
                    "uri": "azureml://datastores/lake/paths/a/b.csv",
                    "mode": "Direct",
                },
                "note": {"jobInputType": "literal", "value": "two words"},
            },
            "outputs": {"made": {"jobOutputType": "uri_folder", "mode": "Direct"}},
            "args": "--rows ${{inputs.rows}} --out ${{outputs.made}} --note '${{inputs.note}}'",
            "pyFiles": ["helper.zip"],
            "archives": ["data.zip#here"],
        }
        await client.put("jobs/good", **job)
        assert (await client.finished("good"))["properties"]["status"] == "Completed"
        await client.put("jobs/lost", **{**job, "pyFiles": ["../helper.zip"]})
        await client.put("jobs/gone", **{**job, "entry": {"file": "other.py"}})
        for name in ("lost", "gone"):
            assert (await client.finished(name))["properties"]["status"] == "Failed"
        assert await client.error("lost") == "'../helper.zip' (py_files) is not in the code folder."
        assert await client.error("gone") == "The entry file 'other.py' is not in the code folder."

    with_client(test)
    plan = json.loads((home.home / "jobs/good/plan.json").read_text())
    made = "abfss://azureml@azflowlake.dfs.core.windows.net/azureml/good/made/"
    rows = "abfss://lake@azflowlake.dfs.core.windows.net/a/b.csv"
    assert plan["args"] == ["--rows", rows, "--out", made, "--note", "two words"]
    conf = plan["conf"]
    assert (conf["spark.master"], conf["spark.driver.memory"]) == ("local[2]", "2048m")
    assert conf["spark.sql.ansi.enabled"] == "true"
    assert "spark.executor.instances" not in conf
    assert [path.rpartition("/")[2] for path in plan["pyFiles"] + plan["archives"]] == ["helper.zip", "data.zip#here"]
    [(argv, environment)] = started
    assert argv[1:3] == ["-m", "localazure_compute.spark_job"]
    assert json.loads(environment["LOCALAZURE_LAKE_DATASTORES"])["workspaceblobstore"] == "azureml"
    assert environment["AZUREML_RUN_ID"] == "good"
