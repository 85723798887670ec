"""Jobs' YAML files: rendered, overridden, digested, and what is wrong with one, in the SDK's words with the line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml

from azflow import job_files
from azflow.errors import SpecError
from azflow.specs import INCLUDE
from workspace_edge import NIGHT, include, write

__all__ = ["include"]

VALUES: dict[str, Any] = {"night": NIGHT, "params": {"who": "ü"}, "inputs": {"a": "azureml:d:1", "b": "7"}}


def test_a_job_file_is_a_template_and_azures_own_expressions_stay(include: Path) -> None:
    content = job_files.read_job("jobs/j.yml", VALUES, include)
    assert content["command"] == 'python x.py --a ${{inputs.a}} --b "${{ inputs.b }}"'
    assert content["display_name"] == "2013-03-08 ü"
    assert content["inputs"] == {"a": {"type": "uri_folder", "path": "azureml:d:1"}, "b": "7"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {{ inputs.missing }}", r"include/ml/jobs/bad\.yml: .*'missing'; inputs given: a, b"),
        ("a: {{ inputs.a", r"include/ml/jobs/bad\.yml: line 1: is no template"),
        ("a: 1\nb: [", r"include/ml/jobs/bad\.yml: line 2 \(rendered\): is no YAML"),
        ("- a", r"include/ml/jobs/bad\.yml: must be a mapping"),
        ("a: {{ ''.__class__.__mro__ }}", r"include/ml/jobs/bad\.yml"),
    ],
)
def test_a_bad_job_file_is_named(include: Path, text: str, said: str) -> None:
    (include / "ml/jobs/bad.yml").write_text(text)
    with pytest.raises(SpecError, match=said):
        job_files.read_job("jobs/bad.yml", VALUES, include)


def test_a_missing_job_file_is_named(include: Path) -> None:
    with pytest.raises(SpecError, match=r"include/ml/jobs/none\.yml: can't be read"):
        job_files.read_job("jobs/none.yml", VALUES, include)


def test_a_task_overrides_inputs_outputs_and_settings(include: Path) -> None:
    content = job_files.read_job("jobs/j.yml", VALUES, include)
    given = {"a": "azureml:d:2", "b": "8", "for_the_template_only": "x"}
    outputs = {"made": "azureml://datastores/lake/paths/made/", "more": "azureml://datastores/lake/paths/more/"}
    changed = job_files.override(content, given, outputs, {"limits": {"timeout": 5}, "compute": "azureml:gpu"})
    assert changed["inputs"] == {"a": {"type": "uri_folder", "path": "azureml:d:2"}, "b": "8"}
    assert changed["outputs"]["made"] == {"type": "uri_folder", "path": outputs["made"]}
    assert changed["outputs"]["more"] == {"path": outputs["more"]}
    assert changed["limits"] == {"timeout": 5, "other": 1}
    assert changed["compute"] == "azureml:gpu"
    assert content["limits"] == {"timeout": 60, "other": 1}


def test_other_code_is_other_work(include: Path) -> None:
    content = job_files.read_job("jobs/j.yml", VALUES, include)
    before = job_files.content_digest(content, "jobs/j.yml", include)
    write(include / "ml/code/__pycache__/x.pyc", "cache")
    assert job_files.content_digest(content, "jobs/j.yml", include) == before
    write(include / "ml/code/x.py", "print(2)")
    changed = job_files.content_digest(content, "jobs/j.yml", include)
    assert changed != before
    write(include / "ml/conda.yml", "name: y")
    assert job_files.content_digest(content, "jobs/j.yml", include) != changed


@pytest.mark.parametrize("job", sorted(path.name for path in (INCLUDE / "ml/jobs").glob("*.yml")))
def test_the_shipped_jobs_are_what_azures_sdk_takes(job: str) -> None:
    names = ("training_data", "challenger", "champion", "champion_version", "model", "model_name", "model_version",
             "baseline", "holdout", "signals", "min_rows", "window_start", "window_end")  # fmt: skip
    asked = ("deployment", "run_id", "task", "metric", "label", "time", "series")
    captured = ("captured", "captured_deployment", "captured_until", "captured_days", "captured_why", "outcomes")
    inputs = dict.fromkeys((*names, *asked, *captured), "azureml:thing:1")
    values = {"night": NIGHT, "inputs": inputs, "model": "m", "azure": {}, "params": {}}
    content = job_files.read_job(f"jobs/{job}", values)
    from azure.ai.ml import load_job

    loaded = load_job(io.StringIO(yaml.safe_dump(content)), relative_origin=str(INCLUDE / "ml/jobs" / job))
    assert loaded.type == content["type"]


def test_the_commit_comes_from_the_environment_or_from_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AZFLOW_GIT_COMMIT", "abc123")
    assert job_files.git_commit() == "abc123"
    monkeypatch.delenv("AZFLOW_GIT_COMMIT")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert job_files.git_commit(tmp_path) == "unknown"


# -- what the SDK says -----------------------------------------------------------------------------------------------

SWEEP = """
# A sweep with three mistakes.
type: sweep
trial:
  command: echo
  environment: azureml:e@latest
