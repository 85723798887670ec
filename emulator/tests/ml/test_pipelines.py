"""Pipelines: what is read from the wire, what is refused, and how steps run; processes are real, MLflow is recorded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.core.service import ServiceContext
from localazure.executors import pipeline_graph, pipeline_nodes

ENVIRONMENT = "azureml://registries/azureml/environments/sklearn-1.5/versions/3"
FOLDER = {"type": "uri_folder"}
DATA = {"jobInputType": "uri_folder", "uri": "azureml://datastores/workspaceblobstore/paths/data/"}
SPECS: dict[str, dict[str, Any]] = {
    "make": {
        "type": "command",
        "command": "echo ${{inputs.n}} > ${{outputs.out}}/n.txt",
        "environment": f"azureml:{ENVIRONMENT}",
        "code": "azureml:/subscriptions/s/codes/c/versions/1",
        "inputs": {
            "n": {"type": "integer", "min": "1", "max": "9"},
            "kind": {"type": "string", "enum": ["a", "b"], "default": "a"},
            "flag": {"type": "boolean", "optional": True},
            "rate": {"type": "number", "optional": True},
        },
        "outputs": {"out": FOLDER},
        "resources": {"instance_count": 1, "shm_size": "2g"},
        "distribution": {"type": "mpi", "process_count_per_instance": 1},
    },
    "take": {
        "type": "command",
        "command": "cat ${{inputs.rows}}/*",
        "inputs": {"rows": {**FOLDER, "mode": "download"}, "more": {**FOLDER, "optional": True}},
        "outputs": {"out": FOLDER, "model": {"type": "mlflow_model"}},
    },
    "inner": {
        "type": "pipeline",
        "inputs": {"k": {"type": "integer", "default": "2"}, "g": {"type": "group", "values": {"x": FOLDER}}},
        "outputs": {"y": FOLDER},
        "jobs": {
            "one": {
                "type": "command",
                "componentId": "take",
                "inputs": {"rows": {"job_input_type": "literal", "value": "${{parent.inputs.g.x}}"}},
                "outputs": {"out": {"type": "literal", "value": "${{parent.outputs.y}}"}},
            }
        },
    },
    "spark": {
        "type": "spark",
        "entry": {"file": "s.py"},
        "conf": {"spark.driver.cores": 1},
        "args": "--d ${{inputs.d}}",
        "inputs": {"d": FOLDER},
        "outputs": {},
    },
}


def text(value: str) -> dict[str, str]:
    return {"job_input_type": "literal", "value": value}


def make(**more: Any) -> dict[str, Any]:
    return {"type": "command", "componentId": "make", "inputs": {"n": text("3")}, **more}


def take(rows: str = "${{parent.jobs.a.outputs.out}}", **more: Any) -> dict[str, Any]:
    return {"type": "command", "component": "take", "inputs": {"rows": text(rows)}, **more}


def pipeline(jobs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"jobType": "Pipeline", "experimentName": "nightly", "jobs": jobs, **more}


def parsed(properties: dict[str, Any]) -> pipeline_graph.Pipeline:
    graph = pipeline_graph.parse(properties, SPECS.__getitem__)
    made = {step: {name: {"uri": f"u/{step}/{name}", "jobOutputType": sink.kind} for name, sink in each.outputs.items()}
            for step, each in graph.steps.items()}  # fmt: skip
    for step in graph.steps.values():
        pipeline_graph.resolved_inputs(step, graph.inputs, made)
    return graph


@pytest.mark.parametrize(
    ("properties", "target", "message"),
    [
        (pipeline({}), "jobs", "at least one step"),
        ({"jobType": "Pipeline", "jobs": ["a"]}, "jobs", "jobs must be an object"),
        (pipeline({"a": make(resources="big")}), "jobs.a.resources", 'must be an object, not "big"'),
        (pipeline({"a": make(inputs=[1])}), "jobs.a.inputs", "must be an object"),
        (pipeline({"a": make(outputs={"out": 3})}), "jobs.a.outputs.out", "must be an object, not 3"),
        (pipeline({"a": make()}, outputs={"f": [1]}), "outputs.f", "must be an object"),
        (pipeline({"a": {**make(), "componentId": 3}}), "jobs.a.componentId", "names no component"),
        (pipeline({"a": {"type": "automl", "primary_metric": [1]}}), "jobs.a.primary_metric", "must be a text"),
        (pipeline({"a": make()}, settings={"default_compute": 3}), "settings.default_compute", "must be a text"),
        (pipeline({"a": make(inputs={})}), "jobs.a.inputs.n", "no value for the input 'n'"),
        (pipeline({"a": make(inputs={"n": text("3"), "x": text("1")})}), "jobs.a.inputs.x", "no input 'x'"),
        (pipeline({"a": make(inputs={"n": text("3.5")})}), "jobs.a.inputs.n", "'3.5' is no integer"),
        (pipeline({"a": make(inputs={"n": text("0")})}), "jobs.a.inputs.n", "at least 1"),
        (pipeline({"a": make(inputs={"n": text("12")})}), "jobs.a.inputs.n", "at most 9"),
        (pipeline({"a": make(inputs={"n": text("1"), "kind": text("c")})}), "jobs.a.inputs.kind", "one of a, b"),
        (pipeline({"a": make(inputs={"n": text("1"), "flag": text("maybe")})}), "jobs.a.inputs.flag", "no boolean"),
        (pipeline({"a": make(inputs={"n": text("${{parent.inputs.m}}")})}), "jobs.a.inputs.n", "(it has none)"),
        (pipeline({"a": make(inputs={"n": text("${{parent.input.m}}")})}), "jobs.a.inputs.n", "parent.input.m"),
        (pipeline({"a": make(inputs={"n": text("${{parent}}")})}), "jobs.a.inputs.n", "is no binding"),
        (pipeline({"a": make(inputs={"n": text("${{parent.inputs.d}}")})}, inputs={"d": DATA}), "jobs.a.inputs.n",
         "it was given data"),
        (pipeline({"b": take("some text")}), "jobs.b.inputs.rows", "given the literal 'some text'"),
        (pipeline({"b": take()}), "jobs.b.inputs.rows", "the step 'a', which the pipeline hasn't got (it has b)"),
        (pipeline({"a": make(), "b": take("${{parent.jobs.a.outputs.no}}")}), "jobs.b.inputs.rows", "the output 'no'"),
        (pipeline({"a": make(), "b": take("x/${{parent.jobs.a.outputs.out}}")}), "jobs.b.inputs.rows", "only literals"),
        (pipeline({"a": take("${{parent.jobs.b.outputs.out}}"), "b": take()}), "jobs.a", "in a circle: a -> b -> a"),
        (pipeline({"a": make(outputs={"out": text("${{parent.outputs.f}}")})}), "jobs.a.outputs.out", "no output 'f'"),
        (pipeline({"a": make(outputs={"no": FOLDER})}), "jobs.a.outputs.no", "no output 'no' (it has out)"),
        (pipeline({"a": make()}, outputs={"f": {"jobOutputType": "uri_folder"}}), "outputs.f", "No step writes"),
        (pipeline({"a": {**make(), "type": "nonsense"}}), "jobs.a.type", "of type nonsense"),
        (pipeline({"a": {**make(), "type": "spark"}}), "jobs.a.componentId", "takes a component of type spark"),
        (pipeline({"a": {"type": "command"}}), "jobs.a.componentId", "names no component"),
        (pipeline({"a": make(limits={"timeout": "${{parent.inputs.t}}"})}), "jobs.a.limits.timeout", "input 't'"),
        (pipeline({"a": make()}, settings={"on_init": "x"}), "settings.on_init", "the step 'x'"),
        (pipeline({"a": make(), "b": take()}, settings={"on_finalize": "b"}), "settings.on_finalize", "connected"),
        (pipeline({"a": make()}, settings={"force_rerun": "maybe"}), "settings.force_rerun", "true or false"),
        ({"jobType": "Pipeline", "componentId": "make"}, "componentId", "not command"),
        ({"jobType": "Pipeline", "componentId": "inner"}, "inputs.g.x", "needs the input 'g.x'"),
        ({"jobType": "Pipeline", "componentId": "inner", "inputs": {"k": text("x"), "g.x": DATA}}, "inputs.k",
         "'x' is no integer"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_step_and_key(properties: dict[str, Any], target: str, message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parsed(properties)
    assert refused.value.target == target
    assert message in refused.value.message


@pytest.mark.parametrize("kind", ["if_else", "do_while", "parallel_for", "import", "data_transfer"])
def test_steps_of_other_types_are_refused_by_name(kind: str) -> None:
    with pytest.raises(NotImplementedOperation, match=f"the step 'a' of type {kind}"):
        parsed(pipeline({"a": {**make(), "type": kind}}))
    with pytest.raises(NotImplementedOperation, match=r"settings\.unheard_of"):
        parsed(pipeline({"a": make()}, settings={"unheard_of": True}))


def test_a_command_step_with_the_nodes_settings_in_front() -> None:
    node = make(
        inputs={"n": text("${{parent.inputs.n}}"), "rate": text("0.5")},
        environment_variables={"NIGHT": "of ${{parent.inputs.n}}"},
        resources={"instance_count": "${{parent.inputs.n}}", "properties": {"a_b": 1}},
        limits={"timeout": "PT1M", "job_limits_type": "Command"},
        distribution={"distribution_type": "PyTorch", "process_count_per_instance": 2},
        outputs={"out": {"job_output_type": "uri_folder", "mode": "Upload", "name": "asset", "version": "7"}},
        computeId="/x/computes/other",
        display_name="Make it",
    )
    more = {"default_compute": "/x/computes/one", "default_datastore": "/x/datastores/lake"}
    graph = parsed(pipeline({"a": node}, inputs={"n": text("3")}, settings=more))
    step = graph.steps["a"]
    outputs = pipeline_nodes.outputs(graph, step, {}, "run")
    job = pipeline_nodes.child(graph, step, pipeline_graph.resolved_inputs(step, graph.inputs, {}), outputs)
    assert job == {
        "jobType": "Command",
        "displayName": "Make it",
        "tags": {},
        "componentId": "make",
        "command": "echo ${{inputs.n}} > ${{outputs.out}}/n.txt",
        "codeId": "/subscriptions/s/codes/c/versions/1",
        "environmentId": ENVIRONMENT,
        "environmentVariables": {"NIGHT": "of 3"},
        "computeId": "/x/computes/other",
        "resources": {"instanceCount": 3, "shmSize": "2g", "properties": {"a_b": 1}},
        "limits": {"timeout": "PT1M", "jobLimitsType": "Command"},
        "distribution": {"distributionType": "PyTorch", "processCountPerInstance": 2},
        "inputs": {
            "n": {"jobInputType": "literal", "value": "3"},
            "rate": {"jobInputType": "literal", "value": "0.5"},
            "kind": {"jobInputType": "literal", "value": "a"},
        },
        "outputs": {
            "out": {
                "jobOutputType": "uri_folder",
                "uri": "azureml://datastores/lake/paths/azureml/run/out/",
                "mode": "Upload",
                "assetName": "asset",
                "assetVersion": "7",
            }
        },
    }
    # The mode of the pipeline's output is the step's, if that has none of its own.
    bound = make(outputs={"out": text("${{parent.outputs.o}}")})
    asked = {"o": {"jobOutputType": "uri_folder", "mode": "Upload", "uri": "azureml://datastores/lake/paths/x/"}}
    graph = parsed(pipeline({"a": bound}, outputs=asked))
    assert pipeline_nodes.outputs(graph, graph.steps["a"], {"o": asked["o"]["uri"]}, "run") == {"out": asked["o"]}
    serverless = parsed(pipeline({"a": make()}, settings={"default_compute": "serverless"}))
    assert "computeId" not in pipeline_nodes.child(serverless, serverless.steps["a"], {}, {})


def test_sweep_spark_and_automl_steps_become_arm_jobs() -> None:
    sweep = {
        "type": "sweep",
        "trial": {"componentId": "make"},
        "search_space": {
            "n": {"type": "randint", "upper": 9},
            "kind": {"type": "choice", "values": ["a", {"b": {"type": "uniform", "min_value": 0, "max_value": 1}}]},
        },
        "sampling_algorithm": {"type": "random", "rule": "sobol", "seed": 1},
        "objective": {"goal": "minimize", "primary_metric": "loss"},
        "early_termination": {"policy_type": "Bandit", "slack_factor": 0.1, "evaluation_interval": 1},
        "limits": {"max_total_trials": "${{parent.inputs.t}}", "max_concurrent_trials": 1, "timeout": 1000000},
    }
    spark = {"type": "spark", "componentId": "spark", "inputs": {"d": text("${{parent.inputs.d}}")},
             "resources": {"instance_type": "standard_e4s_v3", "runtime_version": "3.4"},
             "identity": {"identity_type": "UserIdentity"}, "conf": {"spark.executor.cores": 2}}  # fmt: skip
    automl = {"type": "automl", "task": "classification", "primary_metric": "auc_weighted", "target_column_name": "y",
              "training_data": "${{parent.jobs.s.outputs.out}}",
              "validation_data": "{'type': 'mltable', 'path': 'azureml:rows:1'}",
              "limits": {"timeout_minutes": 5, "max_trials": "${{parent.inputs.t}}"},
              "outputs": {"best_model": {"value": "${{parent.outputs.m}}", "type": "literal"}}}  # fmt: skip
    graph = pipeline_graph.parse(
        pipeline({"s": sweep, "p": spark, "m": automl}, inputs={"t": text("4"), "d": DATA},
                 outputs={"m": {"jobOutputType": "mlflow_model"}}, settings={"default_compute": "/x/computes/one"}),
        SPECS.__getitem__,
    )  # fmt: skip
    made = {"s": {"out": {"uri": "azureml:made:1", "jobOutputType": "uri_folder"}}}
    jobs = {
        name: pipeline_nodes.child(graph, step, pipeline_graph.resolved_inputs(step, graph.inputs, made), {})
        for name, step in graph.steps.items()
    }
    assert jobs["s"]["trial"]["command"] == "echo ${{search_space.n}} > ${{outputs.out}}/n.txt"
    assert jobs["s"]["searchSpace"] == {
        "n": ["randint", [9]],
        "kind": ["choice", [["a", {"b": ["uniform", [0, 1]]}]]],
    }
    assert jobs["s"]["samplingAlgorithm"] == {"samplingAlgorithmType": "Random", "rule": "Sobol", "seed": 1}
    assert jobs["s"]["objective"] == {"goal": "Minimize", "primaryMetric": "loss"}
    assert jobs["s"]["earlyTermination"] == {"policyType": "Bandit", "slackFactor": 0.1, "evaluationInterval": 1}
    assert jobs["s"]["limits"] == {
        "maxTotalTrials": 4, "maxConcurrentTrials": 1, "timeout": "PT1000000S", "jobLimitsType": "Sweep",
    }  # fmt: skip
    assert jobs["s"]["inputs"] == {}
    assert jobs["s"]["computeId"] == jobs["m"]["computeId"] == "/x/computes/one"
    assert "computeId" not in jobs["p"]
    assert jobs["p"]["entry"] == {"sparkJobEntryType": "SparkJobPythonEntry", "file": "s.py"}
    assert jobs["p"]["conf"] == {"spark.driver.cores": "1", "spark.executor.cores": "2"}
    assert jobs["p"]["resources"] == {"instanceType": "standard_e4s_v3", "runtimeVersion": "3.4"}
    assert jobs["p"]["inputs"]["d"]["uri"] == DATA["uri"]
    details = jobs["m"]["taskDetails"]
    assert details["trainingData"] == {"uri": "azureml:made:1", "jobInputType": "mltable"}
    assert details["validationData"] == {"uri": "azureml:rows:1", "jobInputType": "mltable"}
    assert details["limitSettings"] == {"timeout": "PT5M", "maxTrials": 4}
    assert graph.made_by == {"m": ("m", "best_model")}
    assert graph.steps["m"].after == {"s"}


PARALLEL: dict[str, Any] = {
    "type": "parallel",
    "inputs": {"rows": {"type": "mltable"}, "files": FOLDER, "m": {"type": "string"}},
    "outputs": {"file": {"type": "uri_file"}, "out": FOLDER},
    "input_data": "${{inputs.rows}}",
    "mini_batch_size": "10kb",
    "retry_settings": {"max_retries": 1},
    "task": {
        "type": "run_function",
        "code": "azureml:/subscriptions/s/codes/c/versions/1",
        "entry_script": "score.py",
        "environment": ENVIRONMENT,
        "program_arguments": "--model ${{inputs.m}}",
        "append_row_to": "${{outputs.file}}",
    },
}


def parallel(**more: Any) -> dict[str, Any]:
    """The ARM job of a parallel step whose node says `more`."""
    table = {"job_input_type": "mltable", "uri": "azureml:rows:1", "mode": "Direct"}
    files = {"job_input_type": "uri_folder", "uri": "azureml:files:1"}
    node = {"type": "parallel", "componentId": "p", "inputs": {"rows": table, "files": files, "m": text("x")}, **more}
    graph = pipeline_graph.parse(pipeline({"a": node}), lambda _: PARALLEL)
    inputs = pipeline_graph.resolved_inputs(graph.steps["a"], graph.inputs, {})
    return pipeline_nodes.child(graph, graph.steps["a"], inputs, {})


def test_a_parallel_step_becomes_a_command_over_mini_batches() -> None:
    job = parallel()
    assert job["jobType"] == "Command"
    assert (job["codeId"], job["environmentId"]) == ("/subscriptions/s/codes/c/versions/1", ENVIRONMENT)
    # What is divided is brought near, whatever mode is asked for; the command reads it.
    assert job["inputs"]["rows"] == {"jobInputType": "mltable", "uri": "azureml:rows:1"}
    assert "distribution" not in job
    for part in ("--mini-batch-size 10240 ", "--max-retries 1 ", "--timeout 60 ", '--input "${{inputs.rows}}"',
                 '--output "${{outputs.file}}" --output-action append_row', "--tabular", "--output-is-file",
                 ):  # fmt: skip
        assert part in job["command"]
    assert job["command"].endswith(" -- --model ${{inputs.m}}")
    files = parallel(input_data="${{inputs.files}}", mini_batch_size=3, resources={"instance_count": 2},
                     task={"append_row_to": "${{outputs.out}}"}, error_threshold=5, partition_keys="[]",
                     environment_variables={"A": "1"})  # fmt: skip
    assert "--recursive" in files["command"]
    assert "--mini-batch-size 3 " in files["command"]
    assert "--error-threshold 5 " in files["command"]
    assert "--output-is-file" not in files["command"]
    assert files["distribution"] == {"distributionType": "Mpi", "processCountPerInstance": 1}
    assert (files["resources"], files["environmentVariables"]) == ({"instanceCount": 2}, {"A": "1"})
    assert (
        "--partition-keys Store,Brand " in parallel(partition_keys='["Store", "Brand"]', mini_batch_size="0")["command"]
    )


@pytest.mark.parametrize(
    ("more", "target"),
    [
        ({"input_data": "rows"}, "jobs.a.input_data"),
        ({"input_data": "${{inputs.m}}"}, "jobs.a.input_data"),
        ({"mini_batch_size": "ten"}, "jobs.a.mini_batch_size"),
        ({"retry_settings": {"timeout": "soon"}}, "jobs.a.retry_settings.timeout"),
        ({"task": {"append_row_to": "${{outputs.none}}"}}, "jobs.a.task.append_row_to"),
        ({"task": {"entry_script": None}}, "jobs.a.task.entry_script"),
    ],
)
def test_what_is_wrong_with_a_parallel_step_is_refused_with_its_key(more: dict[str, Any], target: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parallel(**more)
    assert refused.value.target == target


def test_what_parallel_steps_can_not_do_here_is_refused_by_name() -> None:
    with pytest.raises(NotImplementedOperation, match="a task of type model"):
        parallel(task={"type": "model"})
    with pytest.raises(NotImplementedOperation, match="partition_keys over files"):
        parallel(input_data="${{inputs.files}}", partition_keys='["a"]')


# From here on with the service: components are registered, steps run.


async def component(client: Any, name: str, command: str, version: str = "1", **more: Any) -> str:
    spec = {"name": name, "type": "command", "command": command, "environment": ENVIRONMENT, "outputs": {"out": FOLDER}}
    made = await client.put(f"components/{name}/versions/{version}", componentSpec={**spec, **more})
    return str(made["id"])


def step(id: str, inputs: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "type": "command",
        "componentId": id,
        "inputs": {key: text(each) for key, each in (inputs or {}).items()},
        **more,
    }


async def steps(client: Any, name: str) -> dict[str, Any]:
    path = f"/history/v1.0{client.settings.workspace_id}/runs/{name}/children"
    return {each["displayName"]: each for each in (await client.ok("GET", path))["value"]}


IN = {"i": FOLDER}


def test_steps_run_in_order_with_bindings_and_pipeline_components(with_client: Any, blobs: Any) -> None:
    async def test(client: Any) -> None:
        number = {"inputs": {"n": {"type": "integer", "default": "5"}, "d": FOLDER, "w": {"type": "string"}}}
        first = await component(
            client, "first", "echo ${{inputs.n}} ${{inputs.w}} $NIGHT > ${{outputs.out}}/n.txt; "
            "cat ${{inputs.d}}/rows.csv >> ${{outputs.out}}/n.txt", **number,
        )  # fmt: skip
        add = await component(
            client, "add", "cp ${{inputs.i}}/* ${{outputs.out}}; echo one >> ${{outputs.out}}/n.txt", inputs=IN
        )
        inner = {
            "type": "pipeline",
            "inputs": {"x": FOLDER},
            "outputs": {"y": FOLDER},
            "jobs": {
                "one": step(add, {"i": "${{parent.inputs.x}}"}),
                "two": step(
                    add, {"i": "${{parent.jobs.one.outputs.out}}"}, outputs={"out": text("${{parent.outputs.y}}")}
                ),
            },
        }
        twice = await client.put("components/twice/versions/1", componentSpec=inner)
        jobs = {
            # Written before what it waits for.
            "last": {**step(twice["id"], {"x": "${{parent.jobs.begin.outputs.out}}"}), "type": "pipeline",
                     "outputs": {"y": text("${{parent.outputs.final}}")}},
            "begin": step(first, {"d": "${{parent.inputs.d}}", "w": "in ${{parent.inputs.word}}"},
                          environment_variables={"NIGHT": "of ${{parent.inputs.word}}"}),
            "aside": step(add, {"i": "${{parent.jobs.begin.outputs.out}}"},
                          outputs={"out": {**text("${{parent.outputs.side}}"), "name": "kept", "version": "4"}}),
        }  # fmt: skip
        asked = {"final": {"jobOutputType": "uri_folder", "uri": "azureml://datastores/lake/paths/out/${{name}}/"},
                 "side": {"jobOutputType": "uri_folder"}}  # fmt: skip
        await client.put("jobs/pipe", **pipeline(jobs, inputs={"d": DATA, "word": text("March")}, outputs=asked))
        job = await client.finished("pipe")
        assert job["properties"]["status"] == "Completed", await client.error("pipe")
        children = await steps(client, "pipe")
        assert {name: each["status"] for name, each in children.items()} == dict.fromkeys(jobs, "Completed")
        assert children["begin"]["endTimeUtc"] <= children["aside"]["startTimeUtc"]
        assert children["last"]["runType"] == "azureml.PipelineRun"
        inside = await steps(client, children["last"]["runId"])
        assert sorted(inside) == ["one", "two"]
        assert inside["one"]["rootRunId"] == "pipe"
        assert inside["one"]["properties"]["azureml.pipelinerunid"] == children["last"]["runId"]
        shown = job["properties"]["outputs"]
        assert shown["final"]["uri"] == "azureml://datastores/lake/paths/out/pipe/"
        side = f"azureml://datastores/workspaceblobstore/paths/azureml/{children['aside']['runId']}/out/"
        assert shown["side"]["uri"] == side
        kept = await client.ok("GET", "data/kept/versions/4")
        assert kept["properties"]["dataUri"] == side

    with_client(test)
    assert (blobs.root / "lake/out/pipe/n.txt").read_text() == "5 in March of March\na\n1\none\none\n"


def test_the_output_artifacts_is_what_a_run_leaves_behind(with_client: Any, blobs: Any) -> None:
    async def test(client: Any) -> None:
        leave = {
            "name": "leave",
            "type": "command",
            "command": "echo world > outputs/w.txt",
            "environment": ENVIRONMENT,
        }
        leave["outputs"] = {"artifacts": FOLDER}  # type: ignore[assignment]
        first = (await client.put("components/leave/versions/1", componentSpec=leave))["id"]
        # A file for an input declared as a folder: what is given says what it is.
        both = "cat ${{inputs.i}}/outputs/w.txt ${{inputs.f}} > ${{outputs.out}}/all.txt"
        look = await component(client, "look", both, inputs={**IN, "f": FOLDER})
        rows = {"uri": f"{DATA['uri']}rows.csv", "job_input_type": "uri_file"}
        last = step(look, {"i": "${{parent.jobs.a.outputs.artifacts}}"}, outputs={"out": text("${{parent.outputs.o}}")})
        last["inputs"]["f"] = rows
        asked = {"o": {"jobOutputType": "uri_folder", "uri": "azureml://datastores/lake/paths/all/"}}
        await client.put("jobs/left", **pipeline({"a": step(first), "b": last}, outputs=asked))
        assert (await client.finished("left"))["properties"]["status"] == "Completed", await client.error("left")

    with_client(test)
    assert (blobs.root / "lake/all/all.txt").read_text() == "world\na\n1\n"


def test_unchanged_steps_are_reused_until_something_changes(with_client: Any, blobs: Any) -> None:
    async def test(client: Any) -> None:
        async def reused(name: str, **more: Any) -> list[str]:
            given = {"d": DATA, "n": text("1"), **more.pop("inputs", {})}
            jobs = {
                "copy": step(copy, {"i": "${{parent.inputs.d}}", "n": "${{parent.inputs.n}}"}, **more.pop("copy", {})),
                "after": step(after, {"i": "${{parent.jobs.copy.outputs.out}}"}),
                "always": step(always, {"i": "${{parent.jobs.copy.outputs.out}}"}),
            }
            await client.put(f"jobs/{name}", **pipeline(jobs, inputs=given, **more))
            assert (await client.finished(name))["properties"]["status"] == "Completed"
            children = await steps(client, name)
            assert len(children) == len(jobs)
            return sorted(each for each, run in children.items() if run["properties"].get("azureml.isreused") == "true")

        number = {"n": {"type": "integer"}}
        copy = await component(client, "copy", "cp ${{inputs.i}}/* ${{outputs.out}}", inputs={**IN, **number})
        after = await component(client, "after", "cp ${{inputs.i}}/* ${{outputs.out}}", inputs=IN)
        always = await component(client, "always", "true", inputs=IN, is_deterministic=False)
        both = ["after", "copy"]
        assert await reused("r1") == []
        assert await reused("r2") == both
        first, second = await steps(client, "r1"), await steps(client, "r2")
        assert second["copy"]["properties"]["azureml.reusedrunid"] == first["copy"]["runId"]
        assert second["copy"]["status"] == "Completed"
        child = await client.ok("GET", f"jobs/{second['copy']['runId']}")
        assert first["copy"]["runId"] in child["properties"]["outputs"]["out"]["uri"]
        assert await reused("r3", settings={"force_rerun": True}) == []
        assert await reused("r4", inputs={"n": text("2")}) == []
        assert await reused("r5", copy={"environment_variables": {"A": "1"}}) == []
        assert await reused("r6") == both
        blobs.write("azureml", "data/rows.csv", b"a\n2\n")
        assert await reused("r7") == []
        # Outputs that are gone can't be taken over.
        kept = (await steps(client, "r7"))["copy"]["runId"]
        (blobs.root / f"azureml/azureml/{kept}/out/rows.csv").unlink()
        assert "copy" not in await reused("r8")

    with_client(test)


def test_a_failing_step_stops_what_depends_on_it_and_is_named(with_client: Any, context: ServiceContext) -> None:
    async def test(client: Any) -> None:
        fail = await component(client, "fail", "echo no such column; exit 3")
        slow = await component(
            client, "slow", "sleep ${{inputs.s}}", inputs={"s": {"type": "number"}}, is_deterministic=False
        )
        use = await component(client, "use", "true", inputs=IN)
        tidy = await component(client, "tidy", "echo tidied", is_deterministic=False)
        jobs = {
            "bad": step(fail),
            "beside": step(slow, {"s": "0.6"}),
            "then": step(slow, {"s": "0.01"}, environment_variables={"after": "x"}),
            "never": step(use, {"i": "${{parent.jobs.bad.outputs.out}}"}),
            "neither": step(use, {"i": "${{parent.jobs.never.outputs.out}}"}),
            "tidy": step(tidy),
            "open": step(tidy),
        }
        hooks = {"on_init": "open", "on_finalize": "tidy"}
        await client.put("jobs/on", **pipeline(jobs, settings=hooks))
        assert (await client.finished("on"))["properties"]["status"] == "Failed"
        message = await client.error("on")
        bad = (await steps(client, "on"))["bad"]["runId"]
        assert message.startswith(
            f"The step 'bad' (run {bad}) failed: Execution failed: the command exited with code 3"
        )
        assert message.endswith("no such column\nNot run: never, neither.")
        states = {name: each["status"] for name, each in (await steps(client, "on")).items()}
        done = dict.fromkeys(("beside", "then", "tidy", "open"), "Completed")
        assert states == {"bad": "Failed", **done}
        times = {name: (each["startTimeUtc"], each["endTimeUtc"]) for name, each in (await steps(client, "on")).items()}
        assert times["open"][1] <= times["bad"][0]
        assert max(times[name][1] for name in ("bad", "beside", "then")) <= times["tidy"][0]
        jobs["beside"] = step(slow, {"s": "60"})
        await client.put("jobs/off", **pipeline(jobs, settings={"continue_on_step_failure": False}))
        assert (await client.finished("off"))["properties"]["status"] == "Failed"
        states = {name: each["status"] for name, each in (await steps(client, "off")).items()}
        assert (states["bad"], states["beside"]) == ("Failed", "Canceled")
        assert "Stopped for that: beside" in await client.error("off")

    with_client(test)


def test_cancelling_a_pipeline_cancels_its_steps(with_client: Any) -> None:
    async def test(client: Any) -> None:
        slow = await component(client, "slow", "sleep 60")
        inner = {"type": "pipeline", "inputs": {}, "outputs": {}, "jobs": {"s": step(slow)}}
        nested = await client.put("components/nested/versions/1", componentSpec=inner)
        jobs = {"in": {**step(nested["id"]), "type": "pipeline"}, "b": step(slow)}
        await client.put("jobs/long", **pipeline(jobs))
        for _ in range(200):
            await asyncio.sleep(0.02)
            children = await steps(client, "long")
            if [each["status"] for each in children.values()] == ["Running", "Running"]:
                break
        await client.send("POST", "jobs/long/cancel")
        assert (await client.finished("long"))["properties"]["status"] == "Canceled"
        children = await steps(client, "long")
        assert {each["status"] for each in children.values()} == {"Canceled"}
        inside = await steps(client, children["in"]["runId"])
        assert {each["status"] for each in inside.values()} == {"Canceled"}

    with_client(test)


def test_a_step_that_can_not_run_is_refused_at_submission(with_client: Any) -> None:
    async def test(client: Any) -> None:
        good = await component(client, "good", "true")
        lost = good.replace("good", "lost")
        inner = {
            "type": "pipeline",
            "inputs": {},
            "outputs": {},
            "jobs": {"s": step(good, computeId="/x/computes/none")},
        }
        nested = (await client.put("components/nested/versions/1", componentSpec=inner))["id"]
        wrong = {
            "jobs.a": (step(lost), "lost"),
            "jobs.a.limits.timeout": (step(good, limits={"timeout": "soon"}), "The step 'a': limits.timeout"),
            "jobs.a.computeId": (step(good, computeId="/x/computes/none"), "The compute 'none' was not found"),
            "jobs.a.jobs.s.computeId": (
                {**step(nested), "type": "pipeline"},
                "The step 'a': The step 's': The compute",
            ),
        }
        for target, (node, message) in wrong.items():
            answer = await client.send("PUT", "jobs/wrong", {"properties": pipeline({"a": node})})
            error = answer.json()["error"]
            assert answer.status_code == 400, error
            assert message in error["message"]
            assert error.get("target") in (target, None)
        # Registered components don't change; the same again is no change.
        again = {
            "name": "good",
            "type": "command",
            "command": "true",
            "environment": ENVIRONMENT,
            "outputs": {"out": FOLDER},
        }
        answer = await client.send("PUT", "components/good/versions/1", {"properties": {"componentSpec": again}})
        assert answer.status_code == 200
        # The SDK's anonymous ones are called by a hash of their content: under another name they are the same.
        anonymous = {"componentSpec": again, "isAnonymous": True}
        first = await client.put("components/azureml_anonymous/versions/0f1e", **anonymous)
        assert await client.put("components/azureml_anonymous/versions/0f1e", **anonymous | {
            "componentSpec": {**again, "name": "other"}}) == first  # fmt: skip
        default = await client.ok("GET", "components/good/versions/azureml_default")
        assert default["id"] == good
        changed = {"properties": {"componentSpec": {**again, "command": "false"}}}
        answer = await client.send("PUT", "components/good/versions/1", changed)
        assert answer.status_code == 400
        assert "componentSpec cannot be changed" in answer.json()["error"]["message"]

    with_client(test)
