"""The shipped notebooks as files; tests/contract runs them."""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest
from rendering import INCLUDE

NOTEBOOKS = sorted((INCLUDE / "spark/notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(request.param.read_text())
    return content


def test_it_is_pyspark_without_outputs(notebook: dict[str, Any]) -> None:
    assert notebook["nbformat"] == 4
    assert notebook["metadata"]["kernelspec"]["name"] == "synapse_pyspark"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            ast.parse("".join(cell["source"]))


def test_one_cell_declares_parameters_and_nothing_else(notebook: dict[str, Any]) -> None:
    tagged = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    assert all(isinstance(node, ast.Assign) for node in ast.parse("".join(tagged[0]["source"])).body)


def test_it_runs_on_any_synapse(notebook: dict[str, Any]) -> None:
    text = "".join("".join(cell["source"]) for cell in notebook["cells"])
    for word in ("localazure", "localhost", "127.0.0.1", "/tmp"):
        assert word not in text
