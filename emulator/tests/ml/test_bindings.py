"""Expressions, MLTables, environments and durations: the pure parts of running a job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.executors import bindings, durations, environments
from localazure.executors.job import JobFailed
from localazure.settings import Settings

VALUES = {"inputs": {"data": "/d", "rate": "0.1", "a.b": "nested"}, "outputs": {"o": "/o"}}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python t.py ${{inputs.data}} ${{ outputs.o }}", "python t.py /d /o"),
        ("$[[--rate ${{inputs.rate}}]] x", "--rate 0.1 x"),
        ("$[[--seed ${{inputs.seed}}]] x", " x"),
        ("${{inputs.a.b}} $HOME ${X}", "nested $HOME ${X}"),
    ],
)
def test_expressions(command: str, expected: str) -> None:
    assert bindings.expand(command, VALUES) == expected


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("${{inputs.seed}}", r"\(inputs: a.b, data, rate\)"),
        ("${{search_space.lr}}", r"\(search_space: none\)"),
        ("${{parent.inputs.x}}", "begin with inputs, outputs, search_space"),
    ],
)
def test_an_expression_without_a_value_is_named(command: str, message: str) -> None:
    with pytest.raises(JobFailed, match=message):
        bindings.expand(command, VALUES)


class Lake:
    def __init__(self, root: Path) -> None:
        self.root = root

    def resolve(self, uri: str) -> Path:
        return self.root / uri.rpartition("/paths/")[2]


def table(folder: Path, paths: list[dict[str, str]]) -> Path:
    folder.mkdir()
    (folder / "MLTable").write_text(yaml.safe_dump({"paths": paths, "transformations": ["read_parquet"]}))
    (folder / "x.parquet").write_text("")
    return folder


def test_a_table_is_placed_with_local_paths_only(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "r.parquet").write_text("")
    remote = {"folder": "azureml://datastores/lake/paths/train"}
    source = table(tmp_path / "t", [{"file": "./x.parquet"}, {"pattern": "./*.parquet"}, remote])
    placed = bindings.place_table(source, tmp_path / "in", Lake(tmp_path), "azureml:t:1")  # type: ignore[arg-type]
    content = yaml.safe_load((placed / "MLTable").read_text())
    assert content["paths"] == [
        {"file": "./x.parquet"},
        {"pattern": "./*.parquet"},
        {"folder": str(tmp_path / ".in.paths/2/train")},
    ]
    assert content["transformations"] == ["read_parquet"]
    assert content["metadata"]["sources"] == {str(tmp_path / ".in.paths/2/train"): remote["folder"]}


@pytest.mark.parametrize(
    ("path", "message"),
    [({"file": "../secret"}, "leads out"), ({"file": "./y"}, "isn't there"), ({"url": "x"}, "none of file, folder")],
)
def test_a_path_of_a_table_that_is_wrong_is_named(tmp_path: Path, path: dict[str, str], message: str) -> None:
    source = table(tmp_path / "t", [path])
    with pytest.raises(JobFailed, match=message):
        bindings.place_table(source, tmp_path / "in", Lake(tmp_path), "azureml:t:1")  # type: ignore[arg-type]


def test_a_table_is_evaluated_to_the_files_it_names(tmp_path: Path) -> None:
    (tmp_path / "train" / "day").mkdir(parents=True)
    (tmp_path / "train" / "day" / "r.parquet").write_text("r")
    remote = {"folder": "azureml://datastores/lake/paths/train"}
    source = table(tmp_path / "t", [{"pattern": "./*.parquet"}, remote])
    placed = bindings.place_files(source, tmp_path / "in", Lake(tmp_path), "azureml:t:1")  # type: ignore[arg-type]
    files = sorted(str(path.relative_to(placed)) for path in placed.rglob("*") if path.is_file())
    assert files == ["day/r.parquet", "x.parquet"]
    (source / "MLTable").write_text("paths: [{file: ./x.parquet}]\ntransformations: [read_parquet, {filter: col('a')}]")
    with pytest.raises(JobFailed, match="the transformation filter"):
        bindings.place_files(source, tmp_path / "in2", Lake(tmp_path), "azureml:t:1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("- python=3", []),
        ("- python>=3.11", []),
        ("- conda-forge::httpx", []),
        ("- pip:\n  - azureml-mlflow\n  - httpx>=0.1\n  - 'x; sys_platform == \"win32\"'\n  - '# c'", []),
        ("- httpx=0.0001=py_0", ["httpx==0.0001.*"]),
        ("- pip:\n  - git+https://x/y", ["git+https://x/y"]),
        ("- pip:\n  - y @ https://x/y.whl", ["y @ https://x/y.whl"]),
        ("- pip:\n  - --extra-index-url=x", ["--extra-index-url=x"]),
        ("- gcc\n- r-essentials=4\n- libgcc", ["gcc", "r-essentials=4"]),
    ],
)
def test_requirements(home: Settings, line: str, missing: list[str]) -> None:
    found = environments.check({"properties": {"condaFile": f"dependencies:\n{line}\n"}}, home)
    assert [each.rpartition(" (")[0] for each in found] == missing


def test_what_can_not_be_checked_is_refused(home: Settings) -> None:
    assert environments.check({"image": "anything"}, home) == []
    with pytest.raises(NotImplementedOperation, match="build context"):
        environments.check({"build": {"contextUri": "x"}}, home)
    with pytest.raises(BadRequest, match="not YAML"):
        environments.check({"condaFile": "a: ["}, home)
    assert environments.installed(Path(sys.executable))[1]["httpx"]


@pytest.mark.parametrize(
    ("text", "expected"), [("PT15M", 900), ("P1DT2H", 93600), ("PT1.5S", 1.5), (None, None), ("", None)]
)
def test_durations(text: str | None, expected: float | None) -> None:
    assert durations.seconds(text, "limits.timeout") == expected


@pytest.mark.parametrize("text", ["15", "PT", "1H"])
def test_a_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match=f"not '{text}'"):
        durations.seconds(text, "limits.timeout")


def test_bindings_need_a_uri() -> None:
    async def bring() -> Any:
        return await bindings.bring(None, "x", {"jobInputType": "uri_file"})  # type: ignore[arg-type]

    import asyncio

    with pytest.raises(JobFailed, match="The input 'x' has no uri"):
        asyncio.run(bring())
