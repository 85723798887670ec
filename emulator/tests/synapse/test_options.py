from __future__ import annotations

from typing import Any

import pytest

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.synapse import options
from localazure.synapse.runs import values


def test_a_clusters_sizes_are_bounded() -> None:
    asked = {"driverMemory": "28g", "driverCores": 4, "executorMemory": "28g", "executorCores": 4, "numExecutors": 2}
    plan = options.plan(asked)
    assert plan.is_standard
    assert (plan.static["spark.master"], plan.static["spark.driver.memory"]) == ("local[2]", "2048m")


def test_less_is_given_as_asked() -> None:
    plan = options.plan({"driverMemory": "1g", "driverCores": 1})
    assert (plan.static["spark.master"], plan.static["spark.driver.memory"]) == ("local[1]", "1024m")
    assert not plan.is_standard


def test_the_runs_options_win_over_the_notebooks() -> None:
    plan = options.plan({"driverCores": 1, "conf": {"spark.sql.ansi.enabled": "false"}}, {"driverCores": 8}, None)
    assert plan.static["spark.master"] == "local[2]"
    assert plan.runtime == {"spark.sql.ansi.enabled": "false"}
    assert plan.is_standard


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("spark.sql.shuffle.partitions", "runtime"),
        ("spark.sql.warehouse.dir", "static"),
        ("spark.hadoop.some.key", "static"),
        ("spark.executor.instances", "ignored"),
        ("spark.dynamicAllocation.enabled", "ignored"),
    ],
)
def test_configuration_goes_where_it_can_be_applied(key: str, where: str) -> None:
    plan = options.plan({"conf": {key: "7"}})
    assert (plan.runtime.get(key) == "7", plan.static.get(key) == "7") == (where == "runtime", where == "static")


@pytest.mark.parametrize(
    "asked", [{"jars": ["a.jar"]}, {"conf": {"spark.jars.packages": "a:b:1"}}, {"pyFiles": ["x.py"]}]
)
def test_what_would_need_another_driver_is_refused_by_name(asked: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedOperation, match=r"jars|pyFiles"):
        options.plan(asked)


@pytest.mark.parametrize("asked", [{"driverMemory": "many"}, {"driverCores": "4"}, {"conf": []}, {"numExecutors": -1}])
def test_malformed_options_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=next(iter(asked))):
        options.plan(asked)


@pytest.mark.parametrize(
    ("kind", "given", "wanted"),
    [
        ("string", "a", "a"),
        ("String", 5, "5"),
        ("int", "5", 5),
        ("int", 5.0, 5),
        ("float", 2, 2.0),
        ("bool", "True", True),
        ("bool", False, False),
    ],
)
def test_parameters_get_their_type(kind: str, given: Any, wanted: Any) -> None:
    value = values({"p": {"type": kind, "value": given}})["p"]
    assert (value, type(value)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    "parameter",
    [
        {"type": "int", "value": "x"},
        {"type": "int", "value": 5.5},
        {"type": "int", "value": True},
        {"type": "bool", "value": "yes"},
        {"type": "string", "value": {}},
        {"type": "date", "value": "2013-01-01"},
        {"type": "string"},
        "text",
    ],
)
def test_a_bad_parameter_is_named(parameter: Any) -> None:
    with pytest.raises(BadRequest, match="'p'"):
        values({"p": parameter})


def test_a_parameter_needs_a_variables_name() -> None:
    with pytest.raises(BadRequest, match="not-a-name"):
        values({"not-a-name": {"type": "string", "value": ""}})