search_space:
  lr: {type: unifrom, min_value: 1, max_value: 2}
{% if night %}
{% endif %}
sampling_algorithm: random
objective: {goal: maximise, primary_metric: {{ metric }}}
limit: {max_total_trials: 3}
"""


def refused(text: str, folder: Path) -> str:
    """What azflow says about a YAML that the SDK refuses."""
    from azure.ai.ml import load_job

    path = write(folder / "ml/jobs/x.yml", text)
    rendered = job_files.read_job("jobs/x.yml", {"night": NIGHT, "metric": "auc"}, folder)
    source = io.StringIO(yaml.safe_dump(rendered))
    with pytest.raises(Exception) as problem:
        load_job(source, relative_origin=str(path))
    return str(job_files.refusal("include/ml/jobs/x.yml", problem.value, path))


def test_every_mistake_has_its_line_in_the_template(tmp_path: Path) -> None:
    said = refused(SWEEP, tmp_path)
    assert said.startswith(
        "include/ml/jobs/x.yml: line 7, search_space.lr.type: Value 'unifrom' passed is not in set ['cho"
    )
    assert "line 11, objective.goal: Value 'maximise' passed is not in set ['minimize', 'maximize']" in said
    assert "line 12, limit: Unknown field." in said
    assert "\n  limits: Missing data for required field." in said  # there is no line for what isn't there
    assert "https://" not in said and len(said.splitlines()) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("type: command\nenvironment: azureml:e:1", "x.yml: command: Missing data for required field."),
        ("command: echo\ntype: comand", "x.yml: line 2, type: Unsupported job type: comand."),
        (
            "type: command\ncommand: x\nenvironment: azureml:e:1\ninputs:\n  d: {type: uri_foldr, path: azureml:d:1}",
            "x.yml: line 5, inputs.d.type: Value 'uri_foldr' passed is not in set ['uri_file', 'uri_folder',",
        ),
        (
            "type: command\ncommand: x\nenvironment: azureml:e:1\ninputs:\n  d: {type: uri_folder, pth: azureml:d:1}",
            "x.yml: line 5, inputs.d.pth: Unknown field.",
        ),
        (
            "type: pipeline\njobs:\n  a:\n    type: command\n    component: ./none.yml",
            "x.yml: line 5, jobs.a.component: ",
        ),
    ],
)
def test_a_mistake_in_the_sdks_words(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(text, tmp_path)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), None),
        (("limits",), 5),
        (("limits", "timeout"), 6),
        (("limits", "missing", "deep"), 5),
        (("nothing",), None),
    ],
)
def test_a_key_has_a_line_in_a_template(path: tuple[str, ...], line: int | None) -> None:
    source = "{# two\nlines #}\ncommand: {{ a }} ${{inputs.b}}\n{% set x = 1 %}\nlimits:\n  timeout: {{ x }}\n"
    assert job_files.line_of(source, path) == line
    assert job_files.line_of("a: [", path) is None


def test_the_files_of_components_are_files_of_the_job(tmp_path: Path) -> None:
    write(tmp_path / "components/c.yml", "type: command\nname: c\ncode: ../src\nenvironment: {conda_file: env.yml}\n")
    write(tmp_path / "components/env.yml", "name: e")
    write(tmp_path / "src/x.py", "1")
    steps: dict[str, Any] = {"a": {"component": "../components/c.yml"}, "b": {"component": "azureml:d:1"}}
    found = job_files.named_files({"jobs": steps, "inputs": {"d": {"path": "azureml:x:1"}}}, tmp_path / "jobs")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "components/c.yml",
        "src",
        "components/env.yml",
    ]
