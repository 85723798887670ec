"""Pipelines and components as Microsoft's own SDK submits and reads them: YAML, `@dsl.pipeline`, the registry of the
workspace, streams, downloads, children, reuse.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.evidence("sdk")

FILES = {
    "code/step.py": """
import argparse, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path)
parser.add_argument("--word")
parser.add_argument("--times", type=int, default=1)
parser.add_argument("--out", type=pathlib.Path)
options = parser.parse_args()
if options.word == "fail":
    raise SystemExit("the word is wrong")
rows = options.data.read_text() if options.data.is_file() else "".join(p.read_text() for p in options.data.iterdir())
(options.out / "rows.txt").write_text(rows + options.word * options.times + "\\n")
if any(name.startswith("AZUREML_SWEEP_") for name in os.environ):
    import mlflow  # takes seconds to import: trials only
    mlflow.log_metric("rows", len(rows.splitlines()) + 1)
print("wrote", options.word)
""",
    "rows.csv": "one\n",
    "table/rows.csv": "store,brand,sold\n" + "".join(f"{n % 2},{n % 3},{n}\n" for n in range(12)),
    "table/MLTable": """
paths: [{file: ./rows.csv}]
transformations: [read_delimited: {delimiter: ",", encoding: utf8}]
""",
    "code/score.py": """
import argparse, pathlib
import pandas
def init():
    global options
    parser = argparse.ArgumentParser()
    parser.add_argument("--word")
    parser.add_argument("--copies", type=pathlib.Path)
    options, _ = parser.parse_known_args()
def run(mini_batch):
    if isinstance(mini_batch, pandas.DataFrame):
        assert len(mini_batch[["store", "brand"]].drop_duplicates()) == 1, "one key a mini-batch"
        return mini_batch.assign(word=options.word)
    for each in map(pathlib.Path, mini_batch):
        (options.copies / each.name).write_text(options.word)
    return mini_batch
""",
    "add.yml": """
$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json
type: command
name: {unique}_add
display_name: Add a word
version: 1
inputs:
  data: {{type: uri_folder}}
  word: {{type: string, default: two}}
  times: {{type: integer, optional: true, min: 1, max: 3}}
outputs:
  out: {{type: uri_folder}}
code: code
environment: azureml://registries/azureml/environments/sklearn-1.5/labels/latest
command: >-
  python step.py --data ${{{{inputs.data}}}} --word ${{{{inputs.word}}}} $[[--times ${{{{inputs.times}}}}]]
  --out ${{{{outputs.out}}}}
""",
    "twice.yml": """
$schema: https://azuremlschemas.azureedge.net/latest/pipelineComponent.schema.json
type: pipeline
name: {unique}_twice
version: 1
inputs:
  data: {{type: uri_folder}}
  word: {{type: string, default: three}}
outputs:
  out: {{type: uri_folder}}
jobs:
  once:
    type: command
    component: add.yml
    inputs: {{data: "${{{{parent.inputs.data}}}}", word: "${{{{parent.inputs.word}}}}"}}
  again:
    type: command
    component: add.yml
    inputs: {{data: "${{{{parent.jobs.once.outputs.out}}}}", word: "${{{{parent.inputs.word}}}}", times: 2}}
    outputs: {{out: "${{{{parent.outputs.out}}}}"}}
""",
    "pipeline.yml": """
$schema: https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json
type: pipeline
experiment_name: contract-pipeline
display_name: words
settings: {{default_compute: azureml:cpu-cluster}}
inputs:
  rows: {{type: uri_file, path: rows.csv}}
  word: {unique}
outputs:
  final: {{type: uri_folder, name: {unique}_words}}
  side: {{type: uri_folder, path: "azureml://datastores/workspaceblobstore/paths/contract/${{{{name}}}}/side/"}}
jobs:
  begin:
    code: code
    command: python step.py --data ${{{{inputs.rows}}}} --word ${{{{inputs.word}}}} --out ${{{{outputs.out}}}}
    environment: azureml://registries/azureml/environments/sklearn-1.5/labels/latest
    inputs:
      rows: ${{{{parent.inputs.rows}}}}
      word: ${{{{parent.inputs.word}}}}
    outputs:
      out: {{type: uri_folder}}
  middle:
    type: command
    component: azureml:{unique}_add@latest
    inputs: {{data: "${{{{parent.jobs.begin.outputs.out}}}}"}}
    outputs: {{out: "${{{{parent.outputs.side}}}}"}}
  last:
    type: pipeline
    component: twice.yml
    inputs: {{data: "${{{{parent.jobs.middle.outputs.out}}}}"}}
    outputs: {{out: "${{{{parent.outputs.final}}}}"}}
