"""Invocations as values: what a deployment and a request become."""

from __future__ import annotations

from typing import Any

import pytest

from localazure.batch import resources, scoring
from localazure.core.errors import BadRequest

DEPLOYMENT = resources.deployment_properties(
    "blue",
    {
        "compute": "/computes/cpu-cluster",
        "model": {"referenceType": "Id", "assetId": "/models/m/versions/1"},
        "codeConfiguration": {"codeId": "/codes/c/versions/1", "scoringScript": "my score.py"},
        "environmentId": "/environments/e/versions/1",
        "outputFileName": "it's.csv",
    },
)
DATA = {"jobInputType": "UriFolder", "uri": "azureml://datastores/lake/paths/rows/"}


def test_an_invocation_overrides_what_it_names() -> None:
    body = {"miniBatchSize": 3, "errorThreshold": 5, "retrySettings": {"maxRetries": 0}, "outputFileName": "f.csv",
            "compute": {"target": "/computes/other", "instanceCount": 2}}  # fmt: skip
    wanted = scoring.settings(DEPLOYMENT, body)
    assert (wanted["miniBatchSize"], wanted["errorThreshold"], wanted["outputFileName"]) == (3, 5, "f.csv")
    assert wanted["retrySettings"] == {"maxRetries": 0, "timeout": "PT30S"}
    assert (wanted["compute"], wanted["resources"]["instanceCount"]) == ("/computes/other", 2)
    spec = scoring.component(wanted, environment="/e", data_type="uri_folder", model_type="custom_model")
    assert spec["resources"] == {"instance_count": 2} and spec["distribution"]["type"] == "mpi"
    assert "--nodes 2" in spec["command"] and "--max-retries 0" in spec["command"]
    # The deployment itself is as it was.
    assert DEPLOYMENT["miniBatchSize"] == 10


def test_names_with_blanks_and_quotes_reach_the_driver_whole() -> None:
    spec = scoring.component(DEPLOYMENT, environment="/e", data_type="uri_file", model_type=None)
    assert "--script 'my score.py'" in spec["command"]
    assert """--output-file-name 'it'"'"'s.csv'""" in spec["command"]
    assert "--model" not in spec["command"] and "model" not in spec["inputs"]


@pytest.mark.parametrize(
    ("body", "uri", "file"),
    [
        ({"outputDataset": {"datastoreId": "/x/datastores/lake", "path": "/out"}},
         "azureml://datastores/lake/paths/out/", None),
        ({"outputData": {"score": {"jobOutputType": "UriFile", "uri": "azureml://datastores/lake/paths/o/p.csv"}}},
         "azureml://datastores/lake/paths/o/", "p.csv"),
        ({"outputData": {"any": {"jobOutputType": "UriFolder", "uri": "azureml://datastores/lake/paths/o"}}},
         "azureml://datastores/lake/paths/o/", None),
        ({"outputData": {"score": {"jobOutputType": "UriFolder"}}}, None, None),
    ],
)  # fmt: skip
def test_results_go_where_the_request_says_in_either_spelling(
    body: dict[str, Any], uri: str | None, file: str | None
) -> None:
    asked = {"inputData": {"d": DATA}, **body}
    wanted = scoring.settings(DEPLOYMENT, asked)
    job = scoring.of_model(wanted, asked, component_id="/c", data=scoring.data_input(asked), model=None, experiment="e")
    assert job["outputs"]["score"].get("uri") == uri
    assert wanted["outputFileName"] == (file or "it's.csv")
    assert job["settings"]["force_rerun"] is True


def test_settings_of_a_pipeline_deployment_come_as_text_or_as_values() -> None:
    given = {"default_compute": "cpu-cluster", "ComponentDeployment.Settings.continue_on_step_failure": "False",
             "force_rerun": True}  # fmt: skip
    properties = resources.deployment_properties(
        "pipe", {"deploymentConfiguration": {"componentId": {"assetId": "/c"}, "settings": given}}
    )
    assert resources.pipeline_settings(properties) == {
        "default_compute": "cpu-cluster", "continue_on_step_failure": False, "force_rerun": True}  # fmt: skip


def test_what_an_invocation_cannot_say() -> None:
    with pytest.raises(BadRequest, match="one output; there are a, b"):
        output = {"jobOutputType": "UriFolder"}
        scoring.settings(DEPLOYMENT, {"outputData": {"a": output, "b": output}})
    with pytest.raises(BadRequest, match="needs a datastoreId"):
        scoring.settings(DEPLOYMENT, {"outputDataset": {"path": "x"}})
    with pytest.raises(BadRequest, match="has no uri"):
        scoring.data_input({"inputData": {"d": {"jobInputType": "UriFile"}}})
