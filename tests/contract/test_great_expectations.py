"""Great Expectations pushed down to the SQL pool: every answer is held to what pandas says. Evidence: sdk."""

from __future__ import annotations

import math
import os
import random
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
from tds_clients import Client, clients, missing

from azflow.expectation_sql import register_uniqueness
from azflow.quality import NOT_IN_SQL

ROWS = 50_000
TABLE = "gx_flights"
COLUMNS = (
    "id bigint NOT NULL, day int NOT NULL, carrier varchar(2) NOT NULL, origin char(3) NOT NULL, distance int, "
    "delay float, tail varchar(10)"
)
CARRIERS = ("UA", "AA", "DL", "B6")


def _rows() -> list[tuple[Any, ...]]:
    generator = random.Random(2013)
    return [
        (
            i,
            1 + i * 31 // ROWS,
            generator.choice(CARRIERS),
            generator.choice(("EWR", "JFK", "LGA")),
            generator.randrange(80, 5000),
            None if i % 40 == 0 else round(generator.gauss(10, 30), 3),
            None if i % 25 == 0 else f"N{generator.randrange(10**5):05d}",
        )
        for i in range(ROWS)
    ]


@pytest.fixture(scope="module")
def frame(localazure: dict[str, Any]) -> Any:
    """The rows, in the pool and as a data frame."""
    import pandas as pd

    rows = _rows()
    client: Client
    for client in clients("mssql-python-rust", localazure):
        client.run(
            f"IF OBJECT_ID('dbo.{TABLE}') IS NOT NULL DROP TABLE dbo.{TABLE}",
            f"CREATE TABLE dbo.{TABLE} ({COLUMNS}) WITH (DISTRIBUTION = HASH(id), CLUSTERED COLUMNSTORE INDEX)",
        )
        assert client.bulk(f"dbo.{TABLE}", rows) == ROWS
    return pd.DataFrame(rows, columns=["id", "day", "carrier", "origin", "distance", "delay", "tail"])


@pytest.fixture(scope="module")
def batch(frame: Any, localazure: dict[str, Any]) -> Iterator[Any]:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    if missing("mssql-python"):
        os.environ.setdefault("MSSQL_PYTHON_NATIVE_PROVIDER", "mssql-odbc")
    import great_expectations

    register_uniqueness()
    host, _, port = localazure["sql_server"].partition(",")
    password = urllib.parse.quote_plus(localazure["sql_password"])
    url = (
        f"mssql+mssqlpython://{localazure['sql_login']}:{password}@{host}:{port}/{localazure['sql_database']}"
        "?Encrypt=yes&TrustServerCertificate=no"
    )
    context: Any = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    source = context.data_sources.add_sql(
        "pool", connection_string=url, create_temp_table=False, kwargs={"isolation_level": "AUTOCOMMIT"}
    )
    asset = source.add_table_asset("flights", table_name=TABLE, schema_name="dbo")
    yield asset.add_batch_definition_whole_table("all").get_batch()