""",
}


@pytest.fixture(scope="module")
def unique() -> str:
    return f"c{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, unique: str) -> Path:
    root = tmp_path_factory.mktemp("user")
    for name in ("code", "table"):
        (root / name).mkdir()
    for name, text in FILES.items():
        (root / name).write_text(text.format(unique=unique) if name.endswith(".yml") else text.lstrip())
    return root


@pytest.fixture(scope="module")
def client(localazure: Any) -> Any:
    return localazure.ml_client()


@pytest.fixture
def registered(client: Any, folder: Path) -> None:
    """The component that the pipeline names `@latest` is in the workspace."""
    from azure.ai.ml import load_component

    client.components.create_or_update(load_component(folder / "add.yml"))


def finished(client: Any, name: str, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while (job := client.jobs.get(name)).status not in ("Completed", "Failed", "Canceled"):
        assert time.monotonic() < end, f"{name} is {job.status} after {seconds} s"
        time.sleep(0.2)
    return job


def steps(client: Any, name: str) -> dict[str, Any]:
    return {child.display_name: child for child in client.jobs.list(parent_job_name=name)}


def test_components_are_registered_versioned_listed_archived(client: Any, folder: Path, unique: str) -> None:
    from azure.ai.ml import load_component
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    made = client.components.create_or_update(load_component(folder / "add.yml"))
    assert (made.name, made.version, made.display_name) == (f"{unique}_add", "1", "Add a word")
    assert made.inputs["times"].optional
    assert (made.inputs["times"].min, made.inputs["word"].default) == (1, "two")
    # The same again is no change; other content under the version is refused.
    assert client.components.create_or_update(load_component(folder / "add.yml")).id == made.id
    changed = load_component(folder / "add.yml", params_override=[{"command": "echo"}, {"inputs": {}}, {"outputs": {}}])
    with pytest.raises(HttpResponseError, match="componentSpec cannot be changed"):
        client.components.create_or_update(changed)
    second = load_component(folder / "add.yml", params_override=[{"version": "2"}, {"display_name": "Second"}])
    client.components.create_or_update(second)
    assert client.components.get(f"{unique}_add", label="latest").version == "2"
    assert client.components.get(f"{unique}_add").version == "2"
    assert unique + "_add" in {each.name for each in client.components.list()}
    assert [each.version for each in client.components.list(f"{unique}_add")] == ["2", "1"]
    client.components.archive(f"{unique}_add", version="2")
    assert [each.version for each in client.components.list(f"{unique}_add")] == ["1"]
    client.components.restore(f"{unique}_add", version="2")
    with pytest.raises(ResourceNotFoundError, match=f"{unique}_add:7"):
        client.components.get(f"{unique}_add", "7")


@pytest.mark.usefixtures("registered")
def test_a_pipeline_from_yaml_is_streamed_downloaded_and_reused(
    client: Any, folder: Path, unique: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from azure.ai.ml import load_job

    submitted = client.jobs.create_or_update(load_job(folder / "pipeline.yml"))
    client.jobs.stream(submitted.name)
    streamed = capsys.readouterr().out
    assert "step 'begin'" in streamed
    assert "Execution Summary" in streamed
    job = finished(client, submitted.name)
    assert job.status == "Completed"
    assert list(job.jobs) == ["begin", "middle", "last"]
    children = steps(client, job.name)
    assert {name: child.status for name, child in children.items()} == dict.fromkeys(job.jobs, "Completed")
    assert set(steps(client, children["last"].name)) == {"once", "again"}
    assert children["begin"].properties["StepType"] == "PythonScriptStep"
    client.jobs.download(job.name, download_path=tmp_path, output_name="final")
    assert (tmp_path / "named-outputs/final/rows.txt").read_text() == f"one\n{unique}\ntwo\nthree\nthreethree\n"
    client.jobs.download(job.name, download_path=tmp_path / "all", all=True)
    assert (tmp_path / "all/named-outputs/side/rows.txt").read_text() == f"one\n{unique}\ntwo\n"
    assert "step 'last'" in (tmp_path / "all/artifacts/user_logs/std_log.txt").read_text()
    assert job.outputs["side"].path.endswith(f"/contract/{job.name}/side/")
    registered = client.data.get(f"{unique}_words", "1")
    assert registered.path.rstrip("/").endswith(job.outputs["final"].path.rstrip("/").partition("datastores/")[2])

    again = client.jobs.create_or_update(load_job(folder / "pipeline.yml"))
    assert finished(client, again.name).status == "Completed"
    begin = steps(client, again.name)["begin"]
    assert begin.properties["azureml.isreused"] == "true"
    assert begin.properties["azureml.reusedrunid"] == children["begin"].name
    client.jobs.download(begin.name, download_path=tmp_path / "begin", output_name="out")
    assert (tmp_path / "begin/named-outputs/out/rows.txt").read_text() == f"one\n{unique}\n"
    # `side` lies below the job's own name: its step ran, and so did what reads it.
    assert "azureml.isreused" not in steps(client, again.name)["middle"].properties


def test_a_dsl_pipeline_with_a_sweep_groups_and_overrides(
    client: Any, folder: Path, tmp_path: Path, unique: str
) -> None:
    from azure.ai.ml import Input, Output, dsl, load_component
    from azure.ai.ml.entities import PipelineJob
    from azure.ai.ml.sweep import Choice

    add, twice = load_component(folder / "add.yml"), load_component(folder / "twice.yml")

    @dsl.pipeline(default_compute="cpu-cluster", experiment_name="contract-pipeline", display_name="dsl")
    def words(rows, first="left", times=None):  # type: ignore[no-untyped-def]
        begin = add(data=rows, word=first, times=times)
        begin.environment_variables = {"NIGHT": "1"}
        begin.compute = "serverless"
        swept = add(data=begin.outputs.out, word=first, times=Choice([1, 2, 3])).sweep(
            primary_metric="rows", goal="maximize", sampling_algorithm="grid"
        )
        swept.set_limits(max_total_trials=2, max_concurrent_trials=2, timeout=120)
        inner = twice(data=swept.outputs.out, word="right")
        inner.outputs.out = Output(type="uri_folder", mode="upload")
        return {"final": inner.outputs.out}

    built = words(rows=Input(type="uri_folder", path=str(folder / "code")), first=unique)
    job = finished(client, client.jobs.create_or_update(built).name)
    assert job.status == "Completed", client.jobs._runs_operations.get_run_details(job.name).error
    trials = [child for child in client.jobs.list(parent_job_name=steps(client, job.name)["swept"].name)]
    assert len(trials) == 2
    client.jobs.download(job.name, download_path=tmp_path, output_name="final")
    text = (tmp_path / "named-outputs/final/rows.txt").read_text()
    assert text.endswith("\nright\nrightright\n")
    assert f"\n{unique}\n{unique}" in text
    # A registered pipeline component is a job by itself.
    registered = client.components.create_or_update(twice)
    assert registered.type == "pipeline"
    rows = Input(type="uri_folder", path=str(folder / "code"))
    alone = PipelineJob(
        component=registered.id, inputs={"data": rows, "word": "alone"}, experiment_name="contract-pipeline"
    )
    alone.settings.default_compute = "cpu-cluster"
    job = finished(client, client.jobs.create_or_update(alone).name)
    assert job.status == "Completed"
    client.jobs.download(job.name, download_path=tmp_path / "alone", output_name="out")
    assert (tmp_path / "alone/named-outputs/out/rows.txt").read_text().endswith("\nalone\nalonealone\n")


def test_parallel_steps_divide_a_table_by_key_and_files_by_number(client: Any, folder: Path, tmp_path: Path) -> None:
    from azure.ai.ml import Input, Output, dsl
    from azure.ai.ml.entities import RetrySettings
    from azure.ai.ml.parallel import RunFunction, parallel_run_function

    environment = "azureml://registries/azureml/environments/sklearn-1.5/labels/latest"
    common = {"max_concurrency_per_instance": 2, "retry_settings": RetrySettings(max_retries=1, timeout=60)}
    task = {"code": str(folder / "code"), "entry_script": "score.py", "environment": environment}
    by_key = parallel_run_function(
        name="by_key",
        inputs={"table": Input(type="mltable", mode="direct"), "word": Input(type="string", default="seen")},
        outputs={"rows": Output(type="uri_file")},
        input_data="${{inputs.table}}",
        partition_keys=["store", "brand"],
        task=RunFunction(**task, program_arguments="--word ${{inputs.word}}", append_row_to="${{outputs.rows}}"),
        **common,
    )
    by_number = parallel_run_function(
        name="by_number",
        inputs={"files": Input(type="uri_folder")},
        outputs={"copies": Output(type="uri_folder")},
        input_data="${{inputs.files}}",
        mini_batch_size="1",
        task=RunFunction(**task, program_arguments="--word copied --copies ${{outputs.copies}}"),
        **common,
    )

    @dsl.pipeline(default_compute="cpu-cluster", experiment_name="contract-pipeline")
    def divided(table, files):  # type: ignore[no-untyped-def]
        return {"rows": by_key(table=table).outputs.rows, "copies": by_number(files=files).outputs.copies}

    given = {"table": ("mltable", "table"), "files": ("uri_folder", "code")}
    job = divided(**{name: Input(type=kind, path=str(folder / path)) for name, (kind, path) in given.items()})
    job = finished(client, client.jobs.create_or_update(job).name)
    assert job.status == "Completed", client.jobs._runs_operations.get_run_details(job.name).error
    client.jobs.download(job.name, download_path=tmp_path, output_name="rows")
    (rows,) = [path for path in (tmp_path / "named-outputs/rows").rglob("*") if path.is_file()]
    # A line a row, in the order of the keys, as the service writes a DataFrame: blanks, no header.
    assert rows.read_text().splitlines()[:3] == ["0 0 0 seen", "0 0 6 seen", "0 1 4 seen"]
    client.jobs.download(job.name, download_path=tmp_path, output_name="copies")
    copies = {path.name: path.read_text() for path in (tmp_path / "named-outputs/copies").iterdir()}
    assert copies == {"score.py": "copied", "step.py": "copied"}


@pytest.mark.usefixtures("registered")
def test_failures_name_the_step_and_bad_input_is_refused(client: Any, folder: Path, unique: str) -> None:
    from azure.ai.ml import load_job
    from azure.ai.ml.exceptions import JobException
    from azure.core.exceptions import HttpResponseError

    failing = load_job(folder / "pipeline.yml", params_override=[{"inputs.word": "fail"}])
    job = client.jobs.create_or_update(failing)
    with pytest.raises(JobException) as failed:
        client.jobs.stream(job.name)
    assert "The step 'begin' (run " in str(failed.value)
    assert "the word is wrong" in str(failed.value)
    assert "Not run: middle, last." in str(failed.value)
    assert {name: child.status for name, child in steps(client, job.name).items()} == {"begin": "Failed"}

    wrong = load_job(folder / "pipeline.yml", params_override=[{"jobs.middle.inputs.times": 7}])
    with pytest.raises(HttpResponseError, match=r"jobs\.middle\.inputs\.times must be at most 3, not 7"):
        client.jobs.create_or_update(wrong)


def test_a_pipeline_is_cancelled_with_its_steps(client: Any, folder: Path) -> None:
    from azure.ai.ml import command, dsl

    sleep = command(
        command="sleep 60",
        environment="azureml://registries/azureml/environments/sklearn-1.5/labels/latest",
        display_name="sleep",
    )

    @dsl.pipeline(default_compute="cpu-cluster", experiment_name="contract-pipeline")
    def long() -> None:
        sleep()

    job = client.jobs.create_or_update(long(), tags={"kind": "long"})
    end = time.monotonic() + 30
    while [child.status for child in client.jobs.list(parent_job_name=job.name)] != ["Running"]:
        assert time.monotonic() < end
        time.sleep(0.2)
    client.jobs.begin_cancel(job.name).wait()
    assert client.jobs.get(job.name).status == "Canceled"
    assert [child.status for child in client.jobs.list(parent_job_name=job.name)] == ["Canceled"]
