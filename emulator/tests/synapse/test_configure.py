"""`%%configure`: what the first code cell asks of the session."""

from __future__ import annotations

from typing import Any

import pytest

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.synapse import configure


def properties(*sources: str) -> dict[str, Any]:
    text = {"cell_type": "markdown", "source": ["# first\n"]}
    return {"cells": [text, *({"cell_type": "code", "source": each.splitlines(True)} for each in sources)]}


def options(body: str, **parameters: Any) -> dict[str, Any]:
    return configure.options(properties(f"%%configure -f\n{body}", "1"), parameters)


def test_the_first_code_cell_counts() -> None:
    assert options('{"driverMemory": "28g", "conf": {"spark.a": "b"}}') == {
        "driverMemory": "28g",
        "conf": {"spark.a": "b"},
    }
    assert configure.options(properties("", '%%configure\n{"driverCores": 2}'), {}) == {"driverCores": 2}
    assert configure.options(properties("x = 1", "%%configure\n{}"), {}) == {}
    assert configure.options({}, {}) == {}


def test_a_value_may_be_a_parameter_of_the_run() -> None:
    body = (
        '{"driverCores": {"activityParameterName": "cores", "defaultValue": 4},'
        ' "conf": {"spark.sql.shuffle.partitions": {"activityParameterName": "parts"}}}'
    )
    found = options(body, cores="8", parts=3)
    assert found == {"driverCores": 8, "conf": {"spark.sql.shuffle.partitions": 3}}
    assert options(body, parts=3)["driverCores"] == 4
    with pytest.raises(BadRequest, match=r"Cell 1.*'parts', which the run doesn't give"):
        options(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{x}", "Cell 1: %%configure isn't JSON"),
        ("[]", "must be an object"),
        ('{"driverMemory": {"name": 1}}', "driverMemory must be a value or"),
    ],
)
def test_what_is_no_configuration_is_refused_with_its_cell(body: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        options(body)


def test_what_is_unknown_is_refused_by_name() -> None:
    with pytest.raises(NotImplementedOperation, match="defaultLakehouse"):
        options('{"defaultLakehouse": {}}')
