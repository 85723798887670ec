"""Suites as a gate: what stops, what warns, what both say. Great Expectations is real, SQLite stands in for a pool."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

import azflow.quality
from azflow import pushdown, quality, quality_page
from azflow.connection import AzureConnection
from azflow.errors import AccessDenied, ConfigurationError, QualityFailed, ServiceUnavailable, SpecError
from azflow.quality import ExpectationsOperator

ROOT = Path(__file__).resolve().parents[2]


def expectation(kind: str, severity: str | None = "block", **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "meta": {"severity": severity} if severity else {}}


SUITE = [
    expectation("expect_table_row_count_to_be_between", min_value={"$PARAMETER": "10 * days"}, max_value=1000),
    expectation("expect_column_proportion_of_unique_values_to_be_between", column="flight_id", min_value=1),
    expectation("expect_column_values_to_be_in_set", column="carrier", value_set=["AA", "UA"]),
    expectation("expect_column_values_to_be_between", "warn", column="temp", min_value=0, max_value=100),
    expectation("expect_column_mean_to_be_between", column="late", min_value=0.05, max_value=0.6),
]


class Pool:
    """A table of 60 flights, 20 a day, in a file."""

    def __init__(self, file: Path, include: Path) -> None:
        self.file = file
        self.include = include
        self.pages: dict[str, str] = {}
        with sqlite3.connect(file) as db:
            db.execute("CREATE TABLE features (flight_id int, flight_date text, carrier text, temp real, late int)")
            rows = [(n, f"2013-03-0{6 + n // 20}", "AA" if n % 2 else "UA", 20.0 + n, n % 5 == 0) for n in range(60)]
            db.executemany("INSERT INTO features VALUES (?, ?, ?, ?, ?)", rows)

    def sql(self, statement: str) -> None:
        with sqlite3.connect(self.file) as db:
            db.execute(statement)

    def suite(self, *expectations: dict[str, Any], **meta: Any) -> None:
        content = {"name": "s", "meta": {"partition_column": "flight_date", **meta}, "expectations": list(expectations)}
        (self.include / "expectations" / "s.json").write_text(json.dumps(content))


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
    (tmp_path / "expectations").mkdir()
    made = Pool(tmp_path / "pool.db", tmp_path)
    monkeypatch.setattr(azflow.quality, "INCLUDE", tmp_path)
    arguments = {"connection_string": f"sqlite:///{made.file}", "kwargs": {"connect_args": {"timeout": 5}}}
    monkeypatch.setattr(AzureConnection, "sqlalchemy_engine_arguments", lambda self: arguments)

    def publish(connection: AzureConnection, path: str, html: str) -> str:
        made.pages[path] = html
        return f"https://lake/{path}"

    monkeypatch.setattr(azflow.quality, "publish_page", publish)
    made.suite(*SUITE)
    return made


def check(backfill_from: str | None = None, **arguments: Any) -> tuple[Any, dict[str, Any]]:
    """(the operator's result or exception, its XComs)"""
    operator = ExpectationsOperator(task_id="x", suite="s.json", table="features", model="flight_delay", **arguments)
    xcoms: dict[str, Any] = {}
    ti = SimpleNamespace(dag_id="d", task_id="quality.x", run_id="r", xcom_push=xcoms.__setitem__)
    run = SimpleNamespace(dag_id="d", run_id="r", logical_date=None, run_after=None)
    context: Any = {"ti": ti, "dag_run": run, "params": {"partition": "2013-03-08", "backfill_from": backfill_from}}
    operator.render_template_fields(context, jinja2.Environment())
    try:
        return operator.execute(context), xcoms
    except AirflowException as error:
        return error, xcoms


def test_a_sound_night_passes_and_says_what_was_checked(pool: Pool) -> None:
    result, xcoms = check()
    assert (result["success"], result["checked"], result["failed"], result["warned"]) == (True, 5, 0, 0)
    assert result["days"] == ["2013-03-08", "2013-03-08"]
    assert result["results"][0]["observed"] == 20  # one day's rows, not the table's
    assert [one["rule"] for one in result["results"]] == [one["type"] for one in SUITE]
    assert xcoms["quality"] == result
    json.dumps(result)


def test_a_backfill_checks_all_its_days(pool: Pool) -> None:
    result, _ = check(backfill_from="2013-03-06")
    assert result["results"][0]["observed"] == 60
    assert result["days"] == ["2013-03-06", "2013-03-08"]


def test_other_days_dont_count(pool: Pool) -> None:
    pool.sql("UPDATE features SET carrier = 'ZZ' WHERE flight_date = '2013-03-07'")
    assert check()[0]["success"]
    assert isinstance(check(partition_column="")[0], AirflowFailException)  # the whole table


def test_a_blocking_failure_names_column_rule_and_examples(pool: Pool) -> None:
    pool.sql("UPDATE features SET carrier = 'ZZ' WHERE flight_id IN (41, 42)")
    pool.sql("UPDATE features SET carrier = 'QQ' WHERE flight_id = 43")
    error, xcoms = check()
    assert isinstance(error, AirflowFailException)  # no retry mends data
    assert isinstance(error.__cause__, QualityFailed)
    assert (
        "carrier: expect_column_values_to_be_in_set: "
        "expected carrier is one of AA, UA; 3 rows (15 %) break it, e.g. ZZ, QQ"
    ) in str(error)
    summary = xcoms["quality"]  # there although the task failed
    assert (summary["success"], summary["failed"], summary["warned"]) == (False, 1, 0)
    documents, path = pool.pages
    assert path.startswith("reports/flight_delay/2013-03-08/") and path.endswith("/quality-s.html")
    assert summary["report"] == f"https://lake/{path}"
    assert summary["data_docs"] == f"https://lake/{documents}" and documents.endswith("/quality-s-data-docs.html")
    assert f'href="https://lake/{documents}"' in pool.pages[path]
    assert "carrier" in pool.pages[documents] and "ZZ" in pool.pages[documents]


def test_a_warning_is_reported_and_stops_nothing(pool: Pool) -> None:
    pool.sql("UPDATE features SET temp = -7 WHERE flight_id = 50")
    result, _ = check()
    (failed,) = [one for one in result["results"] if not one["success"]]
    assert (result["success"], result["warned"]) == (True, 1)
    assert (failed["severity"], failed["unexpected_count"], failed["examples"]) == ("warn", 1, [-7.0])


def test_an_aggregate_says_what_it_is(pool: Pool) -> None:
    pool.sql("UPDATE features SET late = 1")
    error, _ = check()
    assert "late: expect_column_mean_to_be_between: expected mean of late between 0.05 and 0.6; it is 1" in str(error)


def test_an_empty_night_doesnt_pass(pool: Pool) -> None:
    pool.sql("DELETE FROM features")
    error, _ = check()
    assert "expected row count between 10 and 1,000; it is 0" in str(error)


def test_a_column_that_doesnt_exist_is_a_failure_with_a_reason(pool: Pool) -> None:
    pool.suite(expectation("expect_column_values_to_be_between", column="gone", min_value=1))
    error, _ = check()
    assert "gone: expect_column_values_to_be_between: expected gone at least 1; couldn't be checked: " in str(error)
    assert "gone" in str(error).split("couldn't be checked: ")[1]


def test_great_expectations_own_severity_counts_where_meta_says_nothing(pool: Pool) -> None:
    pool.sql("UPDATE features SET carrier = 'ZZ'")
    failing = expectation("expect_column_values_to_be_in_set", None, column="carrier", value_set=["AA"])
    pool.suite({**failing, "severity": "warning"})
    assert check()[0]["warned"] == 1
    pool.suite(failing)
    assert isinstance(check()[0], AirflowFailException)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", r"s\.json: line 1: is no JSON"),
        ('{"expectations": []}', r"s\.json: expectations: must be a list"),
        ('{"expectations": [{"kwargs": {}}]}', r"s\.json: expectations\.0: must be an object with a type"),
        (
            '{"expectations": [{"type": "expect_column_values_to_match_regex"}]}',
            r"expectations\.0\.type: expect_column_values_to_match_regex can't be asked in SQL; use expect_column_val",
        ),
        (
            '{"expectations": [{"type": "expect_column_to_exist", "meta": {"severity": "fatal"}}]}',
            r"expectations\.0\.meta\.severity: is 'fatal'",
        ),
    ],
)
def test_a_malformed_suite_names_file_and_key(pool: Pool, content: str, says: str) -> None:
    (pool.include / "expectations" / "s.json").write_text(content)
    with pytest.raises(SpecError, match=says):
        quality.read_suite(pool.include / "expectations", "s.json")


