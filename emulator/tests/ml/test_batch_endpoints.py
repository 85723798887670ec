"""Batch endpoints over the API: documents, what is refused, and invocations that run the driver."""

from __future__ import annotations

from typing import Any

import pytest

from localazure import batch

SCRIPT = b"""
import os, pathlib
def init():
    global word
    word = next(pathlib.Path(os.environ["AZUREML_MODEL_DIR"]).iterdir()).read_text()
def run(mini_batch):
    return [f"{word} {os.environ['MOOD']} {pathlib.Path(each).read_text()}" for each in mini_batch]
"""
DATA = {"jobInputType": "UriFolder", "uri": "azureml://datastores/lake/paths/rows/"}


@pytest.fixture
def deployed(with_client: Any, blobs: Any) -> Any:
    """Runs a test with an endpoint `ep` and a model deployment's properties."""
    for number in range(3):
        blobs.write("lake", f"rows/{number}.txt", str(number).encode())
    blobs.write("lake", "model/word.txt", b"said")
    blobs.write("lake", "code/score.py", SCRIPT)

    def run(test: Any) -> None:
        async def prepared(client: Any) -> None:
            id = client.settings.workspace_id
            await client.put("models/m/versions/1", modelUri="azureml://datastores/lake/paths/model/word.txt",
                             modelType="custom_model")  # fmt: skip
            await client.put("codes/c/versions/1", codeUri=f"{client.settings.blob_url}/lake/code")
            await client.put("environments/e/versions/1", image="img")
            created = await client.put("batchEndpoints/ep-1", authMode="aadToken")
            assert created["properties"]["defaults"] == {"deploymentName": None}
            await test(client, {
                "compute": f"{id}/computes/cpu-cluster",
                "model": {"referenceType": "Id", "assetId": f"{id}/models/m/versions/1"},
                "codeConfiguration": {"codeId": f"{id}/codes/c/versions/1", "scoringScript": "score.py"},
                "environmentId": f"{id}/environments/e/versions/1",
                "environmentVariables": {"MOOD": "gladly"},
                "retrySettings": {"timeout": "PT1M"},
            })  # fmt: skip

        with_client(prepared, batch.build)

    return run


def test_a_model_is_invoked_and_its_job_is_a_pipeline_of_one_step(deployed: Any, blobs: Any) -> None:
    async def test(client: Any, model: dict[str, Any]) -> None:
        deployment = await client.put("batchEndpoints/ep-1/deployments/blue", **model, miniBatchSize=2)
        shown = deployment["properties"]
        assert (shown["errorThreshold"], shown["outputFileName"], shown["retrySettings"]) == (
            -1, "predictions.csv", {"maxRetries": 3, "timeout": "PT1M"})  # fmt: skip
        # With one deployment there is nothing to choose.
        asked = {"properties": {"inputData": {"d": DATA}, "miniBatchSize": 1}}
        answer = await client.ok("POST", "/batch/ep-1/jobs", asked)
        job = await client.finished(answer["name"])
        assert job["properties"]["status"] == "Completed", await client.error(answer["name"])
        assert job["properties"]["experimentName"] == "ep-1"
        assert list(job["properties"]["jobs"]) == ["batchscoring"]
        history = f"/history/v1.0{client.settings.workspace_id}/runs/{answer['name']}"
        (child,) = (await client.ok("GET", f"{history}/children"))["value"]
        assert child["displayName"] == "batchscoring"
        outputs = (await client.ok("GET", f"{history}/details"))["outputs"]
        uris = await client.ok("POST", f"/data/v1.0{client.settings.workspace_id}/dataversion/batchGetResolvedUris",
                               {"values": [outputs["score"]["assetId"]]})  # fmt: skip
        path = uris["values"][outputs["score"]["assetId"]]["uri"].partition("/paths/")[2]
        rows = (blobs.root / "azureml" / path / "predictions.csv").read_text().splitlines()
        assert rows == ["said gladly 0", "said gladly 1", "said gladly 2"]

        front = f"/mferp/managementfrontend{client.settings.workspace_id}/batchEndpoints/ep-1"
        for address in (f"{front}/jobs", f"{front}/deployments/blue/jobs"):
            assert [each["name"] for each in (await client.ok("GET", address))["value"]] == [answer["name"]]
        assert (await client.ok("GET", f"/batch/ep-1/jobs/{answer['name']}"))["properties"]["status"] == "Completed"
        # Results go where the invocation says, under the name it says.
        to = {"score": {"jobOutputType": "UriFile", "uri": "azureml://datastores/lake/paths/out/mine.csv"}}
        body = {"name": "mine", "inputData": {"d": {**DATA, "jobInputType": "UriFile", "uri": DATA["uri"] + "2.txt"}},
                "outputData": to}  # fmt: skip
        body["properties"] = {"experimentName": "own", "azflow.night": "n"}
        invoked = await client.ok("POST", "/batch/ep-1/jobs", {"properties": body})
        # The same invocation again is the same job; another one of that name is refused.
        assert (await client.ok("POST", "/batch/ep-1/jobs", {"properties": body}))["name"] == invoked["name"]
        answer = await client.send("POST", "/batch/ep-1/jobs", {"properties": {**body, "miniBatchSize": 7}})
        assert "already exists" in answer.json()["error"]["message"]
        mine = await client.finished("mine")
        assert mine["properties"]["status"] == "Completed"
        assert (mine["properties"]["experimentName"], mine["properties"]["properties"]["azflow.night"]) == ("own", "n")
        assert (blobs.root / "lake/out/mine.csv").read_text() == "said gladly 2\n"

    deployed(test)


