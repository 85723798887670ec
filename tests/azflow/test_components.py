"""Components as versioned assets, and pipelines by their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from azflow.components import (
    CONTENT_TAG,
    NamedPipelines,
    PipelineRunOperator,
    PublishComponentsOperator,
    find_components,
    like,
    next_version,
)
from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError, SpecError
from azflow.runs import DIGEST_TAG
from azure_edge import Edge, edge
from workspace_edge import ARM, WORKSPACE, context_of

__all__ = ["edge"]

STEP = """
$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json
type: command
name: {name}
command: python x.py
code: ./src
environment: azureml:env@latest
"""
PIPELINE = """
type: pipeline
name: whole
jobs:
  one: {type: command, component: ./steps/one.yml}
"""
ID = f"{WORKSPACE.removeprefix('https://management.azure.com')}"


@pytest.fixture
def include(tmp_path: Path) -> Path:
    root = tmp_path / "ml" / "components"
    (root / "steps" / "src").mkdir(parents=True)
    (root / "steps" / "src" / "x.py").write_text("print(1)")
    (root / "steps" / "one.yml").write_text(STEP.format(name="one"))
    (root / "a_pipeline.yml").write_text(PIPELINE)
    (root / "conda.yml").write_text("name: env\ndependencies: [python]\n")
    return tmp_path


def test_components_are_found_what_they_are_made_of_first(include: Path) -> None:
    assert [(each.name, each.version) for each in find_components(include)] == [("one", ""), ("whole", "")]


def test_a_components_digest_is_its_yamls_and_its_codes_and_its_parts(include: Path) -> None:
    before = {each.name: each.digest for each in find_components(include)}
    assert {each.name: each.digest for each in find_components(include)} == before
    (include / "ml/components/steps/src/x.py").write_text("print(2)")
    after = {each.name: each.digest for each in find_components(include)}
    assert after["one"] != before["one"] and after["whole"] != before["whole"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("bad.yml", "type: command\n\tx: 1", r"components/bad\.yml: line 2: is no YAML"),
        ("nameless.yml", "type: command\ncommand: echo", r"components/nameless\.yml: name: is missing"),
        ("twice.yml", "type: command\nname: one", "name: 'one' is used by another file"),
    ],
)
def test_a_bad_component_is_named(include: Path, name: str, text: str, said: str) -> None:
    (include / "ml" / "components" / name).write_text(text)
    with pytest.raises(SpecError, match=said):
        find_components(include)


def test_a_component_made_of_itself_is_refused(include: Path) -> None:
    (include / "ml/components/steps/one.yml").write_text(
        "type: pipeline\nname: one\njobs: {a: {component: ../a_pipeline.yml}}"
    )
    with pytest.raises(SpecError, match="made of itself"):
        find_components(include)


def published(version: str, digest: str) -> dict[str, Any]:
    return {"name": version, "properties": {"tags": {CONTENT_TAG: digest}}}


def test_which_version_a_component_gets(include: Path) -> None:
    one = find_components(include)[0]
    assert next_version(one, []) == (one.digest, False)
    assert next_version(one, [published(one.digest, one.digest)]) == (one.digest, True)
    assert next_version(one, [published("other", "other")]) == (one.digest, False)
    # It came back after a change: only a new version can be the newest.
    again = [published("other", "other"), published(one.digest, one.digest)]
    assert next_version(one, again) == (f"{one.digest}-2", False)


def test_a_version_of_its_own_stays_what_it_is(include: Path) -> None:
    path = include / "ml/components/steps/one.yml"
    path.write_text(path.read_text() + "version: '3'\n")
    one = find_components(include)[0]
    assert next_version(one, []) == ("3", False)
    assert next_version(one, [published("4", "x"), published("3", one.digest)]) == ("3", True)
    with pytest.raises(SpecError, match="3 of one was published with other content; raise the version"):
        next_version(one, [published("3", "other")])


def test_what_is_published_unchanged_stays_without_the_sdk(
    edge: Edge, include: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for component in find_components(include):
        versions = {"value": [published("7", component.digest)]}
        edge.on("GET", f"{WORKSPACE}/components/{component.name}/versions$", (200, versions))
    monkeypatch.setattr(PublishComponentsOperator, "include", include)
    monkeypatch.setattr(AzureConnection, "ml_client", lambda self: pytest.fail("nothing is to be published"))
    operator = PublishComponentsOperator(task_id="publish")
    answer = operator.execute(context_of(operator))
    assert answer["components"]["one"] == {"id": "azureml:one:7", "version": "7", "published": False}


def test_nothing_to_publish_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PublishComponentsOperator, "include", tmp_path)
    operator = PublishComponentsOperator(task_id="publish", folder="parts")
    with pytest.raises(AirflowFailException, match="no component below include/ml/parts"):
        operator.execute(context_of(operator))


# -- pipelines by name -----------------------------------------------------------------------------------------------


def component(version: str, kind: str = "pipeline") -> dict[str, Any]:
    spec = {
        "type": kind,
        "inputs": {"raw": {"type": "uri_folder"}, "rate": {"type": "number"}},
        "outputs": {"model": {"type": "mlflow_model"}},
    }
    return {"id": f"{ID}/components/train/versions/{version}", "name": version, "properties": {"componentSpec": spec}}


def payload_of(pipeline: str, **arguments: Any) -> dict[str, Any]:
    operator = PipelineRunOperator(task_id="run", pipeline=pipeline, **arguments)
    found = operator.payload(context_of(operator))
    assert json.loads(json.dumps(found)) == found
    return found


@pytest.mark.parametrize(("reference", "version"), [("train", "2"), ("train@latest", "2"), ("train:1", "1")])
def test_a_published_pipeline_runs_by_its_name(edge: Edge, reference: str, version: str) -> None:
    edge.on("GET", f"{WORKSPACE}/components/train/versions$", (200, {"value": [component("2"), component("1")]}))
    found = payload_of(
        reference,
        inputs={"raw": "azureml:raw:1", "rate": 0.1},
        outputs={"model": "azureml://datastores/lake/paths/m/"},
        settings={"default_compute": "azureml:cpu-cluster"},
    )
    assert found["content"] == {
        "type": "pipeline",
        "component": f"azureml:train:{version}",
        "experiment_name": "train",
        "display_name": "train",
        "inputs": {"raw": {"type": "uri_folder", "path": "azureml:raw:1"}, "rate": 0.1},
        "outputs": {"model": {"type": "mlflow_model", "path": "azureml://datastores/lake/paths/m/"}},
        "settings": {"default_compute": "azureml:cpu-cluster"},
    }


@pytest.mark.parametrize(
    ("reference", "inputs", "said"),
    [
        ("train:9", {}, "no version 9; it has 2"),
        ("train", {"x": 1}, "no input x; it has rate, raw"),
        ("step", {}, "step:1 is a command, no pipeline"),
        ("none@latest", {}, "no component 'none'"),
        ("none", {}, "neither a pipeline component nor a pipeline job called 'none'.*there are Nightly draft"),
    ],
)
def test_a_pipeline_that_is_not_there_is_named(edge: Edge, reference: str, inputs: dict[str, Any], said: str) -> None:
    edge.on("GET", f"{WORKSPACE}/components/[a-z]+/versions$", (404, {}))
    edge.on("GET", f"{WORKSPACE}/components/train/versions$", (200, {"value": [component("2")]}))
    step = {**component("1", "command"), "name": "1"}
    edge.on("GET", f"{WORKSPACE}/components/step/versions$", (200, {"value": [step]}))
    edge.on("GET", f"{WORKSPACE}/jobs$", (200, {"value": [drawn("a")]}))
    with pytest.raises(ConfigurationError, match=said):
        payload_of(reference, inputs=inputs)


def drawn(name: str, status: str = "Completed", title: str = "Nightly draft", **tags: str) -> dict[str, Any]:
    """A pipeline job as the Designer leaves it."""
    return {
        "name": name,
        "id": f"{ID}/jobs/{name}",
        "properties": {
            "jobType": "Pipeline",
            "displayName": title,
            "status": status,
            "tags": tags,
            "services": {"Studio": {}},
            "jobs": {"step": {"type": "command", "componentId": f"{ID}/components/one/versions/1"}},
            "inputs": {
                "raw": {"jobInputType": "uri_folder", "uri": f"{ID}/data/raw/versions/1"},
                "rate": {"jobInputType": "literal", "value": "1"},
            },
            "outputs": {
                "default": {"uri": "x"},
                "model": {"jobOutputType": "mlflow_model", "uri": f"azureml://datastores/s/paths/{name}/model/"},
                "table": {"jobOutputType": "uri_folder", "uri": "azureml://datastores/lake/paths/table/"},
            },
        },
    }


def test_a_pipeline_drawn_in_the_designer_runs_again_with_other_inputs(edge: Edge) -> None:
    edge.on("GET", f"{WORKSPACE}/components/Nightly%20draft/versions$", (404, {}))
    jobs = [drawn("ours", **{DIGEST_TAG: "d"}), drawn("failed", "Failed"), drawn("good"), drawn("older")]
    edge.on("GET", f"{WORKSPACE}/jobs$", (200, {"value": jobs}))
    edge.on("GET", f"{WORKSPACE}/data/raw/versions/2$", (200, {"id": f"{ID}/data/raw/versions/2"}))
    found = payload_of("Nightly draft", inputs={"raw": "azureml:raw:2", "rate": 5}, settings={"force_rerun": True})
    assert found["like"] == "good"
    properties = found["properties"]
    assert properties["inputs"]["raw"]["uri"] == f"{ID}/data/raw/versions/2"
    assert properties["inputs"]["rate"] == {"jobInputType": "literal", "value": "5"}
    # Its own folder is the old run's; the one it was given is the new run's, too.
    assert properties["outputs"] == {
        "model": {"jobOutputType": "mlflow_model"},
        "table": {"jobOutputType": "uri_folder", "uri": "azureml://datastores/lake/paths/table/"},
    }
    assert properties["settings"] == {"force_rerun": True}
    assert not {"status", "services", "tags"} & set(properties)
    edge.on("PUT", f"{WORKSPACE}/jobs/run-1$", (201, {}))
    runs = NamedPipelines(AzureConnection.load("azure_default"))
    assert runs.submit("run-1", found, {DIGEST_TAG: "d", "azflow.night": "n1"}) == "run-1"
    (body,) = [body for method, url, body in edge.asked if method == "PUT"]
    assert (body["properties"]["tags"][DIGEST_TAG], body["properties"]["properties"]) == ("d", {"azflow.night": "n1"})
    assert ARM in WORKSPACE


@pytest.mark.parametrize(("what", "said"), [("inputs", "no input x; it has rate, raw"), ("outputs", "no output x")])
def test_a_copy_of_a_job_has_its_inputs_and_outputs_only(what: str, said: str) -> None:
    given: dict[str, Any] = {"inputs": {}, "outputs": {}, what: {"x": "y"}}
    with pytest.raises(ConfigurationError, match=said):
        like(drawn("j"), given["inputs"], given["outputs"], str)
