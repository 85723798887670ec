"""The pure part of what runs in the compute environment: it needs none of its packages."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

COMPUTE = Path(__file__).resolve().parents[2] / "compute"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"compute_{name}", COMPUTE / "localazure_compute" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


source = load("notebook_source")


def properties(*sources: str, tagged: int | None = None, **metadata: Any) -> dict[str, Any]:
    cells = [
        {
            "cell_type": "code",
            "metadata": {"tags": ["parameters"]} if index == tagged else {},
            "source": text.splitlines(True),
        }
        for index, text in enumerate(sources)
    ]
    return {"metadata": metadata, "cells": cells}


@pytest.mark.parametrize(("tagged", "position"), [(0, 1), (1, 2), (None, 0)])
def test_parameters_come_after_their_cell_or_first(tagged: int | None, position: int) -> None:
    cells = source.cells(properties("a = 1", "a = 2", tagged=tagged), {"a": 3})
    assert [cell.index for cell in cells].index(None) == position
    assert cells[position].tags == ["parameters_overwritten"]
    assert cells[position].source.splitlines()[1:] == ["a = 3"]


def test_without_parameters_nothing_is_injected() -> None:
    assert [cell.index for cell in source.cells(properties("a = 1", tagged=0))] == [0]


def test_assigned_values_are_those_given() -> None:
    given = {"text": 'it\'s "x"\n', "number": 5, "ratio": 0.5, "flag": True, "none": None}
    namespace: dict[str, Any] = {}
    exec(source.assignments(given), namespace)
    assert {name: namespace[name] for name in given} == given
    with pytest.raises(ValueError, match="a-b"):
        source.assignments({"a-b": 1})


@pytest.mark.parametrize("magic", ["%%spark", "%%csharp", "%%sparkr", "%%scala"])
def test_other_languages_are_refused_by_name(magic: str) -> None:
    with pytest.raises(source.UnsupportedNotebook, match=f"cell 1.*{magic.split(maxsplit=1)[0]}"):
        source.cells(properties("1", f"\n{magic}\nx"))


def test_another_kernel_is_refused_by_name() -> None:
    with pytest.raises(source.UnsupportedNotebook, match="scala"):
        source.cells(properties("1", kernelspec={"name": "synapse_spark"}, language_info={"name": "scala"}))


def test_the_kernels_own_magic_is_dropped() -> None:
    assert source.runnable("%%pyspark\nx = 1") == "x = 1"
    assert source.runnable("%%sql\nSELECT 1") == "%%sql\nSELECT 1"


def test_the_run_magics_line() -> None:
    assert source.arguments('/folder/Name {"a": 1}') == ("Name", {"a": 1})
    assert source.arguments("Name") == ("Name", {})
    with pytest.raises(source.UnsupportedNotebook, match="--builtin"):
        source.arguments("--builtin x.py")
    with pytest.raises(ValueError, match="JSON"):
        source.arguments("Name {a: 1}")


def test_the_session_is_configured_by_the_first_code_cell() -> None:
    assert source.configuration('%%configure -f\n{"driverCores": 4}') == {"driverCores": 4}
    with pytest.raises(ValueError, match="isn't JSON"):
        source.configuration("%%configure\n{x}")
    with pytest.raises(ValueError, match="--now"):
        source.configuration("%%configure --now\n{}")
    source.cells(properties("", '%%configure\n{"conf": {}}', "1"))
    with pytest.raises(source.UnsupportedNotebook, match="cell 1: %%configure must be the first code cell"):
        source.cells(properties("1", "%%configure\n{}"))