def test_an_endpoint_and_its_deployments_live_and_die(deployed: Any) -> None:
    async def test(client: Any, model: dict[str, Any]) -> None:
        await client.put("batchEndpoints/ep-1/deployments/blue", **model)
        await client.put("batchEndpoints/ep-1/deployments/green", **model)
        body = {"properties": {"inputData": {"d": DATA}}}
        answer = await client.send("POST", "/batch/ep-1/jobs", body)
        assert "no default deployment (it has blue, green)" in answer.json()["error"]["message"]
        await client.put("batchEndpoints/ep-1", authMode="AADToken", defaults={"deploymentName": "green"})
        job = await client.ok("POST", "/batch/ep-1/jobs", body)
        assert job["properties"]["deployment"] == "green"
        await client.ok("PATCH", "batchEndpoints/ep-1", {"tags": {"a": "1"}})
        changed = await client.ok("PATCH", "batchEndpoints/ep-1/deployments/blue", {"properties": {"description": "d"}})
        assert changed["properties"]["description"] == "d"
        assert (await client.send("DELETE", "batchEndpoints/ep-1/deployments/green")).status_code == 200
        endpoint = await client.ok("GET", "batchEndpoints/ep-1")
        assert (endpoint["tags"], endpoint["properties"]["defaults"]) == ({"a": "1"}, {"deploymentName": None})
        assert (await client.send("DELETE", "batchEndpoints/ep-1")).status_code == 200
        assert (await client.send("DELETE", "batchEndpoints/ep-1")).status_code == 204
        assert (await client.send("GET", "batchEndpoints/ep-1/deployments/blue")).status_code == 404
        await client.finished(job["name"])

    deployed(test)


def test_what_no_invocation_could_run_is_refused_when_it_is_deployed(deployed: Any, blobs: Any) -> None:
    async def test(client: Any, model: dict[str, Any]) -> None:
        id = client.settings.workspace_id
        blobs.write("lake", "mlflow/MLmodel", b"flavors: {sklearn: {}}")
        await client.put(
            "models/flow/versions/1", modelUri="azureml://datastores/lake/paths/mlflow/", modelType="mlflow_model"
        )
        bare = {key: value for key, value in model.items() if key not in ("codeConfiguration", "environmentId")}
        code = model["codeConfiguration"]
        flow = {"referenceType": "Id", "assetId": f"{id}/models/flow/versions/1"}
        for asked, status, message in (
            ({**model, "compute": None}, 400, "needs a compute"),
            ({**model, "environmentId": None}, 400, "needs an environment"),
            ({**model, "codeConfiguration": {**code, "scoringScript": "no.py"}}, 400, "which holds score.py"),
            ({**model, "model": {**flow, "assetId": f"{id}/models/none/versions/1"}}, 400, "'none:1' was not found"),
            (bare, 400, "only an MLflow model needs no scoring script"),
            ({**bare, "model": flow}, 400, "with the pyfunc flavor"),
            ({**model, "miniBatchSize": 0}, 400, "miniBatchSize must be a whole number from 1 on, not 0"),
            ({**model, "maxConcurrencyPerInstance": 64}, 400, "up to 32"),
            ({**model, "outputFileName": "../x"}, 400, "outputFileName"),
            ({**model, "retrySettings": {"timeout": "soon"}}, 400, "ISO 8601"),
            ({**model, "model": {"referenceType": "DataPath"}}, 501, "referenceType DataPath"),
            (
                {"deploymentConfiguration": {"componentId": {"assetId": f"{id}/components/c/versions/1"}}},
                400,
                "was not found",
            ),
        ):
            answer = await client.send("PUT", "batchEndpoints/ep-1/deployments/blue", {"properties": asked})
            assert (answer.status_code, message in answer.text) == (status, True), answer.text
        answer = await client.send("PUT", "batchEndpoints/ep-2", {"properties": {"authMode": "Key"}})
        assert "must be AADToken, not 'Key'" in answer.json()["error"]["message"]
        assert (
            await client.send("PUT", "batchEndpoints/-", {"properties": {"authMode": "AADToken"}})
        ).status_code == 400

        await client.put("batchEndpoints/ep-1/deployments/blue", **model)
        for body, status, message in (
            ({}, 400, "with one input; there is none"),
            ({"inputData": {"a": DATA, "b": DATA}}, 400, "there is a, b"),
            ({"inputData": {"a": {"jobInputType": "Literal", "value": 1}}}, 400, "takes uri_file or uri_folder"),
            ({"inputData": {"a": {**DATA, "jobInputType": "MLTable"}}}, 400, "the input 'a' is mltable"),
            ({"inputData": {"a": {"jobInputType": "Nothing"}}}, 400, "jobInputType 'Nothing'"),
            ({"inputData": {"a": DATA}, "errorThreshold": -2}, 400, "errorThreshold"),
            ({"inputData": {"a": DATA}, "speed": 3}, 400, "doesn't know speed"),
        ):
            answer = await client.send("POST", "/batch/ep-1/jobs", {"properties": body})
            assert (answer.status_code, message in answer.text) == (status, True), answer.text

    deployed(test)