@pytest.mark.parametrize(
    "bad",
    [expectation("expect_miracles"), expectation("expect_column_values_to_be_between", colum="temp", min_value=1)],
)
def test_an_expectation_that_isnt_one_is_named(pool: Pool, bad: dict[str, Any]) -> None:
    pool.suite(SUITE[0], bad)
    error, _ = check()
    assert isinstance(error, AirflowFailException)
    assert f"expectations.1 ({bad['type']})" in str(error)


@pytest.mark.parametrize("name", ["a b", "x; DROP TABLE y", "a.b.c", ""])
def test_only_names_get_into_the_query(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name"):
        pushdown.Rows(name)
    with pytest.raises(ConfigurationError, match="is no name"):
        pushdown.Rows("a.b", name, ("2013-01-01", "2013-01-02"))


class DatabaseError(Exception):
    pass


@pytest.mark.parametrize(
    ("message", "kind"), [("Login failed for user 'x'.", AccessDenied), ("connection refused", ServiceUnavailable)]
)
def test_a_pool_that_cant_be_reached_is_no_finding(message: str, kind: type[Exception]) -> None:
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = DatabaseError(message)
    error = pushdown._pool_error(AzureConnection(id="prod", sql_server="pool"), wrapped)
    assert isinstance(error, kind)


def test_a_suite_that_wants_a_quarantine_needs_one(pool: Pool) -> None:
    pool.suite(SUITE[0], expectation("expect_column_values_to_not_be_null", "quarantine", column="temp"))
    error, _ = check()
    assert "expectations.1.meta.severity: is 'quarantine', but model.yml gives this suite no quarantine" in str(error)


@pytest.mark.parametrize(
    "place", [{"key": ["a b"]}, {"key": []}, {"key": ["a"], "table": "x"}, {"key": ["a"], "table": "m.t; DROP TABLE u"}]
)
def test_a_quarantine_takes_names_only(pool: Pool, place: dict[str, Any]) -> None:
    quarantine = {"max_share": 0.1, **place}
    error, _ = check(quarantine=quarantine)
    assert isinstance(error, AirflowFailException)
    assert "is no name of a table" in str(error) or "quarantine.key must be columns" in str(error)


# words


@pytest.mark.parametrize(
    ("kind", "kwargs", "words"),
    [
        (
            "expect_column_values_to_not_be_null",
            {"column": "a", "mostly": 0.9},
            "a is never null (at least 90 % of the rows)",
        ),
        ("expect_column_values_to_be_between", {"column": "a", "min_value": 1}, "a at least 1"),
        (
            "expect_column_values_to_be_in_set",
            {"column": "a", "value_set": list("abcdefgh")},
            "a is one of a, b, c, d, e, f and 2 more",
        ),
        ("expect_column_values_to_match_regex", {"column": "a", "regex": "x"}, "column values to match regex (a)"),
    ],
)
def test_expectations_in_a_persons_words(kind: str, kwargs: dict[str, Any], words: str) -> None:
    assert quality_page.says(kind, kwargs) == words


def test_the_page_escapes_what_the_data_says(pool: Pool) -> None:
    pool.sql("UPDATE features SET carrier = '<script>alert(1)</script>' WHERE flight_id = 41")
    check()
    documents, html = pool.pages.values()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "stopped the run" in html
    assert "<script>alert(1)" not in documents


# the project's own suite


def test_the_projects_suites_are_valid() -> None:
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    folder = ROOT / "include" / "expectations"
    names = sorted(path.name for path in folder.glob("*.json"))
    assert names
    for name in names:
        suite = quality.read_suite(folder, name)
        for expectation in suite["expectations"]:
            ExpectationConfiguration(**expectation).to_domain_obj()
        assert suite["expectations"][0]["type"] == "expect_table_row_count_to_be_between"  # nothing passes on no rows