def _cases(frame: Any) -> list[tuple[str, dict[str, Any], bool, dict[str, Any]]]:
    """(expectation, arguments, success, figures of the result)."""
    delay = frame["delay"].dropna()
    tail = frame["tail"].dropna()
    outside = int((~frame["distance"].between(500, 4000)).sum())
    same_day = frame[["day", "carrier", "origin", "distance"]].duplicated(keep=False)
    of = "expect_column_"
    return [
        (
            "expect_table_row_count_to_be_between",
            {"min_value": ROWS, "max_value": ROWS},
            True,
            {"observed_value": ROWS},
        ),
        ("expect_table_row_count_to_equal", {"value": 7}, False, {"observed_value": ROWS}),
        ("expect_table_columns_to_match_ordered_list", {"column_list": list(frame.columns)}, True, {}),
        (of + "to_exist", {"column": "delay"}, True, {}),
        (of + "to_exist", {"column": "nothing"}, False, {}),
        (of + "values_to_be_of_type", {"column": "distance", "type_": "INTEGER"}, True, {}),
        (of + "values_to_not_be_null", {"column": "delay"}, False, {"unexpected_count": ROWS - len(delay)}),
        (of + "values_to_not_be_null", {"column": "tail", "mostly": 0.9}, True, {"unexpected_count": ROWS - len(tail)}),
        (of + "values_to_be_unique", {"column": "id"}, True, {"unexpected_count": 0}),
        (
            of + "values_to_be_unique",
            {"column": "tail"},
            False,
            {"unexpected_count": int(tail.duplicated(keep=False).sum())},
        ),
        (of + "values_to_be_in_set", {"column": "origin", "value_set": ["EWR", "JFK", "LGA"]}, True, {}),
        (
            of + "values_to_be_in_set",
            {"column": "carrier", "value_set": ["UA", "AA"]},
            False,
            {"unexpected_count": int((~frame["carrier"].isin(["UA", "AA"])).sum())},
        ),
        (
            of + "values_to_not_be_in_set",
            {"column": "carrier", "value_set": ["B6"]},
            False,
            {"unexpected_count": int((frame["carrier"] == "B6").sum())},
        ),
        (
            of + "values_to_be_between",
            {"column": "distance", "min_value": 500, "max_value": 4000},
            False,
            {"unexpected_count": outside},
        ),
        (
            of + "values_to_be_between",
            {"column": "distance", "min_value": 500, "max_value": 4000, "mostly": 0.5},
            True,
            {"unexpected_count": outside},
        ),
        (of + "min_to_be_between", {"column": "delay", "min_value": -999}, True, {"observed_value": delay.min()}),
        (of + "max_to_be_between", {"column": "delay", "max_value": 0}, False, {"observed_value": delay.max()}),
        (
            of + "mean_to_be_between",
            {"column": "delay", "min_value": 9, "max_value": 11},
            True,
            {"observed_value": delay.mean()},
        ),
        (
            of + "mean_to_be_between",
            {"column": "distance", "max_value": 1},
            False,
            {"observed_value": frame["distance"].mean()},
        ),
        (
            of + "stdev_to_be_between",
            {"column": "delay", "min_value": 29, "max_value": 31},
            True,
            {"observed_value": delay.std()},
        ),
        (
            of + "median_to_be_between",
            {"column": "distance", "min_value": 1, "max_value": 5000},
            True,
            {"observed_value": frame["distance"].median()},
        ),
        (
            of + "sum_to_be_between",
            {"column": "distance", "min_value": 1},
            True,
            {"observed_value": int(frame["distance"].sum())},
        ),
        (
            of + "unique_value_count_to_be_between",
            {"column": "day", "min_value": 31, "max_value": 31},
            True,
            {"observed_value": 31},
        ),
        (
            of + "proportion_of_unique_values_to_be_between",
            {"column": "tail", "max_value": 1},
            True,
            {"observed_value": tail.nunique() / len(tail)},
        ),
        (of + "distinct_values_to_be_in_set", {"column": "carrier", "value_set": list(CARRIERS)}, True, {}),
        (of + "distinct_values_to_be_in_set", {"column": "carrier", "value_set": ["UA"]}, False, {}),
        (of + "value_lengths_to_equal", {"column": "tail", "value": 6}, True, {"unexpected_count": 0}),
        (of + "value_lengths_to_be_between", {"column": "carrier", "min_value": 3}, False, {"unexpected_count": ROWS}),
        (of + "values_to_match_like_pattern", {"column": "tail", "like_pattern": "N%"}, True, {"unexpected_count": 0}),
        (
            of + "quantile_values_to_be_between",
            {
                "column": "distance",
                "quantile_ranges": {"quantiles": [0.25, 0.5], "value_ranges": [[1000, 1500], [2300, 2700]]},
            },
            True,
            {},
        ),
        (
            of + "pair_values_a_to_be_greater_than_b",
            {"column_A": "distance", "column_B": "day"},
            True,
            {"unexpected_count": 0},
        ),
        (
            "expect_compound_columns_to_be_unique",
            {"column_list": ["day", "carrier", "origin", "distance"]},
            False,
            {"unexpected_count": int(same_day.sum())},
        ),
        (of + "distinct_values_to_contain_set", {"column": "carrier", "value_set": ["UA", "AA"]}, True, {}),
        (of + "distinct_values_to_contain_set", {"column": "carrier", "value_set": ["UA", "XX"]}, False, {}),
        (of + "distinct_values_to_equal_set", {"column": "carrier", "value_set": list(CARRIERS)}, True, {}),
        (of + "distinct_values_to_equal_set", {"column": "carrier", "value_set": ["UA"]}, False, {}),
        (of + "values_to_be_null", {"column": "tail"}, False, {"unexpected_count": len(tail)}),
        (of + "values_to_be_in_type_list", {"column": "delay", "type_list": ["FLOAT", "REAL"]}, True, {}),
        (
            of + "proportion_of_non_null_values_to_be_between",
            {"column": "delay", "min_value": 0.9},
            True,
            {"observed_value": len(delay) / ROWS},
        ),
        (
            of + "value_z_scores_to_be_less_than",
            {"column": "delay", "threshold": 3, "double_sided": True},
            False,
            {"unexpected_count": int((((delay - delay.mean()) / delay.std()).abs() >= 3).sum())},
        ),
        (
            of + "values_to_not_match_like_pattern",
            {"column": "tail", "like_pattern": "%7"},
            False,
            {"unexpected_count": int(tail.str.endswith("7").sum())},
        ),
        (
            of + "values_to_match_like_pattern_list",
            {"column": "tail", "like_pattern_list": ["N0%", "N1%"], "match_on": "any"},
            False,
            {"unexpected_count": int((~tail.str[:2].isin(["N0", "N1"])).sum())},
        ),
        (
            of + "values_to_not_match_like_pattern_list",
            {"column": "tail", "like_pattern_list": ["N0%", "N1%"]},
            False,
            {"unexpected_count": int(tail.str[:2].isin(["N0", "N1"]).sum())},
        ),
        (
            of + "pair_values_to_be_equal",
            {"column_A": "distance", "column_B": "day"},
            False,
            {"unexpected_count": int((frame["distance"] != frame["day"]).sum())},
        ),
        (
            of + "pair_values_to_be_in_set",
            {"column_A": "carrier", "column_B": "origin", "value_pairs_set": [["UA", "EWR"], ["AA", "JFK"]]},
            False,
            {
                "unexpected_count": int(
                    (~frame[["carrier", "origin"]].apply(tuple, axis=1).isin([("UA", "EWR"), ("AA", "JFK")])).sum()
                )
            },
        ),
        (
            "expect_multicolumn_sum_to_equal",
            {"column_list": ["day", "distance"], "sum_total": 1000},
            False,
            {"unexpected_count": int((frame["day"] + frame["distance"] != 1000).sum())},
        ),
        (
            "expect_multicolumn_values_to_be_equal",
            {"column_list": ["day", "distance"]},
            False,
            {"unexpected_count": int((frame["day"] != frame["distance"]).sum())},
        ),
        (
            "expect_select_column_values_to_be_unique_within_record",
            {"column_list": ["day", "distance"]},
            True,
            {"unexpected_count": int((frame["day"] == frame["distance"]).sum())},
        ),
        ("expect_table_column_count_to_be_between", {"min_value": 7, "max_value": 7}, True, {"observed_value": 7}),
        ("expect_table_column_count_to_equal", {"value": 8}, False, {"observed_value": 7}),
        ("expect_table_columns_to_match_set", {"column_set": list(reversed(frame.columns))}, True, {}),
        ("expect_table_row_count_to_equal_other_table", {"other_table_name": TABLE}, True, {}),
        (
            "unexpected_rows_expectation",
            {"unexpected_rows_query": "SELECT * FROM {batch} WHERE distance < 90"},
            False,
            {"observed_value": int((frame["distance"] < 90).sum())},
        ),
        (of + "values_to_not_be_outliers", {"column": "distance", "method": "iqr"}, True, {}),
        (of + "type_to_be", {"column": "distance", "type_": "INTEGER"}, True, {}),
        (
            of + "kl_divergence_to_be_less_than",
            {
                "column": "carrier",
                "partition_object": {"values": list(CARRIERS), "weights": [0.25] * 4},
                "threshold": 0.1,
            },
            True,
            {},
        ),
        (of + "most_common_value_to_be_in_set", {"column": "origin", "value_set": ["EWR", "JFK", "LGA"]}, True, {}),
    ]