def test_a_pipeline_component_is_invoked_with_its_inputs_and_outputs_by_name(deployed: Any, blobs: Any) -> None:
    async def test(client: Any, model: dict[str, Any]) -> None:
        id = client.settings.workspace_id
        environment = f"azureml:{id}/environments/e/versions/1"
        step = {"type": "command", "name": "say", "version": "1", "environment": environment,
                "inputs": {"rows": {"type": "uri_folder"}, "times": {"type": "integer"}},
                "outputs": {"said": {"type": "uri_folder"}},
                "command": "cat ${{inputs.rows}}/* > ${{outputs.said}}/${{inputs.times}}.txt"}  # fmt: skip
        await client.put("components/say/versions/1", componentSpec=step)
        node = {"type": "command", "componentId": f"{id}/components/say/versions/1",
                "inputs": {"rows": {"job_input_type": "literal", "value": "${{parent.inputs.rows}}"},
                           "times": {"job_input_type": "literal", "value": "${{parent.inputs.times}}"}},
                "outputs": {"said": {"type": "literal", "value": "${{parent.outputs.result}}"}}}  # fmt: skip
        pipeline = {"type": "pipeline", "name": "p", "version": "1", "jobs": {"say": node},
                    "inputs": {"rows": {"type": "uri_folder"}, "times": {"type": "integer", "default": 2}},
                    "outputs": {"result": {"type": "uri_folder"}}}  # fmt: skip
        await client.put("components/p/versions/1", componentSpec=pipeline)
        configuration = {"deploymentConfigurationType": "PipelineComponent",
                         "componentId": {"referenceType": "Id", "assetId": f"{id}/components/p/versions/1"},
                         "settings": {"default_compute": "cpu-cluster",
                                      "continue_on_step_failure": "False"}}  # fmt: skip
        await client.put("batchEndpoints/ep-1/deployments/pipe", deploymentConfiguration=configuration)
        asked = {"name": "piped", "inputData": {"rows": DATA, "times": {"jobInputType": "Literal", "value": 7}},
                 "outputData": {"result": {"jobOutputType": "UriFolder", "uri": "azureml://datastores/lake/paths/res/"}},
                 "properties": {"experimentName": "mine"}}  # fmt: skip
        await client.ok("POST", "/batch/ep-1/jobs", {"properties": asked})
        job = await client.finished("piped")
        assert job["properties"]["status"] == "Completed", await client.error("piped")
        assert job["properties"]["experimentName"] == "mine"
        assert (blobs.root / "lake/res/7.txt").read_text() == "012"
        answer = await client.send("POST", "/batch/ep-1/jobs", {"properties": {"inputData": {"what": DATA}}})
        assert "no input 'what'" in answer.json()["error"]["message"]
        answer = await client.send("POST", "/batch/ep-1/jobs", {"properties": {"miniBatchSize": 2}})
        assert "for model deployments" in answer.json()["error"]["message"]

    deployed(test)
