"""Components made from pipeline jobs that ran."""

from __future__ import annotations

from typing import Any

ENVIRONMENT = "azureml://registries/azureml/environments/sklearn-1.5/versions/3"
STEP = {
    "type": "command",
    "inputs": {"rows": {"type": "uri_folder"}, "times": {"type": "integer"}},
    "outputs": {"said": {"type": "uri_folder"}},
    "environment": ENVIRONMENT,
    "command": "echo ${{inputs.times}} > ${{outputs.said}}/x.txt",
}


def bound(name: str) -> dict[str, str]:
    return {"value": f"${{{{parent.inputs.{name}}}}}", "job_input_type": "literal"}


def test_a_pipeline_job_becomes_a_component_with_its_inputs_and_outputs(with_client: Any, blobs: Any) -> None:
    async def test(client: Any) -> None:
        await client.put("components/say/versions/1", componentSpec=STEP)
        step = {"type": "command", "componentId": f"{client.settings.workspace_id}/components/say/versions/1",
                "inputs": {"rows": bound("rows"), "times": bound("n")},
                "outputs": {"said": {"value": "${{parent.outputs.result}}", "type": "literal"}}}  # fmt: skip
        data = {"jobInputType": "uri_folder", "uri": "azureml://datastores/workspaceblobstore/paths/data/"}
        await client.put(
            "jobs/ran", jobType="Pipeline", jobs={"say": step},
            inputs={"rows": data, "n": {"jobInputType": "literal", "value": "3"}},
            outputs={"result": {"jobOutputType": "uri_folder"}},
        )  # fmt: skip
        assert (await client.finished("ran"))["properties"]["status"] == "Completed"
        # As the SDK sends it for a deployment of a job: anonymous, always version 1.
        sent = {"source_job_id": "ran", "sourceJobId": "ran", "type": "pipeline", "jobs": {}}
        made = await client.put("components/azureml_anonymous/versions/1", componentSpec=sent, isAnonymous=True)
        spec = made["properties"]["componentSpec"]
        assert spec["inputs"] == {
            "rows": {"type": "uri_folder"},
            "n": {"type": "integer", "optional": True, "default": "3"},
        }
        assert spec["outputs"] == {"result": {"type": "uri_folder"}}
        assert made["name"] != "1"

        await client.put("jobs/again", jobType="Pipeline", componentId=made["id"], inputs={"rows": data, "n": {
            "jobInputType": "literal", "value": "4"}})  # fmt: skip
        again = await client.finished("again")
        assert again["properties"]["status"] == "Completed", await client.error("again")
        assert (blobs.root / "azureml" / again["properties"]["outputs"]["result"]["uri"].partition("/paths/")[2]
                / "x.txt").read_text() == "4\n"  # fmt: skip
        of_that = {**sent, "sourceJobId": f"{client.settings.workspace_id}/jobs/again", "source_job_id": "again"}
        other = await client.put("components/azureml_anonymous/versions/1", componentSpec=of_that, isAnonymous=True)
        assert other["name"] != made["name"]
        assert other["properties"]["componentSpec"]["inputs"]["n"]["default"] == "4"
        assert other["properties"]["componentSpec"]["outputs"] == spec["outputs"]
        answer = await client.send("PUT", "components/c/versions/1", {"properties": {"componentSpec": {
            **sent, "sourceJobId": "never"}}})  # fmt: skip
        assert "no pipeline job 'never'" in answer.json()["error"]["message"]

    with_client(test)