def test_every_expectation_says_what_pandas_says(batch: Any, frame: Any) -> None:
    from great_expectations.core import ExpectationSuite
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    cases = _cases(frame)
    suite = ExpectationSuite(
        name="core",
        expectations=[
            ExpectationConfiguration(type=kind, kwargs=arguments, meta={"case": index}).to_domain_obj()
            for index, (kind, arguments, _, _) in enumerate(cases)
        ],
    )
    outcome = batch.validate(suite, result_format={"result_format": "SUMMARY", "partial_unexpected_count": 5})
    results = {result.expectation_config.meta["case"]: result for result in outcome.results}
    wrong = []
    for index, (kind, arguments, success, figures) in enumerate(cases):
        result = results[index]
        if _raised(result.exception_info):
            wrong.append(f"{kind} {arguments}: raised {_raised(result.exception_info)}")
        elif bool(result.success) is not success:
            wrong.append(f"{kind} {arguments}: success {result.success}; {result.result}")
        else:
            wrong += [
                f"{kind} {arguments}: {name} is {result.result.get(name)!r}, not {figure!r}"
                for name, figure in figures.items()
                if result.result.get(name) is None or not math.isclose(float(result.result[name]), figure, rel_tol=1e-9)
            ]
    assert not wrong, "\n".join(wrong)
    assert len(results) == len(cases) >= 10


def _raised(info: dict[str, Any]) -> str:
    entries = [info] if "raised_exception" in info else list(info.values())
    found = [str(entry["exception_message"]) for entry in entries if entry.get("raised_exception")]
    return found[0][:500] if found else ""


def test_no_core_expectation_is_missing(frame: Any) -> None:
    """Each is asked above, or can't be asked in SQL, or compares two data sources."""
    from great_expectations.expectations import core

    known = {name for name in dir(core) if name.startswith("expect_")} | {"unexpected_rows_expectation"}
    asked = {kind for kind, *_ in _cases(frame)}
    assert known - asked - set(NOT_IN_SQL) == {"expect_query_results_to_match_comparison"}
    assert not asked & set(NOT_IN_SQL)
